"""A progress bar for a person at a terminal; a log gets none."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

CLEAR_LINE = "\r\x1b[K"


class Progress:
    """The bar of a list of tasks, drawn below the log lines that appear at the same terminal."""

    def __init__(self, bar: Any = None) -> None:
        self._bar = bar

    def advance(self) -> None:
        """Count one task as done."""
        if self._bar:
            self._bar.make_step(1)
            self.draw()

    def around(self, records: bytes) -> bytes:
        """Return what to write to the terminal so that log records appear above the bar."""
        if not self._bar:
            return records
        line: str = self._bar.format_progress_line()
        return CLEAR_LINE.encode() + records + line.encode()

    def draw(self) -> None:
        """Draw the bar anew, on the line that it is on."""
        sys.stderr.buffer.write(self.around(b""))
        sys.stderr.buffer.flush()


@contextmanager
def progress(tasks: int) -> Iterator[Progress]:
    """Show the progress of a number of tasks for the block, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield Progress()
        return
    bar: Any = click.progressbar(length=tasks, label="Tasks", show_pos=True, file=sys.stderr)
    shown = Progress(bar)
    shown.draw()
    yield shown
    shown.draw()
    print(file=sys.stderr)
