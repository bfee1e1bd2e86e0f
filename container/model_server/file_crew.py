"""Working on many files in several threads of a pool: in as many as the way to S3 can use.

Where S3 is near, more threads only take the interpreter from one another. Where each answer takes its time, twice as
many take half of it. So some begin, and others join for as long as none of them has come back for another file.
"""

from collections.abc import Callable, Sized
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import TypeVar

FIRST_THREADS = 16
LOOK_SECONDS = 0.005
"""How long those that work have for the first file before as many again join them."""

T = TypeVar("T")


def join_in(pool: Executor, most: int, ahead: Sized, work: Callable[[], T], joined: list[Future[T]]) -> None:
    """Have threads do what is ahead, at most so many, and append the future of each to `joined`.

    `work` takes one thing after the other from `ahead` until nothing is left there. Who called waits for that.
    """
    all_of_it, wanted = len(ahead), FIRST_THREADS
    most = min(most, all_of_it)
    while True:
        while len(joined) < min(wanted, most):
            joined.append(pool.submit(work))
        if len(joined) == most:
            return
        one_has_ended = wait(joined, LOOK_SECONDS, FIRST_COMPLETED).done
        if one_has_ended or all_of_it - len(ahead) > len(joined):
            return
        wanted *= 2
