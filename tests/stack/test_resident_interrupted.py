"""The algorithm's server, when clients, workers and the server itself go, or are told to."""

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from resident_server import (
    DIED,
    LOST,
    PID,
    RESTARTED,
    STOPPED,
    await_new_program,
    await_ping,
    health_calls,
    is_setup_result_stored,
    keeper_pid,
    pid_of,
    ping,
    printed,
    program_pid,
    programs,
    resident,
    run,
    say_on_health,
    serving_resident,
    starting_resident,
)
from server import START_SECONDS, eventually, is_signed, process_table, serving

from faulty_s3 import FaultyS3, Hold

if TYPE_CHECKING:
    from conftest import Bucket


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
        (other,) = [other for other in server.workers if other.pid != worker.pid]
        os.kill(worker.pid, signal.SIGSTOP)  # it takes none of what comes, but for what nginx keeps a connection to it
        waiting = {f"waits-{n}": server.post(server.task(bucket, f"waits-{n}", PID)) for n in range(8)}
        eventually(lambda: "anon_inode:[eventfd]" in other.descriptors(), "a request in the other worker")
        os.kill(worker.pid, signal.SIGKILL)
        assert lost.answer().status == 502
        answers = {pk: posted.answer() for pk, posted in waiting.items()}
        ran = [pk for pk, answer in answers.items() if answer.status == 200]
        assert ran
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
