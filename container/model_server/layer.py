"""The layer that an image is adapted with: /longshore and the task folders, packed so that the same files make the same
bytes, whenever and wherever that is done.
"""

import gzip
import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .errors import StartFailed

OURS = "longshore"
TASK_FOLDERS = ("input", "output")
HIDES_WHATEVER_WAS_THERE = ".wh..wh..opq"
"""The name of a file that has a layer's folder replace the image's, rather than be merged with it."""

COMPRESSION = 9


@dataclass(frozen=True)
class Layer:
    """What a registry has to be told of a layer that was written: of its gzip file, and the digest of what is in it."""

    digest: str
    size: int
    diff_id: str


class _Measured:
    """A file to write to that knows how much was written, and its SHA-256."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._sha256.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"


def can_be_packed(root: Path = Path("/")) -> bool:
    """Say whether there is a layer here, as in an adapted image; one that inherits from ours has it in two places."""
    program = root / OURS / "program"
    return program.is_dir() and not program.is_symlink()


def write_layer(target: BinaryIO, root: Path = Path("/")) -> Layer:
    """Write the layer, a gzip file, piece by piece; raises StartFailed where there is none."""
    if not can_be_packed(root):
        raise StartFailed("The layer is not here: it is in the image of the Dockerfile's target `layer`")
    compressed = _Measured(target)
    with gzip.GzipFile("", "wb", COMPRESSION, compressed, mtime=0) as packed:
        plain = _Measured(packed)  # type: ignore[arg-type]
        with tarfile.open(fileobj=plain, mode="w|", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
            for path, member in _members(root):
                if member.isreg() and path:
                    with path.open("rb") as file:
                        archive.addfile(member, file)
                else:
                    archive.addfile(member)
    compressed.flush()
    return Layer(compressed.digest, compressed.size, plain.digest)


def _members(root: Path) -> Iterator[tuple[Path | None, tarfile.TarInfo]]:
    """Yield the files in the order of their names, a folder before what is in it; the task folders are empty."""
    for name in sorted((OURS, *TASK_FOLDERS)):
        folder = root / name
        yield folder, _member(folder, name, 0o777 if name in TASK_FOLDERS else 0o755)
        if name == OURS:
            yield None, tarfile.TarInfo(f"{OURS}/{HIDES_WHATEVER_WAS_THERE}")
            yield from _inside(folder, name)


def _inside(folder: Path, name: str) -> Iterator[tuple[Path, tarfile.TarInfo]]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path, inner = Path(entry.path), f"{name}/{entry.name}"
        is_open = entry.is_dir(follow_symlinks=False) or entry.stat(follow_symlinks=False).st_mode & stat.S_IXUSR
        yield path, _member(path, inner, 0o755 if is_open else 0o644)
        if entry.is_dir(follow_symlinks=False):
            yield from _inside(path, inner)


def _member(path: Path, name: str, mode: int) -> tarfile.TarInfo:
    """Return the entry of a file, of which nothing goes along but its kind, its size and whether it can be run."""
    member = tarfile.TarInfo(name)  # of root, at the beginning of 1970
    member.mode = mode
    if path.is_symlink():
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, os.readlink(path), 0o777
    elif path.is_dir():
        member.type = tarfile.DIRTYPE
    else:
        member.size = path.stat().st_size
    return member
