"""Running the algorithm's own command: its output to the log, its time limit, its end and all that it left behind.

One loop in the calling thread watches the two pipes, the process (a pidfd), the cancellation and the clock. It never
blocks on the log: while the log's reader is slow it stops reading the pipes, so the algorithm waits, and its time
limit holds all the same.
"""

import math
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto

from .algorithm_output import AlgorithmOutput
from .cancellation import Cancellation
from .errors import AlgorithmFailed, LongshoreError, TimeLimitExceeded
from .log_channel import LogChannels
from .logs import logger
from .orphans import end_orphans, own_children, reap_orphans
from .peak_memory import SAMPLE_SECONDS, PeakMemory
from .processes import GROUP_POLL_SECONDS, KILLED_SECONDS, end_group, group_runs, signal_group
from .program import Program


@dataclass(frozen=True)
class Limits:
    """`run_seconds` until the algorithm is ended, None for no limit; `grace_seconds` between SIGTERM and SIGKILL."""

    run_seconds: float | None
    grace_seconds: float


@dataclass(frozen=True)
class Exit:
    """How a run ended. `error` is None exactly when the algorithm did its work of its own accord.

    `resident` says that it was a call of a server that goes on running.
    """

    error: LongshoreError | None
    seconds: float
    last_stderr_lines: list[str]
    peak_memory_bytes: int
    resident: bool = False


def run(
    program: Program,
    limits: Limits,
    channels: LogChannels,
    task: str,
    cancellation: Cancellation,
    on_start: Callable[[int], None],
) -> Exit:
    """Run a program to its end; `on_start` is told its process group.

    Raises the errors of a program that can't be started. When this returns, nothing of the process group is left, nor,
    where we adopt orphans, of what left it, but for what can't be killed: `any_orphans` tells of that.
    """
    started = time.monotonic()
    others = own_children()
    with program.start() as process:
        try:
            on_start(process.pid)
            output = AlgorithmOutput(process, channels, task)
            code, stop_reason, peak = _Run(process, output, limits, cancellation, others).watch()
        except BaseException:
            end_group(process.pid)
            end_orphans(but=others)
            raise
    return Exit(
        error=stop_reason or (AlgorithmFailed(code) if code else None),
        seconds=time.monotonic() - started,
        last_stderr_lines=output.last_stderr_lines,
        peak_memory_bytes=peak,
    )


class _Stage(Enum):
    """How far a program is on its way to its end."""

    RUNNING = auto()
    ASKED = auto()
    KILLED = auto()
    GIVEN_UP = auto()


class _Run:
    """The state of one run, from its start to the last line of its output.

    `_due` is when the next stage begins, if the program is still there: at its time limit it is asked to end, after its
    grace it is killed, and where that does nothing it is given up.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        output: AlgorithmOutput,
        limits: Limits,
        cancellation: Cancellation,
        others: Collection[int],
    ) -> None:
        self._process = process
        self._others = others
        self._output = output
        self._limits = limits
        self._cancellation = cancellation
        self._memory = PeakMemory(process.pid)
        self._sample_at = 0.0
        self._stop_reason: LongshoreError | None = None
        self._stage = _Stage.RUNNING
        self._due = math.inf if limits.run_seconds is None else time.monotonic() + limits.run_seconds

    def watch(self) -> tuple[int, LongshoreError | None, int]:
        """Return the exit code, why the run was stopped if it was, and the peak memory in bytes."""
        leader = os.pidfd_open(self._process.pid)
        try:
            while leader not in self._step(leader, self._seconds_to_next_limit()) and self._stage != _Stage.GIVEN_UP:
                self._keep_limits()
        finally:
            os.close(leader)
        if self._stop_reason is None:
            signal_group(self._process.pid, signal.SIGKILL)  # while its leader is not reaped the number is its own
        code, max_resident_kib = self._reap()
        while self._stage == _Stage.ASKED and group_runs(self._process.pid) and time.monotonic() < self._due:
            self._step(None, GROUP_POLL_SECONDS)  # the others of the group have their grace too
        end_group(self._process.pid)
        if left := end_orphans(but=self._others):
            logger.info("The algorithm left %d processes outside its group, which were ended", left)
        self._output.end()
        return code, self._stop_reason, self._memory.ended(max_resident_kib)

    def _step(self, leader: int | None, seconds: float) -> dict[int, int]:
        """Wait for the next event, move bytes, and return what was ready."""
        poll = select.poll()
        self._output.register(poll)
        if leader is not None:
            poll.register(leader, select.POLLIN)
            if self._stop_reason is None:
                poll.register(self._cancellation, select.POLLIN)
        ready = dict(poll.poll(math.ceil(seconds * 1000)))
        self._output.advance(ready)
        return ready

    def _seconds_to_next_limit(self) -> float:
        return max(0.0, min(self._due, self._sample_at) - time.monotonic())

    def _keep_limits(self) -> None:
        now = time.monotonic()
        if self._stage == _Stage.RUNNING and (self._cancellation.reason or now >= self._due):
            self._stop_reason = self._cancellation.reason or TimeLimitExceeded(self._limits.run_seconds or 0)
            self._enter(_Stage.ASKED, now + self._limits.grace_seconds)
            signal_group(self._process.pid, signal.SIGTERM)
        elif self._stage == _Stage.ASKED and now >= self._due:
            logger.warning("The algorithm did not end within %g s of SIGTERM; killing it", self._limits.grace_seconds)
            self._enter(_Stage.KILLED, now + KILLED_SECONDS)
            signal_group(self._process.pid, signal.SIGKILL)
        elif self._stage == _Stage.KILLED and now >= self._due:
            logger.error("The algorithm did not end within %g s of SIGKILL; it is left behind", KILLED_SECONDS)
            self._enter(_Stage.GIVEN_UP, math.inf)
        if now >= self._sample_at:
            self._memory.sample()
            with suppress(OSError):  # no file is free for the look: the next one may find it
                reap_orphans(but=[self._process.pid, *self._others])
            self._sample_at = now + SAMPLE_SECONDS

    def _enter(self, stage: _Stage, due: float) -> None:
        self._stage, self._due = stage, due

    def _reap(self) -> tuple[int, int]:
        """Return the exit code, 128 + n for signal n, and the rusage's maximum resident size in KiB.

        A program that was given up has none of both; it stays our child, beside which no other task runs.
        """
        pid, status, usage = os.wait4(self._process.pid, os.WNOHANG if self._stage == _Stage.GIVEN_UP else 0)
        code = self._process.returncode = os.waitstatus_to_exitcode(status) if pid else -signal.SIGKILL
        return (128 - code if code < 0 else code), usage.ru_maxrss
