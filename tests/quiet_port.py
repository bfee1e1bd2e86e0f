"""A port for a program that is to be started again and again."""

import random
import socket
from contextlib import suppress


def quiet_port() -> int:
    """Return a port that no client on this machine is given: a program may need it again a moment after its end."""
    while True:
        port = random.randrange(10_000, 30_000)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
