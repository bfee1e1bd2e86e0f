"""What of an image would not run on SageMaker, found out inside it before it is pushed; only its shell is run."""

import filecmp
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from .command import DEFAULT_PROGRAM, DEFAULT_TRAIN_PROGRAM, SHELL_FORM, algorithm_command, combine
from .errors import GroupMissing, SettingsInvalid, UserInvalid, UserMissing
from .program_check import Unstartable, check_rights, needed_files
from .settings import DEFAULT_ML_PATH, Settings
from .user import look_up

COMMANDS = ("serve", "train", "process", "invoke", "longshore")
INTERPRETERS = {
    *("bash", "sh", "dash", "zsh", "python", "pypy", "ipython", "R", "node", "julia", "perl", "ruby", "irb", "php"),
    *("jshell", "ghci", "iex"),
}
"""What base images have as their CMD for people at a terminal, without the version that a name may end with."""

VERSION = re.compile(r"[\d.]+$")
BEFORE_OR_AFTER = {"env", "exec", "-i", "-l", "--login", "--interactive"}

NAMED_FILES = 3
"""How many files of one folder a sentence names."""


@dataclass(frozen=True)
class Places:
    """Where things are in an image."""

    program: Path = DEFAULT_PROGRAM
    train_program: Path = DEFAULT_TRAIN_PROGRAM
    launcher: Path = Path("/longshore/bin/longshore")
    ml: Path = DEFAULT_ML_PATH
    longshores_program: Path = Path("/longshore/program")


def find_faults(with_algorithm: bool = True, places: Places = Places(), by_entrypoint: bool | None = None) -> list[str]:
    """Return a sentence for each fault, with what to do; `with_algorithm` is False for an image to inherit from.

    Where the ENTRYPOINT is ours, which can't be seen from inside, it does not matter what is on PATH. Unless somebody
    says so, it is taken to be in an image that has no names of ours there: the program is a link in one that has them.
    """
    if by_entrypoint is None:
        by_entrypoint = not places.longshores_program.is_symlink()
    faults = [*([] if by_entrypoint else _faults_of_commands(places.launcher)), *_faults_of_ml(places.ml)]
    try:
        settings = Settings.from_env()
    except SettingsInvalid as error:
        return [*error.lines, *faults]
    faults += _faults_of_task_folders(settings)
    if with_algorithm:
        faults += _faults_of_programs(settings, places)
    return faults


def _faults_of_programs(settings: Settings, places: Places) -> Iterator[str]:
    name = settings.user or "root"
    try:
        user = look_up(settings.user)
    except (UserInvalid, UserMissing, GroupMissing) as error:
        yield f"USER: {error} (it is {name!r}): create it in the Dockerfile, as with `RUN useradd {name}`"
        user = look_up("")
    for what, argv in _commands(settings, places):
        if not argv:
            yield f"{what} has no command: set ALGORITHM_ENTRYPOINT, or copy an executable to {places.program}"
            continue
        try:
            files = needed_files(argv, settings.environment)
            if _is_for_a_terminal(argv):
                raise Unstartable(
                    f"{' '.join(argv)} alone does nothing for a task: name the program in the Dockerfile's ENTRYPOINT"
                )
            if any(_is_ours(file, places.launcher) for file in files):
                raise Unstartable(f"{argv[0]} is a command of Longshore's own: name the algorithm's program")
            check_rights(files, user, name)
        except Unstartable as fault:
            yield f"{what}: {fault}"


def _commands(settings: Settings, places: Places) -> Iterator[tuple[str, list[str]]]:
    """Yield what an image runs: to train, for tasks, or both; each with what a sentence calls it."""
    train = settings.train_entrypoint
    if train is None and os.path.lexists(places.train_program):
        train = [str(places.train_program)]
    if train:
        yield "The training program", combine(train, None)
    try:
        algorithm = algorithm_command(settings, places.program)
        if not train or not _is_for_a_terminal(algorithm):
            yield "The algorithm", algorithm
    except SettingsInvalid:
        if os.path.lexists(places.program):  # but it is not executable
            yield "The algorithm", [str(places.program)]
        elif not train:
            yield "The algorithm", []


def _is_for_a_terminal(argv: list[str]) -> bool:
    """Say whether a command is an interpreter that has nothing to do."""
    words = argv[2].split() if argv[:2] == SHELL_FORM and len(argv) == 3 else argv
    names = [Path(word).name for word in words if Path(word).name not in BEFORE_OR_AFTER]
    return len(names) == 1 and VERSION.sub("", names[0]) in INTERPRETERS


def _faults_of_commands(launcher: Path) -> Iterator[str]:
    """Look up our commands as SageMaker's `docker run IMAGE serve` does, where no ENTRYPOINT of ours takes the word."""
    for name in COMMANDS:
        found = shutil.which(name)
        if found is None:
            yield f"`{name}` is not on PATH: keep /usr/local/bin in the image's PATH, and Longshore's {name} there"
        elif not _is_ours(Path(found), launcher):
            yield f"{found} takes the place of Longshore's `{name}`, which SageMaker calls: give it another name"


def _is_ours(file: Path, launcher: Path) -> bool:
    try:
        return filecmp.cmp(file, launcher, shallow=False)
    except OSError:  # it is not ours if it can't be read
        return False


def _faults_of_ml(folder: Path) -> Iterator[str]:
    if files := list(islice(_files_below(folder), NAMED_FILES + 1)):
        named = ", ".join(map(str, files[:NAMED_FILES])) + (" and more" if len(files) > NAMED_FILES else "")
        yield f"{folder} is SageMaker's, which mounts its own over {named}: put them elsewhere, as in /opt/algorithm"


def _faults_of_task_folders(settings: Settings) -> Iterator[str]:
    for folder in (settings.input_path, settings.output_path):
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            continue  # the server makes it
        except OSError as error:
            yield f"{folder} can not be used for tasks ({error.strerror}): leave it an empty folder"
            continue
        if names:
            yield f"{folder} is not empty, and every task would see {sorted(names)[0]!r} there: put it elsewhere"


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield what is below a folder but for its folders."""
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        yield from (Path(parent, name) for name in sorted([*files, *links]))
