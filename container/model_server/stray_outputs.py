"""What a program wrote to an /output that does not lead to the job's output folder: copied there in the end."""

import math
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .beneath import Refused, Unreadable, open_file, open_folder, opened_folder
from .stage_out import Parts, entries_of

_State = tuple[int, int, int]
"""What tells a change."""


class Copied(NamedTuple):
    """How many files were copied, how many were not because something else has their place, and what else was not.

    Of that the `unreadable` may hold results; the `others` are no regular files of the folder, but pipes, sockets, or
    links that lead nowhere, to a folder or out of it.
    """

    files: int
    conflicts: int
    unreadable: int
    others: int


class _Snapshot(NamedTuple):
    """What is below a folder: all that is no folder by its path, and the folders that can't be looked into.

    The empty path stands for the folder itself where it can't be opened, or is none.
    """

    states: dict[Parts, _State]
    closed: frozenset[str]

    @classmethod
    def of(cls, folder: Path) -> "_Snapshot":
        try:
            with opened_folder(folder) as root:
                found, closed = entries_of(root, most_bytes=math.inf)
                states = {parts: state for parts in found if (state := _state(root, parts))}
                return cls(states, frozenset(name for name, _ in closed))
        except OSError:
            with suppress(OSError):
                return cls({(): _told(os.lstat(folder))}, frozenset())
            return cls({}, frozenset())


class StrayOutputs:
    """The files of a folder that are new or changed since this object was made; a link in it is followed within it."""

    def __init__(self, folder: Path, target: Path) -> None:
        self._folder = folder
        self._target = target
        self._before = _Snapshot.of(folder)
        self._target_before = _Snapshot.of(target)

    def has_changed_target(self) -> bool:
        """Say whether there is anything in the target that is new or changed."""
        return bool(_Snapshot.of(self._target).states.items() - self._target_before.states.items())

    def copy(self) -> Copied:
        """Copy them to the target, but over nothing that came there meanwhile.

        Raises OSError, for the first file that could not be copied once the others are, or for what is no folder now.
        """
        if self._is_target() or not os.path.lexists(self._folder):
            return Copied(0, 0, 0, 0)
        now = _Snapshot.of(self._folder)
        if now == self._before:
            return Copied(0, 0, 0, 0)
        files = conflicts = others = 0
        unreadable = len(now.closed - self._before.closed)
        faults: list[OSError] = []
        there = _Snapshot.of(self._target)
        with opened_folder(self._folder) as root:
            for parts, state in now.states.items():
                if self._before.states.get(parts) == state:
                    continue
                if there.states.get(parts) != self._target_before.states.get(parts) or not self._is_beneath(parts):
                    conflicts += 1
                    continue
                try:
                    self._copy_file(root, parts)
                    files += 1
                except Unreadable:
                    unreadable += 1
                except Refused:
                    others += 1
                except OSError as error:
                    faults.append(error)
        if faults:
            raise faults[0]
        return Copied(files, conflicts, unreadable, others)

    def _copy_file(self, root: int, parts: Parts) -> None:
        """Copy a file whole or not at all; raises Refused where it is none."""
        with open(open_file(root, self._folder, parts), "rb") as source:
            target = self._target.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = target.with_name(f".longshore-{secrets.token_hex(8)}")
            try:
                with copy.open("xb") as file:
                    shutil.copyfileobj(source, file)
                copy.rename(target)
            except OSError:
                copy.unlink(missing_ok=True)
                raise

    def _is_target(self) -> bool:
        """Say whether the folder leads to the target, so that all of it is there."""
        with suppress(FileNotFoundError):
            return os.path.samefile(self._folder, self._target)
        return False

    def _is_beneath(self, parts: Parts) -> bool:
        """Say whether nothing on the way to a path of the target is a link, which could lead out of it."""
        target = os.path.realpath(self._target)
        return os.path.realpath(os.path.join(target, *parts)) == os.path.join(target, *parts)


def _state(root: int, parts: Parts) -> _State | None:
    """Return the state of an entry, None for one that is gone."""
    with suppress(OSError):
        folder = open_folder(root, parts[:-1])
        try:
            return _told(os.stat(parts[-1], dir_fd=folder, follow_symlinks=False))
        finally:
            os.close(folder)
    return None


def _told(stat: os.stat_result) -> _State:
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
