"""A clock on which a pause takes no time but its own: a minute of retries passes at once."""

import threading


class Clock:
    """Stands in for the module `time`, in any number of threads."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds
