"""Opening what lies beneath a folder that a stranger filled, and nothing else.

Each step is one open without following links, relative to the folder before, and nothing is opened for reading before
it is known to be a regular file: no name is looked up twice. A link is followed by hand, and only as long as it stays
beneath: the kernel's openat2(RESOLVE_BENEATH) refuses absolute links that lead back inside, which
programs make all the time, and old seccomp profiles refuse openat2 itself.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

MAX_LINKS = 40  # as the kernel's
OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


REASONS = {
    errno.EACCES: "it may not be read",
    errno.EPERM: "it may not be read",
    errno.ENOENT: "it is a link to nothing",
    errno.ENAMETOOLONG: "it is a link to nothing",
    errno.ELOOP: "it changed while it was read",
    errno.ENOTDIR: "it changed while it was read",
    errno.EAGAIN: "a process holds it",
}
LEAD_NOWHERE = (errno.ENOENT, errno.ENAMETOOLONG)
OPEN_ENTRY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Refused(Exception):
    """The entry can't be had as a regular file beneath the folder; the message is the reason in words."""


class Unreadable(Refused):
    """It may be such a file, which can't be read."""


@contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """Open the folder itself for the block, which may be a link to one."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


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


def open_file(root: int, root_path: Path, parts: Sequence[str], closed: str = "") -> int:
    """Open a regular file beneath `root` for reading, following links that stay beneath; raises Refused.

    `root_path` is where absolute links find the folder, `closed` a name that nothing on the way may have.
    """
    trail: list[str] = []  # the folders that we are in; opened anew after each link, so that depth costs no descriptors
    here = os.dup(root)
    ahead = list(reversed(parts))
    links = 0
    try:
        while ahead:
            part = ahead.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not trail:
                    raise Refused("it is a link that leaves the output folder")
                trail.pop()
                here = _replace(here, open_folder(root, trail))
                continue
            if part.casefold() == closed:
                raise Refused(f"nothing may lead to {closed}")
            entry = os.open(part, OPEN_ENTRY, dir_fd=here)  # what it is now it stays, whatever has its name
            mode = os.fstat(entry).st_mode
            if stat.S_ISDIR(mode):
                trail.append(part)
                here = _replace(here, entry)
                continue
            try:
                if not stat.S_ISLNK(mode):
                    return _open_regular(entry, mode, last=not ahead)
                target = os.readlink("", dir_fd=entry)
            finally:
                os.close(entry)
            if links == MAX_LINKS:
                raise Refused("it is a link that leads to itself")
            links += 1
            if target.startswith("/"):
                target = _inside(target, root_path)
                trail = []
                here = _replace(here, os.dup(root))
            ahead += reversed(target.split("/"))
        raise Refused("it is a link to a folder")
    except OSError as error:
        if reason := REASONS.get(error.errno or 0):
            raise (Refused if error.errno in LEAD_NOWHERE else Unreadable)(reason) from None
        raise
    finally:
        os.close(here)


def _replace(old: int, new: int) -> int:
    os.close(old)
    return new


def _inside(target: str, root_path: Path) -> str:
    """Return the part of an absolute path that lies beneath the folder."""
    for prefix in (str(root_path), os.path.realpath(root_path)):
        if target == prefix or target.startswith(prefix + "/"):
            return target[len(prefix) :]
    raise Refused("it is a link that leaves the output folder")


def _open_regular(entry: int, mode: int, last: bool) -> int:
    if not last:
        raise Refused("it is a link to nothing")
    if not stat.S_ISREG(mode):
        raise Refused("it is no regular file")
    return os.open(f"/proc/self/fd/{entry}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
