"""The command `invoke`, as a process of its own: arguments, exit codes, signals, and what it prints."""

from __future__ import annotations

import json
import os
import pty
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from invocation import INVOKE, LONGSHORE, Invocation
from rig import (
    CONTAINER,
    DEADLINE_SECONDS,
    KEY,
    is_running,
    log_records,
    outputs_of,
    pid_in,
    signed_result,
    wait_until,
)

from faulty_s3 import Answer, FaultyS3
from model_server.folder import claim

if TYPE_CHECKING:
    from tests.conftest import Bucket


def code_task(bucket: Bucket, pk: str, code: int) -> dict[str, Any]:
    """Return a task for `exits_as_told`."""
    bucket.put(f"code-{code}", str(code))
    return bucket.task(pk, inputs=[bucket.item("code", f"code-{code}")])


NAMESPACES = [["unshare", "-pf", "--mount-proc"], ["unshare", "-rpf", "--mount-proc"]]


# -- a list of tasks


@pytest.mark.parametrize("program", [INVOKE, LONGSHORE], ids=["invoke", "longshore invoke"])
def test_a_list_of_tasks_is_run_in_order(invoke: Invocation, bucket: Bucket, program: list[str]) -> None:
    bucket.put("in", "data")
    tasks = [bucket.task(f"task-{number}", inputs=[bucket.item(f"{number}", "in")]) for number in range(3)]
    ended = invoke.run("echoes_input", "-t", json.dumps(tasks), program=program)
    assert ended.returncode == 0, ended.stderr
    assert [outputs_of(signed_result(bucket, task)) for task in tasks] == [["0"], ["1"], ["2"]]
    records = log_records(ended.stdout)
    assert log_records(ended.stderr) == []
    ours = [record["log"] for record in records if record["internal"]]
    assert [line.split(" ended")[0] for line in ours if " ended with return code 0" in line] == [
        "Task task-0",
        "Task task-1",
        "Task task-2",
    ]
    assert ours[-1] == "Model invocation complete"
    invoke.assert_tidy()


def test_a_list_comes_from_s3_by_a_key_with_a_leading_slash(invoke: Invocation, bucket: Bucket) -> None:
    task = bucket.task()
    bucket.put("/invocations/app/model/pk/invocation.json", json.dumps([task]))
    ended = invoke.run("does_nothing", "-f", f"s3://{bucket.name}//invocations/app/model/pk/invocation.json")
    assert ended.returncode == 0, ended.stderr
    assert signed_result(bucket, task)["return_code"] == 0


def test_https_means_the_same_as_s3_in_an_address(invoke: Invocation, bucket: Bucket) -> None:
    bucket.put("tasks.json", json.dumps([bucket.task()]))
    ended = invoke.run("does_nothing", "--file", f"https://{bucket.name}/tasks.json", program=LONGSHORE)
    assert ended.returncode == 0, ended.stderr


def test_the_first_failure_stops_the_list_and_the_others_have_results_that_say_so(
    invoke: Invocation, bucket: Bucket
) -> None:
    tasks = [code_task(bucket, f"task-{place}", code) for place, code in enumerate((0, 7, 0, 0))]
    ended = invoke.run("exits_as_told", "--tasks", json.dumps(tasks))
    assert ended.returncode == 0, "every task has a stored result"
    results = [signed_result(bucket, task) for task in tasks]
    assert [result["return_code"] for result in results] == [0, 7, 1, 1]
    for result in results[2:]:
        assert result["error"]["code"] == "task_skipped"
        sentence = "The task was skipped because an earlier task of the same list failed"
        assert result["user_safe_error_message"] == sentence
    ours = [record["log"] for record in log_records(ended.stderr) if record["internal"]]
    assert ours == ["Stopping due to failure of task task-1"]


def test_a_task_without_a_time_limit_has_none_of_ours(invoke: Invocation, bucket: Bucket) -> None:
    task = bucket.task(timeout=None)
    ended = invoke.run("runs_for_2_seconds", "-t", json.dumps([task]), env={"MODEL_SERVER_TIMEOUT": "0.5"})
    assert ended.returncode == 0, ended.stderr
    assert signed_result(bucket, task)["return_code"] == 0


