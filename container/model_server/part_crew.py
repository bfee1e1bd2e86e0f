"""Working on the parts of one large file in several threads of a pool that other files are waiting for too."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from contextlib import suppress
from typing import TypeVar

MOST_HELPERS = 7
"""Threads that join the one whose file it is: eight connections carry what one server gives."""

Part = TypeVar("Part")


def work_together(pool: Executor, parts: Iterable[Part], work: Callable[[Part], None]) -> None:
    """Do all parts, the first ones first, and raise the first fault once nobody works on any of them.

    This thread works too, so all is done also if it is one of the pool and no other has time; those that find time
    later find nothing left.
    """
    ahead = deque(parts)
    faults: list[BaseException] = []
    changed = threading.Condition()
    working = 0

    def go_on() -> None:
        nonlocal working
        while True:
            with changed:
                if not ahead:
                    return
                part = ahead.popleft()
                working += 1
            try:
                work(part)
            except BaseException as fault:
                with changed:
                    faults.append(fault)
                    ahead.clear()  # for those too that come when the fault was told: the file may be closed by then
            finally:
                with changed:
                    working -= 1
                    changed.notify_all()

    with suppress(RuntimeError):  # a pool that has ended, as at the end of a process: there is this thread
        for _ in range(min(MOST_HELPERS, len(ahead) - 1)):
            pool.submit(go_on)
    go_on()
    with changed:
        changed.wait_for(lambda: not working)
    if faults:
        try:
            raise faults[0]
        finally:
            faults.clear()  # it holds this frame, which would hold it
