"""A proxy in front of an S3 server that fails as S3 and the way to it do; standard library only.

    with FaultyS3(endpoint) as s3:
        s3.fault("GET", "scans/1.mha", Answer(503, "SlowDown"), times=3)
        ... s3.endpoint ...
        s3.requests  # what came, in order

A fault applies to the next `times` requests that it matches (None: to all of them), the oldest fault first; every
other request is passed on as it is.
"""

import http.client
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self
from urllib.parse import unquote, urlsplit

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
HELD_SECONDS = 30.0
"""When a held answer goes on by itself, so that a failed test ends."""


class Request(NamedTuple):
    method: str
    bucket: str
    key: str
    query: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reply:
    """What the S3 server behind us answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Exchange(Protocol):
    """One request as a fault sees it."""

    @property
    def seen(self) -> Request: ...

    def ask(self) -> Reply:
        """Pass the request on."""

    def answer(self, reply: Reply, length: int | None = None) -> None:
        """Answer; `length` is what Content-Length says where that is not the truth."""

    def write(self, data: bytes) -> None:
        """Send more of the body."""

    def hang_up(self) -> None:
        """Close the connection."""

    def reset(self) -> None:
        """Close the connection with a RST."""


class Fault(Protocol):
    def apply(self, exchange: Exchange) -> None: ...


@dataclass(frozen=True)
class Answer:
    """Answer with an error of S3's, without asking it."""

    status: int
    code: str

    def apply(self, exchange: Exchange) -> None:
        body = f"<Error><Code>{self.code}</Code><Message>as the test wants it</Message></Error>".encode()
        exchange.answer(Reply(self.status, [("Content-Type", "application/xml")], body))


class CutBody:
    """Break off in the middle of the body."""

    def apply(self, exchange: Exchange) -> None:
        reply = exchange.ask()
        exchange.answer(Reply(reply.status, reply.headers, reply.body[: len(reply.body) // 2]), len(reply.body))
        exchange.hang_up()


class Reset:
    """Reset the connection in the middle of the answer's body, and before the answer to a request that has the body."""

    def apply(self, exchange: Exchange) -> None:
        if exchange.seen.method == "GET":
            reply = exchange.ask()
            exchange.answer(Reply(reply.status, reply.headers, reply.body[: len(reply.body) // 2]), len(reply.body))
        exchange.reset()


@dataclass(frozen=True)
class Replaced:
    """Break off in the middle of the body, and have the object replaced by another meanwhile."""

    replace: Callable[[], None]

    def apply(self, exchange: Exchange) -> None:
        reply = exchange.ask()
        self.replace()
        exchange.answer(Reply(reply.status, reply.headers, reply.body[: len(reply.body) // 2]), len(reply.body))
        exchange.hang_up()


@dataclass(frozen=True)
class Expired:
    """Say that the credentials have expired, to those who use these."""

    access_key_id: str

    def apply(self, exchange: Exchange) -> None:
        if f"Credential={self.access_key_id}/" in exchange.seen.headers["Authorization"]:
            Answer(403, "ExpiredToken").apply(exchange)
        else:
            exchange.answer(exchange.ask())


class ShortBody:
    """Send half the body and say that it is all."""

    def apply(self, exchange: Exchange) -> None:
        reply = exchange.ask()
        exchange.answer(Reply(reply.status, reply.headers, reply.body[: len(reply.body) // 2]))


class WrongBody:
    """Send a body of the right length with one bit that is not the object's."""

    def apply(self, exchange: Exchange) -> None:
        reply = exchange.ask()
        wrong = bytes([reply.body[0] ^ 1]) + reply.body[1:]
        exchange.answer(Reply(reply.status, reply.headers, wrong))


class LostAnswer:
    """Let the request be done and close the connection instead of answering."""

    def apply(self, exchange: Exchange) -> None:
        exchange.ask()
        exchange.hang_up()


@dataclass(frozen=True)
class Delay:
    """Answer late."""

    seconds: float

    def apply(self, exchange: Exchange) -> None:
        time.sleep(self.seconds)
        exchange.answer(exchange.ask())


@dataclass(frozen=True)
class Hold:
    """Stop in the middle of the body, until the test lets it go on."""

    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def apply(self, exchange: Exchange) -> None:
        reply = exchange.ask()
        middle = len(reply.body) // 2
        exchange.answer(Reply(reply.status, reply.headers, reply.body[:middle]), len(reply.body))
        self.reached.set()
        self.released.wait(HELD_SECONDS)
        exchange.write(reply.body[middle:])


class Together:
    """Hold answers until so many have been asked for."""

    def __init__(self, number: int) -> None:
        self._barrier = threading.Barrier(number)

    def apply(self, exchange: Exchange) -> None:
        self._barrier.wait(HELD_SECONDS)
        exchange.answer(exchange.ask())


@dataclass(frozen=True)
class HeldRequest:
    """Do nothing of what is asked until the test lets it go."""

    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def apply(self, exchange: Exchange) -> None:
        self.reached.set()
        self.released.wait(HELD_SECONDS)
        exchange.hang_up()


@dataclass(frozen=True)
class HeldAnswer:
    """Do what is asked, and hold the answer back until the test lets it go."""

    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def apply(self, exchange: Exchange) -> None:
        reply = exchange.ask()
        self.reached.set()
        self.released.wait(HELD_SECONDS)
        exchange.answer(reply)


@dataclass
class Rule:
    method: str
    key: str | None
    fault: Fault
    left: int | None

    def matches(self, request: Request) -> bool:
        return self.left != 0 and self.method == request.method and self.key in (None, request.key)


class FaultyS3:
    """The proxy, from `with` to its end; listens on loopback."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.requests: list[Request] = []
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._listen(port=0)

    def _listen(self, port: int) -> None:
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="faulty-s3")

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fault(self, method: str, key: str | None, fault: Fault, times: int | None = 1) -> None:
        """Apply a fault to the next requests of a method for a key, None for any key."""
        with self._lock:
            self._rules.append(Rule(method, key, fault, times))

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse connections for the block, and end those that are there."""
        port = self._server.server_address[1]
        self._end()
        try:
            yield
        finally:
            self._listen(port)
            self._thread.start()

    def next_fault(self, request: Request) -> Fault | None:
        """Note a request, and return the fault that it meets; one call a request."""
        with self._lock:
            self.requests.append(request)
            for rule in self._rules:
                if rule.matches(request):
                    if rule.left is not None:
                        rule.left -= 1
                    return rule.fault
        return None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.end_connections()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    proxy: FaultyS3

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what was not meant; the other side may leave while its next request is waited for."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        for connection in list(self._connections):
            with suppress(OSError):  # it has ended by itself
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client; is the Exchange of each request on it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _handle(self) -> None:
        path, _, query = self.path.partition("?")
        _, bucket, key = [*unquote(path).split("/", 2), "", ""][:3]
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen = Request(self.command, bucket, key, query, self.headers)
        fault = self.server.proxy.next_fault(self.seen)
        try:
            if fault:
                fault.apply(self)
            else:
                self.answer(self.ask())
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815 - the names that http.server calls

    def ask(self) -> Reply:
        connection = http.client.HTTPConnection(self.server.proxy.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(self._body or None)
            response = connection.getresponse()
            return Reply(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    def answer(self, reply: Reply, length: int | None = None) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers:
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body) if length is None else length))
        self.end_headers()
        self.write(reply.body)

    def write(self, data: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(data)
            self.wfile.flush()

    def hang_up(self) -> None:
        self.close_connection = True

    def reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # it holds the connection open too
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: `requests` holds what came."""
