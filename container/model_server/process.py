"""Running the algorithm's own command: its output to the log, its time limit, its end and all that it left behind.

One loop in the calling thread watches the two pipes, the process (a pidfd), the cancellation and the clock. It never
blocks on the log: while the log's reader is slow it stops reading the pipes, so the algorithm waits, and its time
limit holds all the same.
"""

import array
import fcntl
import logging
import math
import os
import resource
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import IO

from .cancellation import Cancellation
from .errors import (
    AlgorithmFailed,
    AlgorithmNotStarted,
    CommandForbidden,
    CommandMissing,
    CommandNotRunnable,
    LongshoreError,
    TimeLimitExceeded,
)
from .line_encoder import LineEncoder, RecordFormat
from .log_channel import MAX_MESSAGE_BYTES, LogChannel, LogChannels
from .logs import logger, source_of
from .peak_memory import SAMPLE_SECONDS, PeakMemory
from .processes import end_group, group_exists, signal_group
from .user import SAME_USER, User

READ_BYTES = 64 * 1024
KEPT_STDERR_LINES = 100
GROUP_POLL_SECONDS = 0.02
STUCK_LOG_SECONDS = 10.0
"""How long a log that nobody reads may hold back the end of a task whose algorithm has ended."""


@dataclass(frozen=True)
class Program:
    """What to run, in which environment and as whom; `data_bytes` bounds each process's memory, 0 is no limit.

    Without `set_groups` the program stays in our supplementary groups.
    """

    argv: Sequence[str]
    environment: Mapping[str, str]
    user: User = SAME_USER
    set_groups: bool = True
    data_bytes: int = 0


@dataclass(frozen=True)
class Limits:
    """`run_seconds` until the algorithm is ended, None for no limit; `grace_seconds` between SIGTERM and SIGKILL."""

    run_seconds: float | None
    grace_seconds: float


@dataclass(frozen=True)
class Exit:
    """How a run ended. `error` is None exactly when the algorithm ended with 0 of its own accord."""

    error: LongshoreError | None
    seconds: float
    last_stderr_lines: list[str]
    peak_memory_bytes: int


def run(
    program: Program,
    limits: Limits,
    channels: LogChannels,
    task: str,
    cancellation: Cancellation,
    on_start: Callable[[int], None],
) -> Exit:
    """Run a program to its end; `on_start` is told its process group.

    Raises the errors of a program that can't be started. When this returns, nothing of the process group is left.
    """
    started = time.monotonic()
    with _start(program) as process:
        try:
            on_start(process.pid)
            stdout = _stream(process.stdout, channels.stdout, logging.INFO, task)
            stderr = _stream(process.stderr, channels.stderr, logging.WARNING, task, KEPT_STDERR_LINES)
            code, stop_reason, peak = _Run(process, (stdout, stderr), limits, cancellation).watch()
        except BaseException:
            end_group(process.pid)
            raise
    return Exit(
        error=stop_reason or (AlgorithmFailed(code) if code else None),
        seconds=time.monotonic() - started,
        last_stderr_lines=stderr.encoder.last_lines,
        peak_memory_bytes=peak,
    )


def _start(program: Program) -> subprocess.Popen[bytes]:
    user = program.user
    environment = dict(program.environment) | ({"HOME": user.home} if user.home is not None else {})
    try:
        return subprocess.Popen(
            program.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
            user=user.uid,
            group=user.gid,
            extra_groups=user.groups if user != SAME_USER and program.set_groups else None,
            preexec_fn=partial(_limit_data, program.data_bytes) if program.data_bytes else None,
        )
    except FileNotFoundError as error:
        raise CommandMissing from error
    except PermissionError as error:
        raise CommandForbidden from error
    except (BlockingIOError, MemoryError) as error:
        raise AlgorithmNotStarted from error
    except (OSError, ValueError) as error:  # not a program of this machine; too long; a NUL in an argument
        raise CommandNotRunnable from error


def _limit_data(limit: int) -> None:
    """Limit the new process; between fork and exec, so nothing but these system calls may happen here."""
    _, highest = resource.getrlimit(resource.RLIMIT_DATA)
    if highest != resource.RLIM_INFINITY:
        limit = min(limit, highest)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _stream(pipe: IO[bytes] | None, channel: LogChannel, level: int, task: str, keep_lines: int = 0) -> "_Stream":
    assert pipe is not None
    record = RecordFormat(logging.getLevelName(level), source_of(level), internal=False, task=task)
    return _Stream(pipe.fileno(), channel, LineEncoder(record, keep_lines))


