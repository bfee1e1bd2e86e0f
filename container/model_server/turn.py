"""Turns: of the threads that copy files only few work at a time, the others wait for the network or for their turn.

**Small files**: one thread. A file takes ten system calls, and at each of them threads pass Python's lock to one
another. On free CPUs that costs as much as all the rest: 2,000 files of 4 KiB take three quarters of the time, and two
thirds of the CPU, where one thread has it until it has to wait.

**Large ones**: one for each CPU. More copy no faster, but whoever answers /ping waits for a CPU and for Python's lock
behind all of them, a dozen times for one answer: up to seconds, with 32 of them. A turn is a chunk or some, and begins
when there is much to read or room to send: nobody waits for the network in it, so all connections carry what they can.

Whoever may be at something for longer lets the next one go on.
"""

import select
import socket
import ssl
import threading
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Protocol, Self, TypeGuard

from .cpus import usable_cpus

SMALL_BYTES = 16 * 1024
"""What is larger may come in pieces, and the kernel does most of the work, on all CPUs."""

LARGE_BYTES = 1024 * 1024
"""What lies between has no turn: it is soon done, and to change turns would take a tenth more time."""

FEWEST_LARGE = 2
"""How many have a turn where there is one CPU: the disk may keep one of them waiting."""


class _Places(Protocol):
    def acquire(self) -> object: ...
    def release(self) -> None: ...


class FairPlaces:
    """A semaphore that goes to whoever waits for it longest: S3 ends a connection from which nobody reads."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    def acquire(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            called = threading.Lock()
            called.acquire()
            self._waiting.append(called)
        called.acquire()

    def release(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1


class _Mine(threading.local):
    turns: "Turns | None" = None
    """Whose turn this thread has, if any."""


_mine = _Mine()


class Turns:
    """What some threads share; a block of it is a turn, or the beginning of one."""

    def __init__(self, places: _Places | None = None) -> None:
        """Have one thread work at a time, or as many as there are places."""
        self._places = places or threading.Lock()

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        end_turn()

    def begin(self) -> None:
        """Wait for a turn, unless this thread has it; only one at a time in each thread."""
        if _mine.turns is not self:
            self._places.acquire()
            _mine.turns = self

    def end(self) -> None:
        _mine.turns = None
        self._places.release()


@cache
def large_turns() -> Turns:
    """Return what all threads of this process share that copy what is large."""
    return Turns(FairPlaces(max(FEWEST_LARGE, usable_cpus())))


def is_small(size: int | None) -> TypeGuard[int]:
    """Say whether so many bytes are copied in the turn of their thread; None are as many as come."""
    return size is not None and size <= SMALL_BYTES


def is_large(size: int | None) -> bool:
    """Say whether so many bytes are copied in turns with other large ones; None are as many as come."""
    return size is None or size > LARGE_BYTES


def turn_for(size: int) -> AbstractContextManager[object]:
    """Return the turn in which to copy some of so many bytes."""
    return large_turns() if is_large(size) else nullcontext()


def end_turn() -> None:
    """Let another thread go on, if this one has a turn: it may take its time from here."""
    if turns := _mine.turns:
        turns.end()


def await_writable(sock: socket.socket) -> None:
    """Wait until there is room for what is sent; raises TimeoutError after the time that the socket allows."""
    if not is_writable(sock, sock.gettimeout()):
        raise TimeoutError("timed out")


def is_writable(sock: socket.socket, seconds: float | None = 0.0) -> bool:
    """Wait until there is room for what is sent, for so long at most, and return whether there is."""
    return _polled(sock, select.POLLOUT, seconds)


def is_readable(sock: socket.socket, seconds: float | None = 0.0) -> bool:
    """Do the same until there is something to read, or as much as the socket is told to wait for."""
    return _polled(sock, select.POLLIN, seconds)


def _polled(sock: socket.socket, event: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(sock, event)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def await_readable(sock: socket.socket, patience: float = 0.0) -> None:
    """Let another thread go on until there is something to read, if this one has a turn, and take it again then.

    What comes within the patience, in seconds, costs no turn. Raises TimeoutError after the time that the socket
    allows.
    """
    turns = _mine.turns
    if turns is None or (isinstance(sock, ssl.SSLSocket) and sock.pending()):
        return
    if is_readable(sock, patience):
        return
    turns.end()
    if not is_readable(sock, sock.gettimeout()):
        raise TimeoutError("timed out")
    turns.begin()
