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
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from werkzeug.security import safe_join

from .archive_limits import ArchiveLimits
from .errors import ZipBroken, ZipEncrypted, ZipMethodUnsupported, ZipOverLimit, ZipPathsInvalid, ZipTooLarge
from .logs import logger
from .zip_member import opened_member

LITTER = re.compile(r"__MACOSX|\.DS_Store|desktop.ini")
"""Matched anywhere in a name, and with its unescaped dot: the drop-in's rule as it is."""

ENCRYPTED_FLAG = 0x1
COPY_BYTES = 1024 * 1024
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def unpack(
    archive: Path,
    field: str,
    folder: Path,
    publish: Callable[[Path, Path], None],
    scratch: Path,
    check: Callable[[], None],
    limits: ArchiveLimits,
) -> int:
    """Unpack a zip into a folder and return the bytes; `field` names the input in errors.

    Each member is written to `scratch` and then handed to `publish(scratch, destination)`, so that it appears whole.
    `check` is called all along, and ends the work by raising. What is over a limit, or has no room on the disk, is
    refused before anything is written: no more than what its index says is ever unpacked of a member.
    """
    size = 0
    try:
        with _Archive(archive, limits.files) as opened:
            files = _destinations(opened.infolist(), folder, field)
            _check_size(files, archive, folder, limits, field)
            for info, destination in files:
                if info.flag_bits & ENCRYPTED_FLAG:
                    raise ZipEncrypted(field)
                check()
                with opened_member(opened, info) as packed, scratch.open("wb") as plain:
                    while chunk := packed.read(COPY_BYTES):
                        plain.write(chunk)
                        check()
                    size += plain.tell()
                publish(scratch, destination)
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
    return size


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


def _check_size(
    files: list[tuple[zipfile.ZipInfo, Path]], archive: Path, folder: Path, limits: ArchiveLimits, field: str
) -> None:
    unpacked = sum(info.file_size for info, _ in files)
    if excess := limits.excess(unpacked, len(files), archive.stat().st_size):
        logger.warning("%s is over %s", field, excess)
        raise ZipOverLimit(field)
    disk = shutil.disk_usage(folder)
    if disk.total and unpacked > disk.free:  # some filesystems do not say
        raise ZipTooLarge(field)


def _destinations(members: list[zipfile.ZipInfo], folder: Path, field: str) -> list[tuple[zipfile.ZipInfo, Path]]:
    """Return the files of an archive and where each is to appear; raises ZipPathsInvalid."""
    files = [file for file in members if not file.filename.endswith("/") and not LITTER.search(file.filename)]
    if any(file.filename.startswith("/") for file in files):
        raise ZipPathsInvalid(field)
    stripped = _shared_folder([file.filename for file in files])
    destinations: dict[Path, zipfile.ZipInfo] = {}
    for file in files:
        relative = PurePosixPath(file.filename).relative_to(stripped)
        joined = safe_join(str(folder), str(relative))
        destination = Path(joined) if joined else folder
        if destination == folder or destination in destinations:
            raise ZipPathsInvalid(field)
        destinations[destination] = file
    return [(file, destination) for destination, file in destinations.items()]


def _shared_folder(names: list[str]) -> str:
    """Return the folder that all files are in, however deep, or an empty string."""
    if len(names) == 1:
        parent = str(PurePosixPath(names[0]).parent)
        return "" if parent == "." else parent
    return os.path.commonpath(names) if names else ""
