"""What `train` and plain `process` share: the algorithm's own output, its exit code, and the note that explains it."""

import logging
import os
import select
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from .directories import make_writable
from .errors import (
    AlgorithmFailed,
    ArgumentsUnusable,
    CommandForbidden,
    CommandMissing,
    CommandNotRunnable,
    GroupMissing,
    LongshoreError,
    SettingsInvalid,
    UserForbidden,
    UserInvalid,
    UserMissing,
)
from .exit_note import ExitNote, with_last_lines
from .logs import logger
from .passthrough import CHECKPOINT_SECONDS, STDERR, Ended, run_through
from .processes import signal_name
from .program import Program
from .settings import Settings
from .user import SAME_USER, look_up

SAY_SECONDS = 1.0
OPEN = stat.S_IROTH | stat.S_IXOTH

EXIT_CODES: dict[type[LongshoreError], int] = {
    CommandMissing: 127,
    CommandForbidden: 126,
    UserForbidden: 126,
    CommandNotRunnable: 126,
    ArgumentsUnusable: 126,
    UserInvalid: SettingsInvalid.EXIT_CODE,
    UserMissing: SettingsInvalid.EXIT_CODE,
    GroupMissing: SettingsInvalid.EXIT_CODE,
}
"""Of a program that can't be started, a shell's; 1 for any other reason."""


def log_plainly(level: str) -> None:
    """Send our few lines to stderr as they are: stdout is the algorithm's, and metric regexes read all lines."""
    lines = logging.StreamHandler()
    lines.setFormatter(logging.Formatter("longshore: %(message)s"))
    logging.getLogger().handlers = [lines]
    logger.setLevel(level)


def prepare_folders(settings: Settings, folders: Iterable[Path]) -> None:
    """Make the folders that a job writes to, and open them to its user where that is not ours."""
    made = list(dict.fromkeys(folders))
    make_folders(made)
    if settings.user:
        make_writable([*made, *settings.writable_directories])


def warn_of_closed(settings: Settings, folders: Iterable[Path]) -> None:
    """Say which folders a program of another user can not look into: it would find no file there, and wonder."""
    user = SAME_USER
    with suppress(LongshoreError):  # the start says that the user does not exist
        user = look_up(settings.user)
    groups = {os.getegid() if user.gid is None else user.gid}
    groups.update(user.groups if settings.set_extra_groups else os.getgroups())
    for folder in folders if user.uid else ():
        with suppress(OSError):
            state = folder.stat()
            shift = 6 if state.st_uid == user.uid else 3 if state.st_gid in groups else 0
            if (state.st_mode >> shift) & OPEN != OPEN:
                logger.warning("%s may not be read by the algorithm's user, who is %s", folder, settings.user)


def make_folders(folders: Iterable[Path]) -> None:
    """Make folders that are missing; our log says which can't be."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            logger.warning("The folder %s can not be made: %s", folder, error.strerror)


def run_job(settings: Settings, argv: Sequence[str], environment: Mapping[str, str], note: ExitNote) -> int:
    """Run the algorithm to its end, leave a note unless it ended with 0, and return its exit code."""
    try:
        program = Program.from_settings(settings, argv)
        ended = run_through(replace(program, environment=environment))
    except LongshoreError as error:
        code, last_stderr = EXIT_CODES.get(type(error), 1), b""
        sentence = f"{argv[0]} can not be started. {error}. {error.hint}".strip()
    else:
        code, last_stderr = ended.code, ended.last_stderr
        sentence = _sentence(ended)
    if code:
        note.write(with_last_lines(sentence, last_stderr))  # first: nobody may be reading our stderr
        say(sentence, begin_line=last_stderr[-1:] not in (b"", b"\n"))
    return code


def say(sentence: str, begin_line: bool = False) -> None:
    """Write a line of ours to stderr, where the algorithm may have left one open."""
    line = f"longshore: {sentence}\n".encode(errors="backslashreplace")
    poll = select.poll()
    poll.register(STDERR, select.POLLOUT)
    with suppress(OSError):  # nobody reads it
        if poll.poll(SAY_SECONDS * 1000):
            os.write(STDERR, (b"\n" + line if begin_line else line)[: select.PIPE_BUF])  # no more is free for sure


def _sentence(ended: Ended) -> str:
    """Say how a program failed."""
    asked_by = signal_name(ended.asked_by)
    if ended.outstayed:
        return f"The algorithm did not end within {CHECKPOINT_SECONDS:g} s of {asked_by}, so it was killed"
    sentence = str(AlgorithmFailed(ended.code))
    if f"exit code {ended.code}" not in sentence:
        sentence += f" (exit code {ended.code})"
    return f"{sentence}, after {asked_by} had asked it to end" if ended.asked_by else sentence
