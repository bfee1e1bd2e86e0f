"""The wait for a server that starts."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable

START_SECONDS = 300.0
LOOK_SECONDS = 0.002


def await_ping(port: int, is_gone: Callable[[], bool]) -> bool:
    """Wait until /ping answers 200, and return True; False when the server is gone, or takes far too long."""
    deadline = time.monotonic() + START_SECONDS
    while not pings(port):
        if is_gone() or time.monotonic() > deadline:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def pings(port: int) -> bool:
    """Say whether /ping answers 200 now."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()
