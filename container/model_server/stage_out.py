"""/output -> S3: every regular file, in order of its path, several at a time.

What can't be uploaded (a link that leaves the folder, a device, a name that is no key) is refused one by one and named
in the result; the good files are uploaded all the same.
"""

import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO

from .beneath import REASONS, Refused, open_file, open_folder
from .errors import OutputFolderGone, OutputsNotStored
from .file_crew import join_in
from .folder import TaskFolder, open_writable
from .s3_faults import ObjectForbidden, ObjectMissing
from .storage import Storage
from .task import Task

RESERVED = ".sagemaker_shim"
"""The folder of the result object: what an algorithm writes there is never uploaded."""

MAX_KEY_BYTES = 1024  # S3's
TOO_LONG = "its path is too long for a key"

Parts = tuple[str, ...]


@dataclass
class StagedOut:
    """What was uploaded: relative paths in order, the refused ones with the reason, bytes, and seconds."""

    files: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    bytes: int = 0
    seconds: float = 0.0


@contextmanager
def opened_outputs(folder: TaskFolder) -> Iterator[int]:
    """Open the output folder for the block, whatever rights the algorithm left; raises OutputFolderGone."""
    try:
        root = open_writable(folder.path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise OutputFolderGone from error
    try:
        yield root
    finally:
        os.close(root)


def stage_out(task: Task, folder: TaskFolder, storage: Storage, staged: StagedOut) -> None:
    """Upload all outputs of a task, and note in `staged` which; raises OutputsNotStored or a storage error.

    It is not cancelled: once the algorithm has ended well, its results are not thrown away.
    """
    started = time.monotonic()
    try:
        with opened_outputs(folder) as root:
            found, staged.refused = entries_of(root)
            outcomes = _upload_all(task, folder, root, _largest_first(root, found), storage)
    except (ObjectMissing, ObjectForbidden) as fault:
        raise OutputsNotStored from fault
    finally:
        staged.seconds = time.monotonic() - started
    for parts in found:
        outcome = outcomes[parts]
        if isinstance(outcome, Refused):
            staged.refused.append((_shown(parts), str(outcome)))
        elif outcome is not None:
            staged.files.append("/".join(parts))
            staged.bytes += outcome


def _largest_first(root: int, found: list[Parts]) -> list[Parts]:
    """Return paths in the order of their sizes: a large file that comes last would keep all others waiting."""

    def size(parts: Parts) -> int:
        try:
            return os.stat("/".join(parts), dir_fd=root, follow_symlinks=False).st_size
        except (OSError, ValueError):
            return 0

    return sorted(found, key=size, reverse=True)


def _upload_all(
    task: Task, folder: TaskFolder, root: int, found: list[Parts], storage: Storage
) -> dict[Parts, int | Refused | None]:
    """Upload entries, and return what became of each; raises the first fault, once no upload goes on."""
    outcomes: dict[Parts, int | Refused | None] = {}

    def upload_one(parts: Parts) -> int:
        outcome = outcomes[parts] = upload(task, folder, root, parts, storage)
        return outcome if isinstance(outcome, int) else 0

    transfers: list[Future[None]] = []
    join_in(storage.pool, storage.transfers, deque(found), upload_one, transfers)
    wait(transfers)
    for transfer in transfers:
        transfer.result()
    return outcomes


def entries_of(root: int, most_bytes: float = MAX_KEY_BYTES) -> tuple[list[Parts], list[tuple[str, str]]]:
    """Return the paths of all that is no folder, sorted, and the folders that can't be looked into, with the reason.

    One whose path alone has `most_bytes` is not looked into either.
    """
    found: list[Parts] = []
    refused: list[tuple[str, str]] = []
    ahead: list[Parts] = [()]
    while ahead:
        parts = ahead.pop()
        try:
            folder = open_folder(root, parts)
        except OSError as error:
            if not parts or error.errno not in REASONS:
                raise
            refused.append((_shown(parts), REASONS[error.errno]))
            continue
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    inner = (*parts, entry.name)
                    if not entry.is_dir(follow_symlinks=False):
                        found.append(inner)
                    elif len("/".join(inner)) < most_bytes:
                        ahead.append(inner)
                    else:
                        refused.append((_shown(inner), TOO_LONG))
        finally:
            os.close(folder)
    return sorted(found, key="/".join), refused


def upload(task: Task, folder: TaskFolder, root: int, parts: Parts, storage: Storage) -> int | Refused | None:
    """Upload one entry and return its size; None for a file that was there before us and is unchanged."""
    key = task.output_prefix + "/".join(parts)
    if len(key.encode(errors="surrogateescape")) > MAX_KEY_BYTES:
        return Refused(TOO_LONG)
    file = open_output(folder, root, parts)
    if not isinstance(file, FileIO):
        return file
    with file:
        return storage.put_file(file, task.output_bucket_name, key)


def open_output(folder: TaskFolder, root: int, parts: Parts) -> FileIO | Refused | None:
    """Open one entry for reading; None stands for a file that was there before us and is unchanged."""
    if any(part.casefold() == RESERVED for part in parts):  # not the first alone: it may be a result of another task
        return Refused("its folder is reserved for the result")
    try:
        "/".join(parts).encode()
        descriptor = open_file(root, folder.path, parts, closed=RESERVED)
    except UnicodeEncodeError:
        return Refused("its name is not UTF-8")
    except Refused as refusal:
        return refusal
    if folder.was_here(parts, os.fstat(descriptor)):
        os.close(descriptor)
        return None
    return FileIO(descriptor)


def _shown(parts: Parts) -> str:
    """Return a path as it can be written into JSON, whatever bytes it has."""
    return "/".join(parts).encode(errors="backslashreplace").decode()
