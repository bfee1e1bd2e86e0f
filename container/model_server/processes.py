"""Ending process groups."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

KILLED_SECONDS = 5.0
"""How long a process may take to be gone after SIGKILL: one that waits for a device or a dead network disk never is."""

GROUP_POLL_SECONDS = 0.02
"""How often to look whether the rest of a group has ended, which nothing tells."""


def end_group(group: int) -> None:
    """Send SIGKILL to a process group and wait until nothing of it runs, for a while."""
    deadline = time.monotonic() + KILLED_SECONDS
    while signal_group(group, signal.SIGKILL) and group_runs(group) and time.monotonic() < deadline:
        time.sleep(0.005)


def group_runs(group: int) -> bool:
    """Say whether anything of a process group runs, after reaping what has ended of it and is our child.

    Where orphans become our children (we are PID 1), nobody else would. What has ended stays in its group until it is
    reaped, and a parent that has left the group itself may never do that: it is no reason to wait.
    """
    with suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    if not signal_group(group, 0):
        return False
    with suppress(OSError):  # no descriptor is free for the look
        members = list(_members(group))
        return not members or not all(map(_is_zombie, members))  # where none is shown to us, one is there all the same
    return True


def _members(group: int) -> Iterator[list[bytes]]:
    """Yield what /proc/PID/stat says of each process of a group, from its state on, as proc_pid_stat(5) lists it."""
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with (
            suppress(FileNotFoundError, ProcessLookupError, PermissionError),  # it has ended, or /proc hides it
            open(f"/proc/{name}/stat", "rb", buffering=0) as file,
        ):
            fields = file.readall().rpartition(b")")[2].split()
            if int(fields[2]) == group:
                yield fields


def _is_zombie(fields: list[bytes]) -> bool:
    """Say whether a process has ended; one whose first thread alone has is shown as a zombie too, and runs."""
    return fields[0] in (b"Z", b"X") and int(fields[17]) <= 1


def signal_group(group: int, signum: int) -> bool:
    """Signal a process group; return whether there was any process in it."""
    try:
        os.killpg(group, signum)
    except ProcessLookupError:
        return False
    except PermissionError:  # some members changed their user to one that we may not signal
        return True
    return True


def signal_name(number: int) -> str:
    """Return the name of a signal, also of one that has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
