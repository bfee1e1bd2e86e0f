"""Connections to S3 that stay open from one request to the next, over TLS and through proxies as they are set."""

import base64
import math
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPSConnection
from typing import Any, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from botocore.exceptions import SSLError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from .http_answer import ConnectionLost, HttpAnswer
from .turn import is_readable

CONNECT_SECONDS = 5
READ_SECONDS = 20
IDLE_SECONDS = 60
"""How long an idle connection is kept: what is on the way may forget it without a word, and then nobody answers."""


class FileBody(Protocol):
    """A body that is read while it is sent, as often as that is tried."""

    def __len__(self) -> int: ...
    def send_to(self, sock: socket.socket) -> None: ...


Body = bytes | FileBody
LOST = (ConnectionResetError, BrokenPipeError, ConnectionLost, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""What a request meets on a connection that the other side has closed."""

UNSIGNED_HEADERS = {"user-agent": "longshore"}


class Connection:
    """A connection to one origin, straight or through a proxy."""

    def __init__(self, origin: str, http: HTTPConnection, through_proxy: bool, headers: dict[str, str]) -> None:
        self.origin = origin
        self._http: Any = http
        self._headers = headers
        self._prefix = origin if through_proxy else ""
        self._was_refused = False
        self.was_used = False
        self._idle_since = math.inf

    @property
    def is_open(self) -> bool:
        return bool(self._http.sock)

    def open(self) -> None:
        """Connect; raises OSError."""
        self._http.connect()
        self._http.sock.settimeout(READ_SECONDS)

    def send(self, method: str, path: str, headers: Mapping[str, str], body: Body) -> None:
        """Send a request; raises OSError."""
        sock: socket.socket = self._http.sock
        lines = [f"{name}: {value}\r\n" for name, value in (*headers.items(), *self._headers.items())]
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{''.join(lines)}\r\n"
        if head.count("\n") != len(lines) + 2 or head.count("\r") != len(lines) + 2:
            raise ValueError("A header can not have a line break")
        try:
            if isinstance(body, bytes):
                sock.sendall(head.encode("latin-1") + body)
            else:
                sock.sendall(head.encode("latin-1"))
                body.send_to(sock)
        except LOST:
            if not body:
                raise
            self._was_refused = True  # it may have answered before it had the whole body, and told why

    def answer(self) -> HttpAnswer:
        """Wait for the head of the answer to what was sent; raises OSError, BrokenAnswer and ConnectionLost."""
        answer = HttpAnswer(self._http.sock)
        if self._was_refused:
            answer.keep_no_connection()
        return answer

    def rest(self) -> None:
        """Be idle from now on."""
        self.was_used = True
        self._idle_since = time.monotonic()

    def is_ended(self) -> bool:
        """Say whether it was idle for too long, or the other side has closed it or sent what nobody asked for."""
        sock = self._http.sock
        return sock is None or is_readable(sock) or time.monotonic() > self._idle_since + IDLE_SECONDS

    def close(self) -> None:
        self._http.close()


class Connections:
    """The idle connections of a process, by origin; as many as there were requests at one time.

    `certificates` is a file of those that servers are believed by.
    """

    def __init__(self, certificates: str | None) -> None:
        self._certificates = certificates
        self._idle: dict[str, list[Connection]] = {}
        self._lock = threading.Lock()
        self._tls: ssl.SSLContext | None = None

    def take(self, origin: str, fresh: bool = False) -> Connection:
        """Return an idle connection, or a new one, which is not connected yet; `fresh` wants a new one.

        Raises SSLError for certificates that can't be read.
        """
        idle = None if fresh else self.take_idle(origin)
        if idle:
            return idle
        self._close_ended()
        return self._new(origin)

    def take_idle(self, origin: str) -> Connection | None:
        """Return an idle connection that has not ended, if there is one."""
        while True:
            with self._lock:
                idle = self._idle.get(origin)
                connection = idle.pop() if idle else None
            if connection is None or not connection.is_ended():
                return connection
            connection.close()

    def _close_ended(self) -> None:
        """Close those that servers have closed, of buckets too that nobody asks for any more: each is a descriptor."""
        with self._lock:
            ended = [one for idle in self._idle.values() for one in idle if one.is_ended()]
            for connection in ended:
                self._idle[connection.origin].remove(connection)
        for connection in ended:
            connection.close()

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose answer was read to its end for another request."""
        connection.rest()
        with self._lock:
            self._idle.setdefault(connection.origin, []).append(connection)

    def close(self) -> None:
        """Close the idle ones; those in use are kept when they are given back."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()

    def _new(self, origin: str) -> Connection:
        server = urlsplit(origin)
        found: str | None = get_environ_proxies(origin).get(server.scheme)
        proxy = urlsplit(found if "//" in found else f"//{found}") if found else None
        host, port = _address(proxy or server)
        if server.scheme == "https":
            try:
                context = self._context()
            except OSError as error:  # no such file, or no certificates in it
                raise SSLError(endpoint_url=origin, error=error) from error
            http = HTTPSConnection(host, port, timeout=CONNECT_SECONDS, context=context)
            if proxy:
                http.set_tunnel(*_address(server), headers=_authorization(proxy))
            return Connection(origin, http, False, UNSIGNED_HEADERS)
        headers = UNSIGNED_HEADERS | (_authorization(proxy) if proxy else {})
        return Connection(origin, HTTPConnection(host, port, timeout=CONNECT_SECONDS), bool(proxy), headers)

    def _context(self) -> ssl.SSLContext:
        """Return what all connections over TLS share: the certificates are read once.

        Not `create_default_context`: it would write keys into a file that a variable of the image names.
        """
        with self._lock:
            if self._tls is None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.load_verify_locations(self._certificates or get_cert_path(True))
                self._tls = context
            return self._tls


def _address(server: SplitResult) -> tuple[str, int]:
    return server.hostname or "", server.port or (443 if server.scheme == "https" else 80)


def _authorization(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"proxy-authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
