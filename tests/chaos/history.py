"""What happened, in order: a list of events that is also a file of JSON lines, to be read after a failure."""

import json
import threading
import time
from pathlib import Path
from typing import Any

Event = dict[str, Any]


class History:
    """Takes events from all threads of a run; each has its `event`, its `at` in seconds, and facts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Event] = []
        self._file = path.open("w", buffering=1)
        self._lock = threading.Lock()
        self._began = time.monotonic()

    def add(self, event: str, **facts: Any) -> None:
        with self._lock:
            entry = {"event": event, "at": round(time.monotonic() - self._began, 3), **facts}
            self.events.append(entry)
            self._file.write(json.dumps(entry) + "\n")

    def close(self) -> None:
        self._file.close()
