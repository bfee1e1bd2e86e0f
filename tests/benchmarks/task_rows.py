"""Tasks whose cost is not in the copying: hardly any inputs, zips, and logs."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import works
from contents import KIB, MIB, Shape
from measures import OURS, SHIM, Outcome, take_turns
from setting import Row, Setting
from stacks import both
from task_turn import repeated, task_turns


def small_tasks(inputs: int, limit: float, tasks: int) -> Callable[[Setting], Outcome]:
    def run(setting: Setting) -> Outcome:
        number, shape = setting.number(tasks, 2), Shape(inputs, 4 * KIB)
        outcome = Outcome("ms")
        with works.download(setting, shape) as work, both(setting.folder, setting.sink, setting.sink.plain) as stacks:
            once = task_turns(stacks, setting.sink, work, outcome.peaks)
            turns = {name: repeated(turn, number, statistics.median) for name, turn in once.items()}
            outcome.samples = take_turns(turns, setting.rounds)
        outcome.notes.append(f"the median of {number} tasks, one after the other, in each round")
        return outcome.against_shim(limit)

    return run


def unzip(full: Shape, quick: Shape, limit: float) -> Callable[[Setting], Outcome]:
    def run(setting: Setting) -> Outcome:
        shape, outcome = setting.shape(full, quick), Outcome()
        with works.unzip(setting, shape) as work, both(setting.folder, setting.sink, setting.sink.plain) as stacks:
            outcome.samples = take_turns(task_turns(stacks, setting.sink, work, outcome.peaks), setting.rounds)
        outcome.notes.append(f"a zip of {work.input_bytes / MIB:.0f} MiB, fetched and unpacked by one task")
        return outcome.against_shim(limit)

    return run


def log_lines(setting: Setting) -> Outcome:
    count, outcome = setting.number(1_000_000, 50_000), Outcome()
    with works.log(setting, count) as work, both(setting.folder, setting.sink, setting.sink.plain) as stacks:
        outcome.samples = take_turns(task_turns(stacks, setting.sink, work, outcome.peaks), setting.rounds)
    for name in (SHIM, OURS):
        speed = count / statistics.median(sample.value for sample in outcome.samples[name])
        outcome.notes.append(f"{name}: {speed:,.0f} lines a second")
    return outcome.against_shim(1 / 15, cpu_limit=1 / 12)


ZIP_BIG = Shape(500, 2 * MIB), Shape(50, 2 * MIB)
ZIP_SMALL = Shape(20_000, 8 * KIB), Shape(2_000, 8 * KIB)

ROWS = [
    Row("no-input", "a task without inputs, p50", small_tasks(0, 0.10, 20)),
    Row("one-input", "a task with 1 x 4 KiB, p50", small_tasks(1, 0.10, 20), in_quick=False),
    Row("inputs-100", "a task with 100 x 4 KiB, p50", small_tasks(100, 0.12, 10)),
    Row("zip-big", f"a zip of {ZIP_BIG[0]} as input", unzip(*ZIP_BIG, 0.45)),
    Row("zip-small", f"a zip of {ZIP_SMALL[0]} as input", unzip(*ZIP_SMALL, 0.50), in_quick=False),
    Row("log", "1,000,000 log lines of 100 bytes", log_lines),
]
