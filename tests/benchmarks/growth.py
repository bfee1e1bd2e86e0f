"""How time and memory grow with the number of inputs, with the size of one, and with the lines of a log."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import works
from contents import GIB, KIB, MIB, Shape
from place import NoRoom
from setting import Setting
from stacks import SIDES, Stack
from task_turn import TaskTurn
from works import Prepared

REPEATED_SECONDS = 5.0
"""A task that takes less is run three times more."""

PATIENCE_SECONDS = 240.0
"""A point that would take longer is left out, for the side that it would take so long."""


@dataclass(frozen=True)
class Series:
    what: str
    unit: str
    points: Sequence[int]
    work: Callable[[int], Prepared]


def inputs_of(count: int) -> Prepared:
    return lambda setting: works.download(setting, Shape(count, 4 * KIB))


def input_of(size: int) -> Prepared:
    return lambda setting: works.download(setting, Shape(1, size))


def lines_of(count: int) -> Prepared:
    return lambda setting: works.log(setting, count)


SERIES = {
    "inputs": Series("Inputs of 4 KiB", "", (1, 10, 100, 1_000, 5_000, 20_000), inputs_of),
    "size": Series(
        "One input",
        "B",
        (KIB, 32 * KIB, MIB, 32 * MIB, 256 * MIB, GIB, 2 * GIB, 4 * GIB, 8 * GIB),
        input_of,
    ),
    "lines": Series("Log lines", "", (1, 100, 10_000, 100_000, 1_000_000, 10_000_000), lines_of),
}


def measure(setting: Setting) -> dict[str, Any]:
    found = {}
    for name, series in SERIES.items():
        points = series.points[:4] if setting.quick else series.points
        sides: dict[str, list[dict[str, float]]] = {side.name: [] for side in SIDES}
        for number in points:
            print(f"==> {series.what}: {number:,}", file=sys.stderr, flush=True)
            try:
                with series.work(number)(setting) as work:
                    for side in SIDES:
                        if in_time(sides[side.name], number):
                            sides[side.name].append({"x": number, **point(setting, side, work)})
            except NoRoom as reason:
                print(f"LEFT OUT: {series.what}, {number:,}: {reason}", file=sys.stderr)
                break
        found[name] = {"what": series.what, "unit": series.unit, "sides": sides}
    return found


def in_time(points: Sequence[dict[str, float]], number: int) -> bool:
    if not points:
        return True
    last = points[-1]
    return last["seconds"] * number / last["x"] < PATIENCE_SECONDS if last["seconds"] > 1 else True


def point(setting: Setting, side: type[Stack], work: works.Work) -> dict[str, float]:
    """Measure one task on a server that just started, the peak of memory with the first."""
    stack = side(setting.folder / side.name, setting.sink.plain, setting.sink.authority)
    try:
        stack.start()
        turn = TaskTurn(stack, setting.sink, work)
        first = turn(True).value
        times = 3 if first < REPEATED_SECONDS else 1
        seconds = statistics.median(turn(False).value for _ in range(times))
        return {"seconds": seconds, "peak_mib": turn.peaks[side.name]}
    finally:
        stack.stop()


def text_of(found: dict[str, Any]) -> str:
    lines = []
    for series in found.values():
        heads = [f"{side} {what}" for side in series["sides"] for what in ("s", "MiB")]
        lines.append(f"{series['what']:>18} " + " ".join(f"{head:>14}" for head in heads))
        by_side = [{point["x"]: point for point in points} for points in series["sides"].values()]
        for number in sorted(set().union(*by_side)):
            cells = []
            for points in by_side:
                there = points.get(number)
                cells += [f"{there['seconds']:14.3f}", f"{there['peak_mib']:+14.1f}"] if there else [f"{'-':>14}"] * 2
            lines.append(f"{number:18,} {' '.join(cells)}")
        lines.append("")
    return "\n".join(lines)
