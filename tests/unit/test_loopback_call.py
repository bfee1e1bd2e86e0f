"""A request to the algorithm's own server, against raw sockets that answer as servers in the wild do."""

import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from model_server.loopback_call import CallBroken, CallRefused, LoopbackCall

from .waiting import DEADLINE_SECONDS, open_descriptors

CREATED = b"HTTP/1.1 201 Created\r\n"


class RawServer:
    """Takes one connection, and has `respond` do with it what it likes; `received` is what came on it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.received = b""
        self.respond: Callable[[socket.socket], None] = lambda connection: None
        self._thread = threading.Thread(target=self._serve)

    def start(self, respond: Callable[[socket.socket], None]) -> None:
        self.respond = respond
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(DEADLINE_SECONDS)
            self.respond(connection)

    def read_request(self, connection: socket.socket) -> None:
        while b"\r\n\r\n" not in self.received:
            self.received += connection.recv(65536)

    def close(self) -> None:
        if self._thread.ident:
            self._thread.join(DEADLINE_SECONDS)
            assert not self._thread.is_alive()
        self._listener.close()


@pytest.fixture
def server() -> Iterator[RawServer]:
    before = open_descriptors()
    raw = RawServer()
    yield raw
    raw.close()
    assert open_descriptors() == before


def until_closed(connection: socket.socket) -> None:
    """Keep the connection open until the other side closes it, in whichever way."""
    with suppress(ConnectionResetError):
        while connection.recv(65536):
            pass


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def status_of(port: int, method: str = "POST", path: str = "/invoke") -> int:
    """Carry a call to its end as the keeper's loop does."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    with LoopbackCall(port, method, path) as call:
        while call.status is None:
            poll = select.poll()
            poll.register(call, call.awaits)
            assert poll.poll(max(0.0, deadline - time.monotonic()) * 1000), "no answer in time"
            call.advance()
        return call.status


@pytest.mark.parametrize(
    "answer",
    [
        CREATED + b"Content-Length: 2\r\n\r\nok",
        CREATED + b"Content-Length: 0\r\n\r\n",
        CREATED + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3\r\nay!\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + CREATED + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + CREATED + b"Content-Length: 0\r\n\r\n",
        CREATED + b"Content-Length: 400000\r\n\r\n" + b"x" * 400_000,
        CREATED + b"X-Large: " + b"x" * 12_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 201 CREATED\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["length", "no body", "chunked", "100 first", "103 first", "large body", "large head", "HTTP/1.0"],
)
def test_an_answer_is_whole_although_the_server_keeps_the_connection_open(server: RawServer, answer: bytes) -> None:
    def respond(connection: socket.socket) -> None:
        server.read_request(connection)
        connection.sendall(answer)
        until_closed(connection)

    server.start(respond)
    assert status_of(server.port) == 201


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_an_answer_without_a_length_goes_on_until_the_end_of_the_connection(server: RawServer, version: bytes) -> None:
    ready, go_on = threading.Event(), threading.Event()

    def respond(connection: socket.socket) -> None:
        server.read_request(connection)
        connection.sendall(b"HTTP/" + version + b" 201 Created\r\n\r\nok")
        ready.set()
        assert go_on.wait(DEADLINE_SECONDS)

    server.start(respond)
    with LoopbackCall(server.port, "POST", "/invoke") as call:
        poll = select.poll()
        while not ready.is_set() or poll.poll(0):
            poll.register(call, call.awaits)
            if poll.poll(10):
                call.advance()
        assert call.status is None
        go_on.set()
        while call.status is None:
            assert poll.poll(DEADLINE_SECONDS * 1000)
            call.advance()
        assert call.status == 201


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.0 201 Created\r\n", CREATED + b"Connection: close\r\n", CREATED + b"Content-Length: 0\r\n"],
    ids=["HTTP/1.0", "close", "keep-alive"],
)
def test_nothing_of_a_call_lingers_at_the_servers_port(server: RawServer, head: bytes) -> None:
    """Else a server that does not reuse its address could not be started again for a minute."""

    def respond(connection: socket.socket) -> None:
        server.read_request(connection)
        connection.sendall(head + b"\r\n")
        if head.endswith(b"Content-Length: 0\r\n"):
            until_closed(connection)

    server.start(respond)
    assert status_of(server.port) == 201
    server.close()
    with socket.socket() as again:
        again.bind(("127.0.0.1", server.port))


