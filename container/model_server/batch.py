"""`invoke`: a list of tasks, one after another, each with a result."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import click

from .algorithm_server import Resident
from .cancellation import Cancellation
from .children import STOP_SIGNALS, Child, adopt_orphans, end_orphans, start
from .command import algorithm_command
from .directories import PostClean, make_writable
from .errors import Interrupted, LongshoreError, ResultNotStored, TaskSkipped
from .linked_input import claim_task_folders, leave_empty
from .log_channel import LogChannels
from .logs import configure, logger
from .processes import signal_name
from .progress import Progress
from .resident import run_keeper
from .resident_channel import ResidentChannel
from .result import Record
from .runner import Server, finish, run_task
from .scoreboard import ServerState
from .set_up import is_needed, set_up
from .settings import Settings
from .storage import Storage
from .task import Task
from .task_list import check_options, listed_tasks


def invoke(settings: Settings, tasks: str | None, file: str | None) -> int:
    """Run the tasks of a JSON list or of the S3 URI of one, and return the exit code.

    Raises click's usage errors, SettingsInvalid and StartFailed before anything was run.
    """
    check_options(tasks, file)
    channels = LogChannels()
    configure(channels, settings.log_level)
    adopt_orphans()
    cancellation = Cancellation()
    stop = _Stop(cancellation)
    keeper = _start_keeper(settings, channels)  # before there is any thread
    storage = Storage.from_settings(settings)
    progress = Progress()
    with (
        progress,
        channels.relayed(on_terminal=progress.around),
        PostClean(settings.post_clean_directories) as post_clean,
        ExitStack() as folders_left_empty,
        _ended(keeper),
    ):
        try:
            listed = listed_tasks(tasks, file, storage, cancellation)
        except Interrupted:  # before there was any task
            return stop.exit_code()
        command = algorithm_command(settings)
        input_folder, output_folder = claim_task_folders(settings)
        folders_left_empty.callback(leave_empty, (input_folder, output_folder))
        server = Server(
            settings=settings,
            command=command,
            input=input_folder,
            output=output_folder,
            storage=storage,
            channels=channels,
            default_timeout=None,  # the job's limit rules
            resident=keeper.channel if keeper else None,
        )
        make_writable(settings.writable_directories)
        error, is_told = _set_up(server, cancellation, post_clean)
        logger.info("Invoking the model for %d tasks", len(listed))
        progress.begin(len(listed))
        spared = keeper.process.pid if keeper else 0
        all_stored = run_list(listed, server, cancellation, progress.advance, error, spared)
    return stop.exit_code() or (0 if all_stored and is_told else 1)


class _Keeper(NamedTuple):
    """The process that keeps a resident program, and the way to it."""

    process: Child
    channel: ResidentChannel


def _start_keeper(settings: Settings, channels: LogChannels) -> _Keeper | None:
    if settings.mode != "resident":
        return None
    channel = ResidentChannel()
    command = algorithm_command(settings)
    resident = Resident(settings, command, channels, channel, ServerState(), eager=False)
    keeper = _Keeper(start("resident", partial(run_keeper, resident), None, signal.SIGTERM), channel)
    channel.close_keeper()
    return keeper


@contextmanager
def _ended(keeper: _Keeper | None) -> Iterator[None]:
    """End the keeper, and the program with it, after the block."""
    try:
        yield
    finally:
        if keeper:
            os.kill(keeper.process.pid, signal.SIGTERM)  # nobody but us reaps it
            _, status = os.waitpid(keeper.process.pid, 0)
            if os.WIFSIGNALED(status):
                logger.error("The keeper of the algorithm's server was ended by %s", signal_name(os.WTERMSIG(status)))
            end_orphans()
            while keeper.process.output.read():
                pass
            keeper.process.output.close()


def _set_up(server: Server, cancellation: Cancellation, post_clean: PostClean) -> tuple[LongshoreError | None, bool]:
    """Return why no task can run, if so, and whether everyone was told who wants to be."""
    if not is_needed(server.settings):
        return None, True
    fetched: list[Path] = []
    try:
        error, is_stored = set_up(server.settings, server.storage, server.resident, cancellation, fetched)
    except Interrupted as reason:
        return reason, True
    finally:
        post_clean.note_fetched(fetched)
    return error, is_stored or not server.settings.setup_result_place


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
    tasks: Sequence[Task],
    server: Server,
    cancellation: Cancellation,
    on_progress: Callable[[], None],
    skip_reason: LongshoreError | None = None,
    spared: int = 0,
) -> bool:
    """Run tasks until one fails; those behind it get a result that says why they did not run.

    With a `skip_reason` none is run. `spared` is the process that stays between tasks. Returns whether every task has
    a stored result.
    """
    all_stored = True
    for task in tasks:
        if skip_reason:
            outcome = finish(Record(task, error=skip_reason), server, tell=False)
        else:
            outcome = run_task(task, server, cancellation, on_group=lambda group: None)
            end_orphans(but=spared)
            if outcome.result.return_code:
                logger.error("Stopping due to failure of task %s", task.pk)
                skip_reason = cancellation.reason or TaskSkipped()
        all_stored = all_stored and not isinstance(outcome.error, ResultNotStored)
        on_progress()
    if not skip_reason:
        logger.info("Model invocation complete")
    return all_stored
