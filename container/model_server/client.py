"""Whether the client of a request is still there."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from .cancellation import Cancellation
from .errors import ClientLeft


@contextmanager
def watched(connection: socket.socket | None, cancellation: Cancellation) -> Iterator[None]:
    """Cancel with ClientLeft when the other end of a connection closes during the block, or had before it.

    nginx closes its connection to us when its client leaves. What it sent before may still be unread: a payload is, as
    long as it waits for its turn. Without a connection (under another WSGI server) there is nothing to watch.
    """
    if connection is None:
        yield
        return
    cancellation.watch(connection, ClientLeft())
    try:
        yield
    finally:
        cancellation.unwatch()
