"""What to run: the image's ENTRYPOINT and CMD, as Docker combines them.

https://docs.docker.com/reference/dockerfile/#understand-how-cmd-and-entrypoint-interact
"""

import os
from pathlib import Path

from .errors import SettingsInvalid
from .setting_types import Command
from .settings import Settings

DEFAULT_PROGRAM = Path("/opt/algorithm/run")


def algorithm_command(settings: Settings, default_program: Path = DEFAULT_PROGRAM) -> list[str]:
    """Return the algorithm's argv: what a platform recorded, else what the author set, else the default program.

    Raises SettingsInvalid when there is none.
    """
    for entrypoint, cmd in (
        (settings.drop_in_entrypoint, settings.drop_in_cmd),
        (settings.entrypoint, settings.cmd),
    ):
        if argv := combine(entrypoint, cmd):
            return argv
    if os.access(default_program, os.X_OK) and default_program.is_file():
        return [str(default_program)]
    raise SettingsInvalid(
        [f"ALGORITHM_ENTRYPOINT: names no command, and there is no executable {default_program} either"]
    )


def combine(entrypoint: Command | None, cmd: Command | None) -> list[str]:
    """Return the argv of an ENTRYPOINT and a CMD, each in exec form (a list), shell form (a string) or absent."""
    if isinstance(entrypoint, str):
        return _shell(entrypoint)
    arguments = _shell(cmd) if isinstance(cmd, str) else cmd
    return [*(entrypoint or []), *(arguments or [])]


def _shell(line: str) -> list[str]:
    return ["/bin/sh", "-c", line]
