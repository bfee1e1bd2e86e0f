"""Results for tasks whose worker is gone: stored by a short-lived process, so that PID 1 never waits for S3."""

import sys
from collections.abc import Iterable

from .errors import ServerError
from .ledger import AcceptedTask
from .log_channel import LogChannels
from .logs import logger
from .result import Record, store
from .settings import Settings
from .storage import Storage


def run_reporter(
    tasks: Iterable[AcceptedTask], reason: type[ServerError], settings: Settings, channels: LogChannels
) -> None:
    """Store the results in the process that was forked for it, and end that with 1 if one could not be stored.

    It is forked and not executed, because a new program's memory is open to others of its user until it has hidden it.
    """
    channels.close_readers()
    sys.exit(0 if store_lost_results(tasks, reason, settings) else 1)


def store_lost_results(tasks: Iterable[AcceptedTask], reason: type[ServerError], settings: Settings) -> bool:
    """Store a failed result for each task, and say whether all of them are stored."""
    storage = Storage.from_settings(settings)

    def store_result(accepted: AcceptedTask) -> bool:
        task, error = accepted.task(), reason()
        result = Record(task, error=error).result()
        not_stored = store(result, task, settings.signing_key, storage)
        unstored = f"; {not_stored}" if not_stored else ""
        logger.error(
            "Task %s ended with return code %d (%s: %s)%s", task.pk, result.return_code, error.code, error, unstored
        )
        return not unstored

    are_stored = list(storage.for_each(store_result, tasks))  # all are tried, whatever becomes of the first
    return all(are_stored)
