"""What a job says of its end: `output/failure` of a training job, `output/message` of a Processing job.

SageMaker shows its first 1,024 bytes to the job's owner, and fails a Processing job whose note is not UTF-8.
"""

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import click

from .beneath import OPEN_FOLDER
from .errors import SettingsInvalid, StartFailed
from .logs import logger

MAX_BYTES = 1024


@dataclass(frozen=True)
class ExitNote:
    """One of the two files. A program may have put a link anywhere on the way to it: none is followed."""

    ml_path: Path
    name: Literal["failure", "message"]

    def write(self, text: str) -> None:
        """Write the note, unless the program has written one; our log says when it can't be."""
        self._in_output(partial(self._write, bounded(text)))

    def repair(self) -> None:
        """Make the program's own note one that SageMaker takes, if it is none."""
        self._in_output(self._repair)

    def _in_output(self, action: Callable[[int], None]) -> None:
        """Do something with the output folder; what goes wrong costs the note only."""
        try:
            self.ml_path.mkdir(parents=True, exist_ok=True)
            ml = os.open(self.ml_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with suppress(FileExistsError):
                    os.mkdir("output", dir_fd=ml)
                output = os.open("output", OPEN_FOLDER, dir_fd=ml)
            finally:
                os.close(ml)
            try:
                action(output)
            finally:
                os.close(output)
        except OSError as error:
            logger.warning("The job's %s can not be written: %s", self.name, error.strerror)

    def _write(self, note: bytes, output: int) -> None:
        if not self._is_written(output):
            self._put(output, note)

    def _repair(self, output: int) -> None:
        if not self._is_written(output):
            with suppress(FileNotFoundError, IsADirectoryError):
                if not stat.S_ISREG(os.stat(self.name, dir_fd=output, follow_symlinks=False).st_mode):
                    os.unlink(self.name, dir_fd=output)  # a pipe, a socket or a link is nothing to upload
            return
        file = os.open(self.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=output)
        with open(file, "rb") as reader:
            written = reader.read(MAX_BYTES + 1)
        valid = bounded(written.decode(errors="replace"))
        if valid != written:
            self._put(output, valid)

    def _is_written(self, output: int) -> bool:
        """Say whether there is a note; an empty file, a link or a pipe is none."""
        try:
            found = os.stat(self.name, dir_fd=output, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size > 0

    def _put(self, output: int, note: bytes) -> None:
        """Put a note in the place of whatever has its name, at once and whole."""
        fresh = f".{self.name}-{secrets.token_hex(8)}"
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=output)
        try:
            with open(file, "wb") as writer:
                os.fchmod(file, 0o644)  # whatever the umask is
                writer.write(note)
            os.rename(fresh, self.name, src_dir_fd=output, dst_dir_fd=output)
        except OSError:
            os.unlink(fresh, dir_fd=output)
            raise


@contextmanager
def told(note: ExitNote) -> Iterator[None]:
    """Tell the job's owner why it could not begin."""
    try:
        yield
    except click.ClickException as error:
        note.write(error.format_message())
        raise
    except (SettingsInvalid, StartFailed) as error:
        note.write(str(error))
        raise
    except Exception:
        note.write("An unexpected error occurred, and the job's log names it")
        raise


def bounded(text: str) -> bytes:
    """Return as much of a text as a note may hold, whole characters of valid UTF-8."""
    return text.encode(errors="replace")[:MAX_BYTES].decode(errors="ignore").encode()


def with_last_lines(sentence: str, output: bytes) -> str:
    """Return a sentence and under it the last lines of a program's output, as many as a note has room for."""
    room = MAX_BYTES - len(bounded(sentence)) - 1
    shown: list[str] = []
    for line in reversed(output.decode(errors="replace").splitlines()):
        plain = "".join(character for character in line if character.isprintable() or character == "\t").rstrip()
        if not plain:
            continue
        room -= len(plain.encode()) + 1
        if room < 0 and shown:
            break
        shown.append(plain)  # the first one is the program's last line: `bounded` cuts it where it is too long
        if room < 0:
            break
    return "\n".join([sentence, *reversed(shown)])
