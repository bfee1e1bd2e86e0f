"""Whether the client of a request is still there."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .cancellation import Cancellation
from .errors import ClientLeft
from .logs import logger


@contextmanager
def watched(connection: socket.socket | None, cancellation: Cancellation) -> Iterator[None]:
    """Cancel with ClientLeft when the other end of a connection closes during the block.

    nginx closes its connection to us when its client leaves. What it sent before may still be unread: a payload is, as
    long as it waits for its turn. Without a connection (under another WSGI server) there is nothing to watch.
    """
    if connection is None:
        yield
        return
    if _has_left(connection):  # before anybody looked: a busy worker takes a request when it can
        cancellation.cancel(ClientLeft())
    wake, woken = socket.socketpair()
    thread = threading.Thread(target=_watch, args=(connection, woken, cancellation), daemon=True, name="client")
    with wake, woken:
        if not _is_started(thread):
            logger.warning("The machine refused a thread: nobody watches whether the client stays")
            yield
            return
        try:
            yield
        finally:
            wake.shutdown(socket.SHUT_RDWR)
            thread.join()


def _is_started(thread: threading.Thread) -> bool:
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def _has_left(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


def _watch(connection: socket.socket, woken: socket.socket, cancellation: Cancellation) -> None:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    poll.register(woken, select.POLLIN)
    ready = dict(poll.poll())
    if woken.fileno() not in ready:
        cancellation.cancel(ClientLeft())