def test_a_tasks_own_time_limit_holds(invoke: Invocation, bucket: Bucket) -> None:
    task = bucket.task(timeout="PT0.5S")
    ended = invoke.run("sleeps", "-t", json.dumps([task]))
    assert ended.returncode == 0
    assert signed_result(bucket, task)["user_safe_error_message"] == "Time limit exceeded"
    last = log_records(ended.stderr)[-1]
    external = [record["log"] for record in log_records(ended.stderr) if not record["internal"]]
    assert external[-1] == "Time limit exceeded", "older clients show the last of these lines to the user"
    assert last["source"] == "stderr"


def test_a_result_that_cannot_be_stored_is_exit_1(invoke: Invocation, bucket: Bucket, s3: FaultyS3) -> None:
    s3.fault("PUT", "/out/two/.sagemaker_shim/inference_result.json", Answer(403, "AccessDenied"), times=None)
    tasks = [bucket.task(pk) for pk in ("one", "two", "three")]
    ended = invoke.run("does_nothing", "-t", json.dumps(tasks), env={"AWS_ENDPOINT_URL_S3": s3.endpoint})
    assert ended.returncode == 1
    assert signed_result(bucket, tasks[0])["return_code"] == 0
    assert "The result of the task could not be uploaded" in ended.stderr.decode()
    signed_result(bucket, tasks[2])


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "zip"])
def test_a_full_disk_ends_in_a_result(invoke: Invocation, bucket: Bucket, tmp_path: Path, packed: bool) -> None:
    """The limit on a file's size stands for the end of a disk: both end a write, and it needs no rights of root."""
    big = tmp_path / "big"
    if packed:
        with zipfile.ZipFile(big, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("zeros", bytes(4_000_000))
    else:
        big.write_bytes(bytes(4_000_000))
    bucket.put("big", big.read_bytes())
    task = bucket.task(inputs=[bucket.item("big", "big", decompress=packed)])
    highest = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    limited = ["/bin/sh", "-c", 'ulimit -S -f 2000 && exec "$@"', "sh", *INVOKE]
    ended = invoke.run("echoes_input", "-t", json.dumps([task]), program=limited)
    assert ended.returncode == 0, ended.stderr
    expected = "Contents of zip file too large" if packed else "There is not enough disk space for the inputs"
    result = signed_result(bucket, task)
    assert (result["return_code"], result["user_safe_error_message"]) == (1, expected)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == highest
    invoke.assert_tidy()


def test_folders_that_can_not_be_used_are_said_in_every_result(
    invoke: Invocation, bucket: Bucket, tmp_path: Path
) -> None:
    (tmp_path / "output").touch()
    tasks = [bucket.task(f"task-{number}") for number in range(2)]
    ended = invoke.run("does_nothing", "-t", json.dumps(tasks))
    assert ended.returncode == 1
    assert b"can not be used: File exists" in ended.stderr
    for task in tasks:
        result = signed_result(bucket, task)
        assert (result["return_code"], result["error"]["code"]) == (1, "folders_not_reset")


def test_folders_that_another_has_cost_none_of_its_results(invoke: Invocation, bucket: Bucket, tmp_path: Path) -> None:
    other = claim(tmp_path / "output", 0o777)
    ended = invoke.run("does_nothing", "-t", json.dumps([bucket.task()]))
    del other
    assert ended.returncode == 1
    assert b"in use by another server" in ended.stderr
    assert bucket.keys() == []


# -- bad arguments and bad settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "One of tasks or file should be set"),
        (["-t", "[]", "-f", "s3://bucket/key"], "Only one of tasks or file should be set"),
        (["-t", "[]"], "Empty task list provided"),
        (["-t", "{"], "Invalid value: The tasks definition is invalid:\n\n"),
        (["-t", "{}"], "Invalid value: The tasks definition is invalid:\n\n"),
        (["-t", '[{"pk": "x"}, 1]'], "Invalid value: The tasks definition is invalid:\n\n"),
        (["-f", "bucket/key"], "Invalid value: The value provided for file is invalid:\n\n"),
        (["-f", "s3://no-such-bucket/key"], "Invalid value: The value provided for file is invalid:\n\n"),
        (["-x"], "No such option"),
        (["word"], "Got unexpected extra argument"),
    ],
)
def test_a_usage_error_is_exit_2_with_the_words_of_the_drop_in(
    invoke: Invocation, arguments: list[str], message: str
) -> None:
    ended = invoke.run("does_nothing", *arguments, program=LONGSHORE)
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert message in ended.stderr.decode()
    assert "Traceback" not in ended.stderr.decode()


