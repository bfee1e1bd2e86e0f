"""Many tasks while everything fails now and then: whatever happens, the promises hold.

pytest tests/chaos --tasks 10000 --seed 7
"""

import logging
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from checker import violations
from history import History
from plan import ENDS, FINAL, PASSING, lives
from server import SERVE, copy_of_the_program
from storm import Storm

logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the S3 server's, which runs in this process too

if TYPE_CHECKING:
    from tests.conftest import Bucket

RETRYING = (SERVE.parent / "model_server/retrying.py").read_text()
RETRIES = "RETRY_SECONDS = 60.0"
SHORT_RETRIES = "RETRY_SECONDS = 2.0"
"""An S3 that does not come back costs seconds, not minutes; nothing else of the program is changed."""


def test_whatever_happens_the_promises_hold(
    s3_endpoint: str, new_buckets: "Callable[[], Bucket]", tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    tasks, seed = pytestconfig.getoption("tasks"), pytestconfig.getoption("seed")
    assert RETRIES in RETRYING
    changed = {"model_server/retrying": RETRYING.replace(RETRIES, SHORT_RETRIES)}
    program = copy_of_the_program(tmp_path / "container", **changed)
    path = Path(tempfile.gettempdir(), f"longshore-chaos-{seed}-{tasks}.jsonl")
    history = History(path)
    try:
        storm = Storm(s3_endpoint, new_buckets, history, program)
        for life in lives(seed, tasks):
            storm.live(life)
        storm.give_up()
        found = violations(history.events)
        assert not found, f"{len(found)} promises broken:\n" + "\n".join(found[:30])
        if tasks >= 1000:
            assert_everything_happened(history)
    except BaseException as error:
        error.add_note(f"The seed was {seed}; what happened is in {path}")
        raise
    finally:
        history.close()
    path.unlink()


def assert_everything_happened(history: History) -> None:
    """A kind of fault that no attempt met would prove nothing."""
    met = Counter(event["what"].partition(" for ")[0] for event in history.events if event["event"] == "met")
    others = Counter(event.get("how") or event["event"] for event in history.events)
    print(dict(met), dict(others))
    assert set(met) >= {*PASSING, *FINAL, "kill algorithm"}
    assert set(others) >= {*ENDS, "left", "killed"}
