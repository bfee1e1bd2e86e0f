"""Importing this keeps the garbage collector away from what is imported after it: there is next to no garbage in it.

A collection looks at every object there is, again and again while their number grows, which is a tenth of the time that
imports take. It writes to each of them, too, so that a process that was forked has copies of them all: 9 MiB.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

gc.disable()


def pause() -> None:
    """Have nothing collected until `begin`."""
    gc.disable()


def begin() -> None:
    """Collect from now on, but for ever leave alone what is there: the modules that are imported."""
    gc.freeze()
    gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """Have nothing collected in a block that imports much, nor ever what it imported."""
    pause()
    try:
        yield
    finally:
        begin()
