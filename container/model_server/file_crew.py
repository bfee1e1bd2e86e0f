"""Working on many files in several threads of a pool: in as many as the way to S3 can use.

Where S3 is near, more threads only take the interpreter from one another. Where each answer takes its time, twice as
many take half of it. So some begin, and others join for as long as none of them has come back for another file. Of all
of them one has its turn, and those that wait for the network.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import TypeVar

from .turn import Turns

FIRST_THREADS = 16
LOOK_SECONDS = 0.005
"""How long those that work have for the first file before as many again join them."""

File = TypeVar("File")


def join_in(
    pool: Executor, most: int, ahead: deque[File], work: Callable[[File], None], joined: list[Future[None]]
) -> None:
    """Have threads do the files ahead, at most so many, and append the future of each thread to `joined`.

    Who called waits for that. After a fault, which is that of its thread, no other file is begun.
    """
    turns = Turns()
    all_of_it, wanted = len(ahead), FIRST_THREADS
    most = min(most, all_of_it)

    def work_on() -> None:
        while ahead:
            with turns:
                try:
                    file = ahead.popleft()
                except IndexError:  # another thread was faster
                    return
                try:
                    work(file)
                except BaseException:
                    ahead.clear()
                    raise

    while True:
        while len(joined) < min(wanted, most):
            joined.append(pool.submit(work_on))
        if len(joined) == most:
            return
        one_has_ended = wait(joined, LOOK_SECONDS, FIRST_COMPLETED).done
        if one_has_ended or all_of_it - len(ahead) > len(joined):
            return
        wanted *= 2
