"""Results for tasks whose worker is gone: stored by a short-lived process, so that PID 1 never waits for S3."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .errors import NOT_STORED, Interrupted, ResultNotStored, ServerError, WorkerLost
from .ledger import AcceptedTask
from .logs import logger
from .result import Record, store
from .settings import Settings, begin_with
from .storage import Storage

COMMAND = "store-lost-results"
REASONS: dict[str, Callable[[], ServerError]] = {WorkerLost.code: WorkerLost, Interrupted.code: Interrupted}


def reporter_body() -> Callable[[], None]:
    """Return what the process does that stores the results of the tasks on its stdin: it becomes a command of ours."""
    program = Path(__file__).parent.parent / "longshore"
    argv = [sys.executable, "-Es", str(program), COMMAND]
    return partial(os.execve, argv[0], argv, {})  # until it has hidden its memory, others of its user can look


def reporter_input(tasks: Iterable[AcceptedTask], reason: type[ServerError], settings: Settings) -> int:
    """Return a descriptor of an anonymous file that tells the reporter what to store, and its environment."""
    told = {"reason": reason.code, "tasks": [vars(task) for task in tasks], "environment": settings.given}
    descriptor = os.memfd_create("lost-tasks", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "w") as file:
        json.dump(told, file)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def report(text: str) -> bool:
    """Be the reporter: take the environment over from `reporter_input`, store the results, and say whether all are."""
    told = json.loads(text)
    return store_lost_results(told, begin_with(told["environment"]))


def store_lost_results(told: Mapping[str, Any], settings: Settings) -> bool:
    """Store a failed result for each task in what `reporter_input` wrote, and say whether all of them are stored.

    The log is not set up here: what is logged goes to stderr as plain lines, and PID 1 makes records of them.
    """
    storage = Storage.from_settings(settings)
    all_stored = True
    for entry in told["tasks"]:
        task, error = AcceptedTask(**entry).task(), REASONS[told["reason"]]()
        result, unstored = Record(task, error=error).result(), ""
        try:
            store(result, task, settings.signing_key, storage)
        except NOT_STORED as not_stored:
            all_stored, unstored = False, f"; {not_stored}"
        except Exception:
            logger.exception("The result of task %s could not be uploaded", task.pk)
            all_stored, unstored = False, f"; {ResultNotStored.sentence}"
        logger.error(
            "Task %s ended with return code %d (%s: %s)%s", task.pk, result.return_code, error.code, error, unstored
        )
    return all_stored
