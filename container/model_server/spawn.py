"""Starting the algorithm's program as its user and within its memory, without a copy of ourselves.

Python changes user, and limits memory, only in a process that is a copy of its own (fork): the more we have the longer
that takes, and all our threads wait meanwhile. So a small program of ours, image/become.c, is started without a copy
(vfork), does it, and executes the algorithm's. Not a thread of ours that changes its own user: for a moment whoever is
that user, another task of the algorithm, could end us through it. Nor setpriv: what it can't do it says in words.

Where the small program is not, outside the image, Python does it.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .user import SAME_USER, User

BECOME = Path(sys.prefix, "bin", "longshore-become")

REPORT_BYTES = 32
STAYS = "-"


def spawn(
    argv: Sequence[str],
    environment: Mapping[str, str],
    user: User,
    set_groups: bool,
    data_bytes: int,
    stdout: int | None,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, with an empty stdin, and its stderr in a pipe.

    Raises what Popen does: of the errors of the system those that have the program's name came of executing it.
    """
    options: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": stdout,
        "stderr": subprocess.PIPE,
        "env": environment,
        "start_new_session": True,
    }
    groups = user.groups if user != SAME_USER and set_groups else None
    if user == SAME_USER and not data_bytes:
        return subprocess.Popen(argv, **options)
    if not os.access(BECOME, os.X_OK):
        limit = partial(_limit_data, data_bytes) if data_bytes else None
        ids: dict[str, Any] = {"user": user.uid, "group": user.gid, "extra_groups": groups}
        return subprocess.Popen(argv, preexec_fn=limit, **ids, **options)
    paths = _paths_of(argv[0], environment)
    become = [
        str(data_bytes) if data_bytes else STAYS,
        STAYS if groups is None else ",".join(map(str, groups)),
        *(STAYS if number is None else str(number) for number in (user.gid, user.uid)),
        str(len(paths)),
        *paths,
    ]
    return _started([*become, *argv], argv[0], options)


def _started(arguments: list[str], program: str, options: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start the small program, and return once it is the algorithm's; raises what it reports."""
    reader, writer = os.pipe()
    try:
        try:
            process = subprocess.Popen([BECOME, str(writer), *arguments], pass_fds=[writer], **options)
        finally:
            os.close(writer)
        if report := os.read(reader, REPORT_BYTES):
            with process:  # which closes its pipes and reaps it
                number = int(report[1:])
                raise OSError(number, os.strerror(number), *([program] if report[:1] == b"x" else []))
        return process
    finally:
        os.close(reader)


def _paths_of(program: str, environment: Mapping[str, str]) -> list[str]:
    """Return where a program may be, as Popen looks for it: in the folders of its own PATH, if it is but a name."""
    if os.path.dirname(program):
        return [program]
    return [os.path.join(folder, program) for folder in os.get_exec_path(environment)]


def _limit_data(limit: int) -> None:
    """Limit the new process; between fork and exec, so nothing but these system calls may happen here."""
    _, highest = resource.getrlimit(resource.RLIMIT_DATA)
    if highest != resource.RLIM_INFINITY:
        limit = min(limit, highest)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
