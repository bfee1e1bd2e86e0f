"""Turns of threads: one works, and whoever waits for the network lets the next one go on."""

import socket
import threading
from collections.abc import Iterator

import pytest

from model_server.http_answer import HttpAnswer
from model_server.turn import LARGE_BYTES, FairPlaces, Turns, await_readable, end_turn, large_turns, turn_for

from .waiting import DEADLINE_SECONDS, wait_until


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection; the first one gives up soon."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(DEADLINE_SECONDS)
        yield ours, theirs


def test_who_waits_for_an_answer_lets_the_next_one_go_on(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    turns, done = Turns(), list[str]()

    def other() -> None:
        with turns:
            theirs.sendall(b"answer")
            done.append("other")  # still its turn: the first does not go on before it ends

    with turns:
        thread = threading.Thread(target=other)
        thread.start()
        await_readable(ours)
        done.append(ours.recv(10).decode())
    thread.join(DEADLINE_SECONDS)
    assert done == ["other", "answer"]


def test_an_answer_that_does_not_come_is_not_waited_for_for_ever(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    ours.settimeout(0.01)
    turns = Turns()
    with pytest.raises(TimeoutError), turns:
        await_readable(ours)
    with turns:  # it is free
        end_turn()
        end_turn()


def test_who_has_no_turn_waits_for_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    await_readable(pair[0])
    with Turns():
        end_turn()
        await_readable(pair[0])


def test_a_small_body_that_comes_in_pieces_keeps_nobody_waiting(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none")
    turns, buffer = Turns(), bytearray(100)

    def other() -> None:
        with turns:
            theirs.sendall(b" piece")

    with turns:
        answer = HttpAnswer(ours)
        thread = threading.Thread(target=other)
        thread.start()
        count = answer.fill(buffer, DEADLINE_SECONDS)
    thread.join(DEADLINE_SECONDS)
    assert bytes(buffer[:count]) == b"one piece"


def test_a_large_body_that_does_not_come_keeps_nobody_waiting(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n")
    turns, buffer = Turns(FairPlaces(1)), bytearray(90_000)

    def other() -> None:
        with turns:
            theirs.sendall(bytes(90_000))

    answer = HttpAnswer(ours)
    with turns:
        thread = threading.Thread(target=other)
        thread.start()
        count = answer.fill(buffer, DEADLINE_SECONDS)
    thread.join(DEADLINE_SECONDS)
    assert count == 90_000


def test_no_more_threads_than_there_are_places_copy_what_is_large() -> None:
    turns = Turns(FairPlaces(3))
    at_work, most, all_there = 0, 0, threading.Barrier(3)
    counting = threading.Lock()

    def work() -> None:
        nonlocal at_work, most
        with turns:
            with counting:
                at_work += 1
                most = max(most, at_work)
            all_there.wait(DEADLINE_SECONDS)  # three are at it at one time
            with counting:
                at_work -= 1

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert (at_work, most) == (0, 3)


def test_who_waits_longest_for_a_place_gets_it() -> None:
    places, came = FairPlaces(1), list[str]()
    places.acquire()

    def take(name: str) -> None:
        places.acquire()
        came.append(name)

    threads = [threading.Thread(target=take, args=(name,)) for name in "abc"]
    for thread in threads:
        waiting = len(places._waiting)
        thread.start()
        wait_until(lambda waiting=waiting: len(places._waiting) > waiting)
    for thread in threads:
        places.release()
        thread.join(DEADLINE_SECONDS)
    assert came == ["a", "b", "c"]
    places.release()
    places.acquire()  # it is free


@pytest.mark.parametrize("size", [LARGE_BYTES + 1, None])
def test_what_is_large_has_a_turn_of_its_own(size: int | None) -> None:
    with turn_for(size) as turn:
        assert turn is large_turns()


@pytest.mark.parametrize("size", [1, LARGE_BYTES])
def test_what_is_not_large_is_copied_in_the_turn_of_its_thread_if_it_has_one(size: int) -> None:
    place = threading.Lock()
    with Turns(place), turn_for(size):
        assert place.locked()
