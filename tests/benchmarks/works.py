"""What a task has to do, with all that it needs put in place."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from contents import Shape, put_files, put_lines, put_zip
from place import need_room
from setting import SOURCE, Setting


@dataclass(frozen=True)
class Work:
    """One task; `inputs` are keys of the source bucket, of so many bytes together.

    `input_shape` is what the algorithm has to find, `put` a folder of what it is to leave as output, and `lines` a file
    that it is to print, with the number of lines.
    """

    inputs: Sequence[str] = ()
    input_bytes: int = 0
    decompress: bool = False
    input_shape: Shape | None = None
    put: tuple[Path, Shape] | None = None
    lines: tuple[Path, int] | None = None


Prepared = Callable[[Setting], AbstractContextManager[Work]]


@contextmanager
def download(setting: Setting, shape: Shape) -> Iterator[Work]:
    need_room(shape.total * 2)
    with empty_source(setting) as bucket:
        names = put_files(bucket, shape)
        setting.sink.list_bucket(SOURCE, names)
        yield Work(names, shape.total, input_shape=shape if shape.count else None)


@contextmanager
def upload(setting: Setting, shape: Shape) -> Iterator[Work]:
    need_room(shape.total * 2)
    folder = setting.folder / "uploads"
    put_files(folder, shape)
    try:
        yield Work(put=(folder, shape))
    finally:
        shutil.rmtree(folder)


@contextmanager
def unzip(setting: Setting, shape: Shape) -> Iterator[Work]:
    need_room(shape.total * 3)
    with empty_source(setting) as bucket:
        bucket.mkdir(parents=True)
        put_zip(bucket / "images.zip", shape)
        size = (bucket / "images.zip").stat().st_size
        yield Work(["images.zip"], size, decompress=True, input_shape=shape)


@contextmanager
def log(setting: Setting, count: int) -> Iterator[Work]:
    file = setting.folder / "lines"
    put_lines(file, count)
    try:
        yield Work(lines=(file, count))
    finally:
        file.unlink()


@contextmanager
def empty_source(setting: Setting) -> Iterator[Path]:
    """Have a bucket of nothing, and of nothing again at the end."""
    bucket = setting.sink.bucket(SOURCE)
    shutil.rmtree(bucket, ignore_errors=True)
    try:
        yield bucket
    finally:
        shutil.rmtree(bucket, ignore_errors=True)
