"""Processes of a task that can't be ended: no other task runs beside them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from invocation import INVOKE, Invocation
from rig import pid_in, signed_result

from model_server.scoreboard import Stuck

if TYPE_CHECKING:
    from conftest import Start
    from tests.conftest import Bucket

HELPLESS = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"] if os.geteuid() == 0 else []


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user reaches and may write to."""
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def test_a_worker_that_keeps_a_process_of_a_task_says_that_no_task_can_run(start: Start, bucket: Bucket) -> None:
    rig = start("does_nothing")
    with subprocess.Popen(["sleep", "60"]) as staying:  # it was there before, so the run's end leaves it alone
        try:
            assert rig.run(bucket.task())["return_code"] == 0
            assert rig.scoreboard.state.stuck == Stuck.PROCESSES
            assert rig.app.test_client().get("/ping").status_code == 503
            assert rig.post(bucket.task()).json["error"]["code"] == "not_ready"
        finally:
            staying.kill()
    assert Stuck.PROCESSES.why == "Processes of an earlier task can not be ended, so no task can run"


def test_the_tasks_behind_one_whose_processes_stay_are_told_so(
    invoke: Invocation, bucket: Bucket, open_folder: Path
) -> None:
    pid = open_folder / "pid"
    daemon = f"setsid sh -c 'echo $$ >{pid}; exec sleep 60' & until [ -s {pid} ]; do sleep 0.01; done"
    environment = {"ALGORITHM_USER": "12345", "ALGORITHM_ENTRYPOINT": json.dumps(["/bin/sh", "-c", daemon])}
    tasks = [bucket.task("leaves"), bucket.task("next")]
    try:
        ended = invoke.run(None, "-t", json.dumps(tasks), env=environment, program=[*HELPLESS, *INVOKE])
    finally:
        os.kill(pid_in(pid), signal.SIGKILL)
    assert ended.returncode == 0
    assert signed_result(bucket, tasks[0])["return_code"] == 0
    assert signed_result(bucket, tasks[1])["error"]["code"] == "processes_not_ended"
