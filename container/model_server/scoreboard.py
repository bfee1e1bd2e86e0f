"""What every process of the server sees of the others: who runs a task, who waits, and whether the set-up is done.

A piece of anonymous memory that PID 1 makes before it forks gunicorn, so all workers share it and no other program
can reach it. Apache and gunicorn's kin call such a table a scoreboard. Each field is written by one process at a time:
a slot's by the holder of its lock, the queue's under a lock, the state's as `ServerState` says.
"""

import ctypes
import mmap
from enum import IntEnum

from .errors import ProcessesNotEnded


class SlotEntry(ctypes.Structure):
    """Who holds a slot: pid 0 is nobody. `group` is the process group of the algorithm, 0 before it runs."""

    _fields_ = (("worker", ctypes.c_int32), ("group", ctypes.c_int32))
    worker: int
    group: int


class QueueEntry(ctypes.Structure):
    """Who waits: ticket 0 is a free place; the lowest ticket is next."""

    _fields_ = (("ticket", ctypes.c_uint64), ("worker", ctypes.c_int32))
    ticket: int
    worker: int


class Stuck(IntEnum):
    """What a task left behind that nothing helps against but an end of the container."""

    NOT = 0
    FOLDERS = 1
    PROCESSES = 2

    @property
    def why(self) -> str:
        what = "The task folders can not be emptied" if self is Stuck.FOLDERS else ProcessesNotEnded.sentence
        return f"{what}, so no task can run"


class ServerState(ctypes.Structure):
    """What has to be true before tasks can run.

    PID 1 sets `listening` once nginx has its port, and `set_up`. The keeper of a resident program sets `healthy`, and
    `resident`, the program's process group, 0 for none. A worker sets `stuck` when no task can run any more.
    """

    _fields_ = (
        ("listening", ctypes.c_int32),
        ("set_up", ctypes.c_int32),
        ("healthy", ctypes.c_int32),
        ("resident", ctypes.c_int32),
        ("stuck", ctypes.c_int32),
    )
    listening: int
    set_up: int
    healthy: int
    resident: int
    stuck: int


class Scoreboard:
    """The shared table: `state`, and the arrays of entries `slots` and `queue`."""

    def __init__(self, slots: int, queue_limit: int) -> None:
        class Table(ctypes.Structure):
            _fields_ = (
                ("state", ServerState),
                ("last_ticket", ctypes.c_uint64),
                ("slots", SlotEntry * slots),
                ("queue", QueueEntry * queue_limit),
            )

        memory = mmap.mmap(-1, ctypes.sizeof(Table))
        self._table = Table.from_buffer(memory)
        self.state: ServerState = self._table.state
        self.slots: list[SlotEntry] = list(self._table.slots)
        self.queue: list[QueueEntry] = list(self._table.queue)
        numbers = memoryview(memory)[Table.queue.offset :].cast("Q")  # a place is two of them, the first its ticket
        self._tickets = numbers[: 2 * queue_limit : 2]

    @property
    def ready(self) -> bool:
        """Say whether tasks can run."""
        state = self.state
        return bool(state.listening and state.set_up and state.healthy and not state.stuck)

    def tickets(self) -> list[int]:
        """Return the tickets of all who wait, in one piece: many who look at each entry would do nothing else."""
        return [ticket for ticket in self._tickets.tolist() if ticket]

    def next_ticket(self) -> int:
        """Return a ticket higher than all before; only under the queue's lock."""
        self._table.last_ticket += 1
        return int(self._table.last_ticket)

    def forget_waiting(self, worker: int) -> None:
        """Free the places in the queue of a worker that has ended."""
        for place in self.queue:
            if place.worker == worker:
                place.ticket = 0

    def clear_slots(self, worker: int) -> None:
        """Free the slots of a worker that has ended, once nothing of its task is left to do."""
        for slot in self.slots:
            if slot.worker == worker:
                slot.group = 0
                slot.worker = 0
