"""Files that have no name any more and are still open: here, and in a worker that is about to free them."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_server.freeing import Freeing


def held(folder: Path) -> set[str]:
    """Return which files of a folder this process has open without having their names."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            continue
        if path.startswith(f"{folder}/"):
            found.add(path.removeprefix(f"{folder}/").removesuffix(" (deleted)"))
    return found


@contextmanager
def process_that_frees(ours: Freeing, folder: Path) -> Iterator[int]:
    """Have another process be about to free a file, for as long as it is not killed."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        with ours.freed_later([folder]):
            os.write(writer, b".")
            signal.pause()
        os._exit(1)
    try:
        assert os.read(reader, 1)
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
