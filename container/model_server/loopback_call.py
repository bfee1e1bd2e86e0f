"""One HTTP request to the algorithm's own server on 127.0.0.1, as something that a loop can wait for beside others."""

import errno
import os
import select
import socket
import struct
from typing import Self

import h11

READ_BYTES = 64 * 1024


class CallRefused(Exception):
    """Nobody takes the connection."""


class CallBroken(Exception):
    """The connection broke, or what came is no HTTP."""


class LoopbackCall:
    """A request without a body, on a connection of its own; `status` is None until the whole answer is there.

    The server is not asked to close the connection: whoever closes first holds its port for a minute, and the server
    may have to be started again on its own. Redirects are not followed.
    """

    def __init__(self, port: int, method: str, path: str) -> None:
        self.status: int | None = None
        self._status = 0
        self._http = h11.Connection(h11.CLIENT)
        request = h11.Request(
            method=method,
            target=path,
            headers=[
                ("Host", f"127.0.0.1:{port}"),
                ("User-Agent", "longshore"),
                ("Accept", "*/*"),
                *([("Content-Length", "0")] if method == "POST" else []),
            ],
        )
        self._unsent = (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        self._connected = False
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._socket.connect_ex(("127.0.0.1", port))  # how it went is asked for once the socket can be written to

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def awaits(self) -> int:
        """The event that the call goes on with."""
        return select.POLLOUT if self._unsent else select.POLLIN

    def advance(self) -> None:
        """Send or receive what can be, once a poll found the descriptor ready; raises CallRefused and CallBroken."""
        try:
            if self._unsent:
                self._send()
            elif self.status is None:
                self._receive()
        except BlockingIOError:
            pass
        except (OSError, h11.RemoteProtocolError) as error:
            raise CallBroken(str(error)) from error

    def _send(self) -> None:
        if not self._connected:
            if fault := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise (CallBroken if fault == errno.ECONNRESET else CallRefused)(os.strerror(fault))
            if self._socket.getsockname() == self._socket.getpeername():
                self._reset_at_close()
                raise CallRefused("the connection is to itself: nobody listens there, and Linux had no other port")
            self._connected = True
        self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def _receive(self) -> None:
        self._http.receive_data(self._socket.recv(READ_BYTES))
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Response):
                self._status = event.status_code
            elif isinstance(event, h11.EndOfMessage):
                self.status = self._status
                return
            elif not isinstance(event, (h11.Data, h11.InformationalResponse)):
                return  # NEED_DATA, PAUSED, or a connection that was closed in order

    def close(self) -> None:
        if self._http.their_state in (h11.MUST_CLOSE, h11.CLOSED):
            self._reset_at_close()  # a server that closes first: nothing may linger at its port
        self._socket.close()

    def _reset_at_close(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
