"""Answers of HTTP as they come from a socket, whole or in pieces: as http.client takes them, and less patiently."""

import http.client
import io
import socket
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_server.http_answer import MAX_HEAD_BYTES, BrokenAnswer, ConnectionLost, HttpAnswer

LENGTH = b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\nETag: "a"\r\n\r\nhello world'
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6;x=y\r\nhello \r\n5\r\nworld\r\n0\r\nx-late: 1\r\n\r\n"
TO_THE_END = b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\nhello world"
DEADLINE_SECONDS = 5.0
ANSWERS = [LENGTH, CHUNKS, TO_THE_END]


class Pieces:
    """A socket from which bytes come in these pieces, and then its end."""

    def __init__(self, data: bytes, cuts: list[int]) -> None:
        bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
        self._pieces = [data[start:end] for start, end in pairwise(bounds)]

    def recv(self, most: int) -> bytes:
        if not self._pieces:
            return b""
        piece, rest = self._pieces[0][:most], self._pieces[0][most:]
        self._pieces[:1] = [rest] if rest else []
        return piece

    def recv_into(self, buffer: Any) -> int:
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def makefile(self, mode: str) -> io.BytesIO:
        """Give http.client all of it."""
        return io.BytesIO(b"".join(self._pieces))


def read_of(data: bytes, cuts: list[int] | None = None) -> tuple[HttpAnswer, bytes]:
    answer = HttpAnswer(Pieces(data, cuts or []))  # type: ignore[arg-type]
    return answer, body_of(answer)


def body_of(answer: HttpAnswer, size: int = 7) -> bytes:
    body, buffer = b"", bytearray(size)
    while count := answer.read_into(buffer):
        body += buffer[:count]
    return body


@pytest.mark.parametrize("data", ANSWERS)
@given(cuts=st.lists(st.integers(1, 120), max_size=12))
@settings(max_examples=60)
def test_an_answer_is_what_http_client_takes_it_for_however_it_comes(data: bytes, cuts: list[int]) -> None:
    answer, body = read_of(data, cuts)
    theirs = http.client.HTTPResponse(Pieces(data, []), method="GET")  # type: ignore[arg-type]
    theirs.begin()
    assert (answer.status, body) == (theirs.status, theirs.read())
    assert answer.headers == {name.lower(): value for name, value in theirs.getheaders()}
    assert answer.can_go_on == (not theirs.will_close)
    assert answer.is_ended


@given(
    body=st.binary(max_size=200),
    cuts=st.lists(st.integers(1, 400), max_size=20),
    size=st.integers(1, 64),
    after=st.sampled_from([b"", b"HTTP/1.1 200 OK"]),
)
@settings(max_examples=200)
def test_a_buffer_is_filled_however_the_body_comes(body: bytes, cuts: list[int], size: int, after: bytes) -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body + after
    answer = HttpAnswer(Pieces(data, cuts))  # type: ignore[arg-type]
    buffer, pieces = bytearray(size), list[bytes]()
    while count := answer.fill(buffer, DEADLINE_SECONDS):
        pieces.append(bytes(buffer[:count]))
    assert b"".join(pieces) == body
    assert all(len(piece) == size for piece in pieces[:-1])
    assert answer.is_ended


def test_a_body_that_is_cut_off_ends_the_filling() -> None:
    answer = HttpAnswer(Pieces(LENGTH[:-2], []))  # type: ignore[arg-type]
    buffer = bytearray(1000)
    count = answer.fill(buffer, DEADLINE_SECONDS)
    assert LENGTH.endswith(bytes(buffer[:count]) + LENGTH[-2:])
    assert (answer.fill(buffer, DEADLINE_SECONDS), answer.is_ended) == (0, False)


@given(
    body=st.binary(max_size=200),
    chunk=st.integers(1, 64),
    cuts=st.lists(st.integers(1, 400), max_size=20),
    size=st.integers(1, 64),
)
def test_a_body_in_chunks_is_whole_however_it_is_cut_and_read(
    body: bytes, chunk: int, cuts: list[int], size: int
) -> None:
    chunks = [body[start : start + chunk] for start in range(0, len(body), chunk)]
    coded = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in chunks) + b"0\r\n\r\n"
    answer = HttpAnswer(Pieces(CHUNKS[: CHUNKS.index(b"\r\n\r\n") + 4] + coded, cuts))  # type: ignore[arg-type]
    assert body_of(answer, size) == body
    assert (answer.is_ended, answer.can_go_on, answer.size) == (True, True, None)


def test_a_body_that_ends_early_says_nothing_and_keeps_no_connection() -> None:
    answer, body = read_of(LENGTH[:-1])
    assert (body, answer.size) == (b"hello worl", 11)
    assert not answer.is_ended
    assert not answer.can_go_on


@pytest.mark.parametrize("left", range(1, len(CHUNKS) - CHUNKS.index(b"6;")))
def test_chunks_that_end_early_are_no_body(left: int) -> None:
    with pytest.raises(BrokenAnswer):
        read_of(CHUNKS[:-left])


def test_the_word_to_go_on_is_no_answer() -> None:
    assert read_of(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + LENGTH)[1] == b"hello world"


@pytest.mark.parametrize("status", [204, 304])
def test_what_never_has_a_body_is_not_waited_for(status: int) -> None:
    answer = HttpAnswer(Pieces(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\n" % status, []))  # type: ignore[arg-type]
    assert (answer.is_ended, answer.can_go_on, body_of(answer)) == (True, True, b"")


def test_an_empty_body_is_at_its_end_before_it_is_read() -> None:
    answer = HttpAnswer(Pieces(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", []))  # type: ignore[arg-type]
    assert (answer.size, answer.is_ended, answer.can_go_on) == (0, True, True)


def test_what_comes_after_an_answer_is_none_of_its_body_and_ends_the_connection() -> None:
    answer, body = read_of(LENGTH + b"HTTP/1.1 200 OK\r\n\r\n")
    assert body == b"hello world"
    assert not answer.can_go_on


def test_a_connection_that_is_to_close_is_not_kept() -> None:
    assert not read_of(LENGTH.replace(b"ETag", b"Connection: Close\r\nETag"))[0].can_go_on


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nx: " + b"x" * (MAX_HEAD_BYTES + 20_000),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 5000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxx",
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(BrokenAnswer):
        read_of(data)


def test_a_connection_without_an_answer_was_lost() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(ConnectionLost):
            HttpAnswer(ours)
