"""The command `process --tasks`: a list of tasks over any number of instances, as a Processing job runs it."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from job_rig import Job
from rig import DEADLINE_SECONDS, algorithm, log_records, outputs_of, signed_result, wait_until

from faulty_s3 import Answer, FaultyS3, HeldRequest, Hold, Together
from quiet_port import quiet_port

if TYPE_CHECKING:
    from tests.conftest import Bucket


@pytest.fixture
def tasks_job(job: Job, bucket: Bucket) -> Iterator[Job]:
    """A job that reaches S3."""
    job.environment |= {
        "AWS_SECRET_ACCESS_KEY": "secret-of-aws",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL_S3": bucket.endpoint,
    }
    return job


def listed(job: Job, tasks: list[dict[str, Any]]) -> str:
    """Write a list of tasks to a file, and return its path."""
    file = job.root / "tasks.json"
    file.write_text(json.dumps(tasks))
    return str(file)


def code_tasks(bucket: Bucket, codes: list[int], **more: Any) -> list[dict[str, Any]]:
    """Return tasks for `exits_as_told`."""
    for code in set(codes):
        bucket.put(f"code-{code}", str(code))
    return [
        bucket.task(f"task-{place}", [bucket.item("code", f"code-{code}", **more)]) for place, code in enumerate(codes)
    ]


def as_one_of(hosts: list[str], current: str) -> dict[str, Any]:
    return {"current_host": current, "current_instance_type": "ml.m5.large", "hosts": hosts}


def test_all_tasks_are_run_and_logged_as_in_invoke(tasks_job: Job, bucket: Bucket) -> None:
    tasks = [bucket.task(pk) for pk in ("one", "two")]
    ended = tasks_job.run("process", [algorithm("says_hello")], "--tasks", listed(tasks_job, tasks))
    assert ended.returncode == 0, ended.stderr
    records = log_records(ended.stdout)
    assert [r["task"] for r in records if not r["internal"]] == ["one", "two"]
    log_records(ended.stderr)
    assert [signed_result(bucket, task)["return_code"] for task in tasks] == [0, 0]
    assert tasks_job.message.read_text() == "0 of 2 tasks failed"


def test_tasks_whose_results_replace_each_other_are_named(tasks_job: Job, bucket: Bucket) -> None:
    tasks = [bucket.task(pk) | {"output_prefix": f"/out/{pk[0]}"} for pk in ("a1", "b", "a2")]
    ended = tasks_job.run("process", [algorithm("does_nothing")], "--tasks", listed(tasks_job, tasks))
    assert ended.returncode == 0
    (warning,) = [record["log"] for record in log_records(ended.stderr)]
    assert warning == "Tasks have the output_prefix of another, so results replace each other: a1, a2"


@pytest.mark.parametrize("form", ["--tasks={}", "--tasks {}"])
def test_the_list_may_be_in_s3(tasks_job: Job, bucket: Bucket, form: str) -> None:
    bucket.put("tasks.json", json.dumps([bucket.task()]))
    arguments = form.format(f"s3://{bucket.name}/tasks.json").split()
    ended = tasks_job.run("process", [algorithm("does_nothing")], *arguments)
    assert ended.returncode == 0, ended.stderr
    assert bucket.result("/out/task")["return_code"] == 0


def test_it_never_stops_at_a_failed_task_and_counts_the_failed(tasks_job: Job, bucket: Bucket) -> None:
    tasks = [*code_tasks(bucket, [3, 0, 137, 3, 0]), bucket.task("missing", [bucket.item("code", "patient/missing")])]
    tasks_job.config("resourceconfig.json", as_one_of(["algo-1"], "algo-1"), "config")
    ended = tasks_job.run("process", [algorithm("exits_as_told")], "--tasks", listed(tasks_job, tasks))
    assert ended.returncode == 1
    assert [signed_result(bucket, task)["return_code"] for task in tasks] == [3, 0, 137, 3, 0, 1]
    told = "2 × exit code 3, 1 × exit code 137, 1 × An input file does not exist"
    assert tasks_job.message.read_text() == f"4 of 6 tasks failed on algo-1: {told}"
    assert b"patient" not in ended.stdout + ended.stderr
    assert b"Stopping" not in ended.stderr


def test_a_result_that_can_not_be_stored_is_a_failed_task(tasks_job: Job, bucket: Bucket, s3: FaultyS3) -> None:
    s3.fault("PUT", "/out/one/.sagemaker_shim/inference_result.json", Answer(403, "AccessDenied"), times=None)
    tasks = [bucket.task(pk) for pk in ("one", "two")]
    tasks_job.environment["AWS_ENDPOINT_URL_S3"] = s3.endpoint
    ended = tasks_job.run("process", [algorithm("does_nothing")], "--tasks", listed(tasks_job, tasks))
    assert ended.returncode == 1
    assert tasks_job.message.read_text().startswith("1 of 2 tasks failed: 1 × The result of the task could not be")
    signed_result(bucket, tasks[1])


# -- several instances


def lasting(result: dict[str, Any]) -> dict[str, Any]:
    """Return what of a result does not depend on when and where it was made."""
    return {key: value for key, value in result.items() if not key.endswith(("duration", "_seconds", "memory_bytes"))}


def test_one_instance_and_three_give_the_same_results(tasks_job: Job, bucket: Bucket, tmp_path: Path) -> None:
    sizes = [9, 1, None, 5, 5, 0, 3, 2, None]
    codes = [0, 3, 0, 0, 7, 0, 0, 0, 3]
    tasks = code_tasks(bucket, codes)
    for task, size in zip(tasks, sizes, strict=True):
        task["inputs"][0] |= {} if size is None else {"size": size}
    source = listed(tasks_job, tasks)
    alone = tasks_job.run("process", [algorithm("exits_as_told")], "--tasks", source)
    assert alone.returncode == 1
    expected = [lasting(signed_result(bucket, task)) for task in tasks]
    for task in tasks:
        bucket.client.delete_object(
            Bucket=bucket.name, Key=task["output_prefix"] + "/.sagemaker_shim/inference_result.json"
        )

    hosts = ["algo-1", "algo-2", "algo-3"]
    jobs = [Job(tmp_path / host) for host in hosts]
    shares: list[list[str]] = []
    try:
        processes = []
        for host, each in zip(hosts, jobs, strict=True):
            each.environment = tasks_job.environment | {
                name: each.environment[name] for name in each.environment if str(tmp_path) in each.environment[name]
            }
            each.config("resourceconfig.json", as_one_of(list(reversed(hosts)), host), "config")
            processes.append(each.start("process", [algorithm("exits_as_told")], "--tasks", source))
        for process in processes:
            stdout, _ = process.communicate(timeout=2 * DEADLINE_SECONDS)
            logged = (record["log"] for record in log_records(stdout))
            shares.append([log.split()[1] for log in logged if " ended with return code " in log])
        assert sorted(pk for share in shares for pk in share) == sorted(task["pk"] for task in tasks)
        assert all(shares)
        assert [lasting(signed_result(bucket, task)) for task in tasks] == expected
        messages = " ".join(each.message.read_text() for each in jobs)
        assert sum(messages.count(f"on {host}") for host in hosts) == 3
    finally:
        for each in jobs:
            each.end()


def test_an_empty_share_is_exit_0_and_says_so(tasks_job: Job, bucket: Bucket) -> None:
    hosts = ["algo-1", "algo-2"]
    tasks_job.config("resourceconfig.json", as_one_of(hosts, "algo-2"), "config")
    source = listed(tasks_job, [bucket.task()])
    ended = tasks_job.run("process", [algorithm("does_nothing")], "--tasks", source)
    assert ended.returncode == 0, ended.stderr
    assert bucket.keys() == []
    assert tasks_job.message.read_text() == "0 of 0 tasks failed on algo-2"
    assert "0 of 1 tasks are for algo-2" in [record["log"] for record in log_records(ended.stdout)]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        {"current_host": "algo-3", "hosts": ["algo-1", "algo-2"]},
        {"current_host": "algo-1"},
        {"hosts": ["algo-1"]},
        {"current_host": "algo-1", "hosts": []},
        {"current_host": "algo-1", "hosts": ["algo-1", "algo-1"]},
        {"current_host": "algo-1", "hosts": "algo-1"},
        {"current_host": 1, "hosts": [1]},
        {"current_host": "\0", "hosts": ["\0"]},
        {"current_host": "\ud800", "hosts": ["\ud800"]},
    ],
)
def test_instances_that_are_not_clear_run_nothing(tasks_job: Job, bucket: Bucket, content: Any) -> None:
    tasks_job.config("resourceconfig.json", content, "config")
    source = listed(tasks_job, [bucket.task()])
    ended = tasks_job.run("process", [algorithm("does_nothing")], "--tasks", source)
    assert ended.returncode == 78
    assert "resourceconfig.json" in tasks_job.message.read_text()
    assert bucket.keys() == []


# -- faults and signals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks"], "--tasks takes one file or S3 URI"),
        (["--tasks="], "--tasks takes one file or S3 URI"),
        (["--tasks", "a", "b"], "--tasks takes one file or S3 URI"),
        (["--tasks", "/no/such/file"], "The value provided for tasks is invalid:\n\nNo such file or directory"),
        (["--tasks", "s3://no-such-bucket/key"], "The value provided for file is invalid:\n\n"),
        (["--tasks", "/dev/null"], "The tasks definition is invalid:\n\n"),
    ],
)
def test_a_usage_error_is_exit_2_and_in_the_message(tasks_job: Job, arguments: list[str], message: str) -> None:
    ended = tasks_job.run("process", [algorithm("does_nothing")], *arguments)
    assert ended.returncode == 2
    assert message in ended.stderr.decode()
    assert message in tasks_job.message.read_text()
    assert b"--help" not in ended.stderr  # it would be the algorithm's


def test_a_signal_before_the_list_was_read_is_said(tasks_job: Job, bucket: Bucket, s3: FaultyS3) -> None:
    bucket.put("tasks.json", json.dumps([bucket.task()]))
    held = Hold()
    s3.fault("GET", "tasks.json", held)
    tasks_job.environment["AWS_ENDPOINT_URL_S3"] = s3.endpoint
    tasks_job.config("resourceconfig.json", as_one_of(["algo-1"], "algo-1"), "config")
    source = f"s3://{bucket.name}/tasks.json"
    process = tasks_job.start("process", [algorithm("does_nothing")], "--tasks", source)
    try:
        assert held.reached.wait(DEADLINE_SECONDS)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        held.released.set()
    assert process.returncode == 143
    sentence = "Stopped by SIGTERM on algo-1, before the list of tasks was read"
    assert tasks_job.message.read_text() == sentence


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_interrupts_all_that_is_left_and_every_task_has_a_result(
    tasks_job: Job, bucket: Bucket, signum: int, code: int
) -> None:
    tasks = [bucket.task(pk, timeout=None) for pk in ("running", "waiting", "last")]
    process = tasks_job.start("process", [algorithm("tidies_up_on_sigterm")], "--tasks", listed(tasks_job, tasks))
    seen = b""
    while b'"log": "running"' not in seen:
        seen += (line := process.stdout.readline())
        assert line
    process.send_signal(signum)
    stdout, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == code
    assert b"tidied up" in stdout
    assert [signed_result(bucket, task)["error"]["code"] for task in tasks] == ["interrupted"] * 3
    name = signal.Signals(signum).name
    sentence = "The task was interrupted because the container is stopping"
    assert tasks_job.message.read_text() == f"Stopped by {name}: 3 of 3 tasks failed: 3 × {sentence}"


def test_results_of_what_is_not_run_are_stored_several_at_a_time(tasks_job: Job, bucket: Bucket, s3: FaultyS3) -> None:
    tasks_job.environment["AWS_ENDPOINT_URL_S3"] = s3.endpoint
    tasks = [bucket.task(pk, timeout=None) for pk in ("running", *map(str, range(16)))]
    together = Together(8)
    for number in range(16):
        s3.fault("PUT", f"/out/{number}/.sagemaker_shim/inference_result.json", together)
    process = tasks_job.start("process", [algorithm("tidies_up_on_sigterm")], "--tasks", listed(tasks_job, tasks))
    while b'"log": "running"' not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 143
    assert [signed_result(bucket, task)["error"]["code"] for task in tasks] == ["interrupted"] * 17
    assert tasks_job.message.read_text().startswith("Stopped by SIGTERM: 17 of 17 tasks failed: ")


def test_a_stop_whose_time_is_over_is_told_with_how_many_have_no_result(
    tasks_job: Job, bucket: Bucket, s3: FaultyS3
) -> None:
    tasks_job.environment["AWS_ENDPOINT_URL_S3"] = s3.endpoint
    tasks = [bucket.task(pk, timeout=None) for pk in ("running", "held", *map(str, range(20)))]
    held = HeldRequest()
    s3.fault("PUT", "/out/held/.sagemaker_shim/inference_result.json", held)
    process = tasks_job.start("process", [algorithm("tidies_up_on_sigterm")], "--tasks", listed(tasks_job, tasks))
    while b'"log": "running"' not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    try:
        assert held.reached.wait(DEADLINE_SECONDS)
        wait_until(lambda: len(bucket.keys()) == 21, "all other results")
        process.send_signal(signal.SIGALRM)  # as the clock does in the end
        _, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        held.released.set()
    assert process.returncode == 143
    told = re.fullmatch(
        r"Stopped by SIGTERM: (\d+) of \1 tasks failed: \1 × The task was interrupted because the container is stopping"
        r"; (\d+) more may have no result, for want of time",
        tasks_job.message.read_text(),
    )
    assert told, tasks_job.message.read_text()
    known, untold = int(told[1]), int(told[2])
    assert known + untold == len(tasks)
    assert known > 1, "the second one hides those behind it"  # what S3 has just taken may not be known yet
    assert f"{untold} tasks may have no result: there was no more time to store it" in stderr.decode()


def test_credentials_and_our_variables_are_withheld_as_in_invoke(tasks_job: Job, bucket: Bucket) -> None:
    source = listed(tasks_job, [bucket.task()])
    ended = tasks_job.run("process", [algorithm("prints_environment")], "--tasks", source)
    assert ended.returncode == 0, ended.stderr
    told = bucket.get("/out/task/environ")
    for word in (b"secret-of-aws", b"SIGNING_KEY", b"ALGORITHM_ENTRYPOINT"):
        assert word not in told


def test_a_resident_program_runs_the_share(tasks_job: Job, bucket: Bucket, tmp_path: Path) -> None:
    board = tmp_path / "board"
    board.mkdir()
    for pk in ("one", "two"):
        bucket.put(pk, 'echo $PPID >"$ALGORITHM_OUTPUT_PATH/pid"')
    tasks = [bucket.task(pk, [bucket.item("do", pk)]) for pk in ("one", "two")]
    env = {"ALGORITHM_MODE": "resident", "ALGORITHM_PORT": str(quiet_port()), "BOARD": str(board)}
    ended = tasks_job.run("process", [algorithm("serves_tasks")], "--tasks", listed(tasks_job, tasks), env=env)
    assert ended.returncode == 0, ended.stderr
    assert [outputs_of(signed_result(bucket, task)) for task in tasks] == [["pid"], ["pid"]]
    assert bucket.get("/out/one/pid") == bucket.get("/out/two/pid")
