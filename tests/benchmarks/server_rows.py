"""The servers themselves: their start, their memory, the model, starting the algorithm, and /ping while they work."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import works
from contents import GIB, KIB, MIB, Shape, put_tar
from measures import OURS, SHIM, Outcome, Sample, Turn, take_turns
from place import need_room
from setting import SOURCE, Row, Setting
from stacks import CHECKOUT, SIDES, Longshore, Stack, both
from task_turn import TaskTurn, task_turns
from works import Prepared

HERE = Path(__file__).parent
SETTLING_SECONDS = 3.0
MOST_OVER_IDLE_MIB = 96
PING_P99_MS, PING_MOST_MS = 25, 100


def new_stack(side: type[Stack], setting: Setting, **more: str) -> Stack:
    return side(setting.folder / side.name, setting.sink.plain, setting.sink.authority, more)


def start(setting: Setting) -> Outcome:
    def turn_of(side: type[Stack]) -> Turn:
        def turn(_: bool) -> Sample:
            stack = new_stack(side, setting)
            try:
                return Sample(stack.start(), stack.cpu)
            finally:
                stack.stop()

        return turn

    samples = take_turns({side.name: turn_of(side) for side in SIDES}, setting.rounds)
    return Outcome(samples=samples).against_shim(0.30)


def idle(setting: Setting) -> Outcome:
    samples = take_turns({side.name: idle_turn(setting, side) for side in SIDES}, min(3, setting.rounds))
    return Outcome("MiB", samples=samples).against_shim(0.6)


def idle_of_many_workers(setting: Setting) -> Outcome:
    turn = idle_turn(setting, Longshore, MODEL_SERVER_WORKERS="64")
    outcome = Outcome("MiB", samples=take_turns({OURS: turn}, min(3, setting.rounds)))
    return outcome.at_most("MiB", 512, [sample.value for sample in outcome.samples[OURS]])


def idle_turn(setting: Setting, side: type[Stack], **more: str) -> Turn:
    def turn(warming_up: bool) -> Sample:
        if warming_up:
            return Sample(0)
        stack = new_stack(side, setting, **more)
        try:
            stack.start()
            time.sleep(SETTLING_SECONDS)
            return Sample(stack.memory)
        finally:
            stack.stop()

    return turn


def model(packed: bool, limit: float, most_mib: float | None = None) -> Callable[[Setting], Outcome]:
    """Measure from the start to /ping 200 with a model, less the same without one."""

    def run(setting: Setting) -> Outcome:
        shape = setting.shape(Shape(16, 64 * MIB), Shape(4, 32 * MIB))
        need_room(shape.total * 4)  # the shim has it in memory twice
        outcome = Outcome()
        with works.empty_source(setting) as bucket:
            bucket.mkdir(parents=True)
            put_tar(bucket / "model", shape, packed)
            without = {side.name: median_start(setting, side) for side in SIDES}
            turns = {side.name: model_turn(setting, side, shape, without[side.name], outcome) for side in SIDES}
            outcome.samples = take_turns(turns, setting.rounds)
        for name, seconds in without.items():
            outcome.notes.append(f"{name}: {seconds:.2f} s without a model, which are taken off")
        outcome.against_shim(limit)
        if most_mib:
            outcome.at_most("MiB over idle", most_mib, [outcome.peaks[OURS]])
        return outcome

    return run


def median_start(setting: Setting, side: type[Stack]) -> float:
    found = []
    for _ in range(setting.number(3, 1)):
        stack = new_stack(side, setting)
        try:
            found.append(stack.start())
        finally:
            stack.stop()
    return statistics.median(found)


def model_turn(setting: Setting, side: type[Stack], shape: Shape, without: float, outcome: Outcome) -> Turn:
    def turn(warming_up: bool) -> Sample:
        stack = new_stack(side, setting, GRAND_CHALLENGE_COMPONENT_MODEL=f"s3://{SOURCE}/model")
        try:
            seconds = stack.start(watch_memory=warming_up)
            cpu = stack.cpu
            if warming_up:
                outcome.peaks[side.name] = stack.peak_of_start - stack.memory
            sizes = [path.stat().st_size for path in stack.model.iterdir()]
            assert (len(sizes), sum(sizes)) == (shape.count, shape.total), f"{side.name} unpacked {sizes}"
            return Sample(seconds - without, cpu)
        finally:
            stack.stop()

    return turn


def spawn(setting: Setting) -> Outcome:
    count = setting.number(50, 20)
    rigs: dict[str, list[str | Path]] = {
        SHIM: [CHECKOUT / ".venv-shim" / "bin" / "python", HERE / "spawn_rig.py", SHIM, str(count)],
        OURS: [Longshore.python(), HERE / "spawn_rig.py", OURS, str(count), Longshore.checkout],
    }

    def turn_of(words: Sequence[str | Path]) -> Turn:
        def turn(_: bool) -> Sample:
            done = subprocess.run(words, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            found = json.loads(done.stdout.splitlines()[-1])
            return Sample(found["milliseconds"], found["cpu"])

        return turn

    outcome = Outcome("ms", samples=take_turns({name: turn_of(words) for name, words in rigs.items()}, setting.rounds))
    outcome.notes.append(f"the median of {count} starts of /bin/true as nobody, in each round")
    return outcome.against_shim(0.20)


# -- what goes on at the same time


def kinds_of_work(setting: Setting) -> dict[str, Prepared]:
    """Return what a server is watched at."""
    if setting.quick:
        return {
            "8 x 48 MiB down": lambda _: works.download(setting, Shape(8, 48 * MIB)),
            "300 x 4 KiB down": lambda _: works.download(setting, Shape(300, 4 * KIB)),
        }
    return {
        "40 x 96 MiB down": lambda _: works.download(setting, Shape(40, 96 * MIB)),
        "1 x 2 GiB down": lambda _: works.download(setting, Shape(1, 2 * GIB)),
        "2,000 x 4 KiB down": lambda _: works.download(setting, Shape(2000, 4 * KIB)),
        "16 x 128 MiB up": lambda _: works.upload(setting, Shape(16, 128 * MIB)),
        "2,000 x 4 KiB up": lambda _: works.upload(setting, Shape(2000, 4 * KIB)),
        "a zip of 250 x 2 MiB": lambda _: works.unzip(setting, Shape(250, 2 * MIB)),
        "500,000 log lines": lambda _: works.log(setting, 500_000),
    }


def peak(setting: Setting) -> Outcome:
    """Measure the most memory over idle at each kind of work, on a server that just started."""
    outcome = Outcome("MiB", samples={side.name: [] for side in SIDES})
    for name, prepared in kinds_of_work(setting).items():
        peaks: dict[str, float] = {}
        with prepared(setting) as work, both(setting.folder, setting.sink, setting.sink.plain) as stacks:
            for side, turn in task_turns(stacks, setting.sink, work, peaks).items():
                for _ in range(setting.number(2, 1)):
                    turn(True)
                outcome.samples[side].append(Sample(peaks[side]))
        outcome.notes.append(f"{name}: shim {peaks[SHIM]:.0f}, longshore {peaks[OURS]:.0f} MiB over idle")
    worst = max(sample.value for sample in outcome.samples[OURS])
    return outcome.at_most("MiB over idle", MOST_OVER_IDLE_MIB, [worst])


def ping(setting: Setting) -> Outcome:
    """Measure /ping at each kind of work; a sample is the 99th percentile at one kind."""
    outcome = Outcome("ms", samples={side.name: [] for side in SIDES})
    most = 0.0
    for name, prepared in kinds_of_work(setting).items():
        said = []
        with prepared(setting) as work, both(setting.folder, setting.sink, setting.sink.plain) as stacks:
            for stack in stacks:
                turn = TaskTurn(stack, setting.sink, work, settles=False)  # or most pings would meet no task
                turn(True)
                found = pings_during(turn, setting.number(400, 50))
                outcome.samples[stack.name].append(Sample(percentile(found, 0.99)))
                middle, high, highest = statistics.median(found), percentile(found, 0.99), max(found)
                said.append(f"{stack.name} p50 {middle:.1f}, p99 {high:.1f}, most {highest:.1f} ms of {len(found)}")
                most = max(most, highest if stack.name == OURS else 0)
        outcome.notes.append(f"{name}: {'; '.join(said)}")
    outcome.at_most("ms p99", PING_P99_MS, [max(sample.value for sample in outcome.samples[OURS])])
    return outcome.at_most("ms at most", PING_MOST_MS, [most])


def pings_during(turn: TaskTurn, enough: int) -> list[float]:
    """Return the milliseconds of all pings while tasks run, of which as many as it takes."""
    found: list[float] = []
    while len(found) < enough:
        with pinging(turn.stack.port) as answered:
            turn(False)
        found += answered
    return found


@contextmanager
def pinging(port: int) -> Iterator[list[float]]:
    process = subprocess.Popen(
        [sys.executable, HERE / "pinger.py", str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    found: list[float] = []
    try:
        yield found
        found += json.loads(process.communicate()[0])
    finally:
        process.kill()
        process.wait()


def percentile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


ROWS = [
    Row("model-tar-gz", "a model of 1 GiB as .tar.gz, set up", model(True, 0.55, MOST_OVER_IDLE_MIB)),
    Row("model-tar", "a model of 1 GiB as .tar, set up", model(False, 0.80, MOST_OVER_IDLE_MIB), in_quick=False),
    Row("spawn", "a start of a program as another user, at 200 MiB", spawn),
    Row("start", "from the start of serve to /ping 200", start),
    Row("idle", "memory of all processes, idle", idle),
    Row("idle-64", "memory of all processes, idle, 64 workers", idle_of_many_workers),
    Row("peak", "most memory at any work", peak),
    Row("ping", "/ping 50 times a second at any work, p99", ping),
]
