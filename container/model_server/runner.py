"""One task, from its slot to its result. Nothing else knows the order of the stations."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .cancellation import Cancellation
from .directories import Leftovers
from .errors import (
    Interrupted,
    InvokeBroken,
    InvokeUnreachable,
    LongshoreError,
    ProcessesNotEnded,
    WorkerLost,
    without_frames,
)
from .folder import TaskFolder
from .freeing import Freeing, opened
from .linked_input import InputFolder, leave_empty
from .log_channel import LogChannels
from .logs import logger, tell_user
from .machine_limits import unexpected
from .orphans import any_orphans
from .partial_outputs import save_partial_outputs
from .process import Exit, Limits, run
from .program import Program
from .resident_channel import NOBODY, ResidentChannel
from .result import Record, Result, store
from .settings import Settings
from .stage_in import stage_in
from .stage_out import stage_out
from .storage import Storage
from .task import Task


@dataclass(frozen=True)
class Server:
    """What a process needs to run tasks; `default_timeout` in seconds is for tasks that name none.

    `resident` leads to the algorithm where that is a server of its own; `others` are the children of
    this process that no task started.
    """

    settings: Settings
    command: list[str]
    input: InputFolder
    output: TaskFolder
    freeing: Freeing
    storage: Storage
    channels: LogChannels
    default_timeout: float | None
    resident: ResidentChannel | None = None
    others: frozenset[int] = frozenset()


class Outcome(NamedTuple):
    """A task's result, and the error that an answer is about: the task's own, or that the result is not stored."""

    result: Result
    error: LongshoreError | None


def run_task(
    task: Task,
    server: Server,
    cancellation: Cancellation,
    on_group: Callable[[int], None],
    queue_seconds: float = 0.0,
) -> Outcome:
    """Run a task and upload its result; never raises what is a task's own failure.

    The task folders must be ours alone. `on_group` is told the algorithm's process group, and 0 once it has ended.
    """
    record = Record(task, queue_seconds)
    try:
        with task_folders(task.pk, server, cancellation) as inputs:
            limits = server.settings.archive_limits
            stage_in(task, inputs, server.storage, cancellation, limits, record.staged_in)
            run_seconds = task.timeout.total_seconds() if task.timeout else server.default_timeout
            record.exit = run_process(task.pk, run_seconds, server, cancellation, on_group)
            if isinstance(record.exit.error, Interrupted) and server.settings.save_partial:
                record.partial_outputs = save_partial_outputs(task, server.output, server.storage)
            if record.exit.error:
                raise record.exit.error
            stage_out(task, server.output, server.storage, record.staged_out)
    except LongshoreError as error:
        record.error = without_frames(error)  # which hold the record: a cycle, and descriptors with it
    except Exception as error:
        logger.exception("Task %s failed unexpectedly", task.pk)
        record.error = unexpected(without_frames(error))
    return finish(record, server)


@contextmanager
def task_folders(pk: str, server: Server, cancellation: Cancellation) -> Iterator[Path]:
    """Give the block /input and /output, ours and empty, and the folder to stage into; empty all again after it."""
    cancellation.raise_if_set()
    if any_orphans(but=server.others):
        raise ProcessesNotEnded
    if server.resident:
        server.resident.await_health(cancellation)  # and until nothing goes on of a task before
    server.freeing.wait(cancellation)
    server.input.reset()
    server.output.reset()
    leftovers = Leftovers(server.settings.writable_directories)
    inputs = server.input.link(pk)
    with opened((inputs, server.output.path)) as folders:
        try:
            yield inputs
        finally:
            with server.freeing.freed_later(folders):
                leave_empty((server.input, server.output))  # a task ends as it has; the next one says if this failed
            leftovers.tell(remove_all=server.settings.clean_tmp)


def run_process(
    pk: str, run_seconds: float | None, server: Server, cancellation: Cancellation, on_group: Callable[[int], None]
) -> Exit:
    """Run the algorithm for what is in /input, within a time limit."""
    settings = server.settings
    if server.resident:
        return call_resident(pk, server.resident, run_seconds, cancellation)
    try:
        return run(
            Program.from_settings(settings, server.command),
            Limits(run_seconds, settings.grace_seconds),
            server.channels,
            pk,
            cancellation,
            on_start=on_group,
        )
    finally:
        on_group(0)


def call_resident(pk: str, resident: ResidentChannel, run_seconds: float | None, cancellation: Cancellation) -> Exit:
    """Have the algorithm's own server run a task; raises the error of one that did not begin, or broke off."""
    answer = resident.invoke(pk, run_seconds, cancellation)
    fault = answer.fault
    if isinstance(fault, (Interrupted, WorkerLost)):
        fault = cancellation.reason or fault
    if fault and (answer == NOBODY or isinstance(fault, (InvokeUnreachable, InvokeBroken))):
        raise fault  # contract: their results have neither a duration nor lines
    return Exit(fault, answer.seconds, answer.last_stderr_lines, answer.peak_memory_bytes, resident=True)


def finish_all(
    tasks: Sequence[Task], error: LongshoreError, server: Server, queue_seconds: float = 0.0, tell: bool = True
) -> Iterator[tuple[int, Outcome]]:
    """Tell everyone of tasks that are not run, and why, and yield each one's place and outcome once it is told."""

    def finish_one(place: int) -> tuple[int, Outcome]:
        return place, finish(Record(tasks[place], queue_seconds, error=error), server, tell)

    return server.storage.for_each(finish_one, range(len(tasks)))


def finish(record: Record, server: Server, tell: bool = True) -> Outcome:
    """Tell everyone how a task ended: the user, the log, and the result object.

    Without `tell` the user's log is left alone: its last line is what another task failed with (contract).
    """
    result, error = record.result(), record.error
    if tell and error and error.user_message:
        tell_user(logging.ERROR, error.user_message, record.task.pk)
    not_stored = store(result, record.task, server.settings.signing_key, server.storage)
    if not_stored:
        logger.error("Task %s: %s", record.task.pk, not_stored)
    logger.info("%s", _summary(result, stored=not not_stored))
    return Outcome(result, not_stored or error)


def _summary(result: Result, stored: bool) -> str:
    error = f" ({result.error.code}: {result.error.message})" if result.error else ""
    unstored = "" if stored else ", its result is not stored"
    return (
        f"Task {result.pk} ended with return code {result.return_code}{error}{unstored}: "
        f"queued {result.queue_seconds:.3f} s, "
        f"downloaded {result.input_bytes} bytes in {result.download_seconds:.3f} s, "
        f"unpacked in {result.unpack_seconds:.3f} s, "
        f"ran {result.run_seconds:.3f} s with {result.peak_memory_bytes} bytes at most, "
        f"uploaded {len(result.outputs)} files of {result.output_bytes} bytes in {result.upload_seconds:.3f} s"
    )
