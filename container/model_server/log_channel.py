"""The way of log records from every process of the server to its stdout and stderr.

All writers of a stream share one end of a socket pair that keeps the bounds of messages, so records of several
workers never mix and no lock is needed. One thread of PID 1 reads the other end and writes to the real stream. When
whoever reads our log is slow, the socket fills: the algorithm's records wait (the algorithm is back-pressured), our
own are dropped and counted after a short while, and nothing else stops.
"""

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

MAX_MESSAGE_BYTES = 64 * 1024
PATIENCE_SECONDS = 0.25
"""How long one of our own records waits for a slow reader, if the one before did not wait in vain."""


class LogChannel:
    """One stream's way; every process that inherits it may write whole records."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._dropped = 0

    def fileno(self) -> int:
        """Return the descriptor to poll for room to write."""
        return self._writer.fileno()

    def try_send(self, message: bytes | memoryview) -> bool:
        """Send up to MAX_MESSAGE_BYTES of whole records; return whether there was room. Never waits."""
        try:
            self._writer.send(message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            return True  # PID 1 is gone, and with it the log
        return True

    def send_or_drop(self, record: bytes) -> None:
        """Send one of our own records; drop and count it when there is no room for it."""
        patience = 0.0 if self._dropped else PATIENCE_SECONDS
        if self.try_send(record) or (patience and self._has_room(patience) and self.try_send(record)):
            return
        self._dropped += 1

    def take_dropped(self) -> int:
        """Return how many records this process has dropped since it was last asked; 0 while there is no room."""
        if not self._dropped or not self._has_room(0):
            return 0
        dropped, self._dropped = self._dropped, 0
        return dropped

    def _has_room(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._writer, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))

    def close_writer(self) -> None:
        self._writer.close()

    def close_reader(self) -> None:
        """Leave reading to PID 1: when it is gone, writing fails instead of waiting for ever."""
        self._reader.close()

    def relay(self, target: int, on_terminal: Callable[[bytes], bytes]) -> None:
        """Copy all records to a descriptor until the last writer is gone; to a terminal, as `on_terminal` has them."""
        dress = on_terminal if os.isatty(target) else bytes
        while message := self._reader.recv(MAX_MESSAGE_BYTES):
            with suppress(OSError):  # nobody reads our log any more, or its disk is full; that must not stop a task
                _write_all(target, dress(message))


def _write_all(target: int, data: bytes) -> None:
    """Write to a descriptor, waiting for room in one that somebody made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(target, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(target, select.POLLOUT)
            poll.poll()


class LogChannels:
    """The channels of both streams, and the threads that relay them in PID 1."""

    def __init__(self) -> None:
        self.stdout = LogChannel()
        self.stderr = LogChannel()

    @contextmanager
    def relayed(
        self, stdout: int = 1, stderr: int = 2, on_terminal: Callable[[bytes], bytes] = bytes
    ) -> Iterator[None]:
        """Relay both streams for the block, and what was sent by its end; a reader that is stuck is left behind."""
        threads = [
            threading.Thread(target=channel.relay, args=(target, on_terminal), daemon=True, name=f"log-{target}")
            for channel, target in ((self.stdout, stdout), (self.stderr, stderr))
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stdout.close_writer()
            self.stderr.close_writer()
            for thread in threads:
                thread.join(timeout=2)

    def close_readers(self) -> None:
        """Make this process one that only writes; after a fork."""
        self.stdout.close_reader()
        self.stderr.close_reader()
