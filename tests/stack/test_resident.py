"""The algorithm as a server of its own: started once, posted to for each task, brought back when it is gone."""

import array
import fcntl
import json
import os
import re
import signal
import socket
import termios
import time
from typing import TYPE_CHECKING, Any

import pytest
from resident_server import (
    DIED,
    REFUSED,
    RESTARTED,
    await_new_program,
    await_ping,
    health_calls,
    is_setup_result_stored,
    keeper_pid,
    ping,
    printed,
    program,
    program_pid,
    programs,
    resident,
    say_on_health,
    serving_resident,
    setup_result,
    starting_resident,
    starts,
)
from server import START_SECONDS, Server, eventually, is_signed, launched, process_table, serving
from test_slow_log_reader import read_by

from faulty_s3 import FaultyS3, Hold

if TYPE_CHECKING:
    from conftest import Bucket

PID = 'echo $PPID >"$ALGORITHM_OUTPUT_PATH/pid"'
"""A line of a script that writes the pid of the program that runs it as an output."""

LOST = r"was sent SIGKILL|unfinished tasks|exited|worker_lost|interrupted: |closed connection|reset by peer"
STOPPED = r"^(Stopping|Stopped): "
GIVEN_UP = "^Failed to start|didn.t pass the health check|^The algorithm's server can not be brought back$"


def run(server: Server, bucket: "Bucket", pk: str, script: str = PID, **more: Any) -> dict[str, Any]:
    """Run a task that ends in a 200, and return its result, which is stored and signed."""
    answer = server.run(server.task(bucket, pk, script, **more))
    assert answer.status == 200, answer.body
    result: dict[str, Any] = answer.json()
    assert bucket.result(f"/out/{pk}") == result
    assert is_signed(bucket, pk)
    return result


def pid_of(bucket: "Bucket", pk: str) -> int:
    """Return the pid of the program that ran a task."""
    return int(bucket.get(f"/out/{pk}/pid"))


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
        assert printed(server, "stderr")[-1] == ("why", "bad")


def test_a_last_line_without_a_newline_is_among_the_last_lines(bucket: "Bucket") -> None:
    with serving_resident(bucket, warnings=REFUSED) as server:
        result = run(server, bucket, "bad", "echo first >&2; printf 'the reason' >&2; exit 4")
        assert [line.rstrip("\n") for line in result["user_process_last_stderr_lines"]] == ["first", "the reason"]
        assert run(server, bucket, "good")["user_process_last_stderr_lines"] == []
        assert printed(server, "stderr")[1:] == [("first", "bad"), ("the reason", "bad")]


def test_every_line_names_its_own_task(bucket: "Bucket") -> None:
    with serving_resident(bucket, warnings=REFUSED) as server:
        pid = program_pid(server)
        for pk in ("one", "two"):
            run(server, bucket, pk, f"echo out-{pk}; echo err-{pk} >&2; printf partial-{pk}; exit 1")
        run(server, bucket, "three", "echo out-three")
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


# -- a program that ends by itself


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_an_idle_program_that_ends_is_brought_back(bucket: "Bucket", signum: int) -> None:
    with serving_resident(bucket, warnings=f"{DIED}|{RESTARTED}") as server:
        old = program_pid(server)
        say_on_health(server, "503")
        os.kill(old, signum)
        await_ping(server, 503)
        say_on_health(server, "200")
        new = await_new_program(server, old)
        assert run(server, bucket, "next")["return_code"] == 0
        assert pid_of(bucket, "next") == new
        assert f"The algorithm's server was ended by {signal.Signals(signum).name}" in server.own_lines("stderr")


def test_an_idle_program_that_ends_later_than_a_start_may_take_is_brought_back(bucket: "Bucket") -> None:
    with serving_resident(bucket, warnings=f"{DIED}|{RESTARTED}", ALGORITHM_START_TIMEOUT="3") as server:
        old = program_pid(server)
        healthy = time.monotonic()
        eventually(lambda: time.monotonic() > healthy + 3.5, "more than a start may take")
        os.kill(old, signal.SIGKILL)
        new = await_new_program(server, old)
        assert run(server, bucket, "next")["return_code"] == 0
        assert pid_of(bucket, "next") == new