class _Stream:
    """One pipe of the algorithm on its way to one channel of the log."""

    def __init__(self, pipe: int, channel: LogChannel, encoder: LineEncoder) -> None:
        self._pipe = pipe
        self._channel = channel
        self._left = sys.maxsize
        self._ended = False
        self.unsent: list[bytes] = []
        self.encoder = encoder
        os.set_blocking(pipe, False)

    @property
    def done(self) -> bool:
        return self._ended and not self.unsent

    def awaits(self) -> tuple[int, int]:
        """Return the descriptor and the event that the stream goes on with."""
        return (self._channel.fileno(), select.POLLOUT) if self.unsent else (self._pipe, select.POLLIN)

    def advance(self) -> None:
        """Send what waits for the log, or else take over what the pipe holds."""
        if not self.unsent:
            with suppress(BlockingIOError):
                size = min(READ_BYTES, self._left)
                chunk = os.read(self._pipe, size) if size else b""
                self._left -= len(chunk)
                self._ended = not chunk
                self.unsent = messages(self.encoder.feed(chunk) if chunk else self.encoder.finish())
        while self.unsent and self._channel.try_send(self.unsent[0]):
            del self.unsent[0]

    def take_only_what_is_there(self) -> None:
        """Take the pipe as ended after what it holds now: a daemon may hold its other end for ever."""
        waiting = array.array("i", [0])
        fcntl.ioctl(self._pipe, termios.FIONREAD, waiting)
        self._left = waiting[0]


def messages(records: bytes) -> list[bytes]:
    """Cut records into messages of whole records, each as large as a channel takes."""
    cut = []
    start = 0
    while len(records) - start > MAX_MESSAGE_BYTES:
        end = records.rindex(b"\n", start, start + MAX_MESSAGE_BYTES) + 1
        cut.append(records[start:end])
        start = end
    return [*cut, records[start:]] if start < len(records) else cut


class _Run:
    """The state of one run, from its start to the last line of its output."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        streams: tuple[_Stream, _Stream],
        limits: Limits,
        cancellation: Cancellation,
    ) -> None:
        self._process = process
        self._streams = streams
        self._limits = limits
        self._cancellation = cancellation
        self._memory = PeakMemory(process.pid)
        self._sample_at = 0.0
        self._stop_reason: LongshoreError | None = None
        self._stop_at = math.inf if limits.run_seconds is None else time.monotonic() + limits.run_seconds
        self._kill_at = math.inf

    def watch(self) -> tuple[int, LongshoreError | None, int]:
        """Return the exit code, why the run was stopped if it was, and the peak memory in bytes."""
        leader = os.pidfd_open(self._process.pid)
        try:
            while leader not in self._step(leader, self._seconds_to_next_limit()):
                self._keep_limits()
        finally:
            os.close(leader)
        if self._stop_reason is None:
            signal_group(self._process.pid, signal.SIGKILL)  # while its leader is not reaped the number is its own
        code, max_resident_kib = self._reap()
        while self._stop_reason and group_exists(self._process.pid) and time.monotonic() < self._kill_at:
            self._step(None, GROUP_POLL_SECONDS)  # the others of the group have their grace too
        end_group(self._process.pid)
        self._drain()
        return code, self._stop_reason, self._memory.ended(max_resident_kib)

    def _step(self, leader: int | None, seconds: float) -> dict[int, int]:
        """Wait for the next event, move bytes, and return what was ready."""
        poll = select.poll()
        for stream in self._streams:
            if not stream.done:
                poll.register(*stream.awaits())
        if leader is not None:
            poll.register(leader, select.POLLIN)
            if self._stop_reason is None:
                poll.register(self._cancellation, select.POLLIN)
        ready = dict(poll.poll(math.ceil(seconds * 1000)))
        for stream in self._streams:
            if not stream.done and stream.awaits()[0] in ready:
                stream.advance()
        return ready

    def _seconds_to_next_limit(self) -> float:
        return max(0.0, min(self._stop_at, self._kill_at, self._sample_at) - time.monotonic())

    def _keep_limits(self) -> None:
        now = time.monotonic()
        if self._stop_reason is None:
            if self._cancellation.reason:
                self._stop(self._cancellation.reason)
            elif now >= self._stop_at:
                self._stop(TimeLimitExceeded(self._limits.run_seconds or 0))
        elif now >= self._kill_at:
            logger.warning("The algorithm did not end within %g s of SIGTERM; killing it", self._limits.grace_seconds)
            signal_group(self._process.pid, signal.SIGKILL)
            self._kill_at = math.inf
        if now >= self._sample_at:
            self._memory.sample()
            self._sample_at = now + SAMPLE_SECONDS

    def _stop(self, reason: LongshoreError) -> None:
        self._stop_reason = reason
        self._stop_at = math.inf
        self._kill_at = time.monotonic() + self._limits.grace_seconds
        signal_group(self._process.pid, signal.SIGTERM)

    def _reap(self) -> tuple[int, int]:
        """Return the exit code, 128 + n for signal n, and the rusage's maximum resident size in KiB."""
        _, status, usage = os.wait4(self._process.pid, 0)
        code = self._process.returncode = os.waitstatus_to_exitcode(status)
        return (128 - code if code < 0 else code), usage.ru_maxrss

    def _drain(self) -> None:
        """Take over what the pipes still hold; only a log that nobody reads can keep us from it."""
        for stream in self._streams:
            stream.take_only_what_is_there()
        while pending := [stream for stream in self._streams if not stream.done]:
            for stream in pending:
                stream.advance()
            if all(stream.unsent for stream in pending) and not self._step(None, STUCK_LOG_SECONDS):
                logger.error("The last output of the algorithm is lost: nobody reads the log")
                return
