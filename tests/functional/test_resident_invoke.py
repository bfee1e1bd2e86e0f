"""The command `invoke` with a resident program, and the result of its set-up."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from invocation import Invocation
from rig import DEADLINE_SECONDS, KEY, is_running, log_records, outputs_of, signed_result, wait_until

from faulty_s3 import Answer, FaultyS3, Hold
from quiet_port import quiet_port

if TYPE_CHECKING:
    from tests.conftest import Bucket

SETUP_KEY = "/io/app/pk/.sagemaker_shim/runtime_setup_result.json"
FAILED_TO_START = "Failed to start the algorithm container's inference server"
AGAIN = "Starting the algorithm's server again"
MARK = "RESIDENT_INVOKE_MARK"
"""A variable that every process of one `invoke` inherits."""


class ResidentInvocation(Invocation):
    """An `invoke` with a resident program, which leaves signs on a board."""

    def __init__(self, root: Path, bucket: Bucket) -> None:
        super().__init__(root, bucket)
        self.board = root / "board"
        self.board.mkdir()
        self.environment |= {
            "ALGORITHM_MODE": "resident",
            "ALGORITHM_PORT": str(quiet_port()),
            "ALGORITHM_GRACE_SECONDS": "0.5",
            "MODEL_SERVER_SETUP_RESULT_BUCKET": bucket.name,
            "MODEL_SERVER_SETUP_RESULT_PREFIX": "/io/app/pk",
            "BOARD": str(self.board),
            MARK: str(root),
        }

    def task(self, pk: str, script: str = "", **more: Any) -> dict[str, Any]:
        """Return a task that runs a shell script and writes the pid of the program."""
        self.bucket.put(f"scripts/{pk}", f'echo $PPID >"$ALGORITHM_OUTPUT_PATH/pid"\n{script}')
        return self.bucket.task(pk, [self.bucket.item("do", f"scripts/{pk}")], **more)

    def pid_of(self, pk: str) -> int:
        """Return the pid of the program that ran a task."""
        return int(self.bucket.get(f"/out/{pk}/pid"))

    def program(self) -> int:
        """Return the pid of the program, which runs no task."""
        (found,) = [pid for pid in self.running() if b"serves_tasks" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return found

    def running(self) -> list[int]:
        """Return the processes that came from this invocation."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{MARK}={self.root}\0".encode() in (process / "environ").read_bytes():
                    found.append(int(process.name))
        return found

    def end(self) -> None:
        super().end()
        for pid in self.running():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def invoke(tmp_path: Path, bucket: Bucket) -> Iterator[ResidentInvocation]:
    invocation = ResidentInvocation(tmp_path, bucket)
    yield invocation
    left = invocation.running()
    invocation.end()
    assert left == []


def setup_result(bucket: Bucket) -> dict[str, Any]:
    """Return the stored result of the set-up, after checking its signature over the very bytes."""
    document = bucket.get(SETUP_KEY)
    assert bucket.metadata(SETUP_KEY) == {"signature_hmac_sha256": hmac.new(KEY, document, hashlib.sha256).hexdigest()}
    result: dict[str, Any] = json.loads(document)
    assert list(result) == ["return_code", "user_safe_error_message", "sagemaker_shim_version"]
    return result


def external(log: bytes) -> list[tuple[str, str | None]]:
    return [(record["log"], record["task"]) for record in log_records(log) if not record["internal"]]


def starts(log: bytes) -> list[str]:
    """Return the lines that programs printed at their start."""
    return [line for line, _ in external(log) if line.startswith("started ")]


def own(log: bytes) -> list[str]:
    return [record["log"] for record in log_records(log) if record["internal"]]


def test_all_tasks_run_in_one_program(invoke: ResidentInvocation, bucket: Bucket) -> None:
    tasks = [invoke.task(pk, f"echo out-{pk}; printf err-{pk} >&2") for pk in ("one", "two", "three")]
    ended = invoke.run("serves_tasks", "-t", json.dumps(tasks))
    assert ended.returncode == 0, ended.stderr
    results = [signed_result(bucket, task) for task in tasks]
    assert [result["return_code"] for result in results] == [0, 0, 0]
    assert [outputs_of(result) for result in results] == [["pid"]] * 3
    assert all(result["invoke_duration"] and result["exec_duration"] is None for result in results)
    assert len({invoke.pid_of(task["pk"]) for task in tasks}) == 1
    assert setup_result(bucket)["return_code"] == 0
    assert external(ended.stdout)[1:] == [("out-one", "one"), ("out-two", "two"), ("out-three", "three")]
    assert external(ended.stderr)[1:] == [("err-one", "one"), ("err-two", "two"), ("err-three", "three")]
    assert (external(ended.stdout)[0][1], external(ended.stderr)[0]) == (None, ("warming up", None))
    assert [record["log"] for record in log_records(ended.stderr) if record["internal"]] == []
    invoke.assert_tidy()


