"""The algorithm as a server of its own: started once, and posted to for each task."""

import array
import fcntl
import json
import re
import termios
from typing import TYPE_CHECKING

import pytest
from resident_server import (
    PID,
    REFUSED,
    RESTARTED,
    await_new_program,
    await_ping,
    pid_of,
    ping,
    printed,
    program,
    program_pid,
    run,
    say_on_health,
    serving_resident,
)
from server import eventually
from test_slow_log_reader import read_by

if TYPE_CHECKING:
    from conftest import Bucket


# -- a task


def test_tasks_run_in_the_program_that_was_started_once(bucket: "Bucket") -> None:
    with serving_resident(bucket) as server:
        pid = program_pid(server)
        for pk in ("one", "two", "three"):
            result = run(server, bucket, pk)
            assert (result["return_code"], result["error"]) == (0, None)
            assert [output["relative_path"] for output in result["outputs"]] == ["pid"]
            assert re.fullmatch(r"PT\d+(\.\d+)?S", result["invoke_duration"])
            assert result["exec_duration"] is None
            assert pid_of(bucket, pk) == pid
            assert result["peak_memory_bytes"] > 1_000_000
        assert printed(server, "stdout") == [(f"started {pid}", None)]


def test_outputs_and_inputs_of_a_task_are_gone_before_the_next(bucket: "Bucket") -> None:
    with serving_resident(bucket) as server:
        run(server, bucket, "one")
        assert server.files() == [path for path in server.files() if path.startswith("run/")]
        listed = run(server, bucket, "two", 'ls "$ALGORITHM_INPUT_PATH" "$ALGORITHM_OUTPUT_PATH" >&2; exit 1')
        lines = listed["user_process_last_stderr_lines"]
        assert [line for line in lines if not line.endswith(":\n") and line != "\n"] == ["do\n"]
        server.expected_warnings = REFUSED + "|^Task "


def test_an_answer_that_is_not_201_is_a_failed_task_and_the_program_stays(bucket: "Bucket") -> None:
    with serving_resident(bucket, warnings=REFUSED) as server:
        pid = program_pid(server)
        result = run(server, bucket, "bad", "echo first >&2; echo last >&2; exit 4")
        assert (result["return_code"], result["user_safe_error_message"], result["outputs"]) == (1, "", [])
        assert result["user_process_last_stderr_lines"] == ["first\n", "last\n"]
        assert result["invoke_duration"] is not None
        assert result["error"]["code"] == "invoke_refused"
        assert ping(server) == 200
        assert run(server, bucket, "good")["return_code"] == 0
        assert pid_of(bucket, "good") == pid


def test_the_user_sees_nothing_of_a_status_that_is_not_201(bucket: "Bucket") -> None:
    """The last external line on stderr is what older platforms show: it has to be the algorithm's own."""
    with serving_resident(bucket, warnings=REFUSED) as server:
        run(server, bucket, "bad", "echo why >&2; exit 4")
        server.stop_if_running()
        assert printed(server, "stderr")[-1] == ("why", "bad")


def test_a_last_line_without_a_newline_is_among_the_last_lines(bucket: "Bucket") -> None:
    with serving_resident(bucket, warnings=REFUSED) as server:
        result = run(server, bucket, "bad", "echo first >&2; printf 'the reason' >&2; exit 4")
        assert [line.rstrip("\n") for line in result["user_process_last_stderr_lines"]] == ["first", "the reason"]
        assert run(server, bucket, "good")["user_process_last_stderr_lines"] == []
        server.stop_if_running()
        assert printed(server, "stderr")[1:] == [("first", "bad"), ("the reason", "bad")]


