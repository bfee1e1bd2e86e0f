"""The space of removed files, which is given back beside the answer: that takes 0.15 s for a GiB in memory.

The kernel frees a file when its last name or descriptor goes. So the large files of a task are held while their folders
are emptied, and let go of in a thread, while the task's result is stored and its request answered. Their names are gone
by then, and those of a process that dies are freed with it. Whoever runs the next task waits, in another worker too: it
has as much space as this one had.
"""

import ctypes
import fcntl
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from .beneath import OPEN_ENTRY, OPEN_FOLDER
from .cancellation import Cancellation

LARGE_BYTES = 1024 * 1024
MOST_HELD = 256
"""How many files are held at most: a process may have 1,024 descriptors, where nobody says otherwise."""

MOST_LOOKS = 512
"""How many entries of a folder are looked at: a look at each of many small files would cost more than it gives."""

MOST_DEPTH = 8
POLL_SECONDS = 0.01

NAMELESS = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x01021994: "tmpfs",
    0x794C7630: "overlayfs",
}
"""File systems, by statfs(2)'s number, where a file without a name is gone for all but who holds it.

A network's may give it another name in the same folder, which would not be empty then."""

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def opened(paths: Iterable[Path]) -> Iterator[list[int]]:
    """Open folders for the block, which a program may replace meanwhile; those that can't be opened are left out."""
    folders: list[int] = []
    try:
        for path in paths:
            with suppress(OSError):
                folders.append(os.open(path, OPEN_FOLDER))
        yield folders
    finally:
        _close(folders)


class Freeing:
    """What is still to be freed of the tasks before; made before the fork, so that all workers share it."""

    def __init__(self) -> None:
        self._lock = os.memfd_create("freeing")

    def __del__(self) -> None:
        os.close(self._lock)

    def wait(self, cancellation: Cancellation) -> None:
        """Return once nothing is left to be freed; raises the cancellation's reason."""
        while (lock := self._locked()) is None:
            cancellation.wait(POLL_SECONDS)
        os.close(lock)

    @contextmanager
    def freed_later(self, folders: Iterable[int]) -> Iterator[None]:
        """Have the large files of folders that are removed in the block be freed after it, in a thread."""
        held = self._held(folders)
        try:
            yield
        finally:
            _close_beside(held)

    def _held(self, folders: Iterable[int]) -> list[int]:
        """Return the lock and descriptors of large files; nothing where the machine refuses some of it."""
        held: list[int] = []
        try:
            if (lock := self._locked()) is not None:
                held.append(lock)
                for folder in folders:
                    if _is_nameless(folder):
                        _hold_beneath(folder, held, os.fstat(folder).st_dev, MOST_DEPTH)
        except (OSError, MemoryError):
            _close(held)
        return held

    def _locked(self) -> int | None:
        """Return a descriptor that holds the lock, None while another one does."""
        lock = os.open(f"/proc/self/fd/{self._lock}", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock


def _is_nameless(folder: int) -> bool:
    found = (ctypes.c_long * 32)()  # struct statfs has 120 bytes and begins with the type
    return _libc.fstatfs(folder, found) == 0 and found[0] in NAMELESS


def _hold_beneath(folder: int, held: list[int], device: int, depth: int) -> None:
    """Add descriptors of the large files in a folder of that device; raises OSError."""
    with os.scandir(folder) as entries:
        for entry in islice(entries, MOST_LOOKS):
            found = entry.stat(follow_symlinks=False)
            if found.st_dev != device or len(held) > MOST_HELD:
                continue
            if stat.S_ISDIR(found.st_mode) and depth:
                inner = os.open(entry.name, OPEN_FOLDER, dir_fd=folder)
                try:
                    _hold_beneath(inner, held, device, depth - 1)
                finally:
                    os.close(inner)
            elif stat.S_ISREG(found.st_mode) and found.st_size >= LARGE_BYTES:
                held.append(os.open(entry.name, OPEN_ENTRY, dir_fd=folder))


def _close_beside(held: list[int]) -> None:
    if len(held) > 1:  # more than the lock
        with suppress(RuntimeError, MemoryError):  # the machine has no more threads
            threading.Thread(target=_close, args=(held,), daemon=True, name="freeing").start()
            return
    _close(held)


def _close(descriptors: list[int]) -> None:
    """Close the last one first, so that the lock is left for last."""
    while descriptors:
        os.close(descriptors.pop())
