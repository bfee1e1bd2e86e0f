"""The commands: `longshore serve`, `longshore invoke`, and the bare names that SageMaker calls."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import wraps
from pathlib import Path
from typing import Any, Literal, NoReturn

import click

from . import uncollected
from .errors import SettingsInvalid, StartFailed
from .prctl import forbid_new_privileges, hide_memory
from .settings import Settings, ml_path_of
from .usage import USAGE, is_processing_job

NOTES: dict[str, Literal["failure", "message"]] = {"train": "failure", "process": "message"}
"""What SageMaker reads of a job that failed, by its command."""


def _starting(command: Callable[..., int]) -> Callable[..., None]:
    """Give a command the settings and make what it returns the exit code; a start that fails says why in a line."""

    @wraps(command)
    def run(**options: Any) -> None:
        _open_standard_streams()
        try:
            with _told(command.__name__):
                settings = Settings.from_env()
                hide_memory()  # not before: the first process's environment would be closed to us too
                if not settings.allow_setuid:
                    forbid_new_privileges()
                uncollected.begin()
                code = command(settings, **options)
        except SettingsInvalid as error:
            for line in error.lines:
                click.echo(line, err=True)
            code = error.EXIT_CODE
        except StartFailed as error:
            click.echo(str(error), err=True)
            code = error.EXIT_CODE
        except click.Abort:
            click.echo("Aborted!", err=True)  # as click has it
            code = 1
        _exit(code)

    return run


def _exit(code: int) -> NoReturn:
    """End this process now: Python would wait for the thread of a transfer that hangs, and nobody needs it any more."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, AttributeError):  # nobody reads it, or it was closed when we began
            stream.flush()
    os._exit(code)


def _told(command: str) -> AbstractContextManager[None]:
    """Have why a job could not begin said where SageMaker looks for it."""
    if command == "usage" and is_processing_job(ml_path_of()):
        command = "process"
    if command not in NOTES:
        return nullcontext()
    from .exit_note import ExitNote, told

    return told(ExitNote(ml_path_of(), NOTES[command]))


def _open_standard_streams() -> None:
    """Open what of 0, 1 and 2 is closed, or a socket of ours would become the log."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


class _Commands(click.Group):
    """Commands that may be called by our whole name where it is the ENTRYPOINT: `docker run IMAGE longshore serve`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args[1:] if args[:1] == ["longshore"] else args)


@click.group(cls=_Commands)
def main() -> None:
    """Turn a program that reads files and writes files into what SageMaker can run."""


@main.command(short_help="Start the model server")
@_starting
def serve(settings: Settings) -> int:
    """Serve tasks over HTTP, for endpoints and batch transform."""
    uncollected.pause()  # until all that is forked from here is imported
    from .supervisor import serve as supervise  # not at the top: most of it is for this command only

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


@main.command(short_help="Check the image")
@click.option("--base", is_flag=True, help="It is an image to inherit from, without an algorithm.")
@click.option(
    "--by-entrypoint/--by-name",
    "by_entrypoint",
    default=None,
    help="How SageMaker's `serve` finds Longshore: it is the ENTRYPOINT, or `serve` is looked up on PATH; by default "
    "the latter where Longshore has such names.",
)
def check(base: bool, by_entrypoint: bool | None) -> None:
    """Say what of this image would not run on SageMaker. The algorithm is not run."""
    _end_at_once_on_signals()
    from .image_check import find_faults

    faults = find_faults(with_algorithm=not base, by_entrypoint=by_entrypoint)
    for fault in faults:
        click.echo(fault, err=True)
    if faults:
        sys.exit(SettingsInvalid.EXIT_CODE)
    click.echo("Nothing is wrong inside the image")


@main.command(hidden=True)
@click.option("--inherited", is_flag=True, help="The author's Dockerfile has no ENTRYPOINT and no CMD.")
@click.argument("image")
def dockerfile(inherited: bool, image: str) -> None:
    """Print the Dockerfile that completes IMAGE, in which this runs; on stdin is what `docker image inspect` says."""
    _end_at_once_on_signals()
    from .adaptation import ConfigUnusable
    from .command import is_program
    from .dockerfile import completing_dockerfile, inspected_config

    try:
        existing_config = inspected_config(sys.stdin.buffer.read())
        made = completing_dockerfile(existing_config, image, is_inherited=inherited, has_program=is_program())
    except ConfigUnusable as error:
        click.echo(str(error), err=True)
        sys.exit(SettingsInvalid.EXIT_CODE)
    for line in made.log:
        click.echo(f"==> {line}", err=True)
    click.echo(made.text, nl=False)


