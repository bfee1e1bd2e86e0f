"""The way of questions to the process that keeps the algorithm's own server, and of its answers.

Whoever asks makes a socket pair and hands one end over, so an answer can't reach another than who asked, and its end
is seen by both sides: a question whose asker is gone is withdrawn, a keeper that is gone answers nobody.
"""

import json
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from .cancellation import Cancellation
from .errors import (
    Interrupted,
    InvokeBroken,
    InvokeRefused,
    InvokeUnreachable,
    LongshoreError,
    ServerNotHealthy,
    ServerNotStarted,
    TimeLimitExceeded,
    WorkerLost,
)

READ_BYTES = 64 * 1024
MAX_QUESTION_BYTES = 4096
ANSWER_SECONDS = 5.0
"""How long an asker may take to read its answer."""

ERRORS: dict[str, Callable[..., LongshoreError]] = {
    error.code: error
    for error in (
        Interrupted,
        InvokeBroken,
        InvokeRefused,
        InvokeUnreachable,
        ServerNotHealthy,
        ServerNotStarted,
        TimeLimitExceeded,
        WorkerLost,
    )
}


@dataclass(frozen=True)
class Answer:
    """How it went: `error` is the code of one of ours, with what that is made of, None if all went well."""

    error: str | None
    error_args: list[float | str] = field(default_factory=list)
    seconds: float = 0.0
    last_stderr_lines: list[str] = field(default_factory=list)
    peak_memory_bytes: int = 0

    @classmethod
    def failed(cls, error: LongshoreError) -> "Answer":
        return cls(error.code, list(error.args))

    @property
    def fault(self) -> LongshoreError | None:
        return ERRORS[self.error](*self.error_args) if self.error else None


DONE = Answer(None)
NOBODY = Answer.failed(WorkerLost())
"""What is taken as the answer when there is none: the keeper is gone, or the question was withdrawn before it began."""

TAKEN = b"+"
"""Comes before the answer for a task, when it begins."""


class Question:
    """A question as the keeper has it: how the task `task` went, or with None for it, whether a task can begin.

    Its descriptor becomes readable when it is withdrawn.
    """

    def __init__(self, asker: socket.socket, task: str | None, run_seconds: float | None) -> None:
        self.task = task
        self.run_seconds = run_seconds
        self._asker = asker

    def fileno(self) -> int:
        return self._asker.fileno()

    def take(self) -> bool:
        """Begin with the task; return False if nobody waits for it any more."""
        poll = select.poll()
        poll.register(self, select.POLLIN)
        if not poll.poll(0):
            with suppress(OSError):
                self._asker.sendall(TAKEN)
                return True
        self._asker.close()
        return False

    def answer(self, answer: Answer) -> None:
        """Answer, and close the connection; nothing happens if nobody waits for it any more."""
        self._asker.settimeout(ANSWER_SECONDS)
        with self._asker, suppress(OSError):
            self._asker.sendall(json.dumps(vars(answer)).encode())


class ResidentChannel:
    """One for all workers and the keeper; made before they are forked."""

    def __init__(self) -> None:
        self._keeper, self._asker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    # -- in who asks

    def await_health(self, cancellation: Cancellation) -> None:
        """Wait until the server is healthy, and nothing goes on there.

        Raises ServerNotStarted, ServerNotHealthy, WorkerLost when the keeper is gone, and the cancellation's reason.
        """
        with self._asked(None, None) as connection:
            if not _is_readable(connection, cancellation):
                cancellation.raise_if_set()
            fault = _received(connection).fault
        if fault:
            cancellation.raise_if_set()
            raise fault

    def invoke(self, task: str, run_seconds: float | None, cancellation: Cancellation) -> Answer:
        """Have a task run, and return how that went once nothing of it goes on; NOBODY if it did not begin.

        When the task is cancelled the server is ended, which is waited for.
        """
        with self._asked(task, run_seconds) as connection:
            if not _is_readable(connection, cancellation) or connection.recv(len(TAKEN)) != TAKEN:
                return NOBODY
            if not _is_readable(connection, cancellation):
                connection.shutdown(socket.SHUT_WR)
            return _received(connection)

    def _asked(self, task: str | None, run_seconds: float | None) -> socket.socket:
        """Ask, and return the connection on which the answer comes."""
        mine, theirs = socket.socketpair()
        with theirs, suppress(OSError):  # the keeper is gone: nobody answers
            socket.send_fds(self._asker, [json.dumps([task, run_seconds]).encode()], [theirs.fileno()])
        return mine

    def close_keeper(self) -> None:
        """Make this process one that only asks; after a fork."""
        self._keeper.close()

    # -- in the keeper

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is a question."""
        return self._keeper.fileno()

    def receive(self) -> Question:
        """Return the next question; raises Interrupted when nobody is left to ask."""
        message, descriptors, _, _ = socket.recv_fds(self._keeper, MAX_QUESTION_BYTES, 1)
        if not message:
            raise Interrupted
        task, run_seconds = json.loads(message)
        return Question(socket.socket(fileno=descriptors[0]), task, run_seconds)

    def close_asker(self) -> None:
        """Make this process the keeper; after a fork."""
        self._asker.close()

    # -- in whoever made it

    def close(self) -> None:
        """Leave it to those that were forked."""
        self._keeper.close()
        self._asker.close()


def _is_readable(connection: socket.socket, cancellation: Cancellation) -> bool:
    """Wait until something came on a connection, or its end; return False if it is cancelled before."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    poll.register(cancellation, select.POLLIN)
    return connection.fileno() in dict(poll.poll())


def _received(connection: socket.socket) -> Answer:
    """Return the answer that comes on a connection; NOBODY if none does, or half of one."""
    received = b""
    while chunk := connection.recv(READ_BYTES):
        received += chunk
    try:
        return Answer(**json.loads(received))
    except ValueError:
        return NOBODY
