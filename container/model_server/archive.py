"""Unpacking an input that is a zip, by the drop-in's rules.

Folders and the litter of desktop systems are left out; a folder that all files share is stripped; what is left goes
into one folder, and a path that would leave it is refused. Mode bits and links of the archive are not restored.
"""

import errno
import lzma
import os
import re
import shutil
import struct
import zipfile
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from .archive_limits import ArchiveLimits
from .errors import ZipBroken, ZipEncrypted, ZipMethodUnsupported, ZipOverLimit, ZipPathsInvalid, ZipTooLarge
from .logs import logger
from .zip_member import pieces

LITTER = re.compile(r"__MACOSX|\.DS_Store|desktop.ini")
"""Matched anywhere in a name, and with its unescaped dot: the drop-in's rule as it is."""

ENCRYPTED_FLAG = 0x1
SHARED_FROM_BYTES = 256 * 1024
"""Members from this size on are shared by two threads, smaller ones would wait for each other more than they gain."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def unpack(
    archive: Path,
    field: str,
    folder: Path,
    publish: Callable[[str, str], None],
    scratch: Path,
    check: Callable[[], None],
    limits: ArchiveLimits,
) -> int:
    """Unpack a zip into a folder and return the bytes; `field` names the input in errors.

    Each member is written to `scratch`, or a name that begins like it, and then handed to
    `publish(scratch, destination)`, so that it appears whole; that is done by two threads. `check` is called all along,
    and ends the work by raising. What is over a limit, or has no room on the disk, is refused before anything is
    written: no more than what its index says is ever unpacked of a member.
    """
    try:
        with _Archive(archive, limits.files) as opened:
            files = _destinations(opened.infolist(), folder, field)
            _check_size(files, archive, folder, limits, field)
            if any(info.flag_bits & ENCRYPTED_FLAG for info, _ in files):
                raise ZipEncrypted(field)
            return _Extraction(opened, publish, check).run(files, str(scratch))
    except TooManyMembers as error:
        logger.warning("%s is over %s", field, limits.excess(0, limits.files + 1, 0))
        raise ZipOverLimit(field) from error
    except NotImplementedError as error:
        raise ZipMethodUnsupported(field) from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, struct.error) as error:
        raise ZipBroken(field) from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise ZipTooLarge(field) from error
        if error.errno == errno.ENAMETOOLONG:
            raise ZipPathsInvalid(field) from error
        if error.errno in (None, errno.EINVAL):  # bz2's word for broken data; a place before the file's beginning
            raise ZipBroken(field) from error
        raise


class _Extraction:
    """Writes the members of an archive, small ones before large ones, and publishes each."""

    def __init__(
        self, archive: zipfile.ZipFile, publish: Callable[[str, str], None], check: Callable[[], None]
    ) -> None:
        assert archive.fp
        self._archive = archive
        self._file = archive.fp.fileno()
        self._publish = publish
        self._check_caller = check
        self._fault: BaseException | None = None

    def run(self, files: "_Files", scratch: str) -> int:
        """Return the bytes of all; the first fault ends the work of both threads."""
        large = deque(file for file in files if file[0].file_size >= SHARED_FROM_BYTES)
        size = self._write_all(deque(file for file in files if file[0].file_size < SHARED_FROM_BYTES), scratch)
        shares: list[Future[int]] = []
        with ThreadPoolExecutor(1, "unzip") as other:
            if len(large) > 1:
                with suppress(RuntimeError):  # the machine has no more threads
                    shares.append(other.submit(self._write_all, large, f"{scratch}-2"))
            size += self._write_all(large, scratch)
        return size + sum(share.result() for share in shares)

    def _write_all(self, files: "deque[tuple[zipfile.ZipInfo, str]]", scratch: str) -> int:
        """Take and write members until none is left; return their bytes."""
        size = 0
        try:
            while True:
                try:
                    info, destination = files.popleft()
                except IndexError:
                    return size
                size += self._write(info, scratch)
                self._publish(scratch, destination)
        except BaseException as error:
            self._fault = error
            raise

    def _write(self, info: zipfile.ZipInfo, scratch: str) -> int:
        size = 0
        self._check()
        plain = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            for piece in pieces(self._archive, self._file, info):
                written = os.write(plain, piece)
                while written < len(piece):
                    written += os.write(plain, memoryview(piece)[written:])
                size += written
                self._check()
        finally:
            os.close(plain)
        return size

    def _check(self) -> None:
        self._check_caller()
        if fault := self._fault:
            raise fault


class TooManyMembers(Exception):
    """The index of an archive is longer than it may be."""


class _Archive(zipfile.ZipFile):
    """Stops reading the index at a limit: each member takes memory, whatever the archive says of their number."""

    def __init__(self, path: Path, most: int) -> None:
        self._most = most
        super().__init__(path)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, _Index(self._most) if name == "filelist" else value)


class _Index(list[zipfile.ZipInfo]):
    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def append(self, member: zipfile.ZipInfo) -> None:
        if self._most and len(self) == self._most:
            raise TooManyMembers
        super().append(member)


_Files = list[tuple[zipfile.ZipInfo, str]]
"""Members, and where each is to appear."""


def _check_size(files: _Files, archive: Path, folder: Path, limits: ArchiveLimits, field: str) -> None:
    unpacked = sum(info.file_size for info, _ in files)
    if excess := limits.excess(unpacked, len(files), archive.stat().st_size):
        logger.warning("%s is over %s", field, excess)
        raise ZipOverLimit(field)
    disk = shutil.disk_usage(folder)
    if disk.total and unpacked > disk.free:  # some filesystems do not say
        raise ZipTooLarge(field)


def _destinations(members: list[zipfile.ZipInfo], folder: Path, field: str) -> _Files:
    """Return the files of an archive and where each is to appear; raises ZipPathsInvalid."""
    files = [file for file in members if not file.filename.endswith("/") and not LITTER.search(file.filename)]
    if any(file.filename.startswith("/") for file in files):
        raise ZipPathsInvalid(field)
    stripped = len(PurePosixPath(_shared_folder([file.filename for file in files])).parts)
    destinations: dict[str, zipfile.ZipInfo] = {}
    root = str(folder)
    for file in files:
        parts = [part for part in file.filename.split("/") if part and part != "."][stripped:]
        relative = "/".join(parts)
        destination = _safe_join(root, relative) if ".." in parts else f"{root}/{relative}"
        if destination in (None, f"{root}/", f"{root}/.") or destination in destinations:
            raise ZipPathsInvalid(field)
        destinations[str(destination)] = file
    return [(file, destination) for destination, file in destinations.items()]


def _safe_join(root: str, relative: str) -> str | None:
    from werkzeug.security import safe_join  # not at the top: all of werkzeug comes with it, for few names

    return safe_join(root, relative)


def _shared_folder(names: list[str]) -> str:
    """Return the folder that all files are in, however deep, or an empty string."""
    if len(names) == 1:
        parent = str(PurePosixPath(names[0]).parent)
        return "" if parent == "." else parent
    return os.path.commonpath(names) if names else ""
