"""Working on many files in several threads of a pool: in as many as the way to S3 can use.

Where S3 is near, more threads only take the interpreter from one another. Where each answer takes its time, twice as
many take half of it. So a few begin, and others join whenever no file comes within some time. Of all of them one has
its turn, and those that wait for the network.

A thread whose files are small takes several at a time, and asks for all of them before it works on the first: it waits
for one answer instead of all, lets others go on less often, and a long way is gone once for all of them.
"""

from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from typing import TypeVar

from .turn import Turns

FIRST_THREADS = 4
LOOK_SECONDS = 0.005
"""How long those that work have for their files before as many again join them."""

LONGEST_LOOK_SECONDS = 0.1
MOST_AT_A_TIME = 8
"""How many small files a thread takes; more of them would wait behind one that is slow."""

BYTES_AT_A_TIME = 4 * 1024 * 1024
"""How much a thread asks for at a time, if its next files are no larger than the last ones."""

ROUNDS_FOR_A_CONNECTION = 2
"""How often each thread could come back for as many files again, where it is worth its while to make a connection."""

File = TypeVar("File")


def join_in(
    pool: Executor,
    most: int,
    ahead: deque[File],
    work: Callable[[File], int],
    joined: list[Future[None]],
    ask_ahead: Callable[[File, bool], bool] | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Have threads do the files ahead, at most so many, and append the future of each thread to `joined`.

    `work` returns the bytes of a file. `ask_ahead` begins what any thread's `work` goes on with later, if that was not
    done, makes a connection for it if it is told to, and returns whether it could. Whoever called waits for the
    futures, from when no other thread is to join; until then `check` is called now and then, and may raise. After a
    fault, which is that of its thread, no other file is begun.
    """
    turns = Turns()
    most = min(most, len(ahead))
    wanted = min(most, FIRST_THREADS)
    done, has_fault = 0, False

    def work_on() -> None:
        nonlocal has_fault
        try:
            at_a_time = 1
            while ahead and not has_fault:
                with turns:
                    share = max(1, len(ahead) // wanted)
                    files = deque(ahead.popleft() for _ in range(min(at_a_time, share, len(ahead))))
                    ask_for(files)
                    largest = work_on_these(files)
                if ask_ahead:
                    at_a_time = min(at_a_time * 2, MOST_AT_A_TIME, BYTES_AT_A_TIME // max(largest, 1)) or 1
        except BaseException:
            has_fault = True
            raise

    def ask_for(files: Collection[File]) -> None:
        if len(files) > 1 and ask_ahead:
            connects = len(ahead) > ROUNDS_FOR_A_CONNECTION * len(files) * wanted
            for file in files:
                if has_fault or not ask_ahead(file, connects):
                    return

    def work_on_these(files: deque[File]) -> int:
        """Return the bytes of the largest; those behind one that is too large are left to whoever is free."""
        nonlocal done
        largest = 0
        while files and not has_fault:
            turns.begin()
            largest = max(largest, work(files.popleft()))
            done += 1
            if largest > BYTES_AT_A_TIME:
                ahead.extendleft(reversed(files))
                break
        return largest

    patience = LOOK_SECONDS
    while True:
        done_before = done
        while len(joined) < wanted:
            joined.append(pool.submit(work_on))
        if len(joined) == most:
            return
        has_ended = not wait(joined, patience, FIRST_EXCEPTION).not_done
        if has_ended or has_fault:
            return
        check()
        if done > done_before or not ahead:
            patience = min(patience * 2, LONGEST_LOOK_SECONDS)
        else:
            wanted, patience = min(most, 2 * wanted), LOOK_SECONDS
