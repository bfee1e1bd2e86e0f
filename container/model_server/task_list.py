"""A list of tasks, as it is given: on the command line, as a file, or as an object in S3."""

import json
from pathlib import Path
from typing import Any

import click

from .cancellation import Cancellation
from .errors import StorageRefused, StorageUnavailable, TaskInvalid
from .s3_faults import ObjectForbidden, ObjectMissing
from .s3_uri import parse_s3_uri
from .shared_prefixes import warn_of_shared_prefixes
from .storage import Storage
from .task import Task, parse_tasks


def check_options(tasks: str | None, file: str | None) -> None:
    """Raise click's error unless one of the options is there."""
    if tasks and file:
        raise click.UsageError("Only one of tasks or file should be set")
    if not tasks and not file:
        raise click.UsageError("One of tasks or file should be set")


def listed_in(source: str, storage: Storage, cancellation: Cancellation) -> list[Task]:
    """Return the tasks of a file, here or in S3; raises click's errors, or the cancellation's reason."""
    if source.startswith(("s3://", "https://")):
        return listed_tasks(None, source, storage, cancellation)
    try:
        text = Path(source).read_bytes()
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        raise _bad("The value provided for tasks is invalid", why) from error
    return _parsed(text)


def listed_tasks(tasks: str | None, file: str | None, storage: Storage, cancellation: Cancellation) -> list[Task]:
    """Return the tasks of the command line; raises click's errors, or the cancellation's reason."""
    return _parsed(tasks or _read(str(file), storage, cancellation))


def _parsed(text: str | bytes) -> list[Task]:
    try:
        values = json.loads(text)
        if not isinstance(values, list):
            raise ValueError("Input should be a list of tasks")
        parsed = parse_tasks(values, root="tasks")
    except TaskInvalid as error:
        raise _bad("The tasks definition is invalid", "\n".join(map(_fault_line, error.faults))) from error
    except (ValueError, RecursionError) as error:
        raise _bad("The tasks definition is invalid", str(error)) from error
    if not parsed:
        raise click.UsageError("Empty task list provided")
    warn_of_shared_prefixes(parsed)
    return parsed


def _read(uri: str, storage: Storage, cancellation: Cancellation) -> bytes:
    try:
        return storage.get_bytes(*parse_s3_uri(uri), cancellation)
    except ObjectMissing as error:
        raise _bad("The value provided for file is invalid", "The object does not exist") from error
    except ObjectForbidden as error:
        raise _bad("The value provided for file is invalid", "The object does not exist or may not be read") from error
    except (ValueError, StorageRefused, StorageUnavailable) as error:
        raise _bad("The value provided for file is invalid", str(error)) from error


def _bad(what: str, why: str) -> click.BadParameter:
    return click.BadParameter(f"{what}:\n\n{why}")


def _fault_line(fault: dict[str, Any]) -> str:
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
