"""Opening what lies beneath a folder that a stranger filled, and nothing else.

Each step is one open without following links, relative to the folder before. A link is followed by hand, and only as
long as it stays beneath: the kernel's openat2(RESOLVE_BENEATH) refuses absolute links that lead back inside, which
programs make all the time, and old seccomp profiles refuse openat2 itself.
"""

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

MAX_LINKS = 40  # as the kernel's
OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Refused(Exception):
    """The entry can't be had as a regular file beneath the folder; the message is the reason in words."""


def open_folder(root: int, parts: Sequence[str]) -> int:
    """Open a folder beneath `root` (a descriptor); no part may be a link."""
    here = os.dup(root)
    for part in parts:
        try:
            inner = os.open(part, OPEN_FOLDER, dir_fd=here)
        finally:
            os.close(here)
        here = inner
    return here


def open_file(root: int, root_path: Path, parts: Sequence[str]) -> int:
    """Open a regular file beneath `root` for reading, following links that stay beneath; raises Refused.

    `root_path` is where absolute links find the folder.
    """
    trail = [os.dup(root)]
    ahead = list(reversed(parts))
    links = 0
    try:
        while ahead:
            part = ahead.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if len(trail) == 1:
                    raise Refused("it is a link that leaves the output folder")
                os.close(trail.pop())
                continue
            mode = os.stat(part, dir_fd=trail[-1], follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                links += 1
                if links > MAX_LINKS:
                    raise Refused("it is a link that leads to itself")
                target = os.readlink(part, dir_fd=trail[-1])
                if target.startswith("/"):
                    target = _inside(target, root_path)
                    while len(trail) > 1:
                        os.close(trail.pop())
                ahead += reversed(target.split("/"))
            elif stat.S_ISDIR(mode):
                trail.append(os.open(part, OPEN_FOLDER, dir_fd=trail[-1]))
            else:
                return _open_regular(part, trail[-1], mode, last=not ahead)
        raise Refused("it is a link to a folder")
    except FileNotFoundError:
        raise Refused("it is a link to nothing") from None
    except PermissionError:
        raise Refused("it may not be read") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):  # it was swapped while we looked
            raise Refused("it changed while it was read") from None
        raise
    finally:
        for folder in trail:
            os.close(folder)


def _inside(target: str, root_path: Path) -> str:
    """Return the part of an absolute path that lies beneath the folder."""
    for prefix in (str(root_path), os.path.realpath(root_path)):
        if target == prefix or target.startswith(prefix + "/"):
            return target[len(prefix) :]
    raise Refused("it is a link that leaves the output folder")


def _open_regular(name: str, folder: int, mode: int, last: bool) -> int:
    if not last:
        raise Refused("it is a link to nothing")
    if not stat.S_ISREG(mode):
        raise Refused("it is no regular file")
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise Refused("it is no regular file")
