"""Is /input ours? A task takes a slot: a lock on a file, seen by all workers, released by the kernel with its holder.

A slot whose last holder died is not free until PID 1 has stored that task's result: were it taken at once, a retry of
the same task could store its success first and have it replaced by the failure of the attempt before.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .scoreboard import Scoreboard, SlotEntry


class Slot:
    """The right to run one task at a time in the task folders; held until `release`."""

    def __init__(self, entry: SlotEntry, lock: int) -> None:
        self._entry = entry
        self._lock = lock

    def runs(self, group: int) -> None:
        """Note the algorithm's process group, for whoever has to end it when this process dies; 0 for none."""
        self._entry.group = group

    def release(self) -> None:
        self._entry.group = 0
        self._entry.worker = 0
        os.close(self._lock)


class Slots:
    """All slots of a container: one lock file each, in a folder that only the server's user can enter."""

    def __init__(self, folder: Path, scoreboard: Scoreboard) -> None:
        self._folder = folder
        self._scoreboard = scoreboard

    def try_take(self) -> Slot | None:
        """Return a slot if one is free."""
        for number, entry in enumerate(self._scoreboard.slots):
            if (lock := _try_lock(self._folder / f"slot-{number}.lock")) is None:
                continue
            if entry.worker == 0:
                entry.worker = os.getpid()
                return Slot(entry, lock)
            os.close(lock)  # the holder died, and PID 1 has not ended yet what it ran
        return None

    @contextmanager
    def queue_lock(self) -> Iterator[None]:
        """Hold the lock of the queue, for a few instructions only."""
        descriptor = _open(self._folder / "queue.lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _try_lock(path: Path) -> int | None:
    """Return the descriptor of a locked file; every call opens it anew, so threads exclude each other too."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
