"""Trying generated examples: each of them, the same ones in every run, and all that is wrong told at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

NUMBERS = {
    "tasks": 200,
    "tasks with zips": 120,
    "bodies": 560,
    "set-ups": 60,
    "set-ups with tarballs": 40,
    "resident servers": 20,
}
"""How many examples there are of each kind: what runs is dear, what is refused is cheap."""

SHOWN = 30
T = TypeVar("T")


def tried(kind: str, strategy: st.SearchStrategy[T], trial: Callable[[T], list[str]]) -> None:
    """Try all examples of a kind, no fewer; a trial returns what was wrong."""
    number = NUMBERS[kind]
    faults: list[str] = []
    count = 0

    @seed(83)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(example: T) -> None:
        nonlocal count
        count += 1
        faults.extend(trial(example))

    each()
    assert not faults, f"{len(faults)} differences that are not declared, of which:\n\n" + "\n\n".join(faults[:SHOWN])
    assert count == number
