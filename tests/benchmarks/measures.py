"""Rounds in which the contenders take turns, and what follows from them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

SHIM, OURS = "shim", "longshore"


@dataclass(frozen=True)
class Sample:
    """What one contender took in one round: in the row's unit, and in CPU seconds where they mean something."""

    value: float
    cpu: float | None = None


Turn = Callable[[bool], Sample]
"""Do the work once; it is told whether this is the round that is not counted, where checks may take their time."""


@dataclass(frozen=True)
class Spread:
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Goal:
    """A figure and the most that it may be."""

    what: str
    limit: float
    found: Spread

    @property
    def is_met(self) -> bool:
        return self.found.median <= self.limit


@dataclass
class Outcome:
    """What came of a row; `peaks` are MiB over idle in the round that is not counted."""

    unit: str = "s"
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def ratio(self, one: str, other: str, of: str = "value") -> Spread | None:
        """Return one contender's figure as a part of another's, round by round."""
        pairs = zip(self.samples.get(one, []), self.samples.get(other, []), strict=False)
        figures = [(getattr(mine, of), getattr(theirs, of)) for mine, theirs in pairs]
        ratios = [mine / theirs for mine, theirs in figures if mine is not None and theirs]
        return Spread.of(ratios) if ratios else None

    def against_shim(self, limit: float, cpu_limit: float | None = None) -> Outcome:
        """Add the goals against sagemaker-shim."""
        if found := self.ratio(OURS, SHIM):
            self.goals.append(Goal("of the shim's", limit, found))
        if cpu_limit and (found := self.ratio(OURS, SHIM, "cpu")):
            self.goals.append(Goal("of the shim's CPU", cpu_limit, found))
        return self

    def against_copiers(self) -> Outcome:
        """Add the goals against the programs that copy the same: the faster of two, by medians, and curl."""
        medians = {
            name: statistics.median(sample.value for sample in self.samples[name])
            for name in ("s5cmd", "rclone")
            if name in self.samples
        }
        if medians and (found := self.ratio(OURS, fastest := min(medians, key=lambda name: medians[name]))):
            self.goals.append(Goal(f"of {fastest}'s", 1.0, found))
        if found := self.ratio(OURS, "curl"):
            self.goals.append(Goal("of curl's", 1.3, found))
        return self

    def at_most(self, what: str, limit: float, values: Sequence[float]) -> Outcome:
        self.goals.append(Goal(what, limit, Spread.of(values)))
        return self


def take_turns(turns: Mapping[str, Turn], rounds: int) -> dict[str, list[Sample]]:
    """Let each do its work in each round, in another order each time, after one round that is not counted."""
    names = list(turns)
    for name in names:
        turns[name](True)
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            samples[name].append(turns[name](False))
    return samples
