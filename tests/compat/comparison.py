"""What was seen of both sides as facts, and where these differ.

A fact that can't be the same twice, or that is ours alone by the page's own words, is made equal here by a function
that is named for it. Every other difference has to be in the table of differences.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from both import KEY, Case, Observation, Place, external, signature_of

MISSING = "(nothing)"
EMPTY_KEY = ""
OTHER_KEY = "00ff" * 8
RESULT_KEYS = [
    "pk",
    "return_code",
    "user_safe_error_message",
    "user_process_last_stderr_lines",
    "exec_duration",
    "invoke_duration",
    "outputs",
    "sagemaker_shim_version",
]
SETUP_KEYS = ["return_code", "user_safe_error_message", "sagemaker_shim_version"]
RECORD_KEYS = ["log", "level", "source", "internal", "task"]
LEVELS = {"stdout": ("DEBUG", "INFO"), "stderr": ("WARNING", "ERROR", "CRITICAL")}
DURATION = re.compile(r"P(\d+D)?(T(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?|P0D")
MAX_RECORD_BYTES = 16 * 1024

Facts = dict[str, Any]


class Leaf(NamedTuple):
    """One fact that is not the same of both."""

    path: tuple[str, ...]
    shim: Any
    ours: Any

    def __str__(self) -> str:
        return f"{' / '.join(self.path)}\n  shim: {self.shim!r:.2000}\n  ours: {self.ours!r:.2000}"


@dataclass(frozen=True)
class Compared:
    """A case with its facts, and the leaves where they differ."""

    given: dict[str, Any]
    shim: Facts
    ours: Facts
    refused: bool
    """Whether ours refused an output: it says so in a key of its own."""

    @property
    def leaves(self) -> list[Leaf]:
        return list(_leaves(self.shim, self.ours))

    @property
    def statuses(self) -> tuple[int | None, int | None]:
        return self.shim.get("status"), self.ours.get("status")

    @property
    def exits(self) -> tuple[int | None, int | None]:
        return self.shim.get("exit"), self.ours.get("exit")

    @property
    def request(self) -> tuple[str, str]:
        """The method and the path that were asked for; empty when it was no request."""
        return self.given.get("method", ""), self.given.get("path", "")

    @property
    def body(self) -> bytes:
        return self.given.get("body") or b""

    def is_set(self, name: str) -> bool:
        """Say whether a case sets, or unsets, a variable."""
        return name in self.given.get("environment", {})

    def variable(self, name: str) -> str:
        """Return what a case sets a variable to, empty if it does not."""
        return self.given.get("environment", {}).get(name) or ""

    @property
    def task(self) -> Any:
        """The task that was posted, or the only one that was invoked; None when it is neither."""
        try:
            words = self.given.get("words")
            sent = json.loads(self.given["body"] if words is None else words[2])
        except (KeyError, ValueError, IndexError, TypeError):
            return None
        return sent[0] if isinstance(sent, list) and len(sent) == 1 else sent


def compared(case: Case) -> Compared:
    """Return the facts of a case; raises AssertionError for a log of ours that is not in the format."""
    check_records(case.ours["log"])
    refused = any(b'"refused_outputs":[{' in stored["content"] for stored in case.ours["objects"].values())
    return Compared(case.given, facts(case.shim), facts(case.ours), refused)


def facts(seen: Observation) -> Facts:
    """Return what is compared of an observation."""
    place: Place = seen["place"]
    found: Facts = {name: seen[name] for name in ("status", "headers") if name in seen}
    if "exit" in seen:
        found["exit"] = as_a_shell_has_it(seen["exit"])
    lines = external(seen["log"])
    for stream in ("stdout", "stderr"):
        found[stream] = [_record(json.loads(line)) for line in lines[stream]]
    found["plain"] = [place.blanked(line) for line in plain_lines(seen["log"])]
    found["objects"] = {key: _object(stored, place) for key, stored in seen["objects"].items()}
    found["files"] = seen["files"]
    if "body" in seen:
        stored = [item["content"] for item in seen["objects"].values()]
        found["body"] = _body(seen["body"], stored, place)
    return found


def as_a_shell_has_it(code: int | None) -> int | None:
    """Return the exit code of a container: 128 + n for a process that signal n ended."""
    return code if code is None or code >= 0 else 128 - code


def check_records(log: Mapping[str, list[str]]) -> None:
    """Hold every line of a log of ours to the format, the internal ones as well; click's words are plain text."""
    for stream, lines in log.items():
        for line in lines:
            if not line.startswith("{"):
                continue
            record = json.loads(line)
            assert list(record) in (RECORD_KEYS, [*RECORD_KEYS, "continued"]), line
            assert record["source"] == stream, line
            assert record["level"] in LEVELS[stream], line
            assert record["internal"] in (True, False), line
            assert line.isascii(), line
            assert len(line) < MAX_RECORD_BYTES, line
            without_continued = {name: record[name] for name in RECORD_KEYS}
            assert "continued" in record or json.dumps(without_continued) == line, line


