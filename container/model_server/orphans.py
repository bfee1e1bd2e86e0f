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
    try:
        _any_ended()
    except ChildProcessError:  # there are none, which needs no look at each of our threads
        return children
    for thread in os.listdir("/proc/self/task"):
        with (
            suppress(FileNotFoundError, ProcessLookupError),  # the thread may have ended
            open(f"/proc/self/task/{thread}/children", "rb", buffering=0) as file,
        ):
            children.update(map(int, file.readall().split()))
    return children


def _any_ended() -> bool:
    """Say whether any child has ended and is not reaped; raises ChildProcessError where there is no child at all."""
    return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def any_orphans(but: Collection[int] = ()) -> bool:
    """Say whether something is left that could not be ended; no task may run beside it."""
    reap_orphans(but)
    return bool(own_children().difference(but))


def reap_orphans(but: Collection[int]) -> None:
    """Reap all children that have ended, but for those that somebody waits for."""
    with suppress(ChildProcessError):
        if not _any_ended():
            return
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
