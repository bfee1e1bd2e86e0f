"""A folder of this run alone in memory, so that no disk is measured, and the look at the room that there is."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = Path("/dev/shm")
SPARE_BYTES = 2 << 30
"""What the machine keeps for all that is not a file of ours."""


class NoRoom(Exception):
    """The files of a row do not fit."""

    def __init__(self, needed: int, there: int) -> None:
        super().__init__(f"needs {needed / 2**30:.1f} GiB in {MEMORY}, and there are {there / 2**30:.1f}")


@contextmanager
def place_in_memory() -> Iterator[Path]:
    """Make a folder, and remove it with all that is in it."""
    folder = Path(tempfile.mkdtemp(prefix="longshore-benchmark-", dir=MEMORY))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def room() -> int:
    """Return how many bytes of files may be written now."""
    found = os.statvfs(MEMORY)
    free = found.f_bavail * found.f_frsize
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = min(free, int(line.split()[1]) * 1024)
    return max(0, free - SPARE_BYTES)


def need_room(size: int) -> None:
    """Raise NoRoom when files of that many bytes would not fit."""
    if size > (there := room()):
        raise NoRoom(size, there)


def emptied(folder: Path) -> Path:
    """Return the folder, new and empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
