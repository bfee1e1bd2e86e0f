"""Waiting with a deadline, and counting what is open."""

import gc
import os
import threading
import time
from collections.abc import Callable

DEADLINE_SECONDS = 5.0


def wait_until(happened: Callable[[], object]) -> None:
    """Return once it has happened; fail when the deadline comes first."""
    pause = threading.Event()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        pause.wait(0.002)


def open_descriptors() -> int:
    """Return how many descriptors are open, once what earlier tests left to the collector is gone."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
