"""Unpacking a tarball while it is read, by the rules of the standard library's "data" filter.

They are kept here since the Python of Debian 12 has no such filter. Nothing is trusted: what an archive asks us to keep
in memory is bounded, and no member or link leads out of the folder, whatever the links among its members do.

One thread reads, the next one decompresses, if there is anything to, and the third one makes the members; gzip is
decompressed by ISA-L, in half the time.
"""

import bz2
import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any, Self, cast

from isal import igzip

from .archive_limits import ArchiveLimits
from .lzma_stream import LzmaStream
from .read_ahead import BLOCK_BYTES, Counted, Readable, ReadAhead, fetched_ahead
from .user import User

FORMATS: list[tuple[re.Pattern[bytes], Callable[[Any], Any]]] = [
    (re.compile(rb"\x1f\x8b"), igzip.open),
    (re.compile(rb"BZh[1-9]1AY&SY"), bz2.open),
    (re.compile(rb"\xfd7zXZ\0|\x5d\0\0\x80"), LzmaStream),
]
MAX_HEADER_BYTES = 1024 * 1024
"""How much may lie between the contents of two members: tarfile keeps it in memory."""

FOLDER_MODE = 0o755


class MemberRefused(Exception):
    """A member may not be unpacked; the message is the reason in words, without the member's name."""


class OverLimit(MemberRefused):
    """The archive holds more than a setting allows."""


def unpack(body: BufferedReader, folder: Path, user: User, limits: ArchiveLimits, check: Callable[[], None]) -> bool:
    """Unpack a tarball into an empty folder, and return whether the archive names the folder itself.

    `check` is called all along, and ends the work by raising. Anything else that is raised is a fault of the archive,
    but for an OSError with an `errno`, which is one of the disk.
    """
    members = _Members(folder, user)
    with _decompressed(body) as (plain, packed), ReadAhead(plain, packed) as ahead:
        source = _Source(ahead, limits, check)
        with tarfile.TarFile(fileobj=cast(Any, source), tarinfo=_Header) as archive:
            while member := source.next_member(archive):
                members.add(member, source)
        source.read_to_end()
    return members.named_root


@contextmanager
def _decompressed(body: BufferedReader) -> Iterator[tuple[Readable, Counted]]:
    """Give the block the plain archive, and what is counted of its body."""
    start = body.peek(10)
    opener = next((opener for magic, opener in FORMATS if magic.match(start)), None)
    if not opener:
        counted = Counted(body)
        yield counted, counted
        return
    with fetched_ahead(body) as fetched:
        counted = Counted(fetched)
        yield opener(counted), counted


