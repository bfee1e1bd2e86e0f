"""What a task left outside its process group: orphans, whose parent we have become, and what these start."""

import os
import signal
import time
from collections.abc import Collection
from contextlib import suppress

ORPHANS_SECONDS = 5.0
"""For so long a program that goes on forking is chased; whether that was enough, `any_orphans` says."""


def own_children() -> set[int]:
    """Return the pids of all our children, of whichever thread; the kernel gives orphans to the first one."""
    children: set[int] = set()
    for thread in os.listdir("/proc/self/task"):
        with (
            suppress(FileNotFoundError, ProcessLookupError),  # the thread may have ended
            open(f"/proc/self/task/{thread}/children") as file,
        ):
            children.update(map(int, file.read().split()))
    return children


def any_orphans(but: Collection[int] = ()) -> bool:
    """Say whether something is left that could not be ended; no task may run beside it."""
    reap_orphans(but)
    return bool(own_children().difference(but))


def reap_orphans(but: Collection[int]) -> None:
    """Reap all children that have ended, but for those that somebody waits for."""
    for pid in own_children().difference(but):
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def end_orphans(but: Collection[int] = ()) -> int:
    """End all our children but some, and return how many ended of those that ran.

    Those that we adopted are what a task left outside its process group. None is reaped by anyone but us, so none is
    another process by now.
    """
    ended: set[int] = set()
    deadline = time.monotonic() + ORPHANS_SECONDS
    reap_orphans(but)
    while (orphans := own_children().difference(but)) and time.monotonic() < deadline:
        for pid in orphans:
            with suppress(PermissionError):  # of another user, and we lack CAP_KILL
                os.kill(pid, signal.SIGKILL)
        ended |= orphans
        reap_orphans(but)
        time.sleep(0.001)
    return len(ended - own_children())