def test_every_line_names_its_own_task(bucket: "Bucket") -> None:
    with serving_resident(bucket, warnings=REFUSED) as server:
        pid = program_pid(server)
        for pk in ("one", "two"):
            run(server, bucket, pk, f"echo out-{pk}; echo err-{pk} >&2; printf partial-{pk}; exit 1")
        run(server, bucket, "three", "echo out-three")
        server.stop_if_running()
        assert printed(server, "stdout") == [
            (f"started {pid}", None),
            ("out-one", "one"),
            ("partial-one", "one"),
            ("out-two", "two"),
            ("partial-two", "two"),
            ("out-three", "three"),
        ]
        assert printed(server, "stderr") == [("warming up", None), ("err-one", "one"), ("err-two", "two")]


def test_the_last_lines_on_stderr_are_the_tasks_own_and_at_most_100(bucket: "Bucket") -> None:
    with serving_resident(bucket, warnings=REFUSED) as server:
        first = run(server, bucket, "many", "seq 250 >&2; exit 1")
        assert first["user_process_last_stderr_lines"] == [f"{number}\n" for number in range(151, 251)]
        second = run(server, bucket, "one", "echo mine >&2")
        assert second["user_process_last_stderr_lines"] == ["mine\n"]
        assert run(server, bucket, "none", "")["user_process_last_stderr_lines"] == []


def test_100000_lines_of_a_task_come_whole_and_name_it(bucket: "Bucket") -> None:
    with serving_resident(bucket) as server:
        run(server, bucket, "one", "seq 100000; seq 100000 >&2")
        run(server, bucket, "two", "echo next; echo next >&2")
        server.stop_if_running()
        expected = [(str(number), "one") for number in range(1, 100_001)] + [("next", "two")]
        assert printed(server, "stdout")[1:] == expected
        assert printed(server, "stderr")[1:] == expected


def test_several_tasks_in_one_body_run_in_one_program(bucket: "Bucket") -> None:
    with serving_resident(bucket) as server:
        tasks = [server.task(bucket, pk, PID) for pk in ("one", "two")]
        body = "\n".join(json.dumps(task) for task in tasks).encode()
        assert server.ask("POST", "/invocations", body, {"Content-Type": "application/jsonlines"}).status == 200
        assert {pid_of(bucket, "one"), pid_of(bucket, "two")} == {program_pid(server)}


# -- the time limit


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("serves_tasks", "sleep 300"),
        ("serves_tasks_and_ignores_sigterm", "sleep 300"),
        ("serves_tasks_and_ignores_sigterm", "sleep 300 & setsid sleep 300 & sleep 300"),
    ],
    ids=["ends on SIGTERM", "ignores SIGTERM", "has children and a daemon"],
)
def test_a_time_limit_ends_the_program_and_all_it_started_and_a_new_one_comes(
    bucket: "Bucket", name: str, script: str
) -> None:
    with serving_resident(bucket, name=name, warnings=RESTARTED, ALGORITHM_GRACE_SECONDS="0.5") as server:
        old = program_pid(server)
        say_on_health(server, "503")  # the new one is not healthy before we say so
        result = run(server, bucket, "slow", f"echo begun >&2; {script}", timeout=1)
        assert (result["return_code"], result["user_safe_error_message"]) == (1, "Time limit exceeded")
        assert result["user_process_last_stderr_lines"] == ["begun\n"]
        assert result["invoke_duration"].startswith("PT1.")
        assert result["outputs"] == []
        assert ping(server) == 503
        assert server.run(bucket.task("early")).json()["error"]["code"] == "not_ready"
        assert [process for process in server.algorithm if process.name == "sleep"] == []
        say_on_health(server, "200")
        new = await_new_program(server, old)
        assert run(server, bucket, "next")["return_code"] == 0
        assert pid_of(bucket, "next") == new != old
        assert ("Time limit exceeded", "slow") in printed(server, "stderr")