def test_a_program_that_a_real_time_signal_ends_is_brought_back(bucket: "Bucket") -> None:
    with serving_resident(bucket, warnings=f"{DIED}|{RESTARTED}") as server:
        old = program_pid(server)
        os.kill(old, signal.SIGRTMIN + 1)
        await_new_program(server, old)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_program_that_ends_in_mid_task_fails_that_task_only(bucket: "Bucket", signum: int) -> None:
    with serving_resident(bucket, warnings=f"{DIED}|{RESTARTED}") as server:
        old = program_pid(server)
        result = run(server, bucket, "cut", f"echo before >&2; kill -{int(signum)} $PPID; sleep 300")
        assert (result["return_code"], result["user_safe_error_message"]) == (1, "HTTP error calling invoke endpoint")
        assert (result["exec_duration"], result["invoke_duration"]) == (None, None)
        assert result["user_process_last_stderr_lines"] == []
        new = await_new_program(server, old)
        assert run(server, bucket, "next")["return_code"] == 0
        assert pid_of(bucket, "next") == new
        stderr = printed(server, "stderr")
        assert ("before", "cut") in stderr
        assert ("HTTP error calling invoke endpoint", "cut") in stderr
        assert not any(process.name == "sleep" for process in server.algorithm)


def test_a_program_that_ends_right_after_its_answer_keeps_that_answer(bucket: "Bucket") -> None:
    with serving_resident(bucket, warnings=f"{DIED}|{RESTARTED}") as server:
        old = program_pid(server)
        result = run(server, bucket, "last", f"(sleep 0.3; kill $PPID) & {PID}")
        assert result["return_code"] == 0
        await_new_program(server, old)


def test_a_program_that_can_not_be_brought_back_ends_the_server_with_an_error(bucket: "Bucket") -> None:
    again = f'test ! -e "$BOARD/no-more" || exit 3; exec {program("serves_tasks")}'
    settings = {"ALGORITHM_ENTRYPOINT": again, "ALGORITHM_START_TIMEOUT": "3"}
    expected = f"{DIED}|{RESTARTED}|{STOPPED}|{GIVEN_UP}"
    with serving_resident(bucket, warnings=expected, **settings) as server:
        assert run(server, bucket, "before")["return_code"] == 0
        (server.board / "no-more").touch()
        os.kill(program_pid(server), signal.SIGKILL)
        assert server.ended() == 1
        assert "The algorithm's server can not be brought back" in server.own_lines("stderr")
        assert server.own_lines("stderr")[-1] == "Stopped: resident ended with code 1"
        assert ("Health check failed: The server ended with exit code 3", None) in printed(server, "stderr")


def test_a_program_that_ends_right_after_each_start_ends_the_server_after_few_starts(bucket: "Bucket") -> None:
    expected = f"{DIED}|{RESTARTED}|{STOPPED}|{GIVEN_UP}"
    with serving_resident(bucket, warnings=expected, ALGORITHM_START_TIMEOUT="3") as server:
        assert run(server, bucket, "before")["return_code"] == 0
        say_on_health(server, "ends")
        os.kill(program_pid(server), signal.SIGKILL)
        assert server.ended() == 1
        assert "The algorithm's server can not be brought back" in server.own_lines("stderr")
        assert server.own_lines("stderr")[-1] == "Stopped: resident ended with code 1"
        healthy = [line for line in server.own_lines("stdout") if line.startswith("The algorithm's server is healthy")]
        assert len(healthy) > 1, "it was healthy again before it ended again"
        assert len(starts(server)) <= 5


def test_a_program_that_starts_at_the_second_attempt_is_back(bucket: "Bucket") -> None:
    once = f'rm "$BOARD/fail" 2>/dev/null && exit 3; exec {program("serves_tasks")}'
    expected = f"{DIED}|{RESTARTED}|^Failed to start"
    with serving_resident(bucket, warnings=expected, ALGORITHM_ENTRYPOINT=once) as server:
        (server.board / "fail").touch()
        old = program_pid(server)
        os.kill(old, signal.SIGKILL)
        await_new_program(server, old)
        assert run(server, bucket, "next")["return_code"] == 0


