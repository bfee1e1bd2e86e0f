"""The word that a task should end."""

import select
import threading
import time
from types import SimpleNamespace

import pytest

from model_server import cancellation
from model_server.cancellation import Cancellation
from model_server.errors import ClientLeft, Interrupted

from .waiting import DEADLINE_SECONDS, open_descriptors


def readable(cancellation: Cancellation) -> bool:
    return bool(select.select([cancellation], [], [], 0)[0])


def test_the_first_reason_stays() -> None:
    cancellation = Cancellation()
    first = ClientLeft()
    cancellation.cancel(first)
    cancellation.cancel(Interrupted())
    assert cancellation.reason is first
    with pytest.raises(ClientLeft):
        cancellation.raise_if_set()


def test_who_asks_all_the_time_hears_of_the_parent_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(cancellation, "time", SimpleNamespace(monotonic=lambda: now))
    parent = Cancellation()
    child = Cancellation(parent)
    child.check()
    parent.cancel(ClientLeft())
    child.check()
    now += cancellation.CHECK_SECONDS
    with pytest.raises(ClientLeft):
        child.check()
    parent.close()


def test_who_asks_all_the_time_hears_of_its_own_reason_at_once() -> None:
    mine = Cancellation()
    mine.check()
    mine.cancel(ClientLeft())
    for _ in range(2):
        with pytest.raises(ClientLeft):
            mine.check()


def test_it_is_readable_for_good_once_it_is_set() -> None:
    cancellation = Cancellation()
    cancellation.raise_if_set()
    assert not readable(cancellation)
    cancellation.cancel(ClientLeft())
    assert [readable(cancellation), readable(cancellation)] == [True, True]


def test_waiting_ends_with_its_time_when_nothing_happens() -> None:
    started = time.monotonic()
    Cancellation().wait(0.03)
    assert 0.02 < time.monotonic() - started < 1


@pytest.mark.parametrize("by_parent", [False, True])
def test_waiting_ends_as_soon_as_there_is_a_reason(by_parent: bool) -> None:
    parent = Cancellation()
    child = Cancellation(parent)
    timer = threading.Timer(0.02, (parent if by_parent else child).cancel, [ClientLeft()])
    timer.start()
    started = time.monotonic()
    with pytest.raises(ClientLeft):
        child.wait(DEADLINE_SECONDS * 10)
    assert time.monotonic() - started < DEADLINE_SECONDS
    timer.join()


def test_a_child_is_set_with_its_parent_and_not_the_other_way_round() -> None:
    parent = Cancellation()
    one, other = Cancellation(parent), Cancellation(parent)
    one.cancel(ClientLeft())
    assert parent.reason is None
    assert other.reason is None
    parent.cancel(Interrupted())
    assert isinstance(other.reason, Interrupted)
    assert isinstance(one.reason, ClientLeft)


def test_its_descriptor_goes_with_it() -> None:
    before = open_descriptors()
    for _ in range(50):
        Cancellation().cancel(ClientLeft())
    assert open_descriptors() == before
