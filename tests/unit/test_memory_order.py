"""The score of a process that was started where our own could not be raised."""

import subprocess
from pathlib import Path

import pytest

from model_server import memory_order
from model_server.memory_order import OWN, first_to_end


class Closed:
    """Our own score, as the kernel has it for an ordinary user whose memory is hidden: to be read only."""

    def read_text(self) -> str:
        return OWN.read_text()

    def write_text(self, score: str) -> None:
        raise PermissionError


def test_where_our_own_score_can_not_be_raised_the_new_process_is_given_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = int(OWN.read_text())
    monkeypatch.setattr(memory_order, "OWN", Closed())
    with first_to_end() as note_pid, subprocess.Popen(["sleep", "60"]) as process:
        note_pid(process.pid)
        assert int(Path(f"/proc/{process.pid}/oom_score_adj").read_text()) == min(1000, before + 500)
        process.kill()
    with first_to_end() as note_pid:
        note_pid(process.pid)  # of one that has ended
    assert int(OWN.read_text()) == before
