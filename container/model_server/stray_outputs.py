"""What a program wrote to an /output that does not lead to the job's output folder: copied there in the end."""

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_States = dict[Path, tuple[int, int, int]]
"""Regular files by their path below a folder, with what tells a change."""


class Copied(NamedTuple):
    """How many files were copied, and how many were not because something else has their place."""

    files: int
    conflicts: int


class StrayOutputs:
    """The regular files of a folder that are new or changed since this object was made; no link in it is followed."""

    def __init__(self, folder: Path, target: Path) -> None:
        self._folder = folder
        self._target = target
        self._before = _states(folder)
        self._target_before = _states(target)

    def copy(self) -> Copied:
        """Copy them to the target, but over nothing that came there meanwhile; raises OSError."""
        if self._is_target():
            return Copied(0, 0)
        files = conflicts = 0
        there = _states(self._target)
        for path, state in sorted(_states(self._folder).items()):
            if self._before.get(path) == state:
                continue
            if there.get(path) != self._target_before.get(path) or not self._is_beneath(path):
                conflicts += 1
                continue
            (self._target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._folder / path, self._target / path, follow_symlinks=False)
            files += 1
        return Copied(files, conflicts)

    def _is_target(self) -> bool:
        """Say whether the folder leads to the target, so that all of it is there."""
        with suppress(FileNotFoundError):
            return os.path.samefile(self._folder, self._target)
        return False

    def _is_beneath(self, path: Path) -> bool:
        """Say whether nothing on the way to a path of the target is a link, which could lead out of it."""
        return os.path.realpath(self._target / path) == os.path.join(os.path.realpath(self._target), path)


def _states(folder: Path) -> _States:
    found: _States = {}
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            with suppress(OSError):  # it was removed, or may not be looked at
                state = path.lstat()
                if stat.S_ISREG(state.st_mode):
                    found[path.relative_to(folder)] = (state.st_ino, state.st_mtime_ns, state.st_size)
    return found
