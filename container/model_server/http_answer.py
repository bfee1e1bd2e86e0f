"""The answer to an HTTP/1.1 request, read from its socket: its head, and its body by length, in chunks, or to the end.

http.client does the same by way of the parser of e-mails and a buffered file, which take half of all the time that a
small object costs; the rest of http.client, which connects, is used as it is. RFC 9112, sections 4 to 7.
"""

import fcntl
import re
import socket
import ssl
import sys
import termios
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .turn import await_readable, end_turn, is_readable, is_small

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FIRST_BYTES = 16 * 1024
"""What is read at once of an answer: a small one is whole then."""

BODY_PATIENCE_SECONDS = 0.001
"""How long the body of a small answer may come after its head before other threads are let go on."""

PLENTY_BYTES = 256 * 1024
"""What a thread waits for before it takes its turn to copy from a large body."""

MAX_RECORD_BYTES = 17 * 1024
"""What comes over TLS at a time, at most (RFC 8446, 5.2): of less than that it may be a part that is there."""

MAX_HEAD_BYTES = 64 * 1024
MAX_LINE_BYTES = 1024
STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [^\r\n]*)?")
HEXADECIMAL = re.compile(rb"[0-9A-Fa-f]{1,16}")
NO_BODY = (204, 304)


class BrokenAnswer(Exception):
    """What came is no answer by the rules of HTTP."""


class ConnectionLost(Exception):
    """The other side has closed the connection instead of answering."""


