"""The most memory that a program had resident, as far as the kernel tells without a cgroup of its own."""

import re
from pathlib import Path

SAMPLE_SECONDS = 0.5

_HIGH_WATER = re.compile(rb"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def high_water_bytes(pid: int | str) -> int:
    """Return the highest resident size of a process so far; 0 when it has ended."""
    try:
        found = _HIGH_WATER.search(Path(f"/proc/{pid}/status").read_bytes())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


class PeakMemory:
    """Follows one program: samples while it runs, and what its rusage says once it has ended.

    rusage knows the highest value of the program and of every process that it waited for, but a new process starts
    with the value of the one that made it (us), so only a higher value than ours is the program's own.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._floor = high_water_bytes("self")
        self._peak = 0

    def sample(self) -> None:
        self._peak = max(self._peak, high_water_bytes(self._pid))

    def ended(self, max_resident_kib: int) -> int:
        """Return the peak in bytes; a program of less memory than ours is known to within a sample."""
        total = max_resident_kib * 1024
        return total if total > self._floor else max(self._peak, 0)
