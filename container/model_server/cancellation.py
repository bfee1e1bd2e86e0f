"""The word that a task should end early, as something that a loop can wait for beside other things."""

import os
import select
import socket
import time

from .errors import LongshoreError

CHECK_SECONDS = 0.02


class Cancellation:
    """Is set once, with the reason, by whoever wants the task to end; any thread may ask, any loop may poll.

    `fileno` becomes readable for good when it is set. Setting takes no lock, so a signal handler may do it. The
    descriptor lives as long as the object: nobody who holds one can write to a number that is another file by now.
    A child is set with its parent, not the other way round. The end of a connection may set it too: nobody else has to
    look for that then, since whoever waits for us waits for both.
    """

    def __init__(self, parent: "Cancellation | None" = None) -> None:
        self._event = -1  # what could not be made is closed too
        self._reason: LongshoreError | None = None
        self._parent = parent
        self._next_check = 0.0
        self._watch: _Watch | None = None
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def cancel(self, reason: LongshoreError) -> None:
        """Set the reason; the first one stays."""
        if self._reason is None:
            self._reason = reason
            os.eventfd_write(self._event, 1)

    @property
    def reason(self) -> LongshoreError | None:
        """Why the task should end, by our own word or the parent's; None while it should go on."""
        if self._reason is None and self._watch and self._watch.is_over():
            self.cancel(self._watch.reason)
        return self._reason or (self._parent.reason if self._parent else None)

    def raise_if_set(self) -> None:
        if reason := self.reason:
            raise reason

    def check(self) -> None:
        """Do the same for loops that ask it all the time: what others may have set is looked at every CHECK_SECONDS.

        Each of those looks is a system call.
        """
        now = time.monotonic()
        if self._reason or now >= self._next_check:
            self._next_check = now + CHECK_SECONDS
            self.raise_if_set()

    def wait(self, seconds: float) -> None:
        """Sleep, and raise the reason as soon as there is one."""
        poll = select.poll()
        poll.register(self, select.POLLIN)
        if self._parent:
            poll.register(self._parent, select.POLLIN)
        poll.poll(seconds * 1000)
        self.raise_if_set()

    def watch(self, connection: socket.socket, reason: LongshoreError) -> None:
        """Be set with a reason when the other end of a connection closes, until `unwatch`; nothing is read of it."""
        self._watch = _Watch(connection, reason, self._event)

    def unwatch(self) -> None:
        """Leave the connection alone, which may be closed now."""
        if self._watch:
            self._watch.end()

    def fileno(self) -> int:
        return self._watch.fileno() if self._watch else self._event

    def close(self) -> None:
        """Give the descriptor back, and the parent's, once nobody uses them: errors and frames may live in a cycle."""
        self._reason = self._parent = self._watch = None
        if self._event >= 0:
            os.close(self._event)
            self._event = -1

    __del__ = close


class _Watch:
    """A connection, beside the event of a cancellation, as one descriptor that is readable when one of both is."""

    def __init__(self, connection: socket.socket, reason: LongshoreError, event: int) -> None:
        self.reason = reason
        self._connection = connection.fileno()
        self._both = select.epoll()
        self._both.register(event, select.EPOLLIN)
        self._both.register(connection, select.EPOLLRDHUP)

    def is_over(self) -> bool:
        return any(descriptor == self._connection for descriptor, _ in self._both.poll(0))

    def end(self) -> None:
        self._both.unregister(self._connection)

    def fileno(self) -> int:
        return self._both.fileno()
