"""`invoke`: a list of tasks, one after another, each with a result."""

import os
import signal
from collections.abc import Callable, Sequence
from types import FrameType

import click

from .cancellation import Cancellation
from .children import STOP_SIGNALS, adopt_orphans, end_orphans
from .command import algorithm_command
from .errors import Interrupted, LongshoreError, ResultNotStored, TaskSkipped
from .folder import claim
from .log_channel import LogChannels
from .logs import configure, logger
from .progress import Progress
from .result import Record
from .runner import Server, finish, run_task
from .settings import Settings
from .storage import Storage
from .task import Task
from .task_list import listed_tasks


def invoke(settings: Settings, tasks: str | None, file: str | None) -> int:
    """Run the tasks of a JSON list or of the S3 URI of one, and return the exit code.

    Raises click's usage errors, SettingsInvalid and StartFailed before anything was run.
    """
    channels = LogChannels()
    configure(channels, settings.log_level)
    adopt_orphans()
    cancellation = Cancellation()
    stop = _Stop(cancellation)
    storage = Storage.from_settings(settings)
    progress = Progress()
    with progress, channels.relayed(on_terminal=progress.around):
        try:
            listed = listed_tasks(tasks, file, storage, cancellation)
        except Interrupted:  # before there was any task
            return stop.exit_code()
        server = Server(
            settings=settings,
            command=algorithm_command(settings),
            input=claim(settings.input_path, 0o755),
            output=claim(settings.output_path, 0o777),
            storage=storage,
            channels=channels,
            default_timeout=None,  # the job's limit rules
        )
        logger.info("Invoking the model for %d tasks", len(listed))
        progress.begin(len(listed))
        all_stored = run_list(listed, server, cancellation, progress.advance)
    return stop.exit_code() or (0 if all_stored else 1)


STOP_SECONDS = 110
"""From the word to stop until we are gone, also when S3 hangs: SageMaker kills a job's container after 120 s."""


class _Stop:
    """The signals that ask to stop as the end of a list; the first that comes decides on the exit code."""

    def __init__(self, cancellation: Cancellation) -> None:
        self._cancellation = cancellation
        self._signum = 0
        for signum in STOP_SIGNALS:
            signal.signal(signum, self._received)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _received(self, signum: int, frame: FrameType | None) -> None:
        if not self._signum:
            self._signum = signum
            self._cancellation.cancel(Interrupted())
            signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + signum))
            signal.alarm(STOP_SECONDS)

    def exit_code(self) -> int:
        """Return 128 + n for signal n, 0 if none came; raises click's Abort for a Ctrl-C."""
        if self._signum == signal.SIGINT:
            raise click.Abort
        return 128 + self._signum if self._signum else 0


def run_list(
    tasks: Sequence[Task], server: Server, cancellation: Cancellation, on_progress: Callable[[], None]
) -> bool:
    """Run tasks until one fails; those behind it get a result that says why they did not run.

    Returns whether every task has a stored result.
    """
    all_stored = True
    skip_reason: LongshoreError | None = None
    for task in tasks:
        if skip_reason:
            outcome = finish(Record(task, error=skip_reason), server)
        else:
            outcome = run_task(task, server, cancellation, on_group=lambda group: None)
            end_orphans()
            if outcome.result.return_code:
                logger.error("Stopping due to failure of task %s", task.pk)
                skip_reason = cancellation.reason or TaskSkipped()
        all_stored = all_stored and not isinstance(outcome.error, ResultNotStored)
        on_progress()
    if not skip_reason:
        logger.info("Model invocation complete")
    return all_stored
