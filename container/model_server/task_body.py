"""The body of a request -> the tasks in it, within bounds: JSON can take a hundred times its size in memory.

All of a body is checked before anything is done for it. A payload has no such bounds: it goes to a file.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from .errors import BodyUnreadable, TasksTooLarge
from .faults import Faults, Location
from .payload import CHUNK_BYTES
from .read_ahead import Readable
from .shared_prefixes import warn_of_shared_prefixes
from .task import Task, parse_task

MAX_BYTES = 25 * 1024 * 1024
"""Of the body, and of its text in memory: what SageMaker sends to a real-time endpoint at most."""

MAX_VALUES = 200_000
"""The text apart, each can cost 250 bytes of memory before the last one is found to be at fault."""

BEFORE_A_VALUE = b"[{,:"
CONTINUATION = bytes(range(0x80, 0xC0))
WIDE, WIDEST = re.compile(rb"[\xc4-\xff]"), re.compile(rb"[\xf0-\xff]")
ROW = re.compile(r"\S[^\n]*")
ROOT: Location = ("body",)


def read_tasks(body: Readable, announced_bytes: int | None, lines: bool) -> tuple[list[Task], bool]:
    """Return the tasks of a request body, and whether they came one a line.

    `lines` says that the content type promises lines; a JSON body of several objects, one a line, is taken too.
    Raises TaskInvalid with every fault, TasksTooLarge, and BodyUnreadable for what is no UTF-8 or ends early.
    """
    faults = Faults()
    tasks: list[Task] = []
    values, as_lines = _values(_text(body, announced_bytes), lines, faults)
    for value, where in values:
        task = parse_task(value, where, faults)
        if task and not faults:
            tasks.append(task)
    faults.raise_if_any()
    warn_of_shared_prefixes(tasks)
    return tasks, as_lines


def _text(body: Readable, announced_bytes: int | None) -> str:
    data = bytearray()
    values = rows = characters = 0
    mark = 0  # bytes of a byte order mark, which is no character of the text
    width = 1  # of each character in memory, by the widest one
    if announced_bytes and announced_bytes > MAX_BYTES:
        raise TasksTooLarge
    while chunk := body.read(CHUNK_BYTES):
        if not data:
            mark = len(chunk) - len(chunk := chunk.removeprefix(codecs.BOM_UTF8))
        data += chunk
        values += sum(map(chunk.count, BEFORE_A_VALUE))
        rows += chunk.count(b"\n")
        characters += len(chunk)
        if not chunk.isascii():
            characters -= len(chunk) - len(chunk.translate(None, CONTINUATION))
            width = max(width, 4 if WIDEST.search(chunk) else 2 if WIDE.search(chunk) else 1)
        if max(len(data), characters * width) > MAX_BYTES or max(values, rows) > MAX_VALUES:
            raise TasksTooLarge
    if announced_bytes not in (None, mark + len(data)):
        raise BodyUnreadable
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BodyUnreadable from None


def _values(text: str, lines: bool, faults: Faults) -> tuple[Iterable[tuple[Any, Location]], bool]:
    """Return the JSON values in a text with their places, and whether they came one a line."""
    if not (ROW.search(text) if lines else text):
        faults.add("missing", ROOT, "Field required")
        return [], lines
    if lines or _looks_like_lines(text):
        return _decoded(_rows(text), faults), True
    whole = list(_decoded([(text, ROOT)], faults))  # at once, so that the text is gone before its value is checked
    return whole, False


def _looks_like_lines(text: str) -> bool:
    """Say whether the first line is a JSON object of its own and another line follows it."""
    first = ROW.search(text)
    if not (first and ROW.search(text, first.end())):
        return False
    try:
        return isinstance(json.loads(first[0]), dict)
    except (ValueError, RecursionError):
        return False


def _rows(text: str) -> Iterator[tuple[str, Location]]:
    """Yield the lines that are not blank, one at a time, and the place of each."""
    for index, row in enumerate(ROW.finditer(text)):
        start = text.rfind("\n", 0, row.start()) + 1
        yield text[start : row.end()], (*ROOT, index)


def _decoded(rows: Iterable[tuple[str, Location]], faults: Faults) -> Iterator[tuple[Any, Location]]:
    for row, where in rows:
        try:
            yield json.loads(row), where
        except json.JSONDecodeError as error:
            faults.add("json_invalid", (*where, error.pos), "JSON decode error", error.msg)
        except (ValueError, RecursionError):  # a number of thousands of digits; brackets nested by the thousand
            faults.add("json_invalid", (*where, 0), "JSON decode error", "Not readable")
