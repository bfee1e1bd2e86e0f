"""The folders beside a task's own: opened to every user at the start, and emptied of what came since at the end.

What each task leaves in them is told, and removed if that is wished.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from .beneath import OPEN_FOLDER, open_folder
from .folder import open_writable, remove
from .logs import logger
from .own_files import OURS, leads_to


def make_writable(paths: Iterable[Path], ours: Iterable[Path] = OURS) -> None:
    """Make folders that are missing, and let every user write to them; where that can't be, the log says so.

    A link that an image has in the place of one is not followed to `ours`, nor to what is in use, such as /etc, where
    the users are that we look up.
    """
    for path in paths:
        try:
            path.mkdir(parents=True, exist_ok=True)
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode | 0o777 == mode:
                continue
            if leads_to(path, ours):
                logger.warning("Not every user can write to %s: it leads to the server's own files", path)
            elif path.is_symlink() and any(path.iterdir()):
                logger.warning("Not every user can write to %s: it is a link to a folder that is in use", path)
            else:
                path.chmod(mode | 0o777)  # no bit is taken away: /tmp stays sticky
        except OSError as error:
            logger.info("Not every user can write to %s: %s", path, error.strerror)


class PostClean:
    """Empties folders at the end (of the block), but for what they held when this object was made.

    A folder that was missing or empty is emptied. One that held something is left alone, but for what was fetched into
    it and into folders of it.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._before = _names_in(paths)
        self._fetched: dict[Path, set[str]] = {}

    def note_fetched(self, paths: Iterable[Path]) -> None:
        """Note what the set-up has brought into folders: paths of entries that are new there."""
        for path in paths:
            self._fetched.setdefault(Path(os.path.realpath(path.parent)), set()).add(path.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clean()

    def clean(self) -> None:
        """Empty the folders; the log says what can't be removed."""
        for path, before in self._before.items():
            if not before:
                _empty(path)
                continue
            for parent, names in self._fetched.items():
                if parent.is_relative_to(path):
                    _empty(parent, names)


class Leftovers:
    """What a task leaves in folders beside its own: the names that are new in them since this object was made."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._before = _names_in(paths)

    def tell(self, remove_all: bool) -> None:
        """Have the log say how much was left in each folder, and remove it if that is wished."""
        for path, before in self._before.items():
            with _opened(path) as folder:
                left = (_names(path) or set()) - before
                if left:
                    logger.info("The task left %d entries in %s%s", len(left), path, ", removed" if remove_all else "")
                if left and remove_all and folder is not None:
                    _remove_all(path, folder, left)


def _names_in(paths: Iterable[Path]) -> dict[Path, set[str]]:
    """Return what is in each folder that we may clean; a link that is there later is a task's."""
    real = {Path(os.path.realpath(path)) for path in paths}
    return {path: names for path in sorted(real) if (names := _names(path)) is not None}


def _names(path: Path) -> set[str] | None:
    """Return what is in a folder; nothing is in one that is missing, and None is what we may not clean."""
    try:
        return set(os.listdir(path))
    except FileNotFoundError:
        return set()
    except OSError:
        return None


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """Open a folder for the block, None where that can't be; our log says why, unless it is gone."""
    try:
        folder = _open_real(path)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        logger.warning("The folder %s can not be emptied: %s", path, error.strerror)
        yield None
        return
    try:
        yield folder
    finally:
        os.close(folder)


def _open_real(path: Path) -> int:
    """Open a folder; nothing on the way to it may be a link."""
    root = os.open("/", OPEN_FOLDER)
    try:
        home = open_folder(root, path.parts[1:-1])
    finally:
        os.close(root)
    try:
        return open_writable(path.name, home)
    finally:
        os.close(home)


def _empty(path: Path, names: set[str] | None = None) -> None:
    """Remove these names from a folder, or all; our log says what can't be removed."""
    with _opened(path) as folder:
        if folder is not None:
            _remove_all(path, folder, set(os.listdir(folder)) if names is None else names)


def _remove_all(path: Path, folder: int, names: set[str]) -> None:
    """Remove what can be removed, though one of the names can't."""
    fault: OSError | None = None
    for name in names:
        try:
            remove(folder, [name])
        except OSError as error:
            fault = error
    if fault:
        logger.warning("The folder %s could not be emptied: %s", path, fault.strerror)