def test_a_program_that_does_not_reuse_its_address_is_brought_back(bucket: "Bucket") -> None:
    """A connection that the program closes first keeps its port from it for a minute."""
    with serving_resident(
        bucket, name="serves_tasks_without_reusing_its_address", warnings=f"{DIED}|{RESTARTED}"
    ) as server:
        for pk in ("one", "two"):
            assert server.run(bucket.task(pk)).json()["return_code"] == 0
        old = program_pid(server)
        os.kill(old, signal.SIGKILL)
        await_new_program(server, old)
        assert server.run(bucket.task("next")).json()["return_code"] == 0


# -- a program that stays, but can not be used any more


def test_a_program_that_breaks_off_a_task_is_ended_and_nothing_of_it_reaches_the_next(bucket: "Bucket") -> None:
    with serving_resident(bucket, name="serves_tasks_and_ignores_sigterm", warnings=RESTARTED) as server:
        old = program_pid(server)
        result = run(server, bucket, "broken", f"{PID}; exit 90")
        assert (result["return_code"], result["user_safe_error_message"]) == (1, "HTTP error calling invoke endpoint")
        assert (result["error"]["code"], result["outputs"]) == ("invoke_broken", [])
        assert old not in process_table()
        await_ping(server, 200)
        result = run(server, bucket, "next", f"sleep 1; {PID}")
        assert [output["relative_path"] for output in result["outputs"]] == ["pid"]
        assert pid_of(bucket, "next") == program_pid(server) != old


def test_a_program_that_stops_listening_is_ended_and_a_new_one_comes(bucket: "Bucket") -> None:
    with serving_resident(bucket, warnings=RESTARTED) as server:
        old = program_pid(server)
        assert run(server, bucket, "last", f"{PID}; exit 91")["return_code"] == 0
        assert (program_pid(server), ping(server)) == (old, 200), "nobody can know yet"
        result = run(server, bucket, "deaf")
        assert (result["return_code"], result["user_safe_error_message"]) == (1, "Could not connect to invoke endpoint")
        assert ("Could not connect to invoke endpoint", "deaf") in printed(server, "stderr")
        assert old not in process_table()
        new = await_new_program(server, old)
        assert run(server, bucket, "next")["return_code"] == 0
        assert pid_of(bucket, "next") == new


# -- somebody else has its port


@pytest.mark.parametrize("script", [None, "sleep 300"], ids=["would listen too", "listens nowhere"])
def test_a_port_that_is_taken_fails_the_set_up_and_nobody_there_is_asked(bucket: "Bucket", script: str | None) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        settings = {"ALGORITHM_PORT": str(stranger.getsockname()[1])}
        settings |= {"ALGORITHM_ENTRYPOINT": script} if script else {}
        with launched(bucket.endpoint, **resident(bucket, **settings)) as server:
            assert server.ended(START_SECONDS) == 0, "the stored result of the set-up says that it failed"
            result = setup_result(bucket)
            sentence = "Failed to start the algorithm container's inference server"
            assert (result["return_code"], result["user_safe_error_message"]) == (1, sentence)
            assert printed(server, "stderr") == [
                ("Could not start server: The port of the algorithm's server is taken", None),
                (sentence, None),
            ]
            assert starts(server) == []
        assert received(stranger) in ([], [b""])


def received(listener: socket.socket) -> list[bytes]:
    """Return what was sent on each of the connections that wait, all of which are closed by now."""
    listener.setblocking(False)
    sent = []
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return sent
        with connection:
            sent.append(connection.recv(4096))


# -- somebody else goes


