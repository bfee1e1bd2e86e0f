"""A slot: the lock on the task folders."""

import os
import stat
from pathlib import Path

import pytest

from model_server.scoreboard import Scoreboard
from model_server.slot import Slots

from .waiting import open_descriptors


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard(2, 1)


@pytest.fixture
def slots(tmp_path: Path, board: Scoreboard) -> Slots:
    return Slots(tmp_path, board)


def test_there_are_as_many_slots_as_entries_and_no_more(slots: Slots) -> None:
    assert slots.try_take() is not None
    assert slots.try_take() is not None
    assert slots.try_take() is None


def test_another_worker_sees_that_a_slot_is_taken(tmp_path: Path, board: Scoreboard, slots: Slots) -> None:
    taken = [slots.try_take(), slots.try_take()]
    assert all(taken)
    assert Slots(tmp_path, board).try_take() is None


def test_a_slot_can_be_taken_again_after_its_release(slots: Slots, board: Scoreboard) -> None:
    for _ in range(50):
        slot = slots.try_take()
        assert slot is not None
        slot.runs(4711)
        assert board.slots[0].group == 4711
        slot.release()
        assert (board.slots[0].worker, board.slots[0].group) == (0, 0)


def test_a_slot_says_who_holds_it(slots: Slots, board: Scoreboard) -> None:
    assert slots.try_take()
    assert [entry.worker for entry in board.slots] == [os.getpid(), 0]


def test_a_slot_whose_holder_died_is_not_given_out_before_its_entry_is_cleared(slots: Slots, board: Scoreboard) -> None:
    for entry in board.slots:
        entry.worker = 999
    assert slots.try_take() is None
    board.clear_slots(999)
    assert slots.try_take() is not None


def test_looking_for_a_slot_leaves_no_descriptor_behind(slots: Slots, board: Scoreboard) -> None:
    slots.try_take()
    board.slots[1].worker = 999
    before = open_descriptors()
    for _ in range(20):
        assert slots.try_take() is None
    assert open_descriptors() == before


def test_a_lock_is_not_passed_to_a_program_and_not_for_others_to_open(slots: Slots, tmp_path: Path) -> None:
    slot = slots.try_take()
    assert slot is not None
    assert not os.get_inheritable(slot._lock)
    assert stat.S_IMODE((tmp_path / "slot-0.lock").stat().st_mode) == 0o600


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path, slots: Slots) -> None:
    (tmp_path / "slot-0.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        slots.try_take()
    assert not (tmp_path / "elsewhere").exists()


def test_the_lock_of_the_queue_is_free_after_a_fault(slots: Slots) -> None:
    with pytest.raises(ValueError, match="x"), slots.queue_lock():
        raise ValueError("x")
    with slots.queue_lock():
        pass
