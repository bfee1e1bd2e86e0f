"""/ping while the server is busy: always answered, and no thread of a worker keeps the others from running for long.

How fast it is is measured by hand (`ping_under_load.py`): on a machine that others use too nothing tight can be said.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from loads import LOADS, Load, measure
from pinging import Pings
from server import copy_of_the_program

if TYPE_CHECKING:
    from conftest import Bucket

BLOCKED_SECONDS = 2.0
"""Only a server that something holds up takes so long, however busy the machine is."""

CUT_OFF = ("client_header_timeout 60s;", "client_body_timeout 60s;")
"""In nginx's configuration: when a half-sent request is."""

TIMED = "requests are half sent"
QUICK = {
    "a zip is unpacked",
    "files are cleaned",
    "a log is written",
    "tasks are too large",
    "large tasks are read",
    "spaces are read",
    "payloads arrive",
}
"""The loads that are over soon at a small size; test_slow_log_reader.py has the log that nobody reads."""


def assert_answered(pings: Pings) -> None:
    assert pings.statuses == {200}
    assert max(pings.seconds) < BLOCKED_SECONDS


@pytest.mark.parametrize("load", [load for load in LOADS if load.name in QUICK], ids=lambda load: load.name)
def test_every_ping_is_answered_in_time_while(bucket: "Bucket", load: Load) -> None:
    pings, times = measure(load, bucket, load.small, seconds=0.5)
    assert times >= 1
    assert_answered(pings)


def test_half_sent_requests_are_cut_off_in_their_time(bucket: "Bucket", tmp_path: Path) -> None:
    """They are after 60 s; nobody waits for that here."""
    (load,) = (load for load in LOADS if load.name == TIMED)
    program = copy_of_the_program(tmp_path / "program")
    configuration = program.parent / "nginx.conf"
    text = configuration.read_text()
    for directive in CUT_OFF:
        assert directive in text
        text = text.replace(directive, directive.replace("60s", "2s"))
    configuration.write_text(text)
    started = time.monotonic()
    pings, _ = measure(load, bucket, load.small, seconds=0, program=program)
    assert time.monotonic() - started < 40
    assert_answered(pings)