def test_a_task_whose_client_leaves_ends_with_the_program_and_a_new_one_comes(bucket: "Bucket") -> None:
    with serving_resident(bucket, warnings=RESTARTED) as server:
        old = program_pid(server)
        posted = server.post_blocking(bucket, "left", "echo begun >&2")
        posted.leave()
        new = await_new_program(server, old)
        result = eventually(lambda: stored(bucket, "left"), "a result")
        assert result["error"]["code"] == "client_left"
        assert run(server, bucket, "next")["return_code"] == 0
        assert pid_of(bucket, "next") == new


def stored(bucket: "Bucket", pk: str) -> dict[str, Any]:
    """Return the stored result of a task; nothing while there is none."""
    stored_keys = bucket.keys()
    return bucket.result(f"/out/{pk}") if f"/out/{pk}/.sagemaker_shim/inference_result.json" in stored_keys else {}


def test_requests_that_wait_are_run_by_the_program_that_comes_next(bucket: "Bucket") -> None:
    with serving_resident(bucket, warnings=RESTARTED) as server:
        old = program_pid(server)
        running = server.post_blocking(bucket, "slow", timeout=3)
        waiting = [server.post(server.task(bucket, f"waits-{number}", PID)) for number in range(3)]
        server.await_requests(4)
        assert running.answer().json()["user_safe_error_message"] == "Time limit exceeded"
        answers = [posted.answer() for posted in waiting]
        assert [(answer.status, answer.json()["return_code"]) for answer in answers] == [(200, 0)] * 3
        pids = {pid_of(bucket, f"waits-{number}") for number in range(3)}
        assert pids == {program_pid(server)}
        assert old not in pids


def test_a_task_ends_with_its_client_also_while_the_program_starts_again(bucket: "Bucket") -> None:
    with serving_resident(bucket, warnings=RESTARTED) as server:
        calls = health_calls(server)
        say_on_health(server, "503")
        running = server.post_blocking(bucket, "slow", timeout=5)
        waiting = []
        for pk in ("left", "cut"):  # one after the other: they are run in the order in which they came
            waiting.append(server.post(server.task(bucket, pk, 'touch "$BOARD/ran"')))
            server.await_requests(1 + len(waiting))
        assert running.answer().status == 200
        eventually(lambda: health_calls(server) > calls, "a call of the new program's /health")
        waiting[0].leave()
        assert eventually(lambda: stored(bucket, "left"), "a result")["error"]["code"] == "client_left"
        os.kill(server.pid, signal.SIGTERM)
        answer = waiting[1].answer()
        assert (answer.status, answer.json()["error"]["code"]) == (503, "interrupted")
        assert server.ended() == 0
        assert stored(bucket, "cut")["error"]["code"] == "interrupted"
        assert not (server.board / "ran").exists()


def test_a_task_whose_client_leaves_while_the_program_is_brought_back_is_no_success(
    bucket: "Bucket", s3: FaultyS3
) -> None:
    """The program ends while the inputs are fetched: the task waits for the next one with its folders ready."""
    hold = Hold()
    s3.fault("GET", "in/large", hold)
    bucket.put("in/large", bytes(100_000))
    with serving(s3.endpoint, **resident(bucket, warnings=f"{DIED}|{RESTARTED}")) as server:
        old = program_pid(server)
        bucket.put("scripts/left", 'touch "$BOARD/ran"')
        inputs = [bucket.item("do", "scripts/left"), bucket.item("large", "in/large")]
        posted = server.post(bucket.task("left", inputs))
        assert hold.reached.wait(START_SECONDS)
        say_on_health(server, "503")
        os.kill(old, signal.SIGKILL)
        await_ping(server, 503)
        hold.released.set()
        large = server.folder / "input" / "large"
        eventually(lambda: large.exists() and large.stat().st_size == 100_000, "the whole input")
        calls = health_calls(server)
        eventually(lambda: health_calls(server) > calls + 5, "a new program that is not healthy")
        assert stored(bucket, "left") == {}, "the task waits"
        posted.leave()
        result = eventually(lambda: stored(bucket, "left"), "a result, though the program is not healthy")
        assert (result["error"]["code"], result["return_code"]) == ("client_left", 1)
        assert result["invoke_duration"] is None
        assert is_signed(bucket, "left")
        assert ping(server) == 503
        say_on_health(server, "200")
        new = await_new_program(server, old)
        assert run(server, bucket, "next")["return_code"] == 0
        assert pid_of(bucket, "next") == new
        assert stored(bucket, "left") == result
        assert not (server.board / "ran").exists()