class _Header(tarfile.TarInfo):
    """A header that must be whole: tarfile takes one that is broken or missing for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # the end, as it should be
                raise
            raise tarfile.ReadError("a header is broken or missing") from error


class _Source:
    """The archive as tarfile reads it; keeps it from reading much into memory at once, and within the limits."""

    def __init__(self, ahead: ReadAhead, limits: ArchiveLimits, check: Callable[[], None]) -> None:
        self._ahead = ahead
        self._limits = limits
        self._check = check
        self._block = memoryview(b"")  # what was read and not taken yet
        self._plain_bytes = self._named_bytes = self._members = 0
        self._header_bytes_left: float = MAX_HEADER_BYTES  # tarfile reads the first header when it is made
        self._ended = False

    def read(self, size: int) -> bytes:
        """Return what tarfile wants of a header, less at the end."""
        self._header_bytes_left -= size
        if self._header_bytes_left < 0:
            raise MemberRefused("a header is too large")
        data = b""
        while len(data) < size and (piece := self.take(size - len(data))):
            data += piece
        return data

    def take(self, most: int) -> memoryview:
        """Return the next bytes as far as they are there, none at the end."""
        if not self._block and not self._ended:
            self._check()
            block, packed_bytes = self._ahead.next_block()
            self._block = memoryview(block)
            self._ended = not block
            self._plain_bytes += len(block)
            self._keep_limits(self._plain_bytes, packed_bytes)
        taken, self._block = self._block[:most], self._block[most:]
        return taken

    def tell(self) -> int:
        return self._plain_bytes - len(self._block)

    def seek(self, place: int) -> None:
        """Go on to a place, or to the end; there is no way back."""
        if place < self.tell():
            raise tarfile.StreamError("a member begins before the one that is read")
        while (left := place - self.tell()) and self.take(left):
            pass

    def next_member(self, archive: Any) -> tarfile.TarInfo | None:
        """Return the next member of the archive that reads from here, None at its end."""
        self._header_bytes_left = MAX_HEADER_BYTES
        member: tarfile.TarInfo | None = archive.next()
        self._header_bytes_left = float("inf")
        archive.members.clear()  # tarfile would keep them all
        if sum(len(name) + len(value) for name, value in archive.pax_headers.items()) > MAX_HEADER_BYTES:
            raise MemberRefused("the headers for all members are too large")
        if member:
            self._members += 1
            self._named_bytes += member.size
            self._keep_limits(self._named_bytes, packed=self._named_bytes)  # the ratio is of what was read
        return member

    def _keep_limits(self, unpacked: int, packed: int) -> None:
        if setting := self._limits.excess(unpacked, self._members, packed):
            raise OverLimit(f"it is over {setting}")

    def read_to_end(self) -> None:
        """Read what follows the last member: only then are the checksums of a compressed archive compared."""
        while self.take(BLOCK_BYTES):
            pass


class _Members:
    """Makes one member after another beneath a folder; of two with the same name the later one stays."""

    def __init__(self, root: Path, user: User) -> None:
        self.named_root = False
        self._root = Path(os.path.realpath(root))
        self._user = user

    def add(self, member: tarfile.TarInfo, source: _Source) -> None:
        place = self._place(member.name)
        if place == self._root:
            self._name_root(member)
            return
        with _times_kept(place.parent):
            if member.isreg():
                self._add_file(place, member, source)
            elif member.isdir():
                self._add_folder(place, member)
            elif member.issym():
                self._add_link(place, member.linkname, member)
            elif member.islnk():
                self._add_hard_link(place, member)
            else:
                raise MemberRefused("a member is neither a file nor a folder nor a link")

    def _place(self, name: str) -> Path:
        """Return the path of a name without links on the way to it, with the folders above made; they stay ours."""
        relative = PurePosixPath(name.lstrip("/"))
        parent = Path(os.path.realpath(self._root / relative.parent))
        if relative.name == ".." or not parent.is_relative_to(self._root):
            raise MemberRefused("a member leads out of the folder")
        if not parent.exists():
            for above in (*reversed(parent.parents), parent):
                if not above.exists():
                    with _times_kept(above.parent):
                        _make_folder(above)
        return parent / relative.name

    def _name_root(self, member: tarfile.TarInfo) -> None:
        if not member.isdir():
            raise MemberRefused("a member would replace the folder")
        self.named_root = True

    def _add_file(self, place: Path, member: tarfile.TarInfo, source: _Source) -> None:
        place.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(place, flags, 0o600)
        try:
            source.seek(member.offset_data)
            sparse: Any = member.sparse  # the pieces of a file with holes
            for offset, size in [(0, member.size)] if sparse is None else sparse:
                os.lseek(file, offset, os.SEEK_SET)
                _copy(source, file, size)
            os.ftruncate(file, member.size)
            os.fchmod(file, _file_mode(member.mode))
        finally:
            os.close(file)
        self._finish(place, member)

    def _add_folder(self, place: Path, member: tarfile.TarInfo) -> None:
        if place.is_symlink() or not place.is_dir():
            place.unlink(missing_ok=True)
            _make_folder(place)
        self._finish(place, member)

    def _add_link(self, place: Path, target: str, member: tarfile.TarInfo) -> None:
        """Make a symbolic link that stays beneath the root, whatever becomes of the members that it leads through.

        Its steps upwards are all at its beginning, where they lead through folders that are no links.
        """
        absolute = os.path.isabs(target)
        target = os.path.normpath(target)
        if absolute or target.split("/").count("..") > len(place.parent.parts) - len(self._root.parts):
            raise MemberRefused("a link leads out of the folder")
        place.unlink(missing_ok=True)
        place.symlink_to(target)
        self._finish(place, member)

    def _add_hard_link(self, place: Path, member: tarfile.TarInfo) -> None:
        if os.path.isabs(member.linkname):
            raise MemberRefused("a link leads out of the folder")
        target = self._place(member.linkname)
        if target.is_symlink():  # a second name for it, elsewhere, would lead elsewhere
            self._add_link(place, os.readlink(target), member)
        elif target != place:
            place.unlink(missing_ok=True)
            os.link(target, place, follow_symlinks=False)

    def _finish(self, place: Path, member: tarfile.TarInfo) -> None:
        own(place, self._user)
        with suppress(OSError, OverflowError, ValueError):  # a time that the disk can't hold
            os.utime(place, (member.mtime, member.mtime), follow_symlinks=False)


def own(place: Path, user: User) -> None:
    """Give a file, a folder or a link itself to a user."""
    if user.uid is not None or user.gid is not None:
        uid = -1 if user.uid is None else user.uid
        gid = -1 if user.gid is None else user.gid
        os.chown(place, uid, gid, follow_symlinks=False)


@contextmanager
def _times_kept(folder: Path) -> Iterator[None]:
    """Let a folder keep its times while something is made in it: they may be those of its own member."""
    before = folder.stat()
    yield
    with suppress(OSError):
        os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))


def _make_folder(place: Path) -> None:
    place.mkdir()
    place.chmod(FOLDER_MODE)  # whatever the umask is


def _file_mode(mode: int) -> int:
    mode &= 0o755
    if not mode & stat.S_IXUSR:
        mode &= ~0o111
    return mode | stat.S_IRUSR | stat.S_IWUSR


def _copy(source: _Source, file: int, size: int) -> None:
    while size > 0:
        data = source.take(size)
        if not data:
            raise EOFError("the archive is cut off")
        size -= len(data)
        while data:
            data = data[os.write(file, data) :]
