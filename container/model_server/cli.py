"""The commands: `longshore serve`, `longshore invoke`, and the bare names that SageMaker calls."""

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from .errors import SettingsInvalid, StartFailed
from .lost_tasks import COMMAND as STORE_LOST_RESULTS
from .lost_tasks import store_lost_results
from .settings import Settings


def _starting(command: Callable[..., int]) -> Callable[..., None]:
    """Give a command the settings and make what it returns the exit code; a start that fails says why in a line."""

    @wraps(command)
    def run(**options: Any) -> None:
        _open_standard_streams()
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


def _open_standard_streams() -> None:
    """Open what of 0, 1 and 2 is closed, or a socket of ours would become the log."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


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
    from .batch import invoke as invoke_tasks

    return invoke_tasks(settings, tasks, file)


@main.command(STORE_LOST_RESULTS, hidden=True)
@_starting
def store_lost(settings: Settings) -> int:
    """Store a failed result for each task on stdin; started by PID 1 when a worker was lost."""
    return 0 if store_lost_results(sys.stdin.read(), settings) else 1