@pytest.mark.parametrize("mode", ["exec", "resident"])
def test_the_result_of_the_set_up_is_stored_before_the_first_task_is_begun(
    invoke: ResidentInvocation, bucket: Bucket, s3: FaultyS3, mode: str
) -> None:
    tasks = [invoke.task("one"), invoke.task("two")]
    name = "serves_tasks" if mode == "resident" else "does_nothing"
    ended = invoke.run(name, "-t", json.dumps(tasks), env={"AWS_ENDPOINT_URL_S3": s3.endpoint, "ALGORITHM_MODE": mode})
    assert ended.returncode == 0, ended.stderr
    assert setup_result(bucket)["return_code"] == 0
    assert (s3.requests[0].method, s3.requests[0].key) == ("PUT", SETUP_KEY)
    assert [request.key for request in s3.requests].count(SETUP_KEY) == 1


@pytest.mark.parametrize("health", ["302", "ends"])
def test_a_program_that_can_not_be_started_is_in_every_result_and_the_exit_is_0(
    invoke: ResidentInvocation, bucket: Bucket, health: str
) -> None:
    (invoke.board / "health").write_text(health)
    tasks = [invoke.task(pk) for pk in ("one", "two")]
    ended = invoke.run("exits_3" if health == "ends" else "serves_tasks", "-t", json.dumps(tasks))
    assert ended.returncode == 0, ended.stderr
    for result in (setup_result(bucket), *(signed_result(bucket, task) for task in tasks)):
        assert (result["return_code"], result["user_safe_error_message"]) == (1, FAILED_TO_START)
    lines = external(ended.stderr)
    assert lines[-1] == (FAILED_TO_START, None), "older clients show the last of these lines to the user"
    assert [line for line, _ in lines].count(FAILED_TO_START) == 1
    assert signed_result(bucket, tasks[0])["invoke_duration"] is None
    invoke.assert_tidy()


@pytest.mark.parametrize("health", ["200", "302"])
def test_a_result_of_the_set_up_that_can_not_be_stored_is_exit_1(
    invoke: ResidentInvocation, bucket: Bucket, s3: FaultyS3, health: str
) -> None:
    s3.fault("PUT", SETUP_KEY, Answer(403, "AccessDenied"), times=None)
    (invoke.board / "health").write_text(health)
    task = invoke.task("one")
    ended = invoke.run("serves_tasks", "-t", json.dumps([task]), env={"AWS_ENDPOINT_URL_S3": s3.endpoint})
    assert ended.returncode == 1
    result = signed_result(bucket, task)
    assert result["return_code"] == 1
    why = "The result of the set-up could not be uploaded" if health == "200" else FAILED_TO_START
    assert result["user_safe_error_message"] == why


def test_without_a_place_a_set_up_that_failed_is_in_the_results_and_the_exit_is_0(
    invoke: ResidentInvocation, bucket: Bucket
) -> None:
    task = invoke.task("one")
    ended = invoke.run("exits_3", "-t", json.dumps([task]), env={"MODEL_SERVER_SETUP_RESULT_BUCKET": ""})
    assert ended.returncode == 0
    assert signed_result(bucket, task)["user_safe_error_message"] == FAILED_TO_START
    assert "runtime_setup_result" not in " ".join(bucket.keys())


def test_a_time_limit_in_the_first_task_skips_the_others(invoke: ResidentInvocation, bucket: Bucket) -> None:
    tasks = [invoke.task("one", "echo begun >&2; setsid sleep 300 & sleep 300", timeout=1)]
    tasks += [invoke.task("two"), invoke.task("three")]
    ended = invoke.run("serves_tasks_and_ignores_sigterm", "-t", json.dumps(tasks))
    assert ended.returncode == 0, ended.stderr
    results = [signed_result(bucket, task) for task in tasks]
    assert [result["error"]["code"] for result in results] == ["time_limit_exceeded", "task_skipped", "task_skipped"]
    assert results[0]["user_process_last_stderr_lines"] == ["begun\n"]
    assert results[0]["invoke_duration"].startswith("PT1.")
    invoke.assert_tidy()


def test_a_time_limit_in_the_middle_skips_the_others_and_the_program_is_not_started_again(
    invoke: ResidentInvocation, bucket: Bucket
) -> None:
    tasks = [invoke.task("one"), invoke.task("two", "sleep 300", timeout=1), invoke.task("three"), invoke.task("four")]
    ended = invoke.run("serves_tasks", "-t", json.dumps(tasks))
    assert ended.returncode == 0, ended.stderr
    results = [signed_result(bucket, task) for task in tasks]
    codes = [result["error"] and result["error"]["code"] for result in results]
    assert codes == [None, "time_limit_exceeded", "task_skipped", "task_skipped"]
    assert starts(ended.stdout) == [f"started {invoke.pid_of('one')}"]
    assert AGAIN not in own(ended.stderr)
    invoke.assert_tidy()