def test_every_fault_of_a_list_is_named_by_its_place(invoke: Invocation, bucket: Bucket) -> None:
    tasks = [bucket.task(), bucket.task(timeout=0, output_prefix=""), {"pk": "x"}]
    message = invoke.run("does_nothing", "-t", json.dumps(tasks)).stderr.decode()
    for place in ("tasks.1.timeout", "tasks.1.output_prefix", "tasks.2.inputs", "tasks.2.output_bucket_name"):
        assert f"{place}: " in message
    assert bucket.keys() == []


def test_help_is_exit_0_and_no_command_is_exit_2(invoke: Invocation) -> None:
    longshore = LONGSHORE[:2]
    shown = invoke.run(None, "--help", program=longshore)
    assert shown.returncode == 0
    assert b"serve" in shown.stdout
    assert b"invoke" in shown.stdout
    assert invoke.run(None, program=longshore).returncode == 2
    assert b"--tasks" in invoke.run(None, "--help").stdout


def test_bad_settings_are_exit_78_with_one_line_each_and_no_secret(invoke: Invocation) -> None:
    bad = {
        "MODEL_SERVER_WORKERS": "many",
        "MODEL_SERVER_TIMEOUT": "-1",
        "GRAND_CHALLENGE_COMPONENT_SIGNING_KEY_HEX": "no-hex-secret",
        "GRAND_CHALLENGE_COMPONENT_CMD_B64J": "no-base64-secret!",
        "LOG_LEVEL": "LOUD",
    }
    ended = invoke.run("does_nothing", "-t", "[]", env=bad)
    assert (ended.returncode, ended.stdout) == (78, b"")
    lines = ended.stderr.decode().splitlines()
    assert sorted(line.split(":")[0] for line in lines) == sorted(bad)
    assert "secret" not in ended.stderr.decode()


def test_without_a_command_the_exit_is_78(invoke: Invocation, bucket: Bucket) -> None:
    ended = invoke.run(None, "-t", json.dumps([bucket.task()]))
    assert ended.returncode == 78
    assert ended.stderr.decode().startswith("ALGORITHM_ENTRYPOINT: ")


# -- signals


def interrupted(invoke: Invocation, bucket: Bucket, signum: int, name: str, ready: Callable[[bytes], bool]) -> Any:
    """Signal `invoke` while its first task of two runs; return exit code, log so far, and both results."""
    tasks = [bucket.task("running", timeout=None), bucket.task("waiting", timeout=None)]
    process = invoke.start(
        name,
        "-t",
        json.dumps(tasks),
        env={
            "PID_FILE": str(invoke.root / "pid"),
            "CHILD_PID_FILE": str(invoke.root / "child pid"),
            "ALGORITHM_GRACE_SECONDS": "3",
        },
    )
    seen = b""
    while not ready(seen):
        line = process.stdout.readline()
        assert line, process.stderr.read()
        seen += line
    process.send_signal(signum)
    stdout, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    return process.returncode, seen + stdout, stderr, [signed_result(bucket, task) for task in tasks]


def test_sigterm_ends_the_algorithm_in_order_and_every_task_has_a_result(invoke: Invocation, bucket: Bucket) -> None:
    code, stdout, stderr, results = interrupted(
        invoke, bucket, signal.SIGTERM, "tidies_up_on_sigterm", lambda seen: b"running" in seen
    )
    assert code == 143
    assert "tidied up" in [record["log"] for record in log_records(stdout)], "it got SIGTERM and its grace"
    assert [result["error"]["code"] for result in results] == ["interrupted", "interrupted"]
    assert results[0]["exec_duration"] is not None
    assert results[1]["exec_duration"] is None
    log_records(stderr)
    invoke.assert_tidy()


def test_sigint_is_exit_1_and_aborted(invoke: Invocation, bucket: Bucket) -> None:
    code, _, stderr, results = interrupted(
        invoke, bucket, signal.SIGINT, "tidies_up_on_sigterm", lambda seen: b"running" in seen
    )
    assert code == 1
    assert stderr.endswith(b"Aborted!\n")
    assert [result["error"]["code"] for result in results] == ["interrupted", "interrupted"]


def test_sigterm_leaves_no_process_of_an_algorithm_that_ignores_it(invoke: Invocation, bucket: Bucket) -> None:
    files = [invoke.root / "pid", invoke.root / "child pid"]
    tasks = [bucket.task(timeout=None)]
    process = invoke.start(
        "ignores_sigterm",
        "-t",
        json.dumps(tasks),
        env={
            "PID_FILE": str(files[0]),
            "CHILD_PID_FILE": str(files[1]),
            "ALGORITHM_GRACE_SECONDS": "0.3",
        },
    )
    pids = [pid_in(file) for file in files]
    try:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 143
        assert not any(is_running(pid) for pid in pids)
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert signed_result(bucket, tasks[0])["error"]["code"] == "interrupted"


