"""Turns of threads: one works, and whoever waits for the network lets the next one go on."""

import socket
import threading
from collections.abc import Iterator

import pytest

from model_server.http_answer import HttpAnswer
from model_server.turn import Turns, await_readable, end_turn

from .waiting import DEADLINE_SECONDS


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
