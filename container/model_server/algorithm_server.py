"""The algorithm's own HTTP server: one process, from its start to its end, and the calls that it answers.

One loop watches the server's pipes, its process (a pidfd), the call that is on its way, the question that it is for,
and the word to stop.
"""

import logging
import math
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from .algorithm_output import AlgorithmOutput
from .cancellation import Cancellation
from .errors import (
    Interrupted,
    InvokeBroken,
    InvokeRefused,
    InvokeUnreachable,
    LongshoreError,
    PortTaken,
    ProcessesNotEnded,
    ServerNotHealthy,
    ServerNotStarted,
    TimeLimitExceeded,
)
from .log_channel import LogChannels
from .logs import logger, tell_user
from .loopback_call import CallBroken, CallRefused, LoopbackCall
from .orphans import any_orphans, end_orphans, reap_orphans
from .peak_memory import high_water_bytes
from .processes import GROUP_POLL_SECONDS, end_group, group_runs, signal_group, signal_name
from .program import Program
from .resident_channel import DONE, Answer, Question, ResidentChannel
from .scoreboard import ServerState
from .settings import Settings

HEALTH_PAUSE_SECONDS = 0.05
"""Between two calls of /health: a server is known to be healthy within 100 ms."""

PATIENT_SECONDS = 30.0
LONG_HEALTH_PAUSE_SECONDS = 1.0
"""The pause for a server that takes longer than this to start: each call may be a line of its log."""

REAP_SECONDS = 1.0
EXIT_SECONDS = 0.1
"""How long after a broken call it is waited for whether the server has ended by itself, so that the log says how."""

STRANGER_SECONDS = 1.0

HEALTHY, CREATED = 200, 201


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
    """What the keeper of a server needs; in `state` it says whether tasks can run, and the server's process group.

    `eager` says that a server that is gone is brought back at once, else when it is next asked for.
    """

    settings: Settings
    command: Sequence[str]
    channels: LogChannels
    channel: ResidentChannel
    state: ServerState
    eager: bool


