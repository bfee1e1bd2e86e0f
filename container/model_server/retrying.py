"""Trying a request to S3 again, for a minute after it first failed, with growing pauses."""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from .cancellation import Cancellation
from .errors import LongshoreError, StorageUnavailable, without_frames
from .logs import logger
from .s3_faults import final_error, without_names
from .turn import end_turn

RETRY_SECONDS = 60.0
"""How long S3 may fail before we give up; an attempt that went on for longer than this starts the count anew."""

MAX_ATTEMPTS = 30
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0

T = TypeVar("T")

Retry = Callable[[Callable[[], Any]], Any]
"""Tries something again for as long as S3 or the way to it fails."""


def retried(
    attempt: Callable[[], T],
    on_fault: Callable[[Exception], None],
    cancellation: Cancellation | None = None,
    retry_seconds: float = RETRY_SECONDS,
) -> T:
    """Return what the attempt returns, trying again while S3 or the way to it fails, up to the deadline.

    `on_fault` is told what each attempt failed with. Raises what will not pass at once, StorageUnavailable, and the
    cancellation's reason.
    """
    pause, deadline = FIRST_PAUSE_SECONDS, 0.0
    for attempts_left in reversed(range(MAX_ATTEMPTS)):
        started = time.monotonic()
        try:
            return attempt()
        except LongshoreError:  # the reason to end early
            raise
        except Exception as error:
            failed = time.monotonic()
            if not deadline or failed - started > RETRY_SECONDS:
                pause, deadline = FIRST_PAUSE_SECONDS, failed + retry_seconds
            final = final_error(error)
            if final is error:  # it is not S3's, and is told by whoever takes it
                raise
            logger.debug("S3: %s", error)
            on_fault(error)
            if final or failed >= deadline or not attempts_left:
                logger.error("S3: %s", without_names(error))
                raise final or StorageUnavailable from error
            delay = min(pause * random.uniform(0.8, 1.0), deadline - failed)  # noqa: S311 - not a secret
            logger.warning("S3: %s; trying again in %.1f s", without_names(error), delay)
            without_frames(error)  # which hold what our callers have open, and the error: a cycle
        end_turn()
        cancellation.wait(delay) if cancellation else time.sleep(delay)
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
    raise AssertionError("unreachable")


def retried_part(retry: Retry, attempt: Callable[[], T], whole: type[Exception]) -> T:
    """Return what an attempt at a part returns, tried again by itself but for a fault that only the whole can pass.

    Such a fault is raised at once, for whoever tries the whole again.
    """

    def once() -> T | Exception:
        try:
            return attempt()
        except whole as fault:
            return fault

    result = retry(once)
    if isinstance(result, whole):
        raise whole
    done: T = result
    return done
