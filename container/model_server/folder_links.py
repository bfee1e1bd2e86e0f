"""A folder's name that leads to another folder for the length of a job: /input to /opt/ml/processing/input."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .logs import logger


@contextmanager
def linked(path: Path, target: Path) -> Iterator[bool]:
    """Make a folder that is missing or empty a link for the block, and say whether it leads to the target now.

    It is as it was after the block. A folder that holds something, is a mount or can't be replaced stays.
    """
    if _same(path, target):
        yield True
        return
    try:
        before = _take_away(path)
    except OSError as error:
        logger.warning("%s does not lead to %s: %s", path, target, error.strerror)
        yield False
        return
    try:
        is_linked = _link(path, target)
        yield is_linked
    finally:
        _restore(path, target, before)


def _same(path: Path, target: Path) -> bool:
    try:
        return os.path.samefile(path, target)
    except OSError:
        return False


def _take_away(path: Path) -> os.stat_result | None:
    """Remove an empty folder, and return what it was; None where there was none."""
    try:
        before = os.lstat(path)
    except FileNotFoundError:
        return None
    os.rmdir(path)  # which refuses whatever is not an empty folder
    return before


def _link(path: Path, target: Path) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target.absolute())
    except OSError as error:
        logger.warning("%s does not lead to %s: %s", path, target, error.strerror)
        return False
    return True


def _restore(path: Path, target: Path, before: os.stat_result | None) -> None:
    """Remove our link, unless the program put something in its place, and make the empty folder again."""
    with suppress(OSError):
        if os.readlink(path) != str(target.absolute()):
            return
        os.unlink(path)
    if before:
        with suppress(OSError):
            path.mkdir()
            os.chown(path, before.st_uid, before.st_gid)
            path.chmod(stat.S_IMODE(before.st_mode))