def test_what_a_task_does_after_its_time_limit_reaches_no_other(bucket: "Bucket") -> None:
    """The program spends its grace with writing and printing."""
    late = 'for n in $(seq 40); do sleep 0.05; echo late; echo late >"$ALGORITHM_OUTPUT_PATH/late"; done'
    with serving_resident(bucket, name="serves_tasks_and_ignores_sigterm", warnings=RESTARTED) as server:
        old = program_pid(server)
        script = f"setsid sh -c '{late}' & sleep 0.3; {late}; sleep 300"
        posted = server.post(server.task(bucket, "slow", script, timeout=1))
        assert posted.answer().json()["user_safe_error_message"] == "Time limit exceeded"
        await_new_program(server, old)
        result = run(server, bucket, "next", f"sleep 1; {PID}")
        assert [output["relative_path"] for output in result["outputs"]] == ["pid"]
        assert {task for line, task in printed(server, "stdout") if line == "late"} == {"slow"}


def test_a_time_limit_in_one_task_of_a_body_costs_that_one_only(bucket: "Bucket") -> None:
    with serving_resident(bucket, warnings=RESTARTED) as server:
        tasks = [server.task(bucket, "slow", "sleep 300", timeout=1), server.task(bucket, "next", PID)]
        body = "\n".join(json.dumps(task) for task in tasks).encode()
        answer = server.ask("POST", "/invocations", body, {"Content-Type": "application/jsonlines"})
        results = [json.loads(line) for line in answer.body.splitlines()]
        assert [result["error"] and result["error"]["code"] for result in results] == ["time_limit_exceeded", None]
        assert pid_of(bucket, "next") == program_pid(server)


def test_a_log_that_nobody_reads_stops_neither_ping_nor_the_time_limit(bucket: "Bucket") -> None:
    flood = "yes | head -c 50000000"
    expected = f"{RESTARTED}|nobody reads the log|lines of ours were dropped"
    with read_by(pause=0) as (stdout, reader), serving_resident(bucket, warnings=expected, stdout=stdout) as server:
        posted = server.post(server.task(bucket, "flood", flood, timeout=2))
        assert all(server.ask("GET", "/ping").seconds < 1 for _ in range(100))
        answer = posted.answer()
        assert answer.json()["error"]["code"] == "time_limit_exceeded"
        assert answer.seconds < 25
        reader.begin()
        await_ping(server, 200)
        assert run(server, bucket, "next")["return_code"] == 0


def test_a_log_that_nobody_reads_takes_nothing_of_a_tasks_time(bucket: "Bucket") -> None:
    flood = 'while [ ! -e "$BOARD/flood" ]; do sleep 0.05; done; yes | head -c 2000000'
    flooding = f"({flood}) & exec {program('serves_tasks')}"
    settings = {"ALGORITHM_ENTRYPOINT": flooding, "warnings": "nobody reads the log|lines of ours were dropped"}
    with read_by(pause=0) as (stdout, reader), serving_resident(bucket, stdout=stdout, **settings) as server:
        pid = program_pid(server)
        (server.board / "flood").touch()
        full = fcntl.fcntl(stdout, fcntl.F_GETPIPE_SZ)
        eventually(lambda: readable_bytes(stdout) > full - 8192, "a log that is full")
        for pk in ("one", "two"):
            result = run(server, bucket, pk, PID, timeout=5)
            assert result["return_code"] == 0
            assert pid_of(bucket, pk) == pid
        assert any(process.name == "head" for process in server.algorithm), "the log was stuck all the time"
        reader.begin()
        eventually(lambda: not any(process.name == "head" for process in server.algorithm), "the end of the flood", 60)


def readable_bytes(pipe: int) -> int:
    number = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, number)
    return number[0]


def test_the_servers_time_limit_is_for_tasks_that_name_none(bucket: "Bucket") -> None:
    with serving_resident(bucket, warnings=RESTARTED, MODEL_SERVER_TIMEOUT="1") as server:
        result = run(server, bucket, "slow", "sleep 300", timeout=None)
        assert result["error"]["code"] == "time_limit_exceeded"
        assert "MODEL_SERVER_TIMEOUT" in result["error"]["hint"]
        await_ping(server, 200)
