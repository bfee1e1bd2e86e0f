"""Processes of a task that can't be ended: no other task runs beside them."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from invocation import INVOKE, Invocation
from rig import pid_in, signed_result, wait_until

from model_server import process
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


@pytest.fixture
def staying(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have each run of the algorithm leave a process that nobody ends."""
    left: list[subprocess.Popen[bytes]] = []

    def leave_one(but: Collection[int]) -> int:
        left.append(subprocess.Popen(["sleep", "60"]))
        return 0

    monkeypatch.setattr(process, "end_orphans", leave_one)
    yield
    for one in left:
        one.kill()
        one.wait()


@pytest.mark.usefixtures("staying")
def test_a_worker_that_keeps_a_process_of_a_task_says_that_no_task_can_run(start: Start, bucket: Bucket) -> None:
    rig = start("does_nothing")
    assert rig.run(bucket.task())["return_code"] == 0
    assert rig.scoreboard.state.stuck == Stuck.PROCESSES
    assert rig.app.test_client().get("/ping").status_code == 503
    assert rig.post(bucket.task()).json["error"]["code"] == "not_ready"
    assert Stuck.PROCESSES.why == "Processes of an earlier task can not be ended, so no task can run"


@pytest.mark.usefixtures("staying")
def test_the_next_task_of_the_same_body_is_told_so(start: Start, bucket: Bucket) -> None:
    tasks = [bucket.task("leaves"), bucket.task("next")]
    answer = start("does_nothing").post(b"".join(json.dumps(task).encode() + b"\n" for task in tasks))
    assert [json.loads(line)["return_code"] for line in answer.data.splitlines()] == [0, 1]
    assert signed_result(bucket, tasks[1])["error"]["code"] == "processes_not_ended"


def test_a_request_that_waited_is_refused_once_no_task_can_run(start: Start, bucket: Bucket, tmp_path: Path) -> None:
    started, go_on = tmp_path / "started", tmp_path / "go-on"
    rig = start("waits_for_a_word", env={"STARTED": str(started), "GO_ON": str(go_on)})
    bucket.put("name", "first")
    first = rig.post_in_thread(bucket.task("first", [bucket.item("name", "name")]))
    wait_until(started.exists, "the first task")
    second = rig.post_in_thread(bucket.task("second"))
    wait_until(lambda: rig.waiting() == 1, "the second in the queue")
    rig.scoreboard.state.stuck = Stuck.PROCESSES  # by another worker
    go_on.touch()
    assert first.answer().json["return_code"] == 0
    assert second.answer().json["error"]["code"] == "not_ready"
    assert "/out/second/.sagemaker_shim/inference_result.json" not in bucket.keys()  # noqa: SIM118 - no dict


def test_an_answer_stays_though_nobody_could_look(
    start: Start, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_file_is_free(but: Collection[int]) -> bool:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("predictor.any_orphans", no_file_is_free)
    rig = start("does_nothing")
    assert rig.run(bucket.task())["return_code"] == 0
    assert "Nobody could look for processes that are left: Too many open files" in rig.log_text()


def run_helplessly(
    invoke: Invocation, script: str, pid: Path, tasks: list[Any], **settings: str
) -> subprocess.CompletedProcess[bytes]:
    """Run tasks where we may not end the program; what it leaves, whose pid is in a file, is ended afterwards."""
    command = json.dumps(["/bin/sh", "-c", script])
    environment = {"ALGORITHM_USER": "12345", "ALGORITHM_ENTRYPOINT": command} | settings
    try:
        return invoke.run(None, "-t", json.dumps(tasks), env=environment, program=[*HELPLESS, *INVOKE])
    finally:
        os.kill(pid_in(pid), signal.SIGKILL)


def test_the_tasks_behind_one_whose_processes_stay_are_told_so(
    invoke: Invocation, bucket: Bucket, open_folder: Path
) -> None:
    pid = open_folder / "pid"
    daemon = f"setsid sh -c 'echo $$ >{pid}; exec sleep 60' & until [ -s {pid} ]; do sleep 0.01; done"
    tasks = [bucket.task("leaves"), bucket.task("next")]
    ended = run_helplessly(invoke, daemon, pid, tasks)
    assert ended.returncode == 0
    assert signed_result(bucket, tasks[0])["return_code"] == 0
    assert signed_result(bucket, tasks[1])["error"]["code"] == "processes_not_ended"


def test_a_program_that_can_not_be_ended_costs_its_task_no_result(
    invoke: Invocation, bucket: Bucket, open_folder: Path
) -> None:
    pid = open_folder / "pid"
    tasks = [bucket.task("stays", timeout="PT1S"), bucket.task("next")]
    ended = run_helplessly(invoke, f"echo $$ >{pid}; exec sleep 100", pid, tasks, ALGORITHM_GRACE_SECONDS="0")
    assert ended.returncode == 0
    assert signed_result(bucket, tasks[0])["error"]["code"] == "time_limit_exceeded"
    assert b"did not end within 5 s of SIGKILL; it is left behind" in ended.stderr
    assert signed_result(bucket, tasks[1])["error"]["code"] == "task_skipped"
