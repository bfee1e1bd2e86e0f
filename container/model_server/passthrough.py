"""Running a program whose output is its own: stdout is ours, and stderr passes through us, byte for byte and at once.

We are PID 1: the signals that ask to stop go on to the program's whole group, with time to save a checkpoint; orphans
are reaped while it runs, and nothing that it started is left after it.
"""

import array
import fcntl
import math
import os
import select
import signal
import subprocess
import termios
import time
from contextlib import suppress
from io import FileIO
from typing import NamedTuple

from .children import JOB_STOP_SECONDS, STOP_SIGNALS, signal_pipe
from .orphans import end_orphans, reap_orphans
from .prctl import adopt_orphans
from .processes import GROUP_POLL_SECONDS, end_group, group_runs, signal_group, signal_name
from .program import Program

CHECKPOINT_SECONDS = JOB_STOP_SECONDS - 5.0
"""How long a program may take after it was asked to end; what is left is for us."""

STDERR = 2
READ_BYTES = 64 * 1024
KEPT_BYTES = 8 * 1024
STUCK_STDERR_SECONDS = 10.0
STUCK_STDERR_SECONDS_ONCE_ASKED = 2.0


class Ended(NamedTuple):
    """How a program ended: `code` is 128 + n for signal n, `asked_by` the first signal that asked it to, or 0."""

    code: int
    asked_by: int
    outstayed: bool
    last_stderr: bytes


def run_through(program: Program, checkpoint_seconds: float = CHECKPOINT_SECONDS) -> Ended:
    """Run a program to its end; raises the errors of one that can't be started. For the main thread of a process."""
    adopt_orphans()
    signals = signal_pipe()
    try:
        with program.start(stdout=None) as process:
            try:
                return _Run(process, signals, checkpoint_seconds).watch()
            except BaseException:
                end_group(process.pid)
                raise
    finally:
        os.close(signal.set_wakeup_fd(-1))  # nobody reads it any more


class _Run:
    """The state of one run: whether it was asked to end, and by when it has to have."""

    def __init__(self, process: subprocess.Popen[bytes], signals: FileIO, checkpoint_seconds: float) -> None:
        assert process.stderr
        self._process = process
        self._signals = signals
        self._checkpoint_seconds = checkpoint_seconds
        self._stderr = _Tee(process.stderr.fileno())
        self._asked_by = 0
        self._outstayed = False
        self._kill_at = math.inf

    def watch(self) -> Ended:
        """Return how the program ended, once nothing of it is left."""
        group = self._process.pid
        leader = os.pidfd_open(group)
        try:
            while leader not in self._step(leader):
                pass
        finally:
            os.close(leader)
        if not self._asked_by:
            signal_group(group, signal.SIGKILL)  # while its leader is not reaped the number is its own
        _, status = os.waitpid(group, 0)
        code = self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._asked_by not in (0, signal.SIGTERM):
            signal_group(group, signal.SIGTERM)  # a shell has what it started in the background ignore SIGINT
        while self._asked_by and group_runs(group) and not self._outstayed:
            self._step(None)  # the others of the group may have a checkpoint of their own
        end_group(group)
        end_orphans()
        self._stderr.end(STUCK_STDERR_SECONDS_ONCE_ASKED if self._asked_by else STUCK_STDERR_SECONDS)
        return Ended(128 - code if code < 0 else code, self._asked_by, self._outstayed, self._stderr.last)

    def _step(self, leader: int | None) -> dict[int, int]:
        """Wait for the next event, do what is due, and return what was ready."""
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        self._stderr.register(poll)
        if leader is not None:
            poll.register(leader, select.POLLIN)
        seconds = max(0.0, self._kill_at - time.monotonic())
        seconds = seconds if leader is not None else min(seconds, GROUP_POLL_SECONDS)
        ready = dict(poll.poll(None if math.isinf(seconds) else math.ceil(seconds * 1000)))
        if self._signals.fileno() in ready:
            self._take_signals()
        self._stderr.advance(ready)
        if time.monotonic() >= self._kill_at:
            self._outstayed = True
            self._kill_at = math.inf
            signal_group(self._process.pid, signal.SIGKILL)
        return ready

    def _take_signals(self) -> None:
        for signum in self._signals.read(4096) or b"":
            if signum in STOP_SIGNALS:
                self._ask_to_end(signum)
        reap_orphans(but=[self._process.pid])

    def _ask_to_end(self, signum: int) -> None:
        signal_group(self._process.pid, signum)
        if not self._asked_by:
            self._stderr.say(f"Received {signal_name(signum)}: the algorithm has {self._checkpoint_seconds:g} s to end")
            self._asked_by = signum
            self._kill_at = time.monotonic() + self._checkpoint_seconds


class _Tee:
    """The program's stderr on its way to ours; `last` is the end of it.

    It writes no more at a time than a pipe takes without waiting: a reader that is slow holds the program back, not us.
    """

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._unsent = b""
        self._notice = b""
        self._ended = False
        self.last = b""
        os.set_blocking(pipe, False)

    def register(self, poll: select.poll) -> None:
        if self._unsent:
            poll.register(STDERR, select.POLLOUT)
        elif not self._ended:
            poll.register(self._pipe, select.POLLIN)

    def advance(self, ready: dict[int, int]) -> None:
        """Move bytes where a poll found that they can be moved."""
        if self._unsent and STDERR in ready:
            self._send()
        elif not self._unsent and self._pipe in ready:
            self._take(READ_BYTES)

    def say(self, sentence: str) -> None:
        """Put a line of ours behind the line that the program is writing: a logger would wait for a reader."""
        self._notice += f"longshore: {sentence}\n".encode()
        if self.last[-1:] in (b"", b"\n"):
            self._send_notice()

    def end(self, stuck_seconds: float) -> None:
        """Take what the pipe holds now as the last of it: a daemon may hold its other end for ever."""
        number = array.array("i", [0])
        fcntl.ioctl(self._pipe, termios.FIONREAD, number)
        left = number[0]
        while left > 0 and not self._ended:
            left -= self._take(left)
        if self._notice:
            self._pass_on(b"\n")  # the program left its last line open
        poll = select.poll()
        poll.register(STDERR, select.POLLOUT)
        while self._unsent and poll.poll(stuck_seconds * 1000):
            self._send()

    def _take(self, most: int) -> int:
        try:
            chunk = os.read(self._pipe, most)
        except BlockingIOError:
            return 0
        self._ended = not chunk
        self._pass_on(chunk)
        return len(chunk)

    def _pass_on(self, chunk: bytes) -> None:
        self.last = (self.last + chunk)[-KEPT_BYTES:]
        if self._notice and b"\n" in chunk:
            line, _, chunk = chunk.partition(b"\n")
            self._unsent += line + b"\n"
            self._send_notice()
        self._unsent += chunk

    def _send_notice(self) -> None:
        self._unsent += self._notice
        self._notice = b""

    def _send(self) -> None:
        with suppress(BlockingIOError):
            try:
                self._unsent = self._unsent[os.write(STDERR, self._unsent[: select.PIPE_BUF]) :]
            except BlockingIOError:  # somebody made it so, and its reader is slow
                raise
            except OSError:  # nobody reads, or the disk is full: the program goes on all the same
                self._unsent = b""
