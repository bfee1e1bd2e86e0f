"""Whether the client is still there, over a real pair of sockets."""

import socket
import threading
from collections.abc import Iterator

import pytest

from model_server.cancellation import Cancellation
from model_server.client import watched
from model_server.errors import ClientLeft, Interrupted

from .waiting import DEADLINE_SECONDS, open_descriptors, wait_until


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_a_client_that_leaves_cancels(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    cancellation = Cancellation()
    with watched(ours, cancellation):
        theirs.close()
        wait_until(lambda: cancellation.reason)
    assert isinstance(cancellation.reason, ClientLeft)


def test_a_client_that_had_left_cancels_before_anything_is_done(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"half a request")
    theirs.close()
    cancellation = Cancellation()
    with watched(ours, cancellation):
        assert isinstance(cancellation.reason, ClientLeft)


def test_a_client_that_stays_does_not_cancel_and_keeps_its_connection(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    cancellation = Cancellation()
    with watched(ours, cancellation):
        pass
    ours.sendall(b"answer")
    assert theirs.recv(10) == b"answer"
    assert cancellation.reason is None


def test_a_client_that_sends_more_is_still_there_and_its_bytes_are_left_alone(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    cancellation = Cancellation()
    with watched(ours, cancellation):
        theirs.sendall(b"GET /ping")
    assert cancellation.reason is None
    assert ours.recv(20) == b"GET /ping"


def test_without_a_connection_there_is_nothing_to_watch() -> None:
    cancellation = Cancellation()
    with watched(None, cancellation):
        assert cancellation.reason is None
    assert cancellation.reason is None


def test_the_watch_ends_with_its_block_also_after_a_fault(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    cancellation = Cancellation()
    with pytest.raises(ValueError, match="x"), watched(ours, cancellation):
        raise ValueError("x")
    theirs.close()
    assert cancellation.reason is None


@pytest.mark.parametrize("as_child", [False, True])
def test_whoever_waits_for_the_word_to_end_is_woken_by_a_client_that_leaves(
    pair: tuple[socket.socket, socket.socket], as_child: bool
) -> None:
    ours, theirs = pair
    cancellation = Cancellation()
    waiting = Cancellation(cancellation) if as_child else cancellation
    with watched(ours, cancellation):
        threading.Timer(0.02, theirs.close).start()
        with pytest.raises(ClientLeft):
            waiting.wait(DEADLINE_SECONDS * 10)


def test_another_word_to_end_is_heard_beside_a_client_that_stays(pair: tuple[socket.socket, socket.socket]) -> None:
    cancellation = Cancellation()
    with watched(pair[0], cancellation):
        threading.Timer(0.02, cancellation.cancel, [Interrupted()]).start()
        with pytest.raises(Interrupted):
            cancellation.wait(DEADLINE_SECONDS * 10)


def test_a_watch_leaves_no_descriptor(pair: tuple[socket.socket, socket.socket]) -> None:
    before = open_descriptors()
    for _ in range(50):
        with watched(pair[0], Cancellation()):
            pass
    assert open_descriptors() == before