def test_an_answer_that_is_not_201_skips_the_others(invoke: ResidentInvocation, bucket: Bucket) -> None:
    tasks = [invoke.task("one", "echo why >&2; exit 1"), invoke.task("two")]
    ended = invoke.run("serves_tasks", "-t", json.dumps(tasks))
    assert ended.returncode == 0
    results = [signed_result(bucket, task) for task in tasks]
    assert [result["error"]["code"] for result in results] == ["invoke_refused", "task_skipped"]
    assert (results[0]["user_safe_error_message"], results[0]["user_process_last_stderr_lines"]) == ("", ["why\n"])


def test_a_program_that_dies_in_mid_task_skips_the_others(invoke: ResidentInvocation, bucket: Bucket) -> None:
    tasks = [invoke.task("one", "kill -9 $PPID; sleep 300"), invoke.task("two")]
    ended = invoke.run("serves_tasks", "-t", json.dumps(tasks))
    assert ended.returncode == 0
    results = [signed_result(bucket, task) for task in tasks]
    assert [result["error"]["code"] for result in results] == ["invoke_broken", "task_skipped"]
    assert results[0]["user_safe_error_message"] == "HTTP error calling invoke endpoint"


@pytest.mark.parametrize("name", ["serves_tasks", "serves_tasks_and_ignores_sigterm"])
@pytest.mark.parametrize("when", ["while it starts", "in mid-task"])
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)])
def test_a_signal_interrupts_all_tasks_and_leaves_nothing(
    invoke: ResidentInvocation, bucket: Bucket, name: str, when: str, signum: int, code: int
) -> None:
    starts = when == "while it starts"
    (invoke.board / "health").write_text("503" if starts else "200")
    tasks = [invoke.task("one", 'touch "$BOARD/runs"; setsid sleep 300 & sleep 300', timeout=None), invoke.task("two")]
    process = invoke.start(name, "-t", json.dumps(tasks))
    wait_until((invoke.board / ("health-calls" if starts else "runs")).exists, "the moment to signal")
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == code, stderr
    results = [signed_result(bucket, task) for task in tasks]
    assert [result["error"]["code"] for result in results] == ["interrupted", "interrupted"]
    assert (results[0]["invoke_duration"] is None) == starts
    assert ("runtime_setup_result" in " ".join(bucket.keys())) != starts
    assert invoke.running() == []
    invoke.assert_tidy()


def test_a_signal_in_mid_task_costs_one_grace_and_the_program_is_not_started_again(
    invoke: ResidentInvocation, bucket: Bucket
) -> None:
    grace = 5
    tasks = [invoke.task("one", 'touch "$BOARD/runs"; sleep 300', timeout=None), invoke.task("two")]
    environment = {"ALGORITHM_GRACE_SECONDS": str(grace)}
    process = invoke.start("serves_tasks_and_ignores_sigterm", "-t", json.dumps(tasks), env=environment)
    wait_until((invoke.board / "runs").exists, "a running task")
    signalled = time.monotonic()
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    assert grace <= time.monotonic() - signalled < 2 * grace
    assert process.returncode == 143
    assert [signed_result(bucket, task)["error"]["code"] for task in tasks] == ["interrupted", "interrupted"]
    assert len(starts(stdout)) == 1
    assert AGAIN not in own(stderr)
    invoke.assert_tidy()


def test_a_signal_while_the_program_is_brought_back_is_waited_for_by_nobody(
    invoke: ResidentInvocation, bucket: Bucket, s3: FaultyS3
) -> None:
    """The program ends while the inputs are fetched: the task waits for the next one with its folders ready."""
    tasks = [held_task(invoke, bucket, s3, hold := Hold(), "one"), invoke.task("two")]
    process = invoke.start("serves_tasks", "-t", json.dumps(tasks), env={"AWS_ENDPOINT_URL_S3": s3.endpoint})
    assert hold.reached.wait(DEADLINE_SECONDS)
    (invoke.board / "health").write_text("503")
    calls = (invoke.board / "health-calls").stat().st_size
    os.kill(old := invoke.program(), signal.SIGKILL)
    wait_until(lambda: not is_running(old), "the end of the program")
    hold.released.set()
    wait_until(lambda: (invoke.board / "health-calls").stat().st_size > calls, "a new program that is not healthy")
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 143, stderr
    results = [signed_result(bucket, task) for task in tasks]
    assert [(result["error"]["code"], result["return_code"]) for result in results] == [("interrupted", 1)] * 2
    assert not (invoke.board / "ran").exists()
    invoke.assert_tidy()