def test_a_worker_that_is_killed_in_mid_task_costs_that_task_and_the_next_has_a_fresh_program(bucket: "Bucket") -> None:
    settings = {"warnings": f"{RESTARTED}|{LOST}", "MODEL_SERVER_WORKERS": "1", "ALGORITHM_GRACE_SECONDS": "0.5"}
    with serving_resident(bucket, name="serves_tasks_and_ignores_sigterm", **settings) as server:
        old = program_pid(server)
        posted = server.post_blocking(bucket, "lost", "sleep 300 & setsid sleep 300 &")
        (worker,) = server.workers
        os.kill(worker.pid, signal.SIGKILL)
        assert posted.answer().status == 502
        result = eventually(lambda: stored(bucket, "lost"), "a result")
        assert (result["error"]["code"], result["return_code"]) == ("worker_lost", 1)
        assert is_signed(bucket, "lost")
        eventually(lambda: old not in process_table(), "the end of the program")
        new = await_new_program(server, old)
        eventually(lambda: [p.pid for p in server.workers] not in ([], [worker.pid]), "a new worker")
        await_ping(server, 200)
        assert run(server, bucket, "next")["return_code"] == 0
        assert pid_of(bucket, "next") == new
        assert not any(process.name == "sleep" for process in server.algorithm)


def test_what_a_lost_task_does_until_its_program_is_ended_reaches_no_other(bucket: "Bucket") -> None:
    """A request that waits in another worker has the slot at once, while the program still has its grace."""
    late = 'while :; do echo late >"$ALGORITHM_OUTPUT_PATH/late"; sleep 0.02; done'
    settings = {"warnings": f"{RESTARTED}|{LOST}|could not be emptied|^nginx: ", "ALGORITHM_GRACE_SECONDS": "3"}
    with serving_resident(bucket, name="serves_tasks_and_ignores_sigterm", **settings) as server:
        old = program_pid(server)
        lost = server.post_blocking(bucket, "lost", late + " &")
        (worker,) = [worker for worker in server.workers if "anon_inode:[eventfd]" in worker.descriptors()]
        waiting = {f"waits-{n}": server.post(server.task(bucket, f"waits-{n}", PID)) for n in range(8)}
        server.await_requests(9)
        os.kill(worker.pid, signal.SIGKILL)
        assert lost.answer().status == 502
        answers = {pk: posted.answer() for pk, posted in waiting.items()}
        ran = [pk for pk, answer in answers.items() if answer.status == 200]
        assert ran, "the other worker had no request; there were eight"
        for pk in ran:
            assert [output["relative_path"] for output in answers[pk].json()["outputs"]] == ["pid"]
            assert pid_of(bucket, pk) == program_pid(server) != old


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in mid-task"])
def test_serve_ends_with_an_error_and_nothing_is_left_when_the_keeper_is_killed(bucket: "Bucket", busy: bool) -> None:
    expected = f"{STOPPED}|{LOST}|could not be emptied|Traceback|^ "
    with serving_resident(bucket, name="serves_tasks_and_ignores_sigterm", warnings=expected) as server:
        keeper = keeper_pid(server)
        posted = server.post_blocking(bucket, "cut", "setsid sleep 300 &") if busy else None
        os.kill(keeper, signal.SIGKILL)
        assert server.ended() == 1
        assert server.own_lines("stderr")[-1] == "Stopped: resident was ended by SIGKILL"
        if posted:
            assert posted.answer().status in (502, 503)
            assert stored(bucket, "cut")["error"]["code"] in ("interrupted", "worker_lost")
            assert is_signed(bucket, "cut")


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in mid-task"])
def test_nothing_stays_when_serve_is_killed(bucket: "Bucket", busy: bool) -> None:
    with serving_resident(bucket, name="serves_tasks_and_ignores_sigterm", ALGORITHM_GRACE_SECONDS="1") as server:
        posted = server.post_blocking(bucket, "cut", "setsid sleep 300 & sleep 300 &") if busy else None
        assert programs(server)
        os.kill(server.pid, signal.SIGKILL)
        assert server.ended() == -signal.SIGKILL
        eventually(lambda: not server.belonging(), "an end of everything", 25)
        server.files_may_stay = True  # nobody was left to remove them
        if posted:
            posted.leave()


