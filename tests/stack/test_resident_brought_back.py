"""The algorithm's server, when it ends or can not be used any more, and when somebody else has its port."""

import os
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest
from resident_server import (
    DIED,
    GIVEN_UP,
    PID,
    RESTARTED,
    STOPPED,
    await_new_program,
    await_ping,
    pid_of,
    ping,
    printed,
    program,
    program_pid,
    resident,
    run,
    say_on_health,
    serving_resident,
    setup_result,
    starts,
)
from server import START_SECONDS, eventually, launched, process_table, serving

from faulty_s3 import FaultyS3, HeldAnswer

if TYPE_CHECKING:
    from conftest import Bucket


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
        assert not any(process.name == "sleep" for process in server.algorithm)
        server.stop_if_running()
        stderr = printed(server, "stderr")
        assert ("before", "cut") in stderr
        assert ("HTTP error calling invoke endpoint", "cut") in stderr


def test_a_program_that_ends_right_after_its_answer_keeps_that_answer(bucket: "Bucket", s3: FaultyS3) -> None:
    held = HeldAnswer()
    s3.fault("PUT", "/out/last/pid", held)
    with serving(s3.endpoint, **resident(bucket, warnings=f"{DIED}|{RESTARTED}")) as server:
        old = program_pid(server)
        posted = server.post(server.task(bucket, "last", PID))
        assert held.reached.wait(START_SECONDS), "an output goes up once the program has answered"
        os.kill(old, signal.SIGTERM)
        eventually(lambda: old not in process_table(), "the end of the program")
        held.released.set()
        assert posted.answer().json()["return_code"] == 0
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
        assert old not in process_table()
        new = await_new_program(server, old)
        assert run(server, bucket, "next")["return_code"] == 0
        assert pid_of(bucket, "next") == new
        server.stop_if_running()
        assert ("Could not connect to invoke endpoint", "deaf") in printed(server, "stderr")


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
