"""Answers on their way to nginx: how many at one time, and whether there is room for one."""

import io
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

from .cancellation import Cancellation
from .errors import OutputDiskFull
from .payload_answer import Answer

SENDERS = 2
"""How many answers a worker sends at one time: each has a thread until nginx has all of it, which takes no client."""

POLL_SECONDS = 0.1
IN_MEMORY_BYTES = 32 * 1024
"""What nginx holds of an answer without writing it to the disk (proxy_buffers)."""


class SentFile(io.FileIO):
    """A file that gives its place among the senders back when it is closed."""

    def __init__(self, file: IO[bytes], on_close: Callable[[], None]) -> None:
        self._on_close = on_close
        super().__init__(os.dup(file.fileno()))

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._on_close()


class Sending:
    """The answers that a worker sends, which nginx buffers in a folder."""

    def __init__(self, bodies: Path) -> None:
        self._disk = bodies.parent  # the folder itself may be missing for a moment
        self._places = threading.Semaphore(SENDERS)

    def begin(self, answer: Answer, cancellation: Cancellation) -> Answer:
        """Return the answer when it may be sent; the next one may once its file is closed.

        Called while the slot is held: those that wait here are then no more than may run. Raises OutputDiskFull,
        because nginx would end an answer in the middle, and the cancellation's reason.
        """
        with answer.file:
            while not self._places.acquire(timeout=POLL_SECONDS):
                cancellation.raise_if_set()
            try:
                file = SentFile(answer.file, self._places.release)
            except BaseException:  # no descriptor is free
                self._places.release()
                raise
        if IN_MEMORY_BYTES < answer.size > shutil.disk_usage(self._disk).free:
            file.close()
            raise OutputDiskFull
        return replace(answer, file=file)
