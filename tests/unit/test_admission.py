"""Who runs next: first come first served, in a bounded queue."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from model_server.admission import admitted
from model_server.cancellation import Cancellation
from model_server.errors import ClientLeft, QueueFull
from model_server.scoreboard import Scoreboard
from model_server.slot import Slots

from .waiting import DEADLINE_SECONDS, wait_until


class Queue:
    """One slot, some places to wait, and threads that come one after another."""

    def __init__(self, folder: Path, places: int) -> None:
        self.board = Scoreboard(1, places)
        self.slots = Slots(folder, self.board)
        self.pool = ThreadPoolExecutor(32)
        self.served: list[int] = []
        self.together = 0
        self.go_on = threading.Event()

    @property
    def waiting(self) -> int:
        return sum(place.ticket != 0 for place in self.board.queue)

    def come(self, number: int, cancellation: Cancellation | None = None) -> "Future[None]":
        """Start a request, and return once it waits."""
        before = self.waiting
        future = self.pool.submit(self._run, number, cancellation or Cancellation())
        wait_until(lambda: self.waiting > before or future.done())
        return future

    def _run(self, number: int, cancellation: Cancellation) -> None:
        with admitted(self.slots, self.board, cancellation):
            self.together += 1
            assert self.together == 1
            self.served.append(number)
            self.together -= 1


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    queue = Queue(tmp_path, 8)
    yield queue
    queue.pool.shutdown()


def test_who_has_left_takes_no_slot_though_one_is_free(queue: Queue) -> None:
    cancellation = Cancellation()
    cancellation.cancel(ClientLeft())
    with pytest.raises(ClientLeft), admitted(queue.slots, queue.board, cancellation):
        raise AssertionError("admitted")
    assert queue.board.slots[0].worker == 0


def test_a_free_slot_is_had_at_once(queue: Queue) -> None:
    with admitted(queue.slots, queue.board, Cancellation()):
        assert queue.waiting == 0
        assert queue.board.slots[0].worker
    assert queue.board.slots[0].worker == 0


def test_who_comes_first_is_served_first(queue: Queue) -> None:
    with admitted(queue.slots, queue.board, Cancellation()):
        futures = [queue.come(number) for number in range(8)]
        assert queue.served == []
    for future in futures:
        future.result(DEADLINE_SECONDS)
    assert queue.served == list(range(8))
    assert queue.waiting == 0


def test_a_full_queue_says_so_at_once(queue: Queue) -> None:
    with admitted(queue.slots, queue.board, Cancellation()):
        futures = [queue.come(number) for number in range(8)]
        with pytest.raises(QueueFull):
            queue.come(9).result(DEADLINE_SECONDS)
        assert queue.waiting == 8
    for future in futures:
        future.result(DEADLINE_SECONDS)
    queue.come(10).result(DEADLINE_SECONDS)
    assert queue.served == [*range(8), 10]


def test_with_no_places_only_a_free_slot_can_be_had(tmp_path: Path) -> None:
    queue = Queue(tmp_path, 0)
    with admitted(queue.slots, queue.board, Cancellation()), pytest.raises(QueueFull):
        queue.come(1).result(DEADLINE_SECONDS)
    queue.come(2).result(DEADLINE_SECONDS)
    assert queue.served == [2]
    queue.pool.shutdown()


def test_who_leaves_frees_the_place(queue: Queue) -> None:
    leaving = Cancellation()
    with admitted(queue.slots, queue.board, Cancellation()):
        first, second, third = queue.come(1), queue.come(2, leaving), queue.come(3)
        leaving.cancel(ClientLeft())
        with pytest.raises(ClientLeft):
            second.result(DEADLINE_SECONDS)
        assert queue.waiting == 2
    first.result(DEADLINE_SECONDS)
    third.result(DEADLINE_SECONDS)
    assert queue.served == [1, 3]


def test_who_comes_later_does_not_overtake_those_who_wait(queue: Queue) -> None:
    place = queue.board.queue[0]
    place.worker, place.ticket = 1, queue.board.next_ticket()
    late = queue.come(1)
    assert queue.waiting == 2
    assert queue.board.slots[0].worker == 0
    place.ticket = 0
    late.result(DEADLINE_SECONDS)
    assert queue.served == [1]


def test_a_slot_is_free_again_after_a_fault(queue: Queue) -> None:
    with pytest.raises(ValueError, match="x"), admitted(queue.slots, queue.board, Cancellation()):
        raise ValueError("x")
    queue.come(1).result(DEADLINE_SECONDS)
    assert queue.served == [1]