def test_a_program_that_ends_between_two_tasks_is_started_again_for_the_next(
    invoke: ResidentInvocation, bucket: Bucket, s3: FaultyS3
) -> None:
    tasks = [invoke.task("one"), held_task(invoke, bucket, s3, hold := Hold(), "two"), invoke.task("three")]
    process = invoke.start("serves_tasks", "-t", json.dumps(tasks), env={"AWS_ENDPOINT_URL_S3": s3.endpoint})
    assert hold.reached.wait(DEADLINE_SECONDS)
    old = invoke.pid_of("one")
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: not is_running(old), "the end of the program")
    hold.released.set()
    stdout, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, stderr
    assert [signed_result(bucket, task)["return_code"] for task in tasks] == [0, 0, 0]
    assert invoke.pid_of("two") == invoke.pid_of("three") != old
    assert starts(stdout) == [f"started {old}", f"started {invoke.pid_of('two')}"]
    assert own(stderr).count(AGAIN) == 1
    invoke.assert_tidy()


def test_inputs_that_take_longer_than_a_start_leave_a_start_its_time(
    invoke: ResidentInvocation, bucket: Bucket, s3: FaultyS3
) -> None:
    tasks = [invoke.task("one"), held_task(invoke, bucket, s3, hold := Hold(), "two")]
    environment = {"AWS_ENDPOINT_URL_S3": s3.endpoint, "ALGORITHM_START_TIMEOUT": "3"}
    process = invoke.start("serves_tasks", "-t", json.dumps(tasks), env=environment)
    assert hold.reached.wait(DEADLINE_SECONDS)
    os.kill(old := invoke.pid_of("one"), signal.SIGKILL)
    wait_until(lambda: not is_running(old), "the end of the program")
    ended = time.monotonic()
    wait_until(lambda: time.monotonic() > ended + 3.5, "more than a start may take")
    hold.released.set()
    _, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, stderr
    assert [signed_result(bucket, task)["return_code"] for task in tasks] == [0, 0]
    assert invoke.pid_of("two") != old


def held_task(invoke: ResidentInvocation, bucket: Bucket, s3: FaultyS3, hold: Hold, pk: str) -> dict[str, Any]:
    """Return a task one of whose inputs does not come whole before the hold is released."""
    task = invoke.task(pk, 'touch "$BOARD/ran"')
    bucket.put("in/large", bytes(100_000))
    s3.fault("GET", "in/large", hold)
    return task | {"inputs": [*task["inputs"], bucket.item("large", "in/large")]}


def test_a_program_has_its_grace_to_tidy_up_at_the_end(invoke: ResidentInvocation, bucket: Bucket) -> None:
    task = invoke.task("one")
    ended = invoke.run(
        "serves_tasks_and_tidies_up_on_sigterm", "-t", json.dumps([task]), env={"ALGORITHM_GRACE_SECONDS": "5"}
    )
    assert ended.returncode == 0, ended.stderr
    assert external(ended.stdout)[-1][0] == "tidied up"


def test_nothing_stays_when_invoke_is_killed(invoke: ResidentInvocation) -> None:
    tasks = [invoke.task("one", 'touch "$BOARD/runs"; setsid sleep 300 & sleep 300', timeout=None)]
    process = invoke.start("serves_tasks_and_ignores_sigterm", "-t", json.dumps(tasks))
    wait_until((invoke.board / "runs").exists, "a running task")
    process.kill()
    process.wait(DEADLINE_SECONDS)
    wait_until(lambda: not invoke.running(), "the end of the program")


def test_a_keeper_that_is_killed_loses_the_task_and_nothing_stays(invoke: ResidentInvocation, bucket: Bucket) -> None:
    tasks = [invoke.task("one", 'echo $PPID >"$BOARD/pid"; setsid sleep 300 & sleep 300', timeout=None)]
    process = invoke.start("serves_tasks_and_ignores_sigterm", "-t", json.dumps([*tasks, invoke.task("two")]))
    sign = invoke.board / "pid"
    wait_until(lambda: sign.exists() and sign.read_text().endswith("\n"), "a running task")
    stat = Path(f"/proc/{sign.read_text().strip()}/stat").read_text()
    os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)
    process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, "every task has a stored result"
    assert signed_result(bucket, tasks[0])["error"]["code"] == "worker_lost"
    assert invoke.running() == []


def test_a_usage_error_leaves_no_keeper(invoke: ResidentInvocation) -> None:
    ended = invoke.run("serves_tasks", "-t", "[]")
    assert (ended.returncode, "Empty task list provided" in ended.stderr.decode()) == (2, True)
    assert not (invoke.board / "health-calls").exists()