class AlgorithmServer:
    """The algorithm's server: one process at a time, and its output on the way to the log."""

    def __init__(self, resident: Resident, stop: Cancellation) -> None:
        self._resident = resident
        self._settings = resident.settings
        self._state = resident.state
        self._stop = stop
        self._process: subprocess.Popen[bytes] | None = None
        self._output: AlgorithmOutput
        self._pidfd = -1
        self._reap_at = 0.0

    @property
    def is_there(self) -> bool:
        return self._process is not None

    # -- its start

    def start(self, give_up_at: float = math.inf) -> None:
        """Start it, and wait until it is healthy; raises ServerNotStarted, ServerNotHealthy, and Interrupted."""
        started = time.monotonic()
        try:
            self._refuse_strangers()
            self._process = Program.from_settings(self._settings, self._resident.command).start()
        except LongshoreError as error:
            raise _not_started("Could not start server", str(error)) from error
        self._state.resident = self._process.pid
        self._pidfd = os.pidfd_open(self._process.pid)
        self._output = AlgorithmOutput(self._process, self._resident.channels, task=None)
        try:
            self._await_health(started, min(started + self._settings.start_timeout, give_up_at))
        except BaseException:
            self.end()
            raise
        logger.info("The algorithm's server is healthy after %.3f s", time.monotonic() - started)
        self._state.healthy = True

    def _refuse_strangers(self) -> None:
        """Raise PortTaken if anybody listens on the port: health and results would be taken from there."""
        with socket.socket() as other:
            other.settimeout(STRANGER_SECONDS)
            taken = other.connect_ex(("127.0.0.1", self._settings.algorithm_port)) == 0
            if taken and other.getsockname() != other.getpeername():  # a connection may be to itself
                raise PortTaken(self._settings.algorithm_port)

    def _await_health(self, started: float, deadline: float) -> None:
        try:
            while not self._is_healthy(deadline):
                if time.monotonic() >= deadline:
                    raise ServerNotHealthy(self._settings.start_timeout, self._settings.health_timeout)
                patient = time.monotonic() - started > PATIENT_SECONDS
                self._run_for(LONG_HEALTH_PAUSE_SECONDS if patient else HEALTH_PAUSE_SECONDS)
            self._run_for(0)
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

    # -- its tasks

    def invoke(self, question: Question) -> Answer:
        """Run a task, and return how that went.

        Only a server that answered is kept: in any other the task may go on, and write among the files of the next.
        """
        self._output.begin_task(str(question.task))
        started = time.monotonic()
        error = self._post(question, started)
        seconds = time.monotonic() - started
        peak = high_water_bytes(self._process.pid) if self._process else 0
        if error is None or isinstance(error, InvokeRefused):
            self._output.end_task()
        else:
            with suppress(Ended, Interrupted):
                self._run_for(EXIT_SECONDS if isinstance(error, InvokeBroken) else 0)
            self.end()
        ended = Answer.failed(error) if error else DONE
        return replace(ended, seconds=seconds, last_stderr_lines=self._output.last_stderr_lines, peak_memory_bytes=peak)

    def _post(self, question: Question, started: float) -> LongshoreError | None:
        """Post to /invoke, and return the error that the task ends with."""
        limit = question.run_seconds
        try:
            status = self._call("POST", "/invoke", math.inf if limit is None else started + limit, question)
        except CallRefused:
            return InvokeUnreachable()
        except (CallBroken, Ended):
            return InvokeBroken()
        except TimeoutError:
            return TimeLimitExceeded(limit or 0.0)
        except (Withdrawn, Interrupted):
            return Interrupted()
        if status != CREATED:
            logger.error("Invoke endpoint returned status %d, expected %d", status, CREATED)
            return InvokeRefused(status)
        return None

    def wait_for(self, channel: ResidentChannel) -> bool:
        """Let it run until there is a question; return False if it has ended by itself before. Raises Interrupted."""
        ready: dict[int, int] = {}
        while channel.fileno() not in ready:
            ready = self._wait(REAP_SECONDS, [(channel, select.POLLIN)])
            if self._pidfd in ready:
                self.end()
                return False
        return True

    # -- while it runs

    def _call(self, method: str, path: str, deadline: float, question: Question | None = None) -> int:
        """Return the status of an answer.

        Raises CallRefused, CallBroken, TimeoutError, Ended, Withdrawn if the question is, and Interrupted.
        """
        asker: Watched = [(question, select.POLLIN)] if question else []
        with LoopbackCall(self._settings.algorithm_port, method, path) as call:
            while call.status is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                ready = self._wait(left, [(call, call.awaits), *asker])
                if question and question.fileno() in ready:
                    raise Withdrawn
                if call.fileno() in ready:
                    call.advance()
                elif self._pidfd in ready:
                    raise Ended(self._how_it_ended())
            return call.status

    def _run_for(self, seconds: float) -> None:
        """Let it run for a while; raises Ended and Interrupted."""
        deadline = time.monotonic() + seconds
        left = seconds
        while left >= 0:
            if self._pidfd in self._wait(left):
                raise Ended(self._how_it_ended())
            left = deadline - time.monotonic()

    def _wait(self, seconds: float, waiting: Watched = ()) -> dict[int, int]:
        """Wait for the next event, of the server or of what else is waited for; raises Interrupted."""
        ready = self._step(seconds, [*waiting, (self._stop, select.POLLIN)])
        self._stop.raise_if_set()
        return ready

    def _step(self, seconds: float, waiting: Watched = ()) -> dict[int, int]:
        """Wait for the next event, for a second at most, move output, and return the descriptors that are ready."""
        assert self._process
        poll = select.poll()
        self._output.register(poll)
        if self._process.returncode is None:
            poll.register(self._pidfd, select.POLLIN)
        for watched, event in waiting:
            poll.register(watched, event)
        ready = dict(poll.poll(math.ceil(max(0.0, min(seconds, REAP_SECONDS)) * 1000)))
        self._output.advance(ready)
        if time.monotonic() >= self._reap_at:
            reap_orphans(but=[self._process.pid])
            self._reap_at = time.monotonic() + REAP_SECONDS
        return ready

    # -- its end

    def end(self) -> None:
        """End the server and all that it started, after its grace, and take over its last lines."""
        if not self._process:
            return
        self._state.healthy = False
        if self._pidfd in self._step(0):
            logger.error("The algorithm's server %s", self._how_it_ended())
        pid = self._process.pid
        signal_group(pid, signal.SIGTERM)
        kill_at = time.monotonic() + self._settings.grace_seconds
        while self._process.poll() is None and time.monotonic() < kill_at:
            self._step(kill_at - time.monotonic())
        while group_runs(pid) and time.monotonic() < kill_at:  # the others of the group have their grace too
            self._step(GROUP_POLL_SECONDS)
        end_group(pid)
        self._process.wait()
        end_orphans()
        self._output.end()
        with self._process:
            self._process = None
        os.close(self._pidfd)
        self._state.resident = 0
        if any_orphans():
            logger.critical("%s", ProcessesNotEnded.sentence)
            raise SystemExit(1)  # nobody brings the server back beside them

    def _how_it_ended(self) -> str:
        assert self._process
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)  # not reaped: `end` signals its group
        assert found
        if found.si_code == os.CLD_EXITED:
            return f"ended with exit code {found.si_status}"
        return f"was ended by {signal_name(found.si_status)}"


def _not_started(what: str, why: str) -> ServerNotStarted:
    tell_user(logging.ERROR, f"{what}: {why}", None)
    return ServerNotStarted(f"{why}.")