@main.command(hidden=True)
def layer() -> None:
    """Write the layer that an image is adapted with to stdout."""
    _end_at_once_on_signals()
    from .layer import write_layer

    if sys.stdout.isatty():
        raise click.UsageError("the layer is no text: send it to a file")
    try:
        written = write_layer(sys.stdout.buffer)
    except StartFailed as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{written.digest}, {written.size} bytes; unpacked {written.diff_id}", err=True)


class _Verbatim(click.Command):
    """A command whose arguments are all the algorithm's, also `--help` and `--`."""

    def get_help_option(self, ctx: click.Context) -> None:
        """Have no fault end in the advice to try `--help`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params["arguments"] = args
        return []


@main.command(cls=_Verbatim, short_help="Train a model")
@_starting
def train(settings: Settings, arguments: list[str]) -> int:
    """Train with what SageMaker mounts at /opt/ml; the arguments go to the algorithm, before the hyperparameters."""
    from .training_job import train as run_training

    return run_training(settings, arguments)


@main.command(cls=_Verbatim, short_help="Process data, or a list of tasks")
@_starting
def process(settings: Settings, arguments: list[str]) -> int:
    """Run the algorithm with these arguments on the data of a Processing job.

    With `--tasks FILE` as the first argument, run this instance's share of a list of tasks: a file or an S3 URI.
    """
    option, is_joined, source = arguments[0].partition("=") if arguments else ("", "", "")
    if option == "--tasks":
        from .processing_tasks import process_tasks

        sources = [*([source] if is_joined else []), *arguments[1:]]
        if len(sources) != 1 or not sources[0]:
            raise click.UsageError("--tasks takes one file or S3 URI, and nothing else goes with it")
        return process_tasks(settings, sources[0])
    from .processing_job import process as run_processing

    return run_processing(settings, arguments)


@main.command(short_help="Adapt an image in a registry")
@click.argument("source")
@click.argument("target")
@click.option("--layer", type=click.Path(path_type=Path), help="The layer, as `build_local.sh --layer` makes it.")
@click.option("--dry-run", is_flag=True, help="Say what would change, and push nothing.")
def adapt(source: str, target: str, layer: Path | None, dry_run: bool) -> None:
    """Make an image in a registry one that SageMaker runs, and push it as TARGET. Nothing of it is pulled.

    The layer is $LONGSHORE_LAYER unless it is named. Without one it is that of the container in which this runs, or
    longshore-layer.tar.gz in the checkout.
    """
    _end_at_once_on_signals()
    from .adapt import adapt as adapt_image
    from .image_errors import ImageError

    uncollected.begin()
    try:
        click.echo(_printable(adapt_image(source, target, layer=layer, dry_run=dry_run, say=_say)))
        code = 0
    except ImageError as error:
        click.echo(_printable(str(error)), err=True)
        code = error.EXIT_CODE
    except Exception as error:  # nobody is helped by a traceback
        click.echo(f"Something unexpected happened, please report it: {_place_of(error)}", err=True)
        code = 1
    _exit(code)


def _place_of(error: Exception) -> str:
    """Say what an error is and where it came up; what it says itself might hold a secret."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}"


def _say(step: str) -> None:
    click.echo(f"==> {_printable(step)}", err=True)


def _printable(text: str) -> str:
    """Show what would command a terminal as text: an image's config and a registry's answers are anybody's."""
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in text
    )


def _end_at_once_on_signals() -> None:
    """Have a signal end what leaves nothing behind; some are held back, and PID 1 of a container ignores the others."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: _exit(128 + number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])


@main.command(hidden=True)
@_starting
def usage(settings: Settings) -> int:
    """Say how the image is used: its command when nobody names another, except in a Processing job."""
    if is_processing_job(settings.ml_path):
        from .processing_job import process as run_processing

        return run_processing(settings, [])
    click.echo(USAGE, err=True, nl=False)
    return os.EX_USAGE
