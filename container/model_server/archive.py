"""Unpacking an input that is a zip, by the drop-in's rules.

Folders and the litter of desktop systems are left out; a folder that all files share is stripped; what is left goes
into one folder, and a path that would leave it is refused. Mode bits and links of the archive are not restored.
"""

import errno
import lzma
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from werkzeug.security import safe_join

from .errors import ZipBroken, ZipEncrypted, ZipMethodUnsupported, ZipPathsInvalid, ZipTooLarge

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
) -> int:
    """Unpack a zip into a folder and return the bytes; `field` names the input in errors.

    Each member is written to `scratch` and then handed to `publish(scratch, destination)`, so that it appears whole.
    `check` is called all along, and ends the work by raising.
    """
    size = 0
    try:
        with zipfile.ZipFile(archive) as opened:
            for info, destination in _destinations(opened.infolist(), folder, field):
                if info.flag_bits & ENCRYPTED_FLAG:
                    raise ZipEncrypted(field)
                check()
                with opened.open(info) as packed, scratch.open("wb") as plain:
                    while chunk := packed.read(COPY_BYTES):
                        plain.write(chunk)
                        check()
                    size += plain.tell()
                publish(scratch, destination)
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
