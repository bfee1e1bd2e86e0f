"""S3 -> /input: all inputs of a task at the same time; zips are unpacked once all are there.

Files are written in a hidden folder and renamed when they are whole, and the algorithm does not run before all are.
"""

import errno
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .archive import NO_ROOM, unpack
from .archive_limits import ArchiveLimits
from .cancellation import Cancellation
from .errors import (
    DiskFull,
    FoldersNotReset,
    InputForbidden,
    InputMissing,
    InputPathForbidden,
    InputPathTaken,
    InputPathUnusable,
    InternalError,
)
from .file_crew import join_in
from .logs import logger
from .machine_limits import READ_ONLY
from .s3_faults import ObjectForbidden, ObjectMissing
from .storage import Storage
from .task import Input, Task

if TYPE_CHECKING:
    from .s3_client import Asked

POLL_SECONDS = 0.1
"""How often the cancellation is asked for while transfers go on, and how long they may take to end after a fault."""

MANY = 8
"""While more inputs than this are to come, each has one connection: together they have as many as a single one has."""

MOST_ASKED = 256
"""How many inputs are asked for at a time, if connections have to be made for that: each is a descriptor."""


@dataclass
class StagedIn:
    """What was staged, and how long it took or went on until it failed, in seconds."""

    bytes: int = 0
    download_seconds: float = 0.0
    unpack_seconds: float = 0.0


def stage_in(
    task: Task,
    folder: Path,
    storage: Storage,
    cancellation: Cancellation,
    limits: ArchiveLimits,
    staged: StagedIn,
) -> None:
    """Bring all inputs of a task into a folder, and note in `staged` what it took.

    Raises an InputError that names the first input at fault, DiskFull, FoldersNotReset, a storage error, or the
    cancellation's reason.
    """
    if not task.inputs:
        return
    started = time.monotonic()
    try:
        staging = _make_staging(folder)
        try:
            staged.bytes = _download(task, folder, staging, storage, cancellation)
        finally:
            staged.download_seconds = time.monotonic() - started
        try:
            _unpack_all(task, folder, staging, cancellation, limits)
        finally:
            staged.unpack_seconds = time.monotonic() - started - staged.download_seconds
        shutil.rmtree(staging)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull from error
        raise


def _make_staging(folder: Path) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=".staging-", dir=folder))
    except OSError as error:
        if error.errno in READ_ONLY:  # since we started: it was tried then
            raise FoldersNotReset from error
        raise


def _download(task: Task, folder: Path, staging: Path, storage: Storage, cancellation: Cancellation) -> int:
    """Get all objects and return their bytes; the first fault ends the transfers of the others."""
    together = Cancellation(parent=cancellation)
    publishing = threading.Lock()
    publish = Publishing(folder).publish
    ahead = deque(enumerate(task.inputs))
    asked: dict[int, Asked] = {}
    sizes: list[int] = []

    def ask_ahead(numbered: tuple[int, Input], connects: bool) -> bool:
        index, item = numbered
        together.check()
        if index not in asked:
            connects = connects and len(asked) < MOST_ASKED
            if one := storage.ask_ahead(item.bucket_name, item.bucket_key, connects):
                asked[index] = one
        return index in asked

    def fetch(numbered: tuple[int, Input]) -> int:
        index, item = numbered
        together.check()
        whole = f"{staging}/{index}"
        with _naming(index):
            place = item.bucket_name, item.bucket_key
            size = storage.get_file(*place, whole, together, asked.pop(index, None), is_one_of_many)
            with publishing:
                together.check()
                if not item.decompress:
                    publish(whole, f"{folder}/{item.relative_path}")
        sizes.append(size)
        return size

    def is_one_of_many() -> bool:
        return len(task.inputs) - len(sizes) > MANY

    def close() -> None:
        for one in asked.values():
            one.close()
        together.close()

    transfers: list[Future[None]] = []
    try:
        join_in(storage.pool, storage.transfers, ahead, fetch, transfers, ask_ahead, cancellation.raise_if_set)
        _wait(transfers, cancellation)
        return sum(sizes)
    except BaseException:
        together.cancel(InternalError())  # no matter which: nobody asks for the outcome of the others
        with publishing:  # from here on none of them publishes, so none writes into the folder of the next task
            raise
    finally:
        _close(transfers, close)


def _wait(transfers: list[Future[None]], cancellation: Cancellation) -> None:
    """Wait for all transfers; raise the first fault, or the cancellation's reason."""
    running: set[Future[None]] = set(transfers)
    while running:
        ended, running = wait(transfers, POLL_SECONDS, return_when=FIRST_EXCEPTION)
        fault = next((error for transfer in transfers if transfer in ended and (error := transfer.exception())), None)
        if fault := fault or cancellation.reason:
            raise fault


def _close(transfers: list[Future[None]], close: Callable[[], None]) -> None:
    """Close what the transfers ask, once all have ended; do not wait for one that hangs in a read.

    Such a one writes on into a file of its own in the staging folder, which may be deleted under it.
    """
    if not wait(transfers, POLL_SECONDS).not_done:
        close()
        return

    def close_later() -> None:
        wait(transfers)
        close()

    threading.Thread(target=close_later, daemon=True, name="abandoned-transfers").start()


@contextmanager
def _naming(index: int) -> Iterator[None]:
    """Turn what can go wrong with one input into an error that names it by its place in the task."""
    field = f"inputs[{index}]"
    try:
        yield
    except ObjectMissing as error:
        raise InputMissing(field) from error
    except ObjectForbidden as error:
        raise InputForbidden(field) from error
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise InputPathTaken(field) from error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
            raise InputPathUnusable(field) from error
        if error.errno in (*READ_ONLY, errno.EXDEV):  # a folder that is mounted there is not ours to fill
            raise InputPathForbidden(field) from error
        logger.debug("%s: %s", field, error)
        raise OSError(error.errno, error.strerror) from None  # without the file's name, which may reach the log


def _unpack_all(task: Task, folder: Path, staging: Path, cancellation: Cancellation, limits: ArchiveLimits) -> None:
    publish, check = Publishing(folder).publish, cancellation.check
    for index, item in enumerate(task.inputs):
        if not item.decompress:
            continue
        with _naming(index):
            target = (folder / item.relative_path).parent
            _make_folder(folder, target)
            unpack(staging / str(index), f"inputs[{index}]", target, publish, staging / "member", check, limits)
            (staging / str(index)).unlink()


class Publishing:
    """Lets many files appear beneath a folder, and looks only once where a folder beneath it leads.

    Nothing changes that in the meantime: we rename files to free names only, no task runs, and a server of the
    algorithm's that stays may not write there, or else is who we are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: set[str] = set()

    def publish(self, whole: str, destination: str) -> None:
        """Let a file appear under its name, which must be free; threads may do so at the same time."""
        parent = destination.rpartition("/")[0]
        if parent not in self._made:
            _make_folder(self._folder, Path(parent))
            self._made.add(parent)
        if os.path.lexists(destination):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.rename(whole, destination)


def _make_folder(folder: Path, inner: Path) -> None:
    """Make a folder beneath another; a link that was there before us must not lead out of it."""
    if not Path(os.path.realpath(inner)).is_relative_to(os.path.realpath(folder)):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    inner.mkdir(parents=True, exist_ok=True)
