"""Turns of threads: one works, and whoever waits for the network lets the next one go on."""

import socket
import threading
from collections.abc import Iterator

import pytest

from model_server.http_answer import PLENTY_BYTES, HttpAnswer
from model_server.turn import (
    LARGE_BYTES,
    FairPlaces,
    Turns,
    await_readable,
    await_writable,
    end_turn,
    large_turns,
    turn_for,
)

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


def test_what_is_large_has_a_turn_of_its_own() -> None:
    with turn_for(LARGE_BYTES + 1) as turn:
        assert turn is large_turns()


@pytest.fixture
def large_body(request: pytest.FixtureRequest) -> Iterator[tuple[HttpAnswer, socket.socket]]:
    """The answer of whose body nothing is there yet, and the end that sends it: ten times what is plenty."""
    size = getattr(request, "param", 10 * PLENTY_BYTES)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        ours.settimeout(DEADLINE_SECONDS)
        theirs, _ = server.accept()
        with theirs:
            theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            yield HttpAnswer(ours), theirs


def test_there_is_plenty_of_a_large_body_where_there_is_much(large_body: tuple[HttpAnswer, socket.socket]) -> None:
    answer, theirs = large_body
    assert not answer.has_plenty()
    theirs.sendall(bytes(30_000))
    assert not answer.has_plenty(0.01)
    theirs.sendall(bytes(PLENTY_BYTES - 30_000))
    assert answer.has_plenty(DEADLINE_SECONDS)
    wait_until(answer.has_plenty)  # the kernel may say so a little before, where it has no more room


@pytest.mark.parametrize("large_body", [30_000], indirect=True)
def test_there_is_plenty_where_all_that_is_left_is_there(large_body: tuple[HttpAnswer, socket.socket]) -> None:
    answer, theirs = large_body
    theirs.sendall(bytes(29_999))
    assert not answer.has_plenty(0.01)
    theirs.sendall(bytes(1))
    assert answer.has_plenty(DEADLINE_SECONDS)
    taken, buffer = 0, bytearray(9_000)
    while count := answer.take(buffer):
        taken += count
        assert answer.has_plenty()
    assert taken == 30_000


def test_little_of_a_body_can_be_taken_after_more_was_waited_for(
    large_body: tuple[HttpAnswer, socket.socket],
) -> None:
    answer, theirs = large_body
    theirs.sendall(b"little")
    assert not answer.has_plenty(0.01)
    assert answer.take(bytearray(100)) == len("little")


def test_who_waits_for_plenty_sees_at_once_that_there_is_no_more(
    large_body: tuple[HttpAnswer, socket.socket],
) -> None:
    answer, theirs = large_body
    theirs.close()
    assert answer.has_plenty(DEADLINE_SECONDS)
    assert answer.take(bytearray(100)) == 0


def test_a_body_of_unknown_length_is_waited_for_by_whoever_takes_it(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    assert HttpAnswer(ours).has_plenty()


def test_who_waits_for_room_does_so_for_as_long_as_the_socket_allows(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    await_writable(ours)
    ours.settimeout(0.01)
    with pytest.raises(TimeoutError):
        ours.sendall(bytes(10_000_000))
    with pytest.raises(TimeoutError):
        await_writable(ours)
    theirs.recv(10_000_000)
    await_writable(ours)


@pytest.mark.parametrize("size", [1, LARGE_BYTES])
def test_what_is_not_large_is_copied_in_the_turn_of_its_thread_if_it_has_one(size: int) -> None:
    place = threading.Lock()
    with Turns(place), turn_for(size):
        assert place.locked()
