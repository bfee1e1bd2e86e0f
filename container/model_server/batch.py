"""A list of tasks, one after another, each with a result: `invoke`, and what `process --tasks` shares with it."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import click

from .algorithm_server import Resident
from .cancellation import Cancellation
from .children import JOB_STOP_SECONDS, LAST_SECONDS, STOP_SIGNALS, Child, start
from .command import algorithm_command
from .directories import PostClean, make_writable
from .errors import (
    NOT_STORED,
    FolderInUse,
    FoldersNotReset,
    Interrupted,
    LongshoreError,
    StartFailed,
    TaskSkipped,
)
from .folder import TaskFolder
from .freeing import Freeing
from .linked_input import InputFolder, claim_task_folders, leave_empty
from .log_channel import LogChannels
from .logs import configure, logger
from .orphans import end_orphans
from .prctl import adopt_orphans
from .processes import signal_name
from .progress import Progress
from .resident import run_keeper
from .resident_channel import ResidentChannel
from .result import Record, store
from .runner import Server, finish_all, run_task
from .scoreboard import ServerState
from .set_up import is_needed, set_up
from .settings import Settings
from .storage import Storage
from .task import Task
from .task_list import check_options, listed_tasks

TaskList = Callable[[Storage, Cancellation], list[Task]]
"""Reads the list of tasks; raises click's errors, or the cancellation's reason."""


def invoke(settings: Settings, tasks: str | None, file: str | None) -> int:
    """Run the tasks of a JSON list or of the S3 URI of one until one fails, and return the exit code.

    Raises click's usage errors, click's Abort for a Ctrl-C, and SettingsInvalid and StartFailed before anything was
    run.
    """
    check_options(tasks, file)
    report = run_batch(settings, partial(listed_tasks, tasks, file), stop_at_failure=True)
    if report.signum == signal.SIGINT:
        raise click.Abort
    if report.signum:
        return 128 + report.signum
    return 0 if report.all_stored and report.is_told else 1


@dataclass
class BatchReport:
    """How a list of tasks went: what each ended with, None for those that did their work.

    The `untold` may have no result, as the time of a stop was over. `signum` asked it to stop, or is 0; where the
    list is not `is_read`, that was before. Where it is not `is_told`, the result of the set-up could not be stored.
    """

    errors: list[LongshoreError | None] = field(default_factory=list)
    untold: int = 0
    is_read: bool = True
    is_told: bool = True
    signum: int = 0

    @property
    def all_stored(self) -> bool:
        """Say whether every task has a stored result."""
        return not any(isinstance(error, NOT_STORED) for error in self.errors)


def run_batch(
    settings: Settings,
    task_list: TaskList,
    stop_at_failure: bool,
    at_end: Callable[[BatchReport], None] = lambda report: None,
) -> BatchReport:
    """Run a list of tasks, with the set-up before it, and tell `at_end` how it went while there still is a log.

    Raises what `task_list` does, SettingsInvalid and StartFailed.
    """
    report = BatchReport()
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
            listed = task_list(storage, cancellation)
        except Interrupted:  # before there was any task
            listed, report.is_read = [], False
        if listed:
            command = algorithm_command(settings)
            input_folder, output_folder = _claim(settings, storage, listed, cancellation)
            folders_left_empty.callback(leave_empty, (input_folder, output_folder))
            server = Server(
                settings=settings,
                command=command,
                input=input_folder,
                output=output_folder,
                freeing=Freeing(),
                storage=storage,
                channels=channels,
                default_timeout=None,  # the job's limit rules
                resident=keeper.channel if keeper else None,
                others=frozenset({keeper.process.pid} if keeper else ()),
            )
            make_writable(settings.writable_directories)
            skip_reason, report.is_told = _set_up(server, cancellation, post_clean)
            logger.info("Invoking the model for %d tasks", len(listed))
            progress.begin(len(listed))
            with stop.in_time():
                for error in run_list(listed, server, cancellation, stop_at_failure, skip_reason):
                    report.errors.append(error)
                    progress.advance()
            report.untold = len(listed) - len(report.errors)
            if report.untold:
                logger.critical("%d tasks may have no result: there was no more time to store it", report.untold)
        report.signum = stop.signum
        at_end(report)
    return report


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
    keeper = _Keeper(start("resident", partial(run_keeper, resident), signal.SIGTERM), channel)
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


def _claim(
    settings: Settings, storage: Storage, tasks: Sequence[Task], cancellation: Cancellation
) -> tuple[InputFolder, TaskFolder]:
    """Claim the task folders; where that can't be every task has a result that says so, and StartFailed is raised.

    Not where another server has them: its results of the same tasks may be there.
    """
    try:
        return claim_task_folders(settings)
    except FolderInUse:
        raise
    except StartFailed:

        def store_result(task: Task) -> tuple[Task, LongshoreError | None]:
            result = Record(task, error=FoldersNotReset()).result()
            return task, cancellation.reason or store(result, task, settings.signing_key, storage)

        for task, not_stored in storage.for_each(store_result, tasks):
            if not_stored:
                logger.error("Task %s: %s", task.pk, not_stored)
        raise


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


class _OutOfTime(BaseException):
    """No error of a task's, so that nobody takes it for one."""


class _Stop:
    """The signals that ask to stop as the end of a list; `signum` is the first that came, or 0."""

    def __init__(self, cancellation: Cancellation) -> None:
        self._cancellation = cancellation
        self.signum = 0
        signal.signal(signal.SIGALRM, self._end)
        for signum in STOP_SIGNALS:
            signal.signal(signum, self._received)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _received(self, signum: int, frame: FrameType | None) -> None:
        if not self.signum:
            self.signum = signum
            self._cancellation.cancel(Interrupted())
            signal.alarm(JOB_STOP_SECONDS)

    def _end(self, *_: object) -> None:
        os._exit(128 + self.signum)

    @contextmanager
    def in_time(self) -> Iterator[None]:
        """Break off the block when the time that a stop has is over; elsewhere that is the end of this process."""

        def break_off(*_: object) -> None:
            signal.signal(signal.SIGALRM, self._end)
            signal.alarm(LAST_SECONDS)
            raise _OutOfTime

        with suppress(_OutOfTime):
            signal.signal(signal.SIGALRM, break_off)
            try:
                yield
            finally:
                signal.signal(signal.SIGALRM, self._end)


def run_list(
    tasks: Sequence[Task],
    server: Server,
    cancellation: Cancellation,
    stop_at_failure: bool,
    skip_reason: LongshoreError | None = None,
) -> Iterator[LongshoreError | None]:
    """Run tasks, and yield what each ended with: its own error, that its result is not stored, or None.

    Those behind a stop, or behind a failure where that stops the list, get a result that says why they did not run, in
    no order; with a `skip_reason` all do.
    """
    for number, task in enumerate(tasks):
        if skip_reason:
            for _, outcome in finish_all(tasks[number:], skip_reason, server, tell=False):
                yield outcome.error
            break
        outcome = run_task(task, server, cancellation, on_group=lambda group: None)
        end_orphans(but=server.others)
        if outcome.result.return_code and stop_at_failure:
            logger.error("Stopping due to failure of task %s", task.pk)
            skip_reason = cancellation.reason or TaskSkipped()
        elif outcome.result.return_code:
            skip_reason = cancellation.reason
        yield outcome.error
    if not skip_reason:
        logger.info("Model invocation complete")
