"""The task folders: made at start, emptied between tasks, and never emptied of what was there before us.

Everything works on directory descriptors and never follows a link, so a program that swaps a folder for a link
while it is emptied can't lead us out of it. Depth costs no recursion and no descriptors: nested folders are moved up
before they are removed.
"""

import fcntl
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from .beneath import OPEN_FOLDER
from .errors import FolderInUse, FoldersNotReset, MachineLimit, StartFailed
from .immutable import make_mutable
from .machine_limits import is_refusal

Identity = tuple[int, int, int, int]
"""Device, inode, size and time of change: what tells whether a file is still the one that was there."""

Snapshot = dict[str, "Snapshot | Identity"]
"""What a folder holds, by name; a folder within is a snapshot itself."""


@dataclass
class TaskFolder:
    """A folder that tasks use, with what it held when we started: that is not ours to delete.

    `left` is what it held when it was last reset: what a task has not changed since is not its output. `home` is the
    folder that it is in, as it was when we started. `lock` keeps other servers out for as long as this object lives.
    """

    path: Path
    mode: int
    kept: Snapshot
    left: Snapshot
    home: int
    lock: int

    def reset(self) -> None:
        """Remove all that was not there when we started; raises FoldersNotReset and MachineLimit."""
        try:
            self._reset()
            at_home = os.path.samestat(os.stat(self.path.parent), os.stat(self.home))
        except OSError as error:
            raise (MachineLimit if is_refusal(error) else FoldersNotReset) from error
        if not at_home:  # a task moved what the folder is in: the path leads elsewhere now
            raise FoldersNotReset

    def _reset(self) -> None:
        try:
            folder = open_writable(self.path.name, self.home)
        except (FileNotFoundError, NotADirectoryError):  # it was removed, or something else put in its place
            unlinked(self.path.name, self.home)
            make(self.path.name, self.home, self.mode)
            self.left = {}
            return
        try:
            empty(folder, self.kept)
            self.left = snapshot(folder)
        finally:
            os.close(folder)

    def was_here(self, parts: tuple[str, ...], found: os.stat_result) -> bool:
        """Say whether the file at `parts` is one that was here before the task, unchanged."""
        place: Snapshot | Identity | None = self.left
        for part in parts:
            place = place.get(part) if isinstance(place, dict) else None
        return place == identity(found)

    def __del__(self) -> None:
        os.close(self.home)
        os.close(self.lock)


def claim(path: Path, mode: int) -> TaskFolder:
    """Make a task folder if it is missing, note what it holds, and check that it can be written to.

    `mode` is given to a folder that is made here; one that exists keeps its own. Raises StartFailed.
    """
    try:
        if not path.is_dir():
            path.mkdir(parents=True)
            path.chmod(mode)
        path = path.resolve()  # once and for all: a link that is there later is a task's
        folder = os.open(path, OPEN_FOLDER)
        try:
            if not os.access(f"/proc/self/fd/{folder}", os.W_OK | os.X_OK):
                raise StartFailed(f"The folder {path} can not be written to")
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            kept = snapshot(folder)
            mode = stat.S_IMODE(os.fstat(folder).st_mode)
            home = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            return TaskFolder(path, mode, kept, kept, home, os.dup(folder))
        finally:
            os.close(folder)
    except BlockingIOError as error:
        raise FolderInUse(f"The folder {path} is in use by another server") from error
    except RecursionError as error:
        raise StartFailed(f"The folder {path} holds folders that are nested too deeply") from error
    except OSError as error:
        raise StartFailed(f"The folder {path} can not be used: {error.strerror}") from error


def make(name: str, folder: int, mode: int) -> None:
    """Make a folder in another, with just these rights whatever the umask is."""
    os.mkdir(name, dir_fd=folder)
    made = os.open(name, OPEN_FOLDER, dir_fd=folder)
    try:
        os.fchmod(made, mode)
    finally:
        os.close(made)


def identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns


def snapshot(folder: int) -> Snapshot:
    held: Snapshot = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                held[entry.name] = identity(os.stat(entry.name, dir_fd=folder, follow_symlinks=False))
                continue
            try:
                inner = os.open(entry.name, OPEN_FOLDER, dir_fd=folder)
            except PermissionError:  # whatever is in it, it stays
                held[entry.name] = identity(os.stat(entry.name, dir_fd=folder, follow_symlinks=False))
                continue
            try:
                held[entry.name] = snapshot(inner)
            finally:
                os.close(inner)
    return held


def empty(folder: int, kept: Snapshot) -> None:
    """Remove what has a name that was not there; what has one stays, whoever changed it since."""
    names = set(os.listdir(folder))
    for name in names & kept.keys():
        before = kept[name]
        if isinstance(before, dict) and stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            inner = _open_kept(name, folder)
            try:
                empty(inner, before)
            finally:
                os.close(inner)
    fault: OSError | None = None
    for name in names - kept.keys():
        try:
            remove(folder, [name])
        except OSError as error:  # the others are removed all the same
            if fault is None or is_refusal(fault):  # which may pass
                fault = error
    if fault:
        try:
            raise fault
        finally:
            del fault  # which holds this frame: a cycle, and with it what our callers have open


def remove(folder: int, names: list[str]) -> None:
    """Remove entries of a folder, whatever they are and however deep they go."""
    fresh, moved = "", 0
    while names:
        name = names.pop()
        if unlinked(name, folder):
            continue
        fresh = fresh or f".removed-{secrets.token_hex(8)}-"
        inner = open_writable(name, folder)
        try:
            for entry in os.listdir(inner):
                if not unlinked(entry, inner):
                    os.close(open_writable(entry, inner))
                    moved += 1
                    os.rename(entry, f"{fresh}{moved}", src_dir_fd=inner, dst_dir_fd=folder)
                    names.append(f"{fresh}{moved}")
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=folder)


def unlinked(name: str, folder: int) -> bool:
    """Remove an entry unless it is a folder; return whether it is gone."""
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        return False
    except FileNotFoundError:
        pass
    except PermissionError:
        if not make_mutable(name, folder):
            raise
        return unlinked(name, folder)
    return True


def _open_kept(name: str, folder: int) -> int:
    """Open a folder that was there before us; it gets its owner's rights back only where a program took them."""
    try:
        return os.open(name, OPEN_FOLDER, dir_fd=folder)
    except PermissionError:
        return open_writable(name, folder)


def open_writable(name: str | Path, folder: int | None = None) -> int:
    """Open a folder, after giving its owner all rights: a program may have taken them away."""
    path = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        here = f"/proc/self/fd/{path}"
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(here, mode | stat.S_IRWXU)
        return os.open(here, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(path)
