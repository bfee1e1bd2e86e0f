"""Which tasks the workers have accepted and not finished: kept in PID 1's memory, told over a socket pair.

A file would be something that the algorithm could write; a worker's own memory ends with the worker.
"""

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass

from .task import Task

MAX_MESSAGE_BYTES = 64 * 1024


@dataclass(frozen=True)
class AcceptedTask:
    """As much of a task as its result needs."""

    pk: str
    output_bucket_name: str
    output_prefix: str

    @classmethod
    def of(cls, task: Task) -> "AcceptedTask":
        return cls(task.pk, task.output_bucket_name, task.output_prefix)

    def task(self) -> Task:
        return Task(
            pk=self.pk,
            inputs=[],
            output_bucket_name=self.output_bucket_name,
            output_prefix=self.output_prefix,
        )


class Ledger:
    """The tasks of all workers; workers and gunicorn's arbiter write to it, PID 1 reads."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._reader.setblocking(False)
        self._unfinished: dict[int, list[AcceptedTask]] = {}

    # -- in a worker

    def accepted(self, tasks: list[Task]) -> None:
        for task in tasks:
            self._tell("accepted", task)

    def finished(self, task: Task) -> None:
        self._tell("finished", task)

    def _tell(self, event: str, task: Task) -> None:
        self._send(event, os.getpid(), vars(AcceptedTask.of(task)))

    # -- in gunicorn's arbiter

    def worker_ended(self, worker: int) -> None:
        self._send("ended", worker, {})

    def _send(self, event: str, worker: int, task: dict[str, str]) -> None:
        self._writer.send(json.dumps([event, worker, task]).encode())

    # -- in PID 1

    def fileno(self) -> int:
        """Return the descriptor that is readable when `receive` has something to do."""
        return self._reader.fileno()

    def receive(self) -> list[int]:
        """Take over all messages, and return the workers that have ended since."""
        ended: list[int] = []
        while True:
            try:
                event, worker, task = json.loads(self._reader.recv(MAX_MESSAGE_BYTES))
            except BlockingIOError:
                return ended
            if event == "ended":
                ended.append(worker)
            elif event == "accepted":
                self._unfinished.setdefault(worker, []).append(AcceptedTask(**task))
            else:
                with suppress(KeyError, ValueError):  # a late word of a worker that was settled already
                    self._unfinished[worker].remove(AcceptedTask(**task))

    def unfinished(self, worker: int) -> list[AcceptedTask]:
        """Return the tasks that a worker has accepted and not finished."""
        return self._unfinished.get(worker, [])

    def forget(self, worker: int) -> None:
        """Forget the tasks of a worker that has ended, once another process has them."""
        self._unfinished.pop(worker, None)

    def workers(self) -> list[int]:
        """Return the workers that have unfinished tasks."""
        return [worker for worker, tasks in self._unfinished.items() if tasks]
