"""What a program wrote to /output where that could not be made to lead to the job's output folder: copied there."""

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path


class StrayOutputs:
    """The regular files of a folder that are new or changed since this object was made; no link is followed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = _files(folder)

    def copy_to(self, target: Path) -> int:
        """Copy them, but for those that are there, and return how many were copied; raises OSError."""
        copied = 0
        for path, state in sorted(_files(self._folder).items()):
            if self._before.get(path) != state and not os.path.lexists(target / path):
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._folder / path, target / path, follow_symlinks=False)
                copied += 1
        return copied


def _files(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Return what is below a folder, with what tells a change."""
    found = {}
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            with suppress(FileNotFoundError):
                state = path.lstat()
                if stat.S_ISREG(state.st_mode):
                    found[path.relative_to(folder)] = (state.st_ino, state.st_mtime_ns, state.st_size)
    return found
