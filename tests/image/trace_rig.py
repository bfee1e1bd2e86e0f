"""Containers under strace from their first process on, and what their processes opened and executed."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from any_images_rig import build_target
from docker_rig import Container, docker, remove_image, running, unique_name

OURS = "/longshore/"
CALLS = "open,openat,openat2,creat,execve,execveat,uselib,fork,vfork,clone,clone3"
TRACE = "/trace"
STRACE = [
    *("--library-path", "/strace", "--inhibit-cache", "/strace/strace"),
    *("--follow-forks", "--output-separately", "--output", f"{TRACE}/of"),  # a file for each process
    *("--decode-fds=path", "--string-limit=4096", "--trace", CALLS),
]
"""What follows strace's own ld.so, which needs nothing of the image."""

STARTS = {"fork", "vfork", "clone", "clone3"}
LINE = re.compile(r"(?P<call>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+|\?)(?P<rest>.*)")
FOLDER_AND_PATH = re.compile(r'(?:AT_FDCWD|\d+)<(?P<folder>[^>]*)>, "(?P<path>[^"]*)"')
PATH = re.compile(r'"(?P<path>[^"]*)"')


@dataclass(frozen=True)
class Strace:
    """A folder with strace and all that it needs."""

    folder: Path

    @contextmanager
    def running(
        self, image: str, *command: str, options: Sequence[str] = (), as_child: bool = False
    ) -> Iterator[Container]:
        """Run a command of ours in a container under strace for the block.

        The first process is the one that is watched, and strace a child of it, which has to leave it alone; or with
        `as_child` the other way round.
        """
        watched = ["--cap-add", "SYS_PTRACE", "--volume", f"{self.folder}:/strace:ro", "--volume", TRACE]
        entry = ["--entrypoint", "/strace/ld.so"]
        words = [*STRACE, *([] if as_child else ["--daemonize"]), "/longshore/bin/longshore", *command]
        with running(image, *words, options=[*watched, *entry, *options]) as container:
            yield container


@dataclass
class Trace:
    """What was opened and executed, each path once; failed attempts count as well.

    `opened` and `executed` are the runtime's, `algorithms` is what was executed of the image, once for each process.
    """

    opened: set[str] = field(default_factory=set)
    executed: set[str] = field(default_factory=set)
    algorithms: list[str] = field(default_factory=list)
    processes: int = 0


@contextmanager
def strace_at_hand(folder: Path) -> Iterator[Strace]:
    """Have strace in a folder for the block."""
    tag = unique_name()
    build_target(tag, "strace")
    try:
        name = docker("create", tag)
        docker("cp", f"{name}:/strace", folder)
        docker("rm", "--volumes", name)
        yield Strace(folder / "strace")
    finally:
        remove_image(tag)


def read_trace(container: Container, folder: Path) -> Trace:
    """Read the trace of a container that has ended; `folder` is where its files are copied to."""
    docker("cp", f"{container.name}:{TRACE}", folder)
    files = {int(path.suffix[1:]): path for path in (folder / TRACE.strip("/")).iterdir()}
    calls = {pid: [LINE.fullmatch(line) for line in path.read_text().splitlines()] for pid, path in files.items()}
    trace = Trace()
    every = [call for lines in calls.values() for call in lines if call]
    started = {int(call["result"]) for call in every if call["call"] in STARTS and call["result"] != "?"}
    (first,) = calls.keys() - started
    _follow(first, calls, trace)
    assert trace.processes > 0
    return trace


def _follow(pid: int, calls: dict[int, list[re.Match[str] | None]], trace: Trace) -> None:
    """Add the runtime's calls of a process, and of those that it starts, until it executes a program of the image."""
    trace.processes += 1
    attempts: list[str] = []
    for call in calls.get(pid, []):
        if call is None or (call["call"].startswith("exec") and call["rest"].startswith("ERESTART")):
            continue
        if call["call"] in STARTS:
            if call["result"] not in {"?", "-1"}:
                _follow(int(call["result"]), calls, trace)
        elif call["call"].startswith("exec"):
            path = _path(call)
            if path.startswith(OURS):
                trace.executed.add(path)
            elif call["result"] == "0":
                trace.algorithms.append(path)
                return  # from here on it is the image's program
            else:
                attempts.append(path)  # in a folder of its PATH
        else:
            trace.opened.add(_path(call))
    trace.executed.update(attempts)


def _path(call: re.Match[str]) -> str:
    """Return the absolute path of a call."""
    relative = FOLDER_AND_PATH.match(call["arguments"])
    if relative:
        return posixpath.normpath(posixpath.join(relative["folder"], relative["path"]))
    found = PATH.search(call["arguments"])
    assert found, call[0]
    return posixpath.normpath(found["path"])
