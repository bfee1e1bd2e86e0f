"""Files that have lost their names and are still open: here, and in a worker that is about to free them."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_server.freeing import Freeing, opened

NO_NAME = " (deleted)"


def held(folder: Path) -> set[str]:
    """Return the paths that files had in a folder which this process keeps from being freed."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        here = Path("/proc/self/fd") / descriptor
        try:
            path, is_file = os.readlink(here), here.is_file()
        except FileNotFoundError:
            continue
        if is_file and path.startswith(f"{folder}/") and path.endswith(NO_NAME):
            found.add(path.removeprefix(f"{folder}/").removesuffix(NO_NAME))
    return found


@contextmanager
def process_that_frees(freeing: Freeing, folder: Path) -> Iterator[None]:
    """Have another process be about to free what is large in a folder, until it is killed after the block."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            with opened([folder]) as folders, freeing.freed_later(folders):
                os.write(writer, b".")
                signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"."
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