# -- what it prints


def test_every_line_of_the_log_is_one_record_and_there_is_no_bar_in_a_pipe(invoke: Invocation, bucket: Bucket) -> None:
    tasks = [bucket.task("one"), bucket.task("two")]
    ended = invoke.run("says_hello", "-t", json.dumps(tasks))
    out, err = log_records(ended.stdout), log_records(ended.stderr)
    assert {record["source"] for record in out} == {"stdout"}
    assert {record["source"] for record in err} == {"stderr"}
    users = [(record["log"], record["level"], record["task"]) for record in out + err if not record["internal"]]
    assert users == [
        ("hello stdout", "INFO", "one"),
        ("hello stdout", "INFO", "two"),
        ("hello stderr", "WARNING", "one"),
        ("hello stderr", "WARNING", "two"),
    ]
    assert b"\x1b" not in ended.stdout + ended.stderr
    assert b"Tasks" not in ended.stdout + ended.stderr


def test_a_person_at_a_terminal_sees_a_bar_below_the_log(invoke: Invocation, bucket: Bucket) -> None:
    terminal, end = pty.openpty()
    tasks = [bucket.task(str(number)) for number in range(3)]
    process = invoke.start("says_hello", "-t", json.dumps(tasks), stdout=end, stderr=end)
    os.close(end)
    seen = b""
    with suppress(OSError):  # EIO is the end of a terminal
        while chunk := os.read(terminal, 65536):
            seen += chunk
    os.close(terminal)
    assert process.wait(DEADLINE_SECONDS) == 0
    text = seen.decode()
    for count in range(4):
        assert f"{count}/3" in text
    assert "Tasks" in text
    assert text.count("hello stdout") == 3
    assert text.endswith("\r\n")


def test_no_key_no_file_name_and_no_secret_is_in_our_lines(invoke: Invocation, bucket: Bucket, s3: FaultyS3) -> None:
    bucket.put("patient/key", "data")
    s3.fault("GET", "patient/key", Answer(503, "SlowDown"))
    tasks = [
        bucket.task("one", inputs=[bucket.item("patient.mha", "patient/key")]),
        bucket.task("two", inputs=[bucket.item("patient.mha", "patient/missing")]),
    ]
    ended = invoke.run("echoes_input", "-t", json.dumps(tasks), env={"AWS_ENDPOINT_URL_S3": s3.endpoint})
    assert ended.returncode == 0
    assert [signed_result(bucket, task)["return_code"] for task in tasks] == [0, 1]
    log = (ended.stdout + ended.stderr).decode()
    assert "trying again" in log
    for word in ("patient", "secret-of-aws", KEY.hex()):
        assert word not in log


def test_credentials_and_our_variables_are_withheld_from_the_algorithm(invoke: Invocation, bucket: Bucket) -> None:
    ended = invoke.run("prints_environment", "-t", json.dumps([bucket.task()]), env={"KEPT": "as it is"})
    assert ended.returncode == 0, ended.stderr
    environment = dict(entry.split(b"=", 1) for entry in bucket.get("/out/task/environ").split(b"\0")[:-1])
    assert environment[b"KEPT"] == b"as it is"
    names = {name.decode() for name in environment}
    assert not {name for name in names if name.startswith(("AWS_ACC", "AWS_SEC", "GRAND_CHALLENGE", "MODEL_SERVER"))}
    assert {name for name in names if name.startswith("ALGORITHM_")} == {
        "ALGORITHM_INPUT_PATH",
        "ALGORITHM_OUTPUT_PATH",
    }
    assert b"SERVER_SOFTWARE" not in environment


def test_what_is_in_its_own_folder_is_removed_at_the_end(invoke: Invocation, bucket: Bucket) -> None:
    with tempfile.TemporaryDirectory() as folder:  # a short path: a socket's may not be long
        Path(folder, "not ours").write_text("x")
        ended = invoke.run("does_nothing", "-t", json.dumps([bucket.task()]), env={"MODEL_SERVER_RUN_PATH": folder})
        assert ended.returncode == 0, ended.stderr
        assert os.listdir(folder) == ["not ours"]