class HttpAnswer:
    """One answer; its names of headers are in lower case. `size` is the length of its body, None if it does not say.

    All that reads raises OSError and BrokenAnswer.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Wait for the head of an answer; raises ConnectionLost too."""
        self._sock = sock
        self._ahead = b""
        """What came with the head, and is not read yet."""
        version, self.status, self.headers = self._read_head()
        while 100 <= self.status < 200:
            version, self.status, self.headers = self._read_head()
        coding = self.headers.get("transfer-encoding", "").lower()
        if coding not in ("", "chunked"):
            raise BrokenAnswer("a coding that nobody asked for")
        self._in_chunks = coding == "chunked"
        self.size = None if self._in_chunks else self._stated_size()
        self._left = 0 if self._in_chunks else self.size
        """Bytes to come of the body, or of the chunk; None where the end of the connection ends the body."""
        self._first_chunk = True
        self.is_ended = self.size == 0
        self._is_kept = (
            self.headers.get("connection", "").lower() != "close"
            and version == "1"
            and (self._in_chunks or self.size is not None)
        )
        self._is_small = is_small(self.size)
        if not self._is_small:
            end_turn()  # it may come in many pieces

    @property
    def can_go_on(self) -> bool:
        """Whether the connection is good for another request once the body was read to its end."""
        return self._is_kept and self.is_ended and not self._ahead

    def keep_no_connection(self) -> None:
        """Say that the connection is good for nothing more."""
        self._is_kept = False

    def read_into(self, buffer: "WriteableBuffer") -> int:
        """Fill a buffer as far as something is there, and return by how much: 0 at the body's end only."""
        view = memoryview(buffer).cast("B")
        if self._in_chunks and not self._left and not self.is_ended:
            self._next_chunk()
        if self.is_ended or not view:
            return 0
        if self._left is not None:
            view = view[: self._left]
        if self._ahead:
            count = min(len(view), len(self._ahead))
            view[:count] = self._ahead[:count]
            self._ahead = self._ahead[count:]
        else:
            await_readable(self._sock, BODY_PATIENCE_SECONDS if self._is_small else 0.0)
            count = self._sock.recv_into(view)
        if not count:
            self.is_ended = self.size is None and not self._in_chunks
            if self._in_chunks:
                raise BrokenAnswer("cut off in a chunk")
        elif self._left is not None:
            self._left -= count
            self.is_ended = not self._left and not self._in_chunks
        return count

    def fill(self, buffer: "WriteableBuffer", seconds: float) -> int:
        """Fill a buffer, and return by how much: less at the body's end, or where it would take longer than that."""
        until = time.monotonic() + seconds
        view = memoryview(buffer).cast("B")
        count = self.read_into(view)
        while self._left and not self._in_chunks and count < len(view) and time.monotonic() < until:
            if not (more := self.read_into(view[count:])):
                break
            count += more
        return count

    def take(self, buffer: "WriteableBuffer") -> int:
        """Do as `read_into`, but with all the records that are there if they come over TLS."""
        view, sock = memoryview(buffer).cast("B"), self._sock
        if not isinstance(sock, ssl.SSLSocket):
            return self.read_into(view)
        enough = _bytes_there(sock) - MAX_RECORD_BYTES
        count = self.read_into(view)
        if self._left and not self._in_chunks:
            more = _read_records(sock, view[count : count + self._left], enough - count)
            self._left -= more
            self.is_ended = not self._left
            count += more
        return count

    def has_plenty(self, seconds: float = 0.0) -> bool:
        """Wait until PLENTY_BYTES of the body can be read, or all that is left, and return whether that came in time.

        As much as the kernel has room for is plenty too, and so is a body of which it is not known how much is left.
        """
        if self._left is None or self._in_chunks or self._ahead:
            return True
        wanted = min(self._left, PLENTY_BYTES) - _pending(self._sock)
        if wanted <= 0 or _bytes_there(self._sock) >= wanted:
            return True
        if not seconds:
            return False
        try:
            _set_least(self._sock, wanted)
            return is_readable(self._sock, seconds)
        finally:
            _set_least(self._sock, 1)

    def _read_head(self) -> tuple[str, int, dict[str, str]]:
        data = self._ahead
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > MAX_HEAD_BYTES:
                raise BrokenAnswer("a head that does not end")
            await_readable(self._sock)
            more = self._sock.recv(FIRST_BYTES)
            if not more:
                raise BrokenAnswer("cut off in the head") if data else ConnectionLost
            data += more
        self._ahead = data[end + 4 :]
        first, *lines = data[:end].decode("latin-1").split("\r\n")
        status = STATUS_LINE.fullmatch(first)
        if not status:
            raise BrokenAnswer("no status line")
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise BrokenAnswer("a header without a colon")
            name, value = name.lower(), value.strip()
            if name == "content-length" and headers.get(name, value) != value:
                raise BrokenAnswer("two lengths")
            headers[name] = value
        return status[1], int(status[2]), headers

    def _stated_size(self) -> int | None:
        if self.status in NO_BODY:
            return 0
        stated = self.headers.get("content-length")
        if stated is None:
            return None
        if not stated.isascii() or not stated.isdecimal():
            raise BrokenAnswer("a length that is none")
        return int(stated)

    def _next_chunk(self) -> None:
        if not self._first_chunk and self._line():
            raise BrokenAnswer("a chunk that is too long")
        self._first_chunk = False
        size = self._line().split(b";")[0].strip()
        if not HEXADECIMAL.fullmatch(size):
            raise BrokenAnswer("a chunk without its size")
        self._left = int(size, 16)
        if not self._left:
            while self._line():
                pass  # headers that follow the body
            self.is_ended = True

    def _line(self) -> bytes:
        while (end := self._ahead.find(b"\r\n")) < 0:
            if len(self._ahead) >= MAX_LINE_BYTES:
                raise BrokenAnswer("a line that does not end")
            await_readable(self._sock)
            if not (more := self._sock.recv(FIRST_BYTES)):
                raise BrokenAnswer("cut off between chunks")
            self._ahead += more
        line, self._ahead = self._ahead[:end], self._ahead[end + 2 :]
        return line


def _read_records(sock: ssl.SSLSocket, view: memoryview, enough: int) -> int:
    """Read until that is enough. What else is done for each record of 16 KiB would cost as much as its decryption."""
    count, end = 0, len(view)
    read: Callable[[int, memoryview], int] = sock.read  # type: ignore[assignment]  # of a buffer it returns how much
    while count < enough and count < end and (more := read(end - count, view[count:])):
        count += more
    return count


def _set_least(sock: socket.socket, count: int) -> None:
    """Have a socket count as readable only when so many bytes are there, or as many as it surely has room for.

    A kernel enlarges the room for what is waited for, to twice as much since half of it is its own; from 4.18 on.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
    room = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    if count > room // 2:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, room // 4)


def _pending(sock: socket.socket) -> int:
    return sock.pending() if isinstance(sock, ssl.SSLSocket) else 0


def _bytes_there(sock: socket.socket) -> int:
    """Return how many bytes the kernel has for whoever reads."""
    there = bytearray(4)
    fcntl.ioctl(sock, termios.FIONREAD, there)
    return int.from_bytes(there, sys.byteorder)
