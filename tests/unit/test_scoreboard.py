"""The table that all processes of the server share."""

import os

import pytest

from model_server.scoreboard import Scoreboard


def test_it_begins_empty_and_not_ready() -> None:
    board = Scoreboard(2, 3)
    assert not board.ready
    assert [(slot.worker, slot.group) for slot in board.slots] == [(0, 0)] * 2
    assert [place.ticket for place in board.queue] == [0] * 3


@pytest.mark.parametrize(("slots", "places"), [(1, 0), (1, 1000), (4, 16)])
def test_it_has_as_many_entries_as_asked_for(slots: int, places: int) -> None:
    board = Scoreboard(slots, places)
    assert (len(board.slots), len(board.queue)) == (slots, places)


@pytest.mark.parametrize("missing", ["listening", "set_up", "healthy"])
def test_tasks_can_run_once_all_that_has_to_be_is_there_and_no_longer_than_that(missing: str) -> None:
    board = Scoreboard(1, 1)
    board.state.listening = board.state.set_up = board.state.healthy = True
    assert board.ready is True
    setattr(board.state, missing, False)
    assert board.ready is False
    setattr(board.state, missing, True)
    assert board.ready is True


def test_tickets_only_rise() -> None:
    board = Scoreboard(1, 1)
    tickets = [board.next_ticket() for _ in range(100)]
    assert tickets == sorted(set(tickets))
    assert min(tickets) > 0


def test_two_tables_share_nothing() -> None:
    one, other = Scoreboard(1, 1), Scoreboard(1, 1)
    one.slots[0].worker = 7
    assert other.slots[0].worker == 0


def test_the_highest_pid_fits() -> None:
    board = Scoreboard(1, 1)
    board.slots[0].group = 2**22
    assert board.slots[0].group == 2**22


def test_the_places_of_a_worker_that_ended_are_free_and_no_others() -> None:
    board = Scoreboard(1, 3)
    for place, worker in zip(board.queue, (5, 6, 5), strict=True):
        place.worker, place.ticket = worker, board.next_ticket()
    board.forget_waiting(5)
    assert [place.ticket for place in board.queue] == [0, 2, 0]


def test_the_slots_of_a_worker_that_ended_are_free_and_no_others() -> None:
    board = Scoreboard(3, 0)
    for slot, worker in zip(board.slots, (5, 6, 5), strict=True):
        slot.worker, slot.group = worker, os.getpid()
    board.clear_slots(5)
    assert [(slot.worker, bool(slot.group)) for slot in board.slots] == [(0, False), (6, True), (0, False)]
