"""A stream that a thread reads ahead: in its order, bounded, and never longer than it is wanted."""

import io
import os
import threading
from typing import Any

import pytest

from model_server.read_ahead import BLOCK_BYTES, BLOCKS_AHEAD, Counted, ReadAhead, fetched_ahead

DEADLINE_SECONDS = 20


class Endless:
    """A source that counts what is asked of it, and tells when that is as much as is read ahead."""

    def __init__(self, fault_after: int | None = None) -> None:
        self.reads = 0
        self.full = threading.Event()
        self._fault_after = fault_after

    def read(self, size: int) -> bytes:
        if self.reads == self._fault_after:
            raise EOFError
        self.reads += 1
        if self.reads > BLOCKS_AHEAD:
            self.full.set()
        return bytes([self.reads])


def nobody_reads() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def ahead_of(source: Endless) -> ReadAhead:
    return ReadAhead(source, Counted(io.BufferedReader(io.BytesIO())))


def test_blocks_come_in_their_order_with_what_was_read_of_the_body() -> None:
    body = Counted(io.BufferedReader(io.BytesIO(b"x" * BLOCK_BYTES + b"y")))
    with ReadAhead(body, body) as ahead:
        blocks = [ahead.next_block() for _ in range(3)]
    assert blocks == [(b"x" * BLOCK_BYTES, BLOCK_BYTES), (b"y", BLOCK_BYTES + 1), (b"", BLOCK_BYTES + 1)]
    assert nobody_reads()


def test_a_fault_comes_after_the_blocks_before_it() -> None:
    with ahead_of(Endless(fault_after=3)) as ahead:
        assert [ahead.next_block()[0] for _ in range(3)] == [b"\1", b"\2", b"\3"]
        with pytest.raises(EOFError):
            ahead.next_block()
    assert nobody_reads()


def test_no_more_is_read_than_there_is_room_for() -> None:
    source = Endless()
    with ahead_of(source):
        assert source.full.wait(DEADLINE_SECONDS)
    assert source.reads <= BLOCKS_AHEAD + 2  # the one that waits for room, and one that may come after the end


@pytest.mark.parametrize("fault_after", [None, BLOCKS_AHEAD + 1])
def test_the_thread_ends_while_it_waits_for_room(fault_after: int | None) -> None:
    source = Endless(fault_after)
    with ahead_of(source) as ahead:
        ahead.next_block()
        assert source.full.wait(DEADLINE_SECONDS)
    assert nobody_reads()


def test_a_body_that_is_fetched_ahead_is_the_same_in_pieces_of_any_size() -> None:
    data = os.urandom(3 * BLOCK_BYTES + 5)
    with fetched_ahead(io.BufferedReader(io.BytesIO(data))) as body:
        pieces = [body.read(7), body.peek(1)[:1], body.read(BLOCK_BYTES + 1), body.read(), body.read(1)]
    assert pieces[1] == data[7:8]
    assert pieces[0] + b"".join(pieces[2:]) == data
    assert nobody_reads()


def test_what_breaks_while_it_is_fetched_breaks_who_reads_it() -> None:
    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, _: Any) -> int:
            raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError, match="gone"), fetched_ahead(io.BufferedReader(Broken())) as body:
        body.read(1)
    assert nobody_reads()


def test_a_machine_without_threads_is_told_as_its_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(BlockingIOError), ahead_of(Endless()):
        pass
