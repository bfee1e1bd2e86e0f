"""S3 -> /input: all inputs of a task at the same time; zips are unpacked once all are there.

Files are written in a hidden folder and renamed when they are whole, and the algorithm does not run before all are.
"""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .archive import NO_ROOM, unpack
from .cancellation import Cancellation
from .errors import (
    DiskFull,
    InputForbidden,
    InputMissing,
    InputPathTaken,
    InputPathUnusable,
    InternalError,
    LongshoreError,
)
from .storage import ObjectForbidden, ObjectMissing, Storage
from .task import Input, Task


@dataclass
class StagedIn:
    """What was staged, and how long it took or went on until it failed, in seconds."""

    bytes: int = 0
    download_seconds: float = 0.0
    unpack_seconds: float = 0.0


def stage_in(task: Task, folder: Path, storage: Storage, cancellation: Cancellation, staged: StagedIn) -> None:
    """Bring all inputs of a task into a folder, and note in `staged` what it took.

    Raises an InputError that names the first input at fault, DiskFull, a storage error, or the cancellation's reason.
    """
    started = time.monotonic()
    try:
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=folder))
        try:
            staged.bytes = _download(task, folder, staging, storage, cancellation)
        finally:
            staged.download_seconds = time.monotonic() - started
        try:
            _unpack_all(task, folder, staging, cancellation)
        finally:
            staged.unpack_seconds = time.monotonic() - started - staged.download_seconds
        shutil.rmtree(staging)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull from error
        raise


def _download(task: Task, folder: Path, staging: Path, storage: Storage, cancellation: Cancellation) -> int:
    """Get all objects and return their bytes; the first fault ends the transfers of the others."""

    def fetch(index: int, item: Input, together: Cancellation) -> int:
        together.raise_if_set()
        with _naming(index):
            size = storage.get_file(item.bucket_name, item.bucket_key, str(staging / str(index)), together)
            if not item.decompress:
                _publish(staging / str(index), folder / item.relative_path)
        return size

    with closing(Cancellation(parent=cancellation)) as together:
        transfers = [storage.pool.submit(fetch, index, item, together) for index, item in enumerate(task.inputs)]
        ended, _ = wait(transfers, return_when=FIRST_EXCEPTION)
        fault = next((error for transfer in transfers if transfer in ended and (error := transfer.exception())), None)
        if fault:
            together.cancel(fault if isinstance(fault, LongshoreError) else InternalError())
            wait(transfers)
            raise fault
        return sum(transfer.result() for transfer in transfers)


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
        raise


def _unpack_all(task: Task, folder: Path, staging: Path, cancellation: Cancellation) -> None:
    for index, item in enumerate(task.inputs):
        if not item.decompress:
            continue
        cancellation.raise_if_set()
        with _naming(index):
            target = (folder / item.relative_path).parent
            target.mkdir(parents=True, exist_ok=True)
            unpack(staging / str(index), f"inputs[{index}]", target, _publish, staging / "member")
            (staging / str(index)).unlink()


def _publish(whole: Path, destination: Path) -> None:
    """Let a file appear under its name, which must be free."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(destination):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    whole.rename(destination)
