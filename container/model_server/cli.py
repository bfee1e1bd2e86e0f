"""The commands: `longshore serve`, `longshore invoke`, and the bare names that SageMaker calls."""

import json
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from .batch import Stop, run_list
from .cancellation import Cancellation
from .command import algorithm_command
from .errors import SettingsInvalid, StartFailed, StorageRefused, StorageUnavailable, TaskInvalid
from .folder import claim
from .log_channel import LogChannels
from .logs import configure, logger
from .lost_tasks import COMMAND as STORE_LOST_RESULTS
from .lost_tasks import store_lost_results
from .progress import progress
from .run_folder import run_folder
from .runner import Server
from .s3_uri import parse_s3_uri
from .scoreboard import Scoreboard
from .settings import Settings
from .slot import Slots
from .storage import ObjectForbidden, ObjectMissing, Storage
from .task import Task, parse_tasks


def _starting(command: Callable[..., int]) -> Callable[..., None]:
    """Give a command the settings and make what it returns the exit code; a start that fails says why in a line."""

    @wraps(command)
    def run(**options: Any) -> None:
        try:
            code = command(Settings.from_env(), **options)
        except SettingsInvalid as error:
            for line in error.lines:
                click.echo(line, err=True)
            code = error.EXIT_CODE
        except StartFailed as error:
            click.echo(str(error), err=True)
            code = error.EXIT_CODE
        sys.exit(code)

    return run


@click.group()
def main() -> None:
    """Turn a program that reads files and writes files into what SageMaker can run."""


@main.command(short_help="Start the model server")
@_starting
def serve(settings: Settings) -> int:
    """Serve tasks over HTTP, for endpoints and batch transform."""
    from .supervisor import serve as supervise  # not at the top: gunicorn and Flask are for this command only

    return supervise(settings)


@main.command(short_help="Invoke the model")
@click.option("-t", "--tasks", help="A JSON list of tasks.")
@click.option("-f", "--file", help="The S3 URI of a JSON list of tasks.")
@_starting
def invoke(settings: Settings, tasks: str | None, file: str | None) -> int:
    """Run a list of tasks, one after another, until one fails.

    Exits with 0 when every task has a stored result, also one that failed or was skipped: the result says so.
    """
    storage = Storage(settings.s3_endpoint, settings.transfers)
    channels = LogChannels()
    configure(channels, settings.log_level)
    cancellation = Cancellation()
    stop = Stop(cancellation)
    listed = _listed_tasks(tasks, file, storage)
    command = algorithm_command(settings)
    scoreboard = Scoreboard(settings.slots, settings.queue_limit)
    with run_folder(settings.run_path) as folder, progress(len(listed)) as bar:
        server = Server(
            settings=settings,
            command=command,
            input=claim(settings.input_path, 0o755),
            output=claim(settings.output_path, 0o777),
            storage=storage,
            channels=channels,
            default_timeout=None,
        )
        with channels.relayed(on_terminal=bar.around):
            logger.info("Invoking the model for %d tasks", len(listed))
            stored = run_list(listed, server, Slots(folder.locks, scoreboard), scoreboard, cancellation, bar.advance)
    if stop.signum == signal.SIGINT:
        raise click.Abort
    if stop.signum:
        return 128 + stop.signum
    return 0 if stored else 1


@main.command(STORE_LOST_RESULTS, hidden=True)
@_starting
def store_lost(settings: Settings) -> int:
    """Store a failed result for each task on stdin; started by PID 1 when a worker was lost."""
    store_lost_results(sys.stdin.read(), settings)
    return 0


def _listed_tasks(tasks: str | None, file: str | None, storage: Storage) -> list[Task]:
    """Return the tasks of the command line; raises click's errors, in the drop-in's words."""
    if tasks and file:
        raise click.UsageError("Only one of tasks or file should be set")
    if not tasks and not file:
        raise click.UsageError("One of tasks or file should be set")
    text = tasks or _read(str(file), storage)
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
    return parsed


def _read(uri: str, storage: Storage) -> bytes:
    try:
        return storage.get_bytes(*parse_s3_uri(uri))
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