def test_an_answer_may_come_byte_by_byte(server: RawServer) -> None:
    def respond(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.read_request(connection)
        for byte in CREATED + b"Content-Length: 2\r\n\r\nok":
            connection.send(bytes([byte]))

    server.start(respond)
    assert status_of(server.port) == 201


def test_an_answer_may_come_before_the_request_was_read(server: RawServer) -> None:
    def respond(connection: socket.socket) -> None:
        connection.sendall(CREATED + b"Content-Length: 0\r\n\r\n")
        until_closed(connection)

    server.start(respond)
    assert status_of(server.port) == 201


@pytest.mark.parametrize("status", [200, 204, 302, 404, 500, 503])
def test_the_status_is_the_servers_and_a_redirect_is_not_followed(server: RawServer, status: int) -> None:
    def respond(connection: socket.socket) -> None:
        server.read_request(connection)
        connection.sendall(b"HTTP/1.1 %d X\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n" % status)
        until_closed(connection)

    server.start(respond)
    assert status_of(server.port, "GET", "/health") == status


@pytest.mark.parametrize(
    ("method", "path", "lengths"), [("GET", "/health", []), ("POST", "/invoke", [b"content-length: 0"])]
)
def test_a_request_has_no_body_and_a_post_says_so(
    server: RawServer, method: str, path: str, lengths: list[bytes]
) -> None:
    def respond(connection: socket.socket) -> None:
        server.read_request(connection)
        connection.sendall(CREATED + b"Content-Length: 0\r\n\r\n")
        server.received += connection.recv(65536)  # what would come after the head; nothing does

    server.start(respond)
    assert status_of(server.port, method, path) == 201
    server.close()
    head, _, body = server.received.partition(b"\r\n\r\n")
    first, *headers = head.split(b"\r\n")
    assert (first, body) == (f"{method} {path} HTTP/1.1".encode(), b"")
    assert f"host: 127.0.0.1:{server.port}".encode() in [header.lower() for header in headers]
    named = (b"content-length", b"transfer-encoding", b"expect")
    assert [header.lower() for header in headers if header.lower().startswith(named)] == lengths


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"HTTP/1.1 201 Cre",
        CREATED + b"Content-Length: 9\r\n\r\nhalf",
        CREATED + b"Transfer-Encoding: chunked\r\n\r\n9\r\nhalf",
        CREATED + b"Content-Length: no number\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nX: " + b"x" * 2_000_000,
    ],
    ids=[
        "nothing",
        "ssh",
        "tls",
        "half a head",
        "half a body",
        "half a chunk",
        "no number",
        "100 only",
        "endless head",
    ],
)
def test_a_connection_that_breaks_or_speaks_no_http_is_broken(server: RawServer, answer: bytes) -> None:
    def respond(connection: socket.socket) -> None:
        server.read_request(connection)
        with suppress(BrokenPipeError, ConnectionResetError):  # it may have seen enough
            connection.sendall(answer)

    server.start(respond)
    with pytest.raises(CallBroken):
        status_of(server.port)


@pytest.mark.parametrize("read", [True, False], ids=["after the request", "at once"])
def test_a_reset_is_broken(server: RawServer, read: bool) -> None:
    def respond(connection: socket.socket) -> None:
        if read:
            server.read_request(connection)
        reset(connection)

    server.start(respond)
    with pytest.raises(CallBroken):
        status_of(server.port)


def test_a_port_that_nobody_listens_on_refuses() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        with pytest.raises(CallRefused):
            status_of(holder.getsockname()[1])


def test_a_call_can_be_given_up_at_any_time(server: RawServer) -> None:
    left = threading.Event()

    def respond(connection: socket.socket) -> None:
        until_closed(connection)
        left.set()

    server.start(respond)
    with LoopbackCall(server.port, "POST", "/invoke") as call:
        poll = select.poll()
        poll.register(call, call.awaits)
        assert poll.poll(DEADLINE_SECONDS * 1000)
        call.advance()
        assert call.status is None
    assert left.wait(DEADLINE_SECONDS)