def plain_lines(log: Mapping[str, list[str]]) -> list[str]:
    """Return what is no record: the help, the words of a usage error, or the fact that there was a traceback."""
    plain = [line for lines in log.values() for line in lines if not line.startswith("{")]
    plain = [line.replace("longshore", "sagemaker-shim") for line in plain]  # the row "the command"
    return (
        ["a traceback"]
        if any(line.lstrip(" |+").startswith(("Traceback", "Exception Group")) for line in plain)
        else plain
    )


def _record(record: dict[str, Any]) -> list[Any]:
    return [record[name] for name in ("level", "log", "task")] + (["continued"] if record.get("continued") else [])


def _object(stored: dict[str, Any], place: Place) -> Facts:
    content: bytes = stored["content"]
    found: Facts = {"content_type": stored["content_type"], "metadata": sorted(stored["metadata"])}
    if signature := stored["metadata"].get("signature_hmac_sha256"):
        found["signature"] = signed_with(content, signature)
        return found | _document(content, place)
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if isinstance(document, dict) and "sagemaker_shim_version" in document:
        return found | {"signature": None} | _document(content, place)
    return found | {"content": place.blanked(content.decode(errors="backslashreplace"))}


def signed_with(content: bytes, signature: str) -> str:
    """Say which of the tests' keys a signature was made with."""
    for name, key in (("the key", KEY), ("the other key", OTHER_KEY), ("the empty key", EMPTY_KEY)):
        if signature_of(content, key) == signature:
            return name
    return "an unknown key"


def _body(body: bytes, stored: list[bytes], place: Place) -> Any:
    text = place.blanked(body.decode(errors="backslashreplace"))
    try:
        document = json.loads(body)
    except ValueError:
        return text
    if not isinstance(document, dict):
        return document
    if "sagemaker_shim_version" in document:
        return _document(body, place) | {"is_stored": body in stored}
    return without_our_further_keys(json.loads(text))


def _document(content: bytes, place: Place) -> Facts:
    """Return a result, or what came of the set-up, with the facts that can't be the same twice made equal."""
    document = json.loads(place.blanked(content.decode()))
    expected = RESULT_KEYS if "pk" in document else SETUP_KEYS
    found = {"keys": list(document)[: len(expected)]} | {name: document[name] for name in document if name in expected}
    return a_version(a_duration(found))


def without_our_further_keys(document: Facts) -> Facts:
    """Leave `error` out of the body of a 4xx or 5xx: nobody reads more of these than their status (2.4)."""
    return {name: value for name, value in document.items() if name != "error"}


def a_duration(document: Facts) -> Facts:
    """Replace durations by their being one: how long a run takes is never the same."""
    for name in ("exec_duration", "invoke_duration"):
        if DURATION.fullmatch(str(document.get(name))):
            document[name] = "a duration"
    return document


def a_version(document: Facts) -> Facts:
    """Replace the version, which each has of its own."""
    if document.get("sagemaker_shim_version"):
        document["sagemaker_shim_version"] = "a version"
    return document


def _leaves(shim: Any, ours: Any, path: tuple[str, ...] = ()) -> Iterator[Leaf]:
    if isinstance(shim, dict) and isinstance(ours, dict):
        for name in sorted(shim.keys() | ours.keys()):
            yield from _leaves(shim.get(name, MISSING), ours.get(name, MISSING), (*path, name))
    elif shim != ours:
        yield Leaf(path, shim, ours)
