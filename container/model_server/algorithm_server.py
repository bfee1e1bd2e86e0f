"""The algorithm's own HTTP server: one process, from its start to its end, and the calls that it answers.

One loop watches the server's pipes, its process (a pidfd), the call that is on its way, the question that it is for,
and the word to stop.
"""

import logging
import math
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .algorithm_output import AlgorithmOutput
from .cancellation import Cancellation
from .children import end_orphans, reap_orphans
from .errors import (
    Interrupted,
    InvokeBroken,
    InvokeRefused,
    InvokeUnreachable,
    LongshoreError,
    ServerNotHealthy,
    ServerNotStarted,
    TimeLimitExceeded,
)
from .log_channel import LogChannels
from .logs import logger, tell_user
from .loopback_call import CallBroken, CallRefused, LoopbackCall
from .peak_memory import high_water_bytes
from .processes import end_group, group_exists, signal_group, signal_name
from .program import Program
from .resident_channel import Answer, Question, ResidentChannel
from .settings import Settings

HEALTH_PAUSE_SECONDS = 0.05
"""Between two calls of /health: a server is known to be healthy within 100 ms."""

GROUP_POLL_SECONDS = 0.02
REAP_SECONDS = 1.0
EXIT_SECONDS = 0.1
"""How long after a broken call it is waited for whether the server has ended."""

HEALTHY, DONE = 200, 201


class Watchable(Protocol):
    def fileno(self) -> int: ...


Watched = Sequence[tuple[Watchable, int]]
"""What a poll is to wait for beside the server: descriptors, and the event of each."""


class Ended(Exception):
    """The server has ended by itself."""


