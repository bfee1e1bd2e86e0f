"""A list of tasks, one after another, each with a result: what `invoke` does."""

import signal
from collections.abc import Callable, Sequence
from types import FrameType

from .admission import admitted
from .cancellation import Cancellation
from .errors import Interrupted, LongshoreError, ResultNotStored, TaskSkipped
from .logs import logger
from .result import Record
from .runner import Server, finish, run_task
from .scoreboard import Scoreboard
from .slot import Slots
from .task import Task


class Stop:
    """SIGTERM and SIGINT as the end of a list: `signum` is the first that came, None while there was none."""

    def __init__(self, cancellation: Cancellation) -> None:
        self._cancellation = cancellation
        self.signum: int | None = None
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, self._received)

    def _received(self, signum: int, frame: FrameType | None) -> None:
        self.signum = self.signum or signum
        self._cancellation.cancel(Interrupted())


def run_list(
    tasks: Sequence[Task],
    server: Server,
    slots: Slots,
    scoreboard: Scoreboard,
    cancellation: Cancellation,
    on_progress: Callable[[], None],
) -> bool:
    """Run tasks until one fails; those behind it get a result that says why they did not run.

    Returns whether every task has a stored result.
    """
    all_stored = True
    skip_reason: LongshoreError | None = None
    with admitted(slots, scoreboard, Cancellation()) as slot:
        for task in tasks:
            if skip_reason:
                outcome = finish(Record(task, error=skip_reason), server)
            else:
                outcome = run_task(task, slot, server, cancellation)
                if outcome.result.return_code:
                    logger.error("Stopping due to failure of task %s", task.pk)
                    skip_reason = cancellation.reason or TaskSkipped()
            all_stored = all_stored and not isinstance(outcome.error, ResultNotStored)
            on_progress()
    if not skip_reason:
        logger.info("Model invocation complete")
    return all_stored
