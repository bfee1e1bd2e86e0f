"""Who runs next: a bounded queue in front of the slots, first come first served across all workers."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from .cancellation import Cancellation
from .errors import QueueFull
from .logs import logger
from .scoreboard import QueueEntry, Scoreboard
from .slot import Slot, Slots

POLL_SECONDS = 0.02
MOST_POLLS = 50
"""Who has others ahead looks that much less often whether it is next: all at once would keep the processor busy."""


@contextmanager
def admitted(slots: Slots, scoreboard: Scoreboard, cancellation: Cancellation) -> Iterator[Slot]:
    """Hold a slot for the block, after waiting for one.

    Raises QueueFull at once when no place to wait is free, and the cancellation's reason before and while it waits: a
    request whose client had left would tell of itself in a result, perhaps that of a retry that has run meanwhile.
    """
    cancellation.raise_if_set()
    slot = _take_or_wait(slots, scoreboard, cancellation)
    try:
        yield slot
    finally:
        slot.release()


def _take_or_wait(slots: Slots, scoreboard: Scoreboard, cancellation: Cancellation) -> Slot:
    with slots.queue_lock():
        if not scoreboard.tickets() and (slot := slots.try_take()):
            return slot
        place = _free_place(scoreboard)
        place.worker = os.getpid()
        ticket = place.ticket = scoreboard.next_ticket()
    logger.debug("A request waits in worker %d", place.worker)
    try:
        while True:
            ahead = sum(other < ticket for other in scoreboard.tickets())
            if not ahead and (slot := slots.try_take()):
                return slot
            cancellation.wait(POLL_SECONDS * min(max(ahead, 1), MOST_POLLS))
    finally:
        place.ticket = 0
        logger.debug("A request waits no more in worker %d", os.getpid())


def _free_place(scoreboard: Scoreboard) -> QueueEntry:
    for place in scoreboard.queue:
        if not place.ticket:
            return place
    raise QueueFull