class Withdrawn(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class Resident:
    """What the keeper needs; `on_health` is told whether tasks can run, `on_group` the server's process group, or 0.

    `eager` says that a server that is gone is brought back at once, else when it is next asked for.
    """

    settings: Settings
    command: Sequence[str]
    channels: LogChannels
    channel: ResidentChannel
    on_health: Callable[[bool], None]
    on_group: Callable[[int], None]
    eager: bool


class AlgorithmServer:
    """The algorithm's server: one process at a time, and its output on the way to the log."""

    def __init__(self, resident: Resident, stop: Cancellation) -> None:
        self._resident = resident
        self._settings = resident.settings
        self._stop = stop
        self._process: subprocess.Popen[bytes] | None = None
        self._output: AlgorithmOutput
        self._pidfd = -1
        self._reap_at = 0.0

    @property
    def is_there(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start it, and wait until it is healthy; raises ServerNotStarted, ServerNotHealthy, and Interrupted."""
        started = time.monotonic()
        try:
            self._process = Program.from_settings(self._settings, self._resident.command).start()
        except LongshoreError as error:
            raise _not_started("Could not start server", str(error)) from error
        self._resident.on_group(self._process.pid)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._output = AlgorithmOutput(self._process, self._resident.channels, task=None)
        try:
            self._await_health(started + self._settings.start_timeout)
        except BaseException:
            self.end()
            raise
        logger.info("The algorithm's server is healthy after %.3f s", time.monotonic() - started)
        self._resident.on_health(True)

    def _await_health(self, deadline: float) -> None:
        try:
            while not self._is_healthy(deadline):
                if time.monotonic() >= deadline:
                    raise ServerNotHealthy(self._settings.start_timeout, self._settings.health_timeout)
                self._watch(HEALTH_PAUSE_SECONDS)
        except Ended as error:
            raise _not_started("Health check failed", f"The server {error}") from None

    def _is_healthy(self, deadline: float) -> bool:
        """Ask once; whatever goes wrong but a redirect may pass."""
        try:
            status = self._call("GET", "/health", min(deadline, time.monotonic() + self._settings.health_timeout))
        except (CallRefused, CallBroken, TimeoutError):
            return False
        if 300 <= status < 400:
            raise _not_started("Health check failed", "Health endpoint returned redirect response")
        return status == HEALTHY

    def invoke(self, question: Question) -> Answer:
        """Run a task, and return how it went; a server whose task had to be stopped is ended before that."""
        started = time.monotonic()
        run_seconds = question.run_seconds
        self._output.begin_task(str(question.task))
        error, facts = self._post(question, math.inf if run_seconds is None else started + run_seconds)
        seconds = time.monotonic() - started
        peak = self._peak_memory()
        if error in (TimeLimitExceeded, Interrupted):
            self.end()
        elif not (error is InvokeBroken and self._ends_within(EXIT_SECONDS)):
            self._output.end_task()
        return Answer(error.code if error else None, facts, seconds, self._output.last_stderr_lines, peak)

    def _post(self, question: Question, deadline: float) -> tuple[type[LongshoreError] | None, list[float | str]]:
        """Post to /invoke, and return the error that the task ends with, and what that is made with."""
        try:
            status = self._call("POST", "/invoke", deadline, question)
        except CallRefused:
            return InvokeUnreachable, []
        except (CallBroken, Ended):
            return InvokeBroken, []
        except TimeoutError:
            return TimeLimitExceeded, [question.run_seconds or 0.0]
        except (Withdrawn, Interrupted):
            return Interrupted, []
        if status != DONE:
            logger.error("Invoke endpoint returned status %d, expected %d", status, DONE)
            return InvokeRefused, [status]
        return None, []

    def _call(self, method: str, path: str, deadline: float, question: Question | None = None) -> int:
        """Return the status of an answer.

        Raises CallRefused, CallBroken, TimeoutError, Ended, Withdrawn if the question is, and Interrupted.
        """
        with LoopbackCall(self._settings.algorithm_port, method, path) as call:
            while call.status is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                asker: Watched = [(question, select.POLLIN)] if question else []
                ready = self._wait(left, [(call, call.awaits), *asker])
                if call.fileno() in ready:
                    call.advance()
                elif question and question.fileno() in ready:
                    raise Withdrawn
                elif self._pidfd in ready:
                    raise Ended(self._how_it_ended())
            return call.status

    def wait_for(self, channel: ResidentChannel) -> bool:
        """Let it run until there is a question; return False if it has ended by itself before. Raises Interrupted."""
        try:
            while channel.fileno() not in self._watched(REAP_SECONDS, [(channel, select.POLLIN)]):
                pass
        except Ended as error:
            self._end_after(error)
            return False
        return True

    def _watch(self, seconds: float) -> None:
        """Let it run for a while; raises Ended and Interrupted."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._watched(left)

    def _watched(self, seconds: float, waiting: Watched = ()) -> dict[int, int]:
        """Wait for the next event; raises Ended and Interrupted."""
        ready = self._wait(seconds, waiting)
        if self._pidfd in ready:
            raise Ended(self._how_it_ended())
        return ready

    def _wait(self, seconds: float, waiting: Watched) -> dict[int, int]:
        """Wait for the next event, and move output meanwhile; raises Interrupted."""
        self._stop.raise_if_set()
        ready = self._step(seconds, [*waiting, (self._stop, select.POLLIN)])
        self._stop.raise_if_set()
        return ready

    def _step(self, seconds: float, waiting: Watched) -> dict[int, int]:
        assert self._process
        poll = select.poll()
        self._output.register(poll)
        if self._process.returncode is None:
            poll.register(self._pidfd, select.POLLIN)
        for watched, event in waiting:
            poll.register(watched, event)
        ready = dict(poll.poll(math.ceil(min(seconds, REAP_SECONDS) * 1000)))
        self._output.advance(ready)
        if time.monotonic() >= self._reap_at:
            reap_orphans(but=self._process.pid)
            self._reap_at = time.monotonic() + REAP_SECONDS
        return ready

    def _ends_within(self, seconds: float) -> bool:
        try:
            self._watch(seconds)
        except Ended as error:
            self._end_after(error)
            return True
        return False

    def _end_after(self, error: Ended) -> None:
        """End what is left of a server that has ended by itself."""
        logger.error("The algorithm's server %s", error)
        self.end()

    def _how_it_ended(self) -> str:
        assert self._process
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)  # not reaped: `end` signals its group
        assert found
        if found.si_code == os.CLD_EXITED:
            return f"ended with exit code {found.si_status}"
        return f"was ended by {signal_name(found.si_status)}"

    def _peak_memory(self) -> int:
        return high_water_bytes(self._process.pid) if self._process else 0

    def end(self) -> None:
        """End the server and all that it started, after its grace, and take over its last lines."""
        if not self._process:
            return
        self._resident.on_health(False)
        pid = self._process.pid
        signal_group(pid, signal.SIGTERM)
        kill_at = time.monotonic() + self._settings.grace_seconds
        while self._process.poll() is None and time.monotonic() < kill_at:
            self._step(kill_at - time.monotonic(), [])
        while group_exists(pid) and time.monotonic() < kill_at:  # the others of the group have their grace too
            self._step(GROUP_POLL_SECONDS, [])
        end_group(pid)
        self._process.wait()
        end_orphans()
        self._output.end()
        with self._process:
            self._process = None
        os.close(self._pidfd)
        self._resident.on_group(0)


def _not_started(what: str, why: str) -> ServerNotStarted:
    tell_user(logging.ERROR, f"{what}: {why}", None)
    return ServerNotStarted(f"{why}.")
