"""The input folder as a link to a folder of each task's own: `{pk}-input`, a name that nobody uses but us.

Where no link can be made the inputs are staged in place. As in folder.py, everything works on descriptors of folders
that were opened at the start: what a program puts in the place of one of them is never followed.
"""

import fcntl
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .beneath import OPEN_FOLDER
from .errors import FoldersNotReset, MachineLimit
from .folder import TaskFolder, claim, empty, make, open_writable, unlinked
from .logs import logger
from .machine_limits import is_refusal
from .settings import Settings

SUFFIX = "-input"


@dataclass(frozen=True)
class LinkParent:
    """Where the folders of tasks are made; `folder` is its descriptor, whose lock keeps out servers like us.

    Of the names like theirs that were there when we started, `held` are not ours, and `empty` are folders that are
    used but stay.
    """

    path: Path
    folder: int
    held: set[str]
    empty: set[str]

    def make(self, name: str) -> Path:
        """Make a folder, or an empty one anew; raises OSError."""
        if name in self.held or not os.path.samestat(os.stat(self.path), os.stat(self.folder)):
            raise OSError(f"{name} was there before us, or its parent was replaced")
        with suppress(FileNotFoundError):
            os.rmdir(name, dir_fd=self.folder)
        make(name, self.folder, 0o755)
        return self.path / name

    def clean(self) -> None:
        """Remove what tasks left, also those of a process that died; raises OSError."""
        for name in _names(self.folder) - self.held:
            if unlinked(name, self.folder):
                continue
            inner = open_writable(name, self.folder)
            try:
                empty(inner, {})
            finally:
                os.close(inner)
            if name not in self.empty:
                os.rmdir(name, dir_fd=self.folder)

    def __del__(self) -> None:
        os.close(self.folder)


@dataclass(frozen=True)
class InputFolder:
    """The input folder, which is a link while a task has it, if there is a parent to link into."""

    folder: TaskFolder
    parent: LinkParent | None

    def link(self, pk: str) -> Path:
        """Return the folder to stage the inputs of a task into; call it after `reset`.

        It is a folder of the task's own that the input path leads to, or where that can't be, the input folder
        itself. Raises FoldersNotReset and MachineLimit.
        """
        if self.parent is None:
            return self.folder.path
        try:
            target = self.parent.make(pk + SUFFIX)
            os.rmdir(self.folder.path.name, dir_fd=self.folder.home)
            os.symlink(target, self.folder.path.name, dir_fd=self.folder.home)
        except OSError as error:
            logger.debug("The inputs of task %s are staged in place: %s", pk, error)
            self.reset()
            return self.folder.path
        return target

    def reset(self) -> None:
        """Remove the link and what tasks left; raises FoldersNotReset and MachineLimit."""
        try:
            self.folder.reset()
        finally:
            if self.parent:
                try:
                    self.parent.clean()
                except OSError as error:
                    raise (MachineLimit if is_refusal(error) else FoldersNotReset) from error


def leave_empty(folders: Iterable[InputFolder | TaskFolder]) -> None:
    """Empty task folders where no task can be failed for it any more; the log says what can't be emptied."""
    for folder in folders:
        try:
            folder.reset()
        except (FoldersNotReset, MachineLimit):
            logger.exception("A task folder could not be emptied")


def claim_task_folders(settings: Settings) -> tuple[InputFolder, TaskFolder]:
    """Claim the input folder and the output folder; raises StartFailed.

    The lock of the output folder keeps other servers out of both: that of the input folder goes with it when a link
    takes its place.
    """
    output = claim(settings.output_path, 0o777)
    is_link = os.path.islink(settings.input_path)  # False where it can't be told
    folder = claim(settings.input_path, 0o755)
    parent = None
    if settings.use_linked_input:
        try:
            if is_link or folder.kept:
                raise OSError("the input folder is a link already, or holds something")
            parent = _claim_parent(settings)
        except OSError as error:
            logger.debug("Inputs are staged in place: %s", error)
    return InputFolder(folder, parent), output


def _claim_parent(settings: Settings) -> LinkParent:
    """Make the parent of the folders of tasks if it is missing, and note what it holds; raises OSError."""
    path = settings.linked_input_parent
    path.mkdir(parents=True, exist_ok=True)
    path = path.resolve()
    if settings.user and not all(place.stat().st_mode & stat.S_IXOTH for place in (path, *path.parents)):
        raise OSError(f"not everyone may enter {path}")
    others = [settings.input_path, settings.output_path, settings.model_path, settings.ground_truth_path]
    others += [*settings.writable_directories, *settings.post_clean_directories]
    folder = os.open(path, OPEN_FOLDER)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        names = _names(folder)
        held = {name for name in names if not _is_empty_folder(name, folder)} | _first_names_below(path, others)
        return LinkParent(path, os.dup(folder), held, names - held)
    finally:
        os.close(folder)


def _first_names_below(path: Path, others: Iterable[Path]) -> set[str]:
    """Return the names in a folder by which what is not a task's is reached."""
    places = (Path(os.path.realpath(other.parent)) / other.name for other in others)
    return {place.relative_to(path).parts[0] for place in places if place != path and place.is_relative_to(path)}


def _names(folder: int) -> set[str]:
    return {name for name in os.listdir(folder) if name.endswith(SUFFIX)}


def _is_empty_folder(name: str, folder: int) -> bool:
    try:
        inner = os.open(name, OPEN_FOLDER, dir_fd=folder)
    except OSError:
        return False
    try:
        return not os.listdir(inner)
    finally:
        os.close(inner)
