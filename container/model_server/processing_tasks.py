"""`process --tasks`: this instance's share of a list of tasks, as a Processing job over any number of instances.

It never stops at a failed task, so that one instance and many give the same results.
"""

from collections import Counter

from .batch import BatchReport, run_batch
from .cancellation import Cancellation
from .errors import AlgorithmFailed, LongshoreError
from .exit_note import ExitNote
from .job_config import read_instances
from .logs import logger
from .processes import signal_name
from .settings import Settings
from .shares import share_of
from .storage import Storage
from .task import Task
from .task_list import listed_in


def process_tasks(settings: Settings, source: str) -> int:
    """Run this instance's share of the tasks of a file or an S3 URI, and return the exit code.

    Raises click's usage errors, SettingsInvalid and StartFailed before anything was run.
    """
    note = ExitNote(settings.ml_path, "message")
    instances = read_instances(settings.ml_path / "config")

    def own_share(storage: Storage, cancellation: Cancellation) -> list[Task]:
        tasks = listed_in(source, storage, cancellation)
        if not instances:
            return tasks
        share = share_of(tasks, instances.current, instances.hosts)
        logger.info("%d of %d tasks are for %s", len(share), len(tasks), instances.current)
        return share

    def leave_note(report: BatchReport) -> None:
        summary = _summary(report, f" on {instances.current}" if instances else "")
        logger.info("%s", summary)
        note.repair()
        note.write(summary)

    report = run_batch(settings, own_share, stop_at_failure=False, at_end=leave_note)
    if report.signum:
        return 128 + report.signum
    return 1 if any(report.errors) or not report.is_told else 0


def _summary(report: BatchReport, where: str) -> str:
    """Count what happened; never a name of a file or of an object."""
    if not report.is_read:
        return f"Stopped by {signal_name(report.signum)}{where}, before the list of tasks was read"
    counts = Counter(map(_kind, filter(None, report.errors)))
    summary = f"{counts.total()} of {len(report.errors)} tasks failed{where}"
    if counts:
        summary += ": " + ", ".join(f"{count} × {kind}" for kind, count in counts.most_common())
    if report.untold:
        summary += f"; {report.untold} more may have no result, for want of time"
    return f"Stopped by {signal_name(report.signum)}: {summary}" if report.signum else summary


def _kind(error: LongshoreError) -> str:
    return f"exit code {error.exit_code}" if isinstance(error, AlgorithmFailed) else error.message
