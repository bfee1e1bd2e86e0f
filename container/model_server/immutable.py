"""Files and folders that can't be changed or removed before a flag of theirs is taken away (chattr +i, +a)."""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .beneath import OPEN_ENTRY

GET_FLAGS, SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
APPEND_ONLY, IMMUTABLE = 0x20, 0x10


def make_mutable(name: str, folder: int) -> bool:
    """Take the flags away from an entry of a folder and from the folder, and say whether there were any."""
    changed = _take_away(folder)
    with suppress(OSError), _opened(name, folder) as entry:
        changed |= _take_away(entry)
    return changed


@contextmanager
def _opened(name: str, folder: int) -> Iterator[int]:
    """Open a file or a folder, whatever is put in its place meanwhile; raises OSError for all else."""
    path = os.open(name, OPEN_ENTRY, dir_fd=folder)
    try:
        if stat.S_IFMT(os.fstat(path).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        entry = os.open(f"/proc/self/fd/{path}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(path)
    try:
        yield entry
    finally:
        os.close(entry)


def _take_away(descriptor: int) -> bool:
    """Say whether there were flags that are gone; False where the file system has none, or we may not."""
    with suppress(OSError):
        (flags,) = struct.unpack("q", fcntl.ioctl(descriptor, GET_FLAGS, bytes(8)))
        if flags & (APPEND_ONLY | IMMUTABLE):
            fcntl.ioctl(descriptor, SET_FLAGS, struct.pack("q", flags & ~(APPEND_ONLY | IMMUTABLE)))
            return True
    return False
