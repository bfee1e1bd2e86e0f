"""Turns: of the threads that copy small files only one works at a time, the others wait for the network or for it.

A file takes ten system calls, and at each of them threads pass Python's lock to one another. On free CPUs that costs as
much as all the rest: 2,000 files of 4 KiB take three quarters of the time, and two thirds of the CPU, where one thread
has it until it has to wait. Whoever may be at something for longer lets the next one go on.
"""

import select
import socket
import ssl
import threading
from typing import Self

SMALL_BYTES = 16 * 1024
"""What is larger is copied without a turn: it may come in pieces, and the kernel does most of the work, on all CPUs."""


class _Mine(threading.local):
    turns: "Turns | None" = None
    """Whose turn this thread has, if any."""


_mine = _Mine()


class Turns:
    """What the threads of one crew share; a block of it is a turn, or the beginning of one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        end_turn()

    def begin(self) -> None:
        """Wait for a turn; only one at a time in each thread."""
        self._lock.acquire()
        _mine.turns = self

    def end(self) -> None:
        _mine.turns = None
        self._lock.release()


def end_turn() -> None:
    """Let another thread go on, if this one has a turn: it may take its time from here."""
    if turns := _mine.turns:
        turns.end()


def await_readable(sock: socket.socket, patience_ms: int = 0) -> None:
    """Let another thread go on until there is something to read, if this one has a turn, and take it again then.

    What comes within the patience, in milliseconds, costs no turn. Raises TimeoutError after the time that the socket
    allows.
    """
    turns = _mine.turns
    if turns is None or (isinstance(sock, ssl.SSLSocket) and sock.pending()):
        return
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if poll.poll(patience_ms):
        return
    turns.end()
    seconds = sock.gettimeout()
    if not poll.poll(None if seconds is None else seconds * 1000):
        raise TimeoutError("timed out")
    turns.begin()
