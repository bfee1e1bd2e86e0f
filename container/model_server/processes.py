"""Ending process groups."""

import os
import signal
import time
from contextlib import suppress


def end_group(group: int, patience: float = 5.0) -> None:
    """Send SIGKILL to a process group and wait up to `patience` seconds until it is gone."""
    deadline = time.monotonic() + patience
    while signal_group(group, signal.SIGKILL) and group_exists(group) and time.monotonic() < deadline:
        time.sleep(0.005)


def group_exists(group: int) -> bool:
    """Say whether a process group has any process, after reaping those that are our own children.

    A zombie counts to its group: where orphans become our children (we are PID 1), nobody else would reap them.
    """
    with suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    return signal_group(group, 0)


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
