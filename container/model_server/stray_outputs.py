"""What a program wrote to an /output that does not lead to the job's output folder: copied there in the end."""

import errno
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .beneath import REASONS, Refused, open_file, opened_folder
from .stage_out import Parts, entries_of

_States = dict[Parts, tuple[int, int, int]]
"""All that is no folder, by its path below one, with what tells a change."""

UNREADABLE = REASONS[errno.EACCES]


class Copied(NamedTuple):
    """How many files were copied, how many were not because something else has their place, and what else was not.

    Of that the `unreadable` would be a result; the `others` are no regular files of the folder, but pipes and sockets,
    or links that lead nowhere, to a folder or out of it.
    """

    files: int
    conflicts: int
    unreadable: int
    others: int


class StrayOutputs:
    """The files of a folder that are new or changed since this object was made; a link in it is followed within it."""

    def __init__(self, folder: Path, target: Path) -> None:
        self._folder = folder
        self._target = target
        self._before = _states(folder)
        self._target_before = _states(target)

    def copy(self) -> Copied:
        """Copy them to the target, but over nothing that came there meanwhile.

        Raises OSError, for the first file that could not be copied once the others are, or for what is no folder.
        """
        if self._is_target() or not os.path.lexists(self._folder):
            return Copied(0, 0, 0, 0)
        files = conflicts = 0
        faults: list[OSError] = []
        there = _states(self._target)
        with opened_folder(self._folder) as root:
            found, closed = entries_of(root)
            reasons = [reason for _, reason in closed]
            for parts in found:
                if self._before.get(parts) == _state(root, parts):
                    continue
                if there.get(parts) != self._target_before.get(parts) or not self._is_beneath(parts):
                    conflicts += 1
                    continue
                try:
                    self._copy_file(root, parts)
                    files += 1
                except Refused as refusal:
                    reasons.append(str(refusal))
                except OSError as error:
                    faults.append(error)
        if faults:
            raise faults[0]
        unreadable = reasons.count(UNREADABLE)
        return Copied(files, conflicts, unreadable, len(reasons) - unreadable)

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


def _states(folder: Path) -> _States:
    with suppress(OSError), opened_folder(folder) as root:
        return {parts: state for parts in entries_of(root)[0] if (state := _state(root, parts))}
    return {}


def _state(root: int, parts: Parts) -> tuple[int, int, int] | None:
    """Return what tells a change of an entry, None for one that is gone."""
    with suppress(OSError):
        state = os.stat("/".join(parts), dir_fd=root, follow_symlinks=False)
        return state.st_ino, state.st_mtime_ns, state.st_size
    return None
