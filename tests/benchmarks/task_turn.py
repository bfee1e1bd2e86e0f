"""One task on a warm server, with the look that it did all of its work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from measures import Sample, Turn
from place import emptied
from process_tree import PeakMemory
from setting import SOURCE
from sink import Sink
from stacks import Stack
from works import Work

NOTHING = "exit 0"
SHORT_SECONDS = 0.2


@dataclass
class TaskTurn:
    """A turn that posts a task; in the round that is not counted it notes the peak of memory.

    One that `settles` waits until what the server left for after its answer is done, where that may be something.
    """

    stack: Stack
    sink: Sink
    work: Work
    peaks: dict[str, float] = field(default_factory=dict)
    settles: bool = True

    def __call__(self, warming_up: bool) -> Sample:
        stack, counted = self.stack, self.stack.folder / "counted"
        stack.tell(self._script(counted, warming_up))
        body = stack.body([(SOURCE, key) for key in self.work.inputs], self.work.decompress)
        self.sink.traffic()
        printed, before = stack.lines, stack.cpu
        started = time.monotonic()
        with PeakMemory(stack.pid) if warming_up else nullcontext() as memory:
            stack.run(body)
            if self.work.lines:
                stack.await_lines(printed + self.work.lines[1])
            seconds = time.monotonic() - started
        if self.settles and seconds > SHORT_SECONDS:
            stack.settle()  # its CPU counts, and nobody else is measured beside it
        cpu = stack.cpu - before
        if memory:
            self.peaks[stack.name] = max(memory.over_idle, self.peaks.get(stack.name, 0))
        self._check(counted, warming_up)
        return Sample(seconds, cpu)

    def _script(self, counted: Path, warming_up: bool) -> str:
        """Return what the algorithm does: as little as can be."""
        if self.work.put:
            prepared = emptied(self.stack.folder / "prepared") / "files"
            link_all(self.work.put[0], prepared)
            return f"exec mv {prepared} {self.stack.output}/"
        if self.work.lines:
            return f"exec cat {self.work.lines[0]}"
        if warming_up and self.work.input_shape:
            files = f"find -L {self.stack.input} -type f -printf '%s\\n'"
            return f"""{files} | awk '{{ n++; s += $1 }} END {{ printf "%.0f %.0f", n, s }}' >{counted}"""
        return NOTHING

    def _check(self, counted: Path, warming_up: bool) -> None:
        name, work = self.stack.name, self.work
        traffic = self.sink.traffic(put=work.put[1].total if work.put else 0, got=work.input_bytes)
        assert traffic.got >= work.input_bytes, f"{name} fetched {traffic.got} of {work.input_bytes} bytes"
        if work.put:
            shape = work.put[1]
            assert (traffic.objects, traffic.put) >= (shape.count, shape.total), f"{name} put {traffic}, of {shape}"
        if warming_up and work.input_shape:
            found, wanted = counted.read_text(), f"{work.input_shape.count} {work.input_shape.total}"
            assert found == wanted, f"{name} staged {found}, of {wanted}"


def link_all(source: Path, to: Path) -> None:
    """Make the folder again, of links to the same files: that costs no memory."""
    to.mkdir()
    for entry in os.scandir(source):
        os.link(entry.path, to / entry.name)


def task_turns(stacks: Sequence[Stack], sink: Sink, work: Work, peaks: dict[str, float]) -> dict[str, Turn]:
    return {stack.name: TaskTurn(stack, sink, work, peaks) for stack in stacks}


def repeated(once: Turn, number: int, median: Callable[[list[float]], float]) -> Turn:
    """Return a turn of many tasks one after the other: the median in ms, and the CPU seconds of one."""

    def turn(warming_up: bool) -> Sample:
        samples = [once(warming_up) for _ in range(number)]
        cpu = sum(sample.cpu or 0 for sample in samples) / number
        return Sample(1000 * median([sample.value for sample in samples]), cpu)

    return turn
