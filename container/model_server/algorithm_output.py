"""What the algorithm prints, from its two pipes to the two channels of the log, nothing lost.

It never blocks on the log: while the log's reader is slow the pipes are not read, so the algorithm waits.
"""

import array
import fcntl
import logging
import os
import select
import subprocess
import termios
from collections.abc import Container
from contextlib import suppress

from .line_encoder import LineEncoder, RecordFormat
from .log_channel import MAX_MESSAGE_BYTES, LogChannel, LogChannels
from .logs import logger, source_of

READ_BYTES = 64 * 1024
"""Twice as much is slower: what becomes of it no longer fits into the processor's cache."""

PIPE_BYTES = 256 * 1024
"""How far the algorithm may be ahead of us: the fewer turns both take, the faster it goes."""

KEPT_STDERR_LINES = 100
STUCK_LOG_SECONDS = 10.0
"""How long a log that nobody reads may hold back the end of a task whose algorithm has ended."""


class AlgorithmOutput:
    """Both streams of a program; their records name the task that it works on, None before the first."""

    def __init__(self, process: subprocess.Popen[bytes], channels: LogChannels, task: str | None) -> None:
        assert process.stdout
        assert process.stderr
        self._stdout = _Stream(process.stdout.fileno(), channels.stdout, logging.INFO, task)
        self._stderr = _Stream(process.stderr.fileno(), channels.stderr, logging.WARNING, task, KEPT_STDERR_LINES)

    @property
    def last_stderr_lines(self) -> list[str]:
        """The last lines on stderr since the program began with its task."""
        return self._stderr.last_lines

    def register(self, poll: select.poll) -> None:
        """Let a poll wait for what the streams go on with."""
        for stream in self._going_on():
            poll.register(*stream.awaits())

    def advance(self, ready: Container[int]) -> None:
        """Move bytes where a poll found that they can be moved."""
        for stream in self._going_on():
            if stream.awaits()[0] in ready:
                stream.advance()

    def begin_task(self, task: str) -> None:
        """Take over what was printed until now, and let what comes belong to a task."""
        self.end_task()
        for stream in (self._stdout, self._stderr):
            stream.begin_task(task)

    def end_task(self) -> None:
        """Take over what the pipes hold now, and end open lines; what comes late still has the task's name."""
        for stream in self._going_on():
            stream.take_over()
            stream.end_line()

    def end(self) -> None:
        """Take over what the pipes hold now as the last of it: a daemon may hold their other ends for ever."""
        for stream in self._going_on():
            stream.take_over()
            stream.finish()
        while pending := self._going_on():
            poll = select.poll()
            self.register(poll)
            if not poll.poll(STUCK_LOG_SECONDS * 1000):
                logger.error("The last output of the algorithm is lost: nobody reads the log")
                return
            for stream in pending:
                stream.advance()

    def _going_on(self) -> list["_Stream"]:
        return [stream for stream in (self._stdout, self._stderr) if stream.unsent or not stream.ended]


class _Stream:
    """One pipe of the algorithm on its way to one channel of the log."""

    def __init__(self, pipe: int, channel: LogChannel, level: int, task: str | None, keep_lines: int = 0) -> None:
        self._pipe = pipe
        self._channel = channel
        self._level = level
        self._keep_lines = keep_lines
        self._encoder = LineEncoder(self._format(task), keep_lines)
        self.unsent: list[memoryview] = []
        self.ended = False
        os.set_blocking(pipe, False)
        with suppress(OSError):  # the user of the pipe may have no more memory in pipes
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def _format(self, task: str | None) -> RecordFormat:
        return RecordFormat(logging.getLevelName(self._level), source_of(self._level), internal=False, task=task)

    @property
    def last_lines(self) -> list[str]:
        return self._encoder.last_lines

    def awaits(self) -> tuple[int, int]:
        """Return the descriptor and the event that the stream goes on with."""
        return (self._channel.fileno(), select.POLLOUT) if self.unsent else (self._pipe, select.POLLIN)

    def advance(self) -> None:
        """Send what waits for the log, or else take over some of what the pipe holds."""
        if self.unsent:
            self._send()
        else:
            with suppress(BlockingIOError):
                self._take(READ_BYTES)

    def take_over(self) -> None:
        """Take over all that the pipe holds now, whether the log has room or not."""
        number = array.array("i", [0])
        fcntl.ioctl(self._pipe, termios.FIONREAD, number)
        left = number[0]
        while left and not self.ended:
            left -= self._take(min(left, READ_BYTES))

    def _take(self, most: int) -> int:
        chunk = os.read(self._pipe, most)
        if chunk:
            self.unsent += messages(self._encoder.feed(chunk))
            self._send()
        else:
            self.finish()
        return len(chunk)

    def finish(self) -> None:
        """Take the pipe as ended."""
        self.ended = True
        self.end_line()

    def end_line(self) -> None:
        """End the line that is open, if one is."""
        self.unsent += messages(self._encoder.finish())
        self._send()

    def begin_task(self, task: str) -> None:
        """Go on with records of another task."""
        self._encoder = LineEncoder(self._format(task), self._keep_lines)

    def _send(self) -> None:
        while self.unsent and self._channel.try_send(self.unsent[0]):
            del self.unsent[0]


def messages(records: bytes) -> list[memoryview]:
    """Cut records into messages of whole records, each as large as a channel takes."""
    view = memoryview(records)
    cut = []
    start = 0
    while len(records) - start > MAX_MESSAGE_BYTES:
        end = records.rindex(b"\n", start, start + MAX_MESSAGE_BYTES) + 1
        cut.append(view[start:end])
        start = end
    return [*cut, view[start:]] if start < len(records) else cut
