"""Asking /ping at a steady pace while something else goes on."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from server import Server

PER_SECOND = 50
AT_ONCE = 200


@dataclass
class Pings:
    """What /ping was answered: statuses, and the seconds from when each was due, so that a slow one delays no other."""

    statuses: set[int] = field(default_factory=set)
    seconds: list[float] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))]


@contextmanager
def pinging(server: Server, per_second: int = PER_SECOND) -> Iterator[Pings]:
    """Ask for the block, on a connection each; what was asked is answered by its end."""
    pings, over = Pings(), threading.Event()
    asked: list[Future[tuple[int, float]]] = []

    def ask(due: float) -> tuple[int, float]:
        status = server.ask("GET", "/ping").status
        return status, time.monotonic() - due

    def go_on(pool: ThreadPoolExecutor) -> None:
        due = time.monotonic()
        while not over.wait(max(0.0, due - time.monotonic())):
            asked.append(pool.submit(ask, due))
            due += 1 / per_second

    with ThreadPoolExecutor(AT_ONCE) as pool:
        thread = threading.Thread(target=go_on, args=(pool,), name="pings")
        thread.start()
        try:
            yield pings
        finally:
            over.set()
            thread.join()
        for ping in asked:
            status, seconds = ping.result()
            pings.statuses.add(status)
            pings.seconds.append(seconds)
