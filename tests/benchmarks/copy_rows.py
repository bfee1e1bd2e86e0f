"""Files that are copied from S3 and to it: tasks with an algorithm that does nothing, beside s5cmd, rclone and curl."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import works
from contents import GIB, KIB, MIB, Shape
from copiers import Copier
from measures import Outcome, Sample, Turn, take_turns
from place import emptied
from setting import SOURCE, LeftOut, Row, Setting
from sink import Sink
from stacks import both
from task_turn import task_turns

MANY = (Shape(2000, 4 * KIB), Shape(300, 4 * KIB))
MIDDLE = (Shape(200, MIB), Shape(50, MIB))
LARGE = (Shape(16, 128 * MIB), Shape(4, 64 * MIB))
TWO_GIB = (Shape(1, 2 * GIB), Shape(1, 256 * MIB))
ONE_GIB = (Shape(1, GIB), Shape(1, 256 * MIB))
NUMBERS = itertools.count()

Shapes = tuple[Shape, Shape]


def download(shapes: Shapes, limit: float, address: str = "plain") -> Callable[[Setting], Outcome]:
    def run(setting: Setting) -> Outcome:
        shape, endpoint, outcome = setting.shape(*shapes), address_of(setting, address), Outcome()
        with works.download(setting, shape) as work, both(setting.folder, setting.sink, endpoint) as stacks:
            turns = task_turns(stacks, setting.sink, work, outcome.peaks)
            for name in copiers_of(shape):
                copier = Copier(name, endpoint, setting.sink.authority)
                turns[name] = down_by(copier, work.inputs, shape, setting.folder / "copied")
            outcome.samples = take_turns(turns, setting.rounds)
        return outcome.against_shim(limit).against_copiers()

    return run


def upload(shapes: Shapes, limit: float) -> Callable[[Setting], Outcome]:
    def run(setting: Setting) -> Outcome:
        shape, endpoint, outcome = setting.shape(*shapes), setting.sink.plain, Outcome()
        with works.upload(setting, shape) as work, both(setting.folder, setting.sink, endpoint) as stacks:
            turns = task_turns(stacks, setting.sink, work, outcome.peaks)
            assert work.put
            for name in copiers_of(shape):
                copier = Copier(name, endpoint, setting.sink.authority)
                turns[name] = up_by(copier, shape, work.put[0], setting.sink)
            outcome.samples = take_turns(turns, setting.rounds)
        return outcome.against_shim(limit).against_copiers()

    return run


def copiers_of(shape: Shape) -> list[str]:
    """Return who else copies this: curl has one object at a time."""
    return ["s5cmd", "rclone", *(["curl"] if shape.count == 1 else [])]


def address_of(setting: Setting, name: str) -> str:
    address: str = getattr(setting.sink, name)
    if not address:
        raise LeftOut("nginx has no module for answers that wait: Debian's libnginx-mod-http-echo")
    return address


def down_by(copier: Copier, names: Sequence[str], shape: Shape, folder: Path) -> Turn:
    def turn(_: bool) -> Sample:
        emptied(folder)
        seconds, cpu = copier.down(SOURCE, names, folder)
        sizes = [entry.stat().st_size for entry in os.scandir(folder)]
        assert (len(sizes), sum(sizes)) == (shape.count, shape.total), f"{copier.name} copied {len(sizes)} of {shape}"
        shutil.rmtree(folder)
        return Sample(seconds, cpu)

    return turn


def up_by(copier: Copier, shape: Shape, folder: Path, sink: Sink) -> Turn:
    names = os.listdir(folder)

    def turn(_: bool) -> Sample:
        sink.traffic()
        seconds, cpu = copier.up(folder, names, f"{copier.name}-{next(NUMBERS)}")
        traffic = sink.traffic(put=shape.total)
        assert (traffic.objects, traffic.put) >= (shape.count, shape.total), f"{copier.name} put {traffic}, of {shape}"
        return Sample(seconds, cpu)

    return turn


ROWS = [
    Row("download-many", f"{MANY[0]} downloaded", download(MANY, 0.12)),
    Row("upload-many", f"{MANY[0]} uploaded", upload(MANY, 0.15)),
    Row("download-middle", f"{MIDDLE[0]} downloaded", download(MIDDLE, 0.25)),
    Row("upload-middle", f"{MIDDLE[0]} uploaded", upload(MIDDLE, 0.25), in_quick=False),
    Row("download-large", f"{LARGE[0]} downloaded", download(LARGE, 0.40), in_quick=False),
    Row("upload-large", f"{LARGE[0]} uploaded", upload(LARGE, 0.35), in_quick=False),
    Row("download-one", f"{TWO_GIB[0]} downloaded", download(TWO_GIB, 0.55)),
    Row("upload-one", f"{TWO_GIB[0]} uploaded", upload(TWO_GIB, 0.40), in_quick=False),
    Row("tls-one", f"{ONE_GIB[0]} downloaded over TLS", download(ONE_GIB, 0.55, "tls")),
    Row("tls-many", f"{MANY[0]} downloaded over TLS", download(MANY, 0.13, "tls"), in_quick=False),
    Row("latency-many", f"{MANY[0]} downloaded, answers 20 ms late", download(MANY, 0.20, "slow")),
    Row("latency-one", f"{ONE_GIB[0]} downloaded, answers 20 ms late", download(ONE_GIB, 0.60, "slow"), in_quick=False),
]
