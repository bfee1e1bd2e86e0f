"""What to run: the image's ENTRYPOINT and CMD, as Docker combines them.

https://docs.docker.com/reference/dockerfile/#understand-how-cmd-and-entrypoint-interact
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from .errors import SettingsInvalid
from .setting_types import Command
from .settings import Settings

DEFAULT_PROGRAM = Path("/opt/algorithm/run")
DEFAULT_TRAIN_PROGRAM = Path("/opt/algorithm/train")

SHELL_FORM = ["/bin/sh", "-c"]
"""What Docker puts before a command that is a string."""

LOOKS_FOR_ARGUMENTS = re.compile(r"\$\{?[0-9@*#]")


def algorithm_command(
    settings: Settings, default_program: Path = DEFAULT_PROGRAM, arguments: Sequence[str] = ()
) -> list[str]:
    """Return the algorithm's argv: what a platform recorded, else what the author set, else the default program.

    Arguments take the place of CMD, as those of `docker run` do. Raises SettingsInvalid when there is no command.
    """
    entrypoint, cmd = _recorded(settings)
    if combine(entrypoint, cmd):
        return combine(entrypoint, list(arguments) or cmd)
    return [*_default("ALGORITHM_ENTRYPOINT", default_program), *arguments]


def takes_arguments(settings: Settings) -> bool:
    """Say whether arguments reach the algorithm: an ENTRYPOINT in shell form takes none, also where it is a list."""
    entrypoint = _recorded(settings)[0]
    if isinstance(entrypoint, list) and entrypoint[:2] == SHELL_FORM and len(entrypoint) == 3:
        return bool(LOOKS_FOR_ARGUMENTS.search(entrypoint[2]))  # else it is what Docker makes of the shell form
    return not isinstance(entrypoint, str)


def is_program(file: Path = DEFAULT_PROGRAM) -> bool:
    """Say whether a file can be run where nothing else is named."""
    return os.access(file, os.X_OK) and file.is_file()


def train_command(
    settings: Settings, arguments: Sequence[str], default_program: Path = DEFAULT_TRAIN_PROGRAM
) -> list[str]:
    """Return the training program's argv; to a shell line its arguments are "$@". Raises SettingsInvalid."""
    entrypoint = settings.train_entrypoint
    if isinstance(entrypoint, str):
        return [*_shell(entrypoint), "train", *arguments]
    return [*(entrypoint or _default("ALGORITHM_TRAIN_ENTRYPOINT", default_program)), *arguments]


def _recorded(settings: Settings) -> tuple[Command | None, Command | None]:
    """Return the ENTRYPOINT and CMD of the platform, else those of the author."""
    platforms = settings.drop_in_entrypoint, settings.drop_in_cmd
    return platforms if combine(*platforms) else (settings.entrypoint, settings.cmd)


def _default(variable: str, program: Path) -> list[str]:
    if is_program(program):
        return [str(program)]
    raise SettingsInvalid([f"{variable}: names no command, and there is no executable {program} either"])


def combine(entrypoint: Command | None, cmd: Command | None) -> list[str]:
    """Return the argv of an ENTRYPOINT and a CMD, each in exec form (a list), shell form (a string) or absent."""
    if isinstance(entrypoint, str):
        return _shell(entrypoint)
    arguments = _shell(cmd) if isinstance(cmd, str) else cmd
    return [*(entrypoint or []), *(arguments or [])]


def _shell(line: str) -> list[str]:
    return [*SHELL_FORM, line]
