"""SIGTERM and SIGINT to `invoke`, once and twice, at each stage of a task."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import pytest
from invocation import Invocation
from rig import DEADLINE_SECONDS, log_records, signed_result, wait_until

from faulty_s3 import FaultyS3
from stages import AFTER_ITS_END, PARTIAL, RUNNING, STAGES, HeldTask, signal_times

if TYPE_CHECKING:
    from tests.conftest import Bucket

SECONDS = 15
"""Less than a transfer that hangs is waited for, and than SageMaker's 120 s by far."""

EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 1}


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize("signum", EXIT_CODES, ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_stop_at_any_stage_leaves_a_true_result_of_every_task(
    invoke: Invocation, bucket: Bucket, s3: FaultyS3, stage: str, signum: int, times: int
) -> None:
    board = invoke.root / "board"
    board.mkdir()
    task, behind = HeldTask(stage, s3, bucket, board, "cut"), bucket.task("behind")
    process = invoke.start(
        None,
        "-t",
        json.dumps([task.json, behind]),
        env={
            "ALGORITHM_ENTRYPOINT": 'exec sh "$ALGORITHM_INPUT_PATH/do"',
            "ALGORITHM_SAVE_PARTIAL": "true",
            "AWS_ENDPOINT_URL_S3": s3.endpoint,
            "BOARD": str(board),
        },
    )
    wait_until(task.is_there, f"a task that is {stage}")
    started = time.monotonic()
    signal_times(process.pid, signum, times)
    if stage in AFTER_ITS_END:
        task.let_go()
    stdout, _ = process.communicate(timeout=DEADLINE_SECONDS)
    task.let_go()
    assert process.returncode == EXIT_CODES[signal.Signals(signum)]
    assert time.monotonic() - started < SECONDS
    log_records(stdout)
    assert signed_result(bucket, behind)["error"]["code"] == "interrupted"
    result = signed_result(bucket, task.json)
    keys = bucket.keys()
    saved = {f"/out/cut/partial/{name}": data for name, data in PARTIAL.items()} if stage == RUNNING else {}
    assert {key: bucket.get(key) for key in keys if "/partial/" in key} == saved
    if stage in AFTER_ITS_END:
        assert (result["return_code"], result["error"]) == (0, None)
    else:
        assert (result["return_code"], result["error"]["code"]) == (1, "interrupted")
        assert (result["outputs"], result["partial_outputs"]) == ([], len(saved))
    invoke.assert_tidy()
