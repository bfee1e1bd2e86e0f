"""A progress bar for a person at a terminal; a log gets none."""

import sys
from contextlib import suppress
from typing import Any

import click

CLEAR_LINE = b"\r\x1b[K"


class Progress:
    """The bar of a list of tasks, drawn below the log lines that appear at the same terminal."""

    def __init__(self) -> None:
        self._bar: Any = None

    def begin(self, tasks: int) -> None:
        """Show a bar for a number of tasks, if stderr is a terminal."""
        if sys.stderr and sys.stderr.isatty():
            self._bar = click.progressbar(length=tasks, label="Tasks", show_pos=True, file=sys.stderr)
            self._draw()

    def advance(self) -> None:
        """Count one task as done."""
        if self._bar:
            self._bar.make_step(1)
            self._draw()

    def around(self, records: bytes) -> bytes:
        """Return what to write to the terminal so that log records appear above the bar."""
        if not self._bar:
            return records
        line: str = self._bar.format_progress_line()
        return CLEAR_LINE + records + line.encode()

    def _draw(self) -> None:
        with suppress(OSError):  # the terminal is gone, and the list goes on
            sys.stderr.buffer.write(self.around(b""))
            sys.stderr.buffer.flush()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it is, and begin a new line."""
        if self._bar:
            with suppress(OSError):
                sys.stderr.write("\n")
