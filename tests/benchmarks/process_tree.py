"""What a process and all that come of it take: CPU seconds, and memory."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.05
MIB = 1 << 20


def tree(root: int) -> list[int]:
    """Return the pids of the process and its descendants."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            children[int(_stat(pid)[1])].append(int(pid))
    found = [root]
    for parent in found:
        found += children[parent]
    return found


def cpu_seconds(root: int) -> float:
    """Return what the tree has taken, with that of the children that have ended."""
    ticks = 0
    for pid in tree(root):
        with suppress(OSError):
            ticks += sum(map(int, _stat(pid)[11:15]))
    return ticks / TICKS


def memory_mib(root: int) -> float:
    """Return the tree's memory; what processes share counts once (PSS)."""
    return sum(map(_pss, tree(root))) / MIB


def _stat(pid: int | str) -> list[str]:
    """Return the fields of a process from its state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _pss(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class PeakMemory:
    """The most memory of a tree within a block, in MiB, looked at 20 times a second."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.before = memory_mib(root)
        self.peak = self.before

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, memory_mib(self._root))

    @property
    def over_idle(self) -> float:
        return self.peak - self.before
