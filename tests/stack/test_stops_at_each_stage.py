"""SIGTERM and SIGINT to `serve`, once and twice, at each stage of a task."""

import signal
import time
from typing import TYPE_CHECKING

import pytest
from server import eventually, is_signed, serving

from faulty_s3 import FaultyS3
from stages import AFTER_ITS_END, PARTIAL, RUNNING, STAGES, HeldTask, signal_times

if TYPE_CHECKING:
    from conftest import Bucket

SECONDS = 25
"""Until everything is gone; SageMaker kills after 30 s."""


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_stop_at_any_stage_is_answered_and_has_a_true_result(
    s3: FaultyS3, bucket: "Bucket", stage: str, signum: int, times: int
) -> None:
    with serving(s3.endpoint, ALGORITHM_SAVE_PARTIAL="true") as server:
        task = HeldTask(stage, s3, bucket, server.board, "cut")
        posted = server.post(task.json)
        eventually(task.is_there, f"a task that is {stage}")
        started = time.monotonic()
        signal_times(server.pid, signum, times)
        if stage in AFTER_ITS_END:
            task.let_go()
        answer = posted.answer()
        task.let_go()
        assert server.ended() == 0
        assert time.monotonic() - started < SECONDS
        result = bucket.result("/out/cut")
        assert is_signed(bucket, "cut")
        keys = bucket.keys()
        saved = {f"/out/cut/partial/{name}": data for name, data in PARTIAL.items()} if stage == RUNNING else {}
        assert {key: bucket.get(key) for key in keys if "/partial/" in key} == saved
        if stage in AFTER_ITS_END:
            assert (answer.status, answer.json()) == (200, result)
            assert (result["return_code"], result["error"]) == (0, None)
        else:
            assert (answer.status, answer.json()["error"]["code"]) == (503, "interrupted")
            assert (result["return_code"], result["error"]["code"]) == (1, "interrupted")
            assert (result["outputs"], result["partial_outputs"]) == ([], len(saved))
