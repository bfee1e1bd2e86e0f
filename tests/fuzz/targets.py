"""What the fuzzer calls with any bytes: a target returns, or raises, and then it has found something.

An error of ours that says whose fault the bytes are is no finding. Any other exception is one, and so are a file
outside of the folder, a link that leads out of it, more bytes than the limits allow, and an answer that is too long.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from model_server import archive, untar
from model_server.archive_limits import MEGABYTE, ArchiveLimits
from model_server.errors import BodyUnreadable, InputError, RequestError, TarballError, TaskInvalid, TasksTooLarge
from model_server.stage_in import Publishing, _naming
from model_server.tarball import _faults_told
from model_server.task import Task
from model_server.task_body import read_tasks
from model_server.user import SAME_USER

LIMITS = ArchiveLimits(megabytes=4, files=100, ratio=0)
LARGEST_ANSWER = 64 * 1024
LONGEST_KEY = 1024
SECRET = b"not to be read, replaced or linked to"
PACKERS: list[Callable[[bytes], bytes]] = [bytes, partial(gzip.compress, mtime=0), bz2.compress, lzma.compress]
"""A byte that is changed within what is packed is a wrong checksum and no more, so it is packed afterwards."""

SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def tasks(data: bytes) -> None:
    """Read the tasks of a body; the first byte says whether lines were promised."""
    found = _read(data[1:], lines=data[:1] == b"\1")
    if isinstance(found, RequestError):
        assert len(json.dumps({"detail": found.detail, "error": found.as_json()})) <= LARGEST_ANSWER
        return
    assert found
    for task in found:
        _check(task)


def _read(body: bytes, lines: bool) -> list[Task] | RequestError:
    try:
        return read_tasks(io.BytesIO(body), len(body), lines)[0]
    except (BodyUnreadable, TaskInvalid, TasksTooLarge) as error:
        return error


def _check(task: Task) -> None:
    assert "/" not in task.pk
    assert task.pk not in ("", ".", "..")
    assert len(task.result_key.encode()) <= LONGEST_KEY
    assert task.timeout is None or task.timeout.total_seconds() > 0
    for item in task.inputs:
        assert os.path.normpath(f"/input/{item.relative_path}").startswith("/input/")


def zips(data: bytes) -> None:
    """Unpack a zip into a folder."""
    with _folder() as folder:
        packed, target = folder / "packed", folder / "target"
        packed.write_bytes(data)
        publish = Publishing(target).publish
        with suppress(InputError), _naming(0):
            size = archive.unpack(packed, "inputs[0]", target, publish, folder / "scratch", _never, LIMITS)
            assert size == sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        files = [path for path in target.rglob("*") if not path.is_dir()]
        assert all(path.is_file() and not path.is_symlink() for path in files)
        assert sum(path.stat().st_size for path in files) <= LIMITS.megabytes * MEGABYTE
        assert len(files) <= LIMITS.files
        assert set(os.listdir(folder)) <= {"packed", "secret", "scratch", "scratch-2", "target"}


def tarballs(data: bytes) -> None:
    """Unpack a tarball into a folder; the first byte says how it is packed."""
    packed = PACKERS[data[0] % len(PACKERS)](data[1:]) if data else data
    with _folder() as folder:
        target = folder / "target"
        with suppress(TarballError), _faults_told("model"):
            untar.unpack(io.BufferedReader(io.BytesIO(packed)), target, SAME_USER, LIMITS, _never)
        for path in target.rglob("*"):
            assert Path(os.path.realpath(path)).is_relative_to(target)
            assert path.is_symlink() or not path.stat().st_mode & 0o7022
            assert path.is_symlink() or path.is_dir() or path.is_file()
        assert set(os.listdir(folder)) == {"secret", "target"}


TARGETS: dict[str, Callable[[bytes], None]] = {"tasks": tasks, "zips": zips, "tarballs": tarballs}


@contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder with `target` in it, and a file beside that, which has to stay what it is."""
    folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="fuzz-", dir=SCRATCH)))
    secret = folder / "secret"
    try:
        secret.write_bytes(SECRET)
        (folder / "target").mkdir()
        yield folder
        assert (secret.read_bytes(), secret.stat().st_nlink) == (SECRET, 1)
    finally:
        shutil.rmtree(folder)


def _never() -> None:
    """Do not end the work."""
