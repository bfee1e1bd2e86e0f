"""The progress bar of a list, at a terminal of its own."""

import io
import os
import sys

import pytest

from model_server.progress import Progress


def test_a_terminal_that_goes_away_ends_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, ours = os.openpty()
    with open(ours, "wb", buffering=0) as raw, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", io.TextIOWrapper(io.BufferedWriter(raw), write_through=True))
        progress = Progress()
        with progress:
            progress.begin(2)
            progress.advance()
            assert b"1/2" in os.read(terminal, 10_000)
            os.close(terminal)
            progress.advance()
            assert b"2/2" in progress.around(b"")
        with pytest.raises(OSError, match="Input/output error"):
            os.write(ours, b"it is gone")
