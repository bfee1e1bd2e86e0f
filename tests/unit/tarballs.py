"""Tarballs to unpack, member by member, and what became of them."""

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_server.archive_limits import ArchiveLimits
from model_server.untar import unpack
from model_server.user import SAME_USER, User

MTIME = 1_500_000_000
NO_LIMITS = ArchiveLimits(0, 0, 0)
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "tar": lambda data: data,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
}
Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", content: bytes = b"", **more: Any) -> Member:
    """Return a header and its content; `more` are further attributes of the header."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mtime = kind, target, len(content), MTIME
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def file(name: str, content: bytes = b"content", **more: Any) -> Member:
    return member(name, content=content, **more)


def folder(name: str, **more: Any) -> Member:
    return member(name, tarfile.DIRTYPE, **more)


def link(name: str, target: str, **more: Any) -> Member:
    return member(name, tarfile.SYMTYPE, target, **more)


def hard_link(name: str, target: str, **more: Any) -> Member:
    return member(name, tarfile.LNKTYPE, target, **more)


def tarred(*members: Member, form: int = tarfile.PAX_FORMAT, **options: Any) -> bytes:
    """Return the tarball of these members; `options` are those of `tarfile.open`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, **options) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def unpack_into(
    folder: Path,
    data: bytes,
    user: User = SAME_USER,
    check: Callable[[], None] = lambda: None,
    limits: ArchiveLimits = NO_LIMITS,
) -> bool:
    """Unpack a tarball, and return whether it names the folder itself."""
    return unpack(io.BufferedReader(io.BytesIO(data)), folder, user, limits, check)


def tree(folder: Path) -> dict[str, Any]:
    """Return all that is beneath a folder by its path: what it is, its rights, and what it holds."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        name = str(path.relative_to(folder))
        if stat.S_ISLNK(mode):
            found[name] = ("link", os.path.normpath(os.readlink(path)))
        elif stat.S_ISDIR(mode):
            found[name] = ("folder", oct(stat.S_IMODE(mode)))
        else:
            found[name] = ("file", oct(stat.S_IMODE(mode)), path.read_bytes(), path.stat().st_mtime)
    return found


@dataclass
class Owned:
    """Notes who is to own what, by name, instead of changing it: only root may."""

    root: Path
    given: dict[str, tuple[int, int]] = field(default_factory=dict)

    def chown(self, path: Path, uid: int, gid: int, *, follow_symlinks: bool) -> None:
        assert follow_symlinks is False
        self.given[str(path.relative_to(self.root))] = (uid, gid)