def test_a_folder_that_cannot_be_used_is_said_in_a_line(invoke: Invocation, bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = invoke.run(
        "does_nothing", "-t", json.dumps([bucket.task()]), env={"ALGORITHM_INPUT_PATH": str(tmp_path / "file/input")}
    )
    assert ended.returncode == 1
    assert ended.stderr.decode().splitlines()[-1].startswith(f"The folder {tmp_path}/file/input can not be used")
    assert b"Traceback" not in ended.stderr


def test_a_log_that_nobody_reads_does_not_stop_the_tasks(invoke: Invocation, bucket: Bucket) -> None:
    tasks = [bucket.task("one"), bucket.task("two")]
    process = invoke.start("says_hello", "-t", json.dumps(tasks))
    process.stdout.close()
    process.stderr.close()
    wait_until(lambda: process.poll() is not None, "the end of invoke")
    assert process.returncode == 0
    assert [signed_result(bucket, task)["return_code"] for task in tasks] == [0, 0]


def test_a_slow_reader_of_the_log_loses_nothing_of_the_algorithms(invoke: Invocation, bucket: Bucket) -> None:
    process = invoke.start("fills_its_pipes", "-t", json.dumps([bucket.task()]), stderr=subprocess.DEVNULL)
    time.sleep(0.5)  # the pipes are full by now, and the algorithm waits
    stdout, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0
    assert "".join(r["log"] for r in log_records(stdout) if not r["internal"]) == "o" * 1_000_000


# -- as PID 1, and with a broken log


@pytest.mark.parametrize("script", ["sleep 0.3 & exit 0", "(sleep 50 &) ; exit 0", "setsid sleep 50 & exit 0"])
def test_what_a_task_leaves_behind_does_not_hold_up_invoke_as_pid_1(
    invoke: Invocation, bucket: Bucket, script: str
) -> None:
    permitted = [words for words in NAMESPACES if not subprocess.run([*words, "true"], capture_output=True).returncode]
    program = [*next(iter(permitted), []), *INVOKE]  # where none is permitted orphans become ours all the same
    tasks = [bucket.task(f"{number}") for number in range(2)]
    ended = invoke.run(None, "-t", json.dumps(tasks), program=program, env={"ALGORITHM_ENTRYPOINT": script})
    assert ended.returncode == 0, ended.stderr
    for task in tasks:
        assert bucket.result(task["output_prefix"])["run_seconds"] < 4


def test_a_log_that_can_not_be_written_costs_the_log_only(invoke: Invocation, bucket: Bucket) -> None:
    with open("/dev/full", "wb") as full:
        ended = invoke.start("writes_200000_lines", "-t", json.dumps([bucket.task("t")]), stdout=full, stderr=full)
        assert ended.wait(2 * DEADLINE_SECONDS) == 0
    assert bucket.result("/out/t")["return_code"] == 0


def test_a_log_that_somebody_made_non_blocking_comes_whole(invoke: Invocation, bucket: Bucket) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    tasks = json.dumps([bucket.task("t")])
    process = invoke.start("writes_200000_lines", "-t", tasks, stdout=writer, stderr=subprocess.DEVNULL)
    os.close(writer)
    with open(reader, "rb") as log:
        lines = sum(1 for _ in log)
    assert process.wait(DEADLINE_SECONDS) == 0
    assert lines >= 100_000
    assert bucket.result("/out/t")["return_code"] == 0


def test_closed_standard_streams_cost_the_log_only(invoke: Invocation, bucket: Bucket) -> None:
    closing = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *INVOKE]
    assert invoke.run("says_hello", "-t", json.dumps([bucket.task("t")]), program=closing).returncode == 0
    assert bucket.result("/out/t")["return_code"] == 0


def test_a_signal_that_comes_before_the_handlers_waits_for_them() -> None:
    script = (
        "from model_server import held_signals; import os, signal; os.kill(os.getpid(), signal.SIGTERM);"
        "print('alive', flush=True); signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=CONTAINER, stdout=subprocess.PIPE, timeout=DEADLINE_SECONDS
    )
    assert (ended.stdout, ended.returncode) == (b"alive\n", -signal.SIGTERM)
    for name in ("serve", "train", "process", "invoke", "longshore"):
        first = next(
            line for line in (CONTAINER / name).read_text().splitlines() if line.startswith(("from ", "import "))
        )
        assert first.startswith("from model_server import held_signals")