def test_serve_ends_with_an_error_when_gunicorn_is_killed(bucket: "Bucket") -> None:
    with serving_resident(bucket, warnings=f"{STOPPED}|{LOST}|^nginx: ") as server:
        posted = server.post_blocking(bucket, "cut")
        os.kill(server.gunicorn.pid, signal.SIGKILL)
        assert posted.answer().status in (502, 503)
        assert server.ended() == 1
        assert server.own_lines("stderr")[-1] == "Stopped: gunicorn was ended by SIGKILL"
        assert stored(bucket, "cut")["error"]["code"] in ("interrupted", "worker_lost")


# -- stopping


@pytest.mark.parametrize("health", ["503", "hangs"])
def test_a_stop_while_the_program_starts_ends_with_0_at_once(bucket: "Bucket", health: str) -> None:
    with starting_resident(bucket, health) as server:
        eventually(lambda: health_calls(server), "a call of /health")
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 5
        assert not is_setup_result_stored(bucket)


def test_a_stop_while_the_program_starts_again_ends_with_0(bucket: "Bucket") -> None:
    with serving_resident(bucket, warnings=f"{DIED}|{RESTARTED}") as server:
        calls = health_calls(server)
        say_on_health(server, "503")
        os.kill(program_pid(server), signal.SIGKILL)
        eventually(lambda: health_calls(server) > calls, "a call of the new program's /health")
        assert server.stop() == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_stops_with_0_in_under_2_seconds(bucket: "Bucket", signum: int) -> None:
    with serving_resident(bucket) as server:
        run(server, bucket, "before")
        started = time.monotonic()
        assert server.stop(signum) == 0
        assert time.monotonic() - started < 2
        assert server.own_lines("stdout")[-1] == "Stopped"


def test_a_program_has_its_grace_to_tidy_up_at_the_end(bucket: "Bucket") -> None:
    with serving_resident(bucket, name="serves_tasks_and_tidies_up_on_sigterm") as server:
        assert server.stop() == 0
        assert printed(server, "stdout")[-1] == ("tidied up", None)


@pytest.mark.parametrize("name", ["serves_tasks", "serves_tasks_and_ignores_sigterm"])
def test_a_stop_in_mid_task_interrupts_it_and_ends_with_0(bucket: "Bucket", name: str) -> None:
    with serving_resident(bucket, name=name) as server:
        posted = server.post_blocking(bucket, "cut", "echo begun >&2; setsid sleep 300 &")
        started = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        answer = posted.answer()
        assert (answer.status, answer.json()["error"]["code"]) == (503, "interrupted")
        assert server.ended() == 0
        assert time.monotonic() - started < 25
        result = stored(bucket, "cut")
        assert result["error"]["code"] == "interrupted"
        assert result["user_process_last_stderr_lines"] == ["begun\n"]
        assert is_signed(bucket, "cut")


def test_a_grace_longer_than_the_stop_does_not_outlast_it(bucket: "Bucket") -> None:
    expected = "did not end|was sent SIG|unfinished|^Task .*(?:worker_lost|interrupted): |killing it|^nginx: "
    settings = {"name": "serves_tasks_and_ignores_sigterm", "warnings": expected, "ALGORITHM_GRACE_SECONDS": "100"}
    with serving_resident(bucket, **settings) as server:
        posted = server.post_blocking(bucket, "stubborn", "setsid sleep 300 &")
        started = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        assert posted.answer().status in (502, 503)
        assert server.ended() == 0
        assert time.monotonic() - started < 28
        assert stored(bucket, "stubborn")["error"]["code"] == "interrupted"
        assert is_signed(bucket, "stubborn")
