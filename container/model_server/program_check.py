"""Whether a command would start, found out without starting it: its file, its `#!` line, and its user's rights."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .command import SHELL_FORM
from .user import SAME_USER, User

HEAD_BYTES = 256
"""As much of a file as the kernel reads to find out what it is."""

FIRST_WORD = re.compile(r"\s*(?:exec\s+)?(?P<word>[\w./][\w./-]*)(?:\s|$)", re.ASCII)
"""Of a command line, where it is a plain word: the shell has more ways to name a command than we follow."""


class Unstartable(Exception):
    """Says in a sentence why a command would not start, and what to do."""


def needed_files(argv: Sequence[str], environment: Mapping[str, str]) -> list[Path]:
    """Return the files that must be executed to start a command: its own, and those that `#!` lines name.

    Raises Unstartable when that would fail for every user.
    """
    path = os.get_exec_path(environment)
    if list(argv[:2]) != SHELL_FORM or len(argv) < 3:
        return _needed_by(argv[0], path)
    shell = _needed_by(argv[0], path)
    line = FIRST_WORD.match(argv[2])
    if not line or _is_built_in(line["word"], environment):
        return shell
    return shell + _needed_by(line["word"], path, by_shell=True)


def check_rights(files: Sequence[Path], user: User, name: str) -> None:
    """Raise Unstartable when a user, who is called `name`, may not run one of these files."""
    with _acting_as(user):
        for file in files:
            if not os.access(file, os.R_OK | os.X_OK, effective_ids=True):
                raise Unstartable(
                    f"The user {name} may not read and execute {file}: give it the mode 755, and its folders too"
                )


def _needed_by(command: str, path: list[str], by_shell: bool = False) -> list[Path]:
    """Return what a command needs; a shell itself runs a text that no `#!` begins, where the kernel refuses it."""
    program = _find(command, path)
    if program.is_dir():
        raise Unstartable(f"{program} is a folder: name the program in it")
    if not program.is_file():
        raise Unstartable(f"{program} is no file that can be executed")
    if not os.access(program, os.X_OK):
        raise Unstartable(f"{program} is not executable: add `RUN chmod 755 {program}` to the Dockerfile")
    with program.open("rb") as file:
        head = file.read(HEAD_BYTES)
    line = head.partition(b"\n")[0]
    if line.startswith(b"\x7fELF"):
        return [program]
    if by_shell and not line.startswith(b"#!") and b"\0" not in head:
        return [program]
    if not line.startswith(b"#!"):
        raise Unstartable(f"{program} is not a program, and no script either: let its first line begin with `#!`")
    if line.endswith(b"\r"):
        raise Unstartable(f"{program} has Windows line ends (CRLF), so its `#!` names nothing: save it with LF")
    try:
        return [program, *_needed_by_script(os.fsdecode(line[2:]), path)]
    except Unstartable as fault:
        raise Unstartable(
            f"{program} can not be started, as its first line says `{os.fsdecode(line)}`: {fault}"
        ) from None


def _needed_by_script(first_line: str, path: list[str]) -> list[Path]:
    """Return what a `#!` line needs: an interpreter, and what that is to find on PATH when it is `env`."""
    interpreter, *words = first_line.split() or [""]
    files = _needed_by(interpreter if "/" in interpreter else f"./{interpreter}", path)
    names = [word for word in words if not word.startswith("-") and "=" not in word]
    if interpreter.endswith("/env") and names:
        files += _needed_by(names[0], path)
    return files


def _find(command: str, path: list[str]) -> Path:
    """Return the file that would be executed, or would be if it were executable."""
    if "/" in command:
        if not os.path.exists(command):
            raise Unstartable(f"{command} does not exist: copy it into the image, or correct its path")
        return Path(command)
    there = [file for folder in path if (file := Path(folder, command)).is_file()]
    if not there:
        raise Unstartable(f"{command!r} is in no folder of PATH: install it, or name it with its whole path")
    return next((file for file in there if os.access(file, os.X_OK)), there[0])


def _is_built_in(word: str, environment: Mapping[str, str]) -> bool:
    """Ask the shell whether a word is one of its own, which it names as it stands; files have a path."""
    try:
        asked = subprocess.run(
            [*SHELL_FORM, 'command -v "$1"', "sh", word],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=dict(environment),
            check=False,
        )
    except OSError as error:
        raise Unstartable(f"{SHELL_FORM[0]}, which runs the command, can not be started: {error.strerror}") from error
    return b"/" not in asked.stdout and asked.returncode == 0


@contextmanager
def _acting_as(user: User) -> Iterator[None]:
    """Have a user's rights within the block, where we may change ours; for a process of one thread."""
    if user == SAME_USER or os.geteuid() != 0:
        yield
        return
    gid, groups = os.getegid(), os.getgroups()
    try:
        os.setgroups(user.groups)
        os.setegid(gid if user.gid is None else user.gid)
        os.seteuid(0 if user.uid is None else user.uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)
