"""What every row is given, and what a row is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contents import Shape
from measures import Outcome
from sink import Sink

SOURCE = "source"
"""The bucket of what is copied."""


class LeftOut(Exception):
    """A row can not be measured here; says why."""


@dataclass(frozen=True)
class Setting:
    folder: Path
    sink: Sink
    rounds: int
    quick: bool

    def shape(self, full: Shape, quick: Shape) -> Shape:
        return quick if self.quick else full

    def number(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True)
class Row:
    """One line of the table; `work` says what is done, in full size. Those like another are not `in_quick`."""

    name: str
    work: str
    run: Callable[[Setting], Outcome]
    in_quick: bool = True
