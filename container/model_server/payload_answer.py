"""/output -> the answer to a payload: one file as it is, or several as a zip.

What is answered is an open file, so the task folders can be emptied, and the next run can begin, however long the
client takes to read it.
"""

import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from tempfile import TemporaryFile
from typing import IO

from .archive import NO_ROOM
from .errors import NoOutput, NotAcceptable, OutputDiskFull, OutputsRefused
from .folder import TaskFolder
from .logs import logger
from .media_types import UNKNOWN, names_of, type_of
from .stage_out import Parts, entries_of, open_output, opened_outputs

ZIP = "application/zip"

LEAST_QUALITY = 0.0001
CHUNK_BYTES = 1024 * 1024
LARGE_BYTES = 2**30
"""Well below what a member of a zip may have without a format of its own."""

MAX_NAMED = 10
"""How many types or reasons an error names."""

LEAST_GAIN = 0.9
"""A file whose beginning stays larger than this share of itself is not worth the time that compressing takes."""

Quality = Callable[[str], float]
"""How much a client likes a media type: 0 is not at all, 1 is best."""


@dataclass(frozen=True)
class Answer:
    """An open file of so many bytes, its media type, and how many outputs are in it."""

    file: IO[bytes]
    size: int
    media_type: str
    outputs: int


def pack(folder: TaskFolder, quality: Quality, check: Callable[[], None]) -> Answer:
    """Return what the algorithm wrote, in the form that the client likes best.

    `check` is called all along, and ends the work by raising. Raises NoOutput, OutputsRefused, OutputFolderGone,
    OutputDiskFull, and NotAcceptable.
    """
    try:
        with opened_outputs(folder) as root:
            outputs = _outputs(folder, root, check)
            types = [_liked(type_of(parts[-1]), quality) for parts in outputs]
            chosen = _choose(types, quality)
            if chosen is None:
                return _zip(folder, root, outputs, _liked(ZIP, quality), check)
            return _single(folder, root, outputs[chosen], types[chosen])
    except OSError as error:
        if error.errno in NO_ROOM:
            raise OutputDiskFull from error
        raise


def _outputs(folder: TaskFolder, root: int, check: Callable[[], None]) -> list[Parts]:
    """Return the paths of all files that can be taken, sorted; raises NoOutput and OutputsRefused."""
    found, refused_folders = entries_of(root)
    outputs: list[Parts] = []
    reasons = [reason for _, reason in refused_folders]
    for parts in found:
        check()
        file = open_output(folder, root, parts)
        if isinstance(file, FileIO):
            file.close()
            outputs.append(parts)
        elif file:
            logger.debug("The output %r is refused: %s", "/".join(parts), file)
            reasons.append(str(file))
    named = sorted(set(reasons))[:MAX_NAMED]
    if not outputs:
        raise OutputsRefused(named) if reasons else NoOutput
    if reasons:
        logger.warning("%d outputs can not be taken: of one it is said that %s", len(reasons), "; ".join(named))
    return outputs


def _choose(types: list[str], quality: Quality) -> int | None:
    """Return which of the files to answer with, None for a zip of all; raises NotAcceptable.

    Where the client likes both alike, a file that is alone goes before the zip, and the zip before one of several.
    """
    alone = [index for index, kind in enumerate(types) if types.count(kind) == 1]
    candidates: list[tuple[float, int | None]] = [(_quality(types[index], quality), index) for index in alone]
    candidates.insert(1 if len(types) == 1 else 0, (quality(_liked(ZIP, quality)), None))
    best, chosen = max(candidates, key=lambda candidate: candidate[0])
    if best <= 0:
        raise NotAcceptable(_offers(types))
    return chosen


def _liked(kind: str, quality: Quality) -> str:
    """Return the name of a type that the client likes best, its usual one if it likes all alike."""
    return max(names_of(kind), key=quality)


def _offers(types: list[str]) -> list[str]:
    """Say what there is to choose from; of files that have a type together none can be chosen."""
    counts = sorted(Counter(types).items())[:MAX_NAMED]
    offers = [kind if number == 1 else f"{kind} ({number} files, as a zip only)" for kind, number in counts]
    return offers if len(types) == 1 else [*offers, f"{ZIP} with all"]


def _quality(kind: str, quality: Quality) -> float:
    """Say how much a client likes a file; one of unknown type may be what it wants, whatever that is."""
    return max(quality(kind), LEAST_QUALITY if kind == UNKNOWN else 0)


def _single(folder: TaskFolder, root: int, parts: Parts, kind: str) -> Answer:
    file = open_output(folder, root, parts)
    if not isinstance(file, FileIO):  # a program that goes on changed it since
        raise OutputsRefused([str(file or "it changed while it was read")])
    return Answer(file, os.fstat(file.fileno()).st_size, kind, 1)


def _zip(folder: TaskFolder, root: int, outputs: list[Parts], kind: str, check: Callable[[], None]) -> Answer:
    """Pack files into a nameless file of the output folder, which is where there is room for outputs."""
    packed = TemporaryFile(dir=f"/proc/self/fd/{root}")  # noqa: SIM115 - it is closed with the answer
    try:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for parts in outputs:
                check()
                file = open_output(folder, root, parts)
                if isinstance(file, FileIO):
                    with file:
                        _add(archive, "/".join(parts), file, check)
        size = packed.seek(0, os.SEEK_END)
        packed.seek(0)
        return Answer(packed, size, kind, len(outputs))
    except BaseException:
        packed.close()
        raise


def _add(archive: zipfile.ZipFile, name: str, file: FileIO, check: Callable[[], None]) -> None:
    """Add a file by its name alone: it has no time then, so that the same output is the same answer."""
    is_large = os.fstat(file.fileno()).st_size > LARGE_BYTES
    chunk = file.read(CHUNK_BYTES)
    gains = len(zlib.compress(chunk, 1)) < LEAST_GAIN * len(chunk)
    archive.compression = zipfile.ZIP_DEFLATED if gains else zipfile.ZIP_STORED  # of the next member
    with archive.open(name, "w", force_zip64=is_large) as packed:
        while chunk:
            packed.write(chunk)
            check()
            chunk = file.read(CHUNK_BYTES)
