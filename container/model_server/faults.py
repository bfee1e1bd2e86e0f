"""What is wrong with tasks: the first faults in full and the others counted, since a body can have any number."""

from collections.abc import Iterator
from typing import Any

from .errors import TaskInvalid

MAX_FAULTS = 100
MAX_FAULT_BYTES = 500
"""Together they keep the body of a 422 under 64 KiB."""

Location = tuple[str | int, ...]


class Faults:
    """Gathers the entries of `detail`, in the shape that FastAPI gives them, without the input."""

    def __init__(self) -> None:
        self._listed: list[dict[str, Any]] = []
        self._more = 0

    def __bool__(self) -> bool:
        return bool(self._listed)

    def add(self, kind: str, where: Location, message: str, reason: str | None = None) -> None:
        if len(self._listed) == MAX_FAULTS:
            self._more += 1
            return
        self._listed.append({"type": kind, "loc": list(where), "msg": message[:MAX_FAULT_BYTES]})
        if reason is not None:
            self._listed[-1]["ctx"] = {"error": reason}

    def add_all(self, others: "Faults", where: Location) -> None:
        """Add the faults of one part of what these are about; `where` is its place."""
        for fault in others._listed:
            self.add(fault["type"], (*where, *fault["loc"]), fault["msg"])
        self._more += others._more

    def raise_if_any(self) -> None:
        if self:
            raise TaskInvalid(list(self._all()))

    def _all(self) -> Iterator[dict[str, Any]]:
        yield from self._listed
        if self._more:
            yield {"type": "too_many_faults", "loc": ["body"], "msg": f"{self._more} more faults are not listed"}
