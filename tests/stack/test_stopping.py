"""SIGTERM and SIGINT: everybody gets an answer, every task a result, and the server is gone in time."""

import os
import signal
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from server import eventually, is_signed, serving

from faulty_s3 import HELD_SECONDS, Answer, Exchange, FaultyS3

if TYPE_CHECKING:
    from conftest import Bucket

STUBBORN = "did not end within 2 s of SIGTERM"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_stops_with_0_in_under_2_seconds(s3_endpoint: str, bucket: "Bucket", signum: int) -> None:
    with serving(s3_endpoint) as server:
        assert server.run(bucket.task("before")).status == 200
        started = time.monotonic()
        assert server.stop(signum) == 0
        assert time.monotonic() - started < 2
        assert server.own_lines("stdout")[-1] == "Stopped"


def test_an_idle_server_stops_at_once_although_clients_keep_their_connections(s3_endpoint: str) -> None:
    with serving(s3_endpoint) as server, ExitStack() as connections:
        for _ in range(20):
            connection = connections.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            connection.sendall(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n")
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 2


def test_a_ctrl_c_reaches_the_whole_terminal_and_stops_the_server_with_0(s3_endpoint: str, bucket: "Bucket") -> None:
    """At a terminal SIGINT goes to every process of the group, not to `serve` alone."""
    with serving(s3_endpoint) as server:
        posted = server.post_blocking(bucket, "cut")
        os.killpg(server.pid, signal.SIGINT)
        assert posted.answer().status == 503
        assert server.ended() == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_running_task_is_interrupted_and_its_client_answered(s3_endpoint: str, bucket: "Bucket", signum: int) -> None:
    with serving(s3_endpoint) as server:
        posted = server.post_blocking(bucket, "cut", "sleep 300 & ")
        started = time.monotonic()
        os.kill(server.pid, signum)
        answer = posted.answer()
        assert answer.status == 503
        assert answer.json()["error"]["code"] == "interrupted"
        assert server.ended() == 0
        assert time.monotonic() - started < 25
        result = bucket.result("/out/cut")
        assert (result["return_code"], result["error"]["code"]) == (1, "interrupted")
        assert is_signed(bucket, "cut")


def test_an_algorithm_hears_of_the_stop_and_may_tidy_up(s3_endpoint: str, bucket: "Bucket") -> None:
    with serving(s3_endpoint) as server:
        posted = server.post_blocking(bucket, "cut", "trap 'touch \"$BOARD/tidied\"; exit 0' TERM")
        os.kill(server.pid, signal.SIGTERM)
        assert posted.answer().status == 503
        assert server.ended() == 0
        assert (server.board / "tidied").exists()


def test_a_task_that_ignores_sigterm_is_killed_after_its_grace(s3_endpoint: str, bucket: "Bucket") -> None:
    settings = {"ALGORITHM_GRACE_SECONDS": "2"}
    with serving(s3_endpoint, warnings=STUBBORN, **settings) as server:
        posted = server.post_blocking(bucket, "stubborn", "trap '' TERM")
        started = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        answer = posted.answer()
        assert (answer.status, answer.json()["error"]["code"]) == (503, "interrupted")
        assert server.ended() == 0
        assert time.monotonic() - started < 25
        assert bucket.result("/out/stubborn")["error"]["code"] == "interrupted"


def test_a_second_sigterm_changes_nothing(s3_endpoint: str, bucket: "Bucket") -> None:
    settings = {"ALGORITHM_GRACE_SECONDS": "2"}
    with serving(s3_endpoint, warnings=STUBBORN, **settings) as server:
        posted = server.post_blocking(bucket, "stubborn", "trap '' TERM")
        os.kill(server.pid, signal.SIGTERM)
        eventually(lambda: "Received SIGTERM" in server.own_lines("stdout"), "the first signal")
        os.kill(server.pid, signal.SIGTERM)
        os.kill(server.pid, signal.SIGINT)
        assert posted.answer().status == 503
        assert server.ended() == 0
        assert bucket.result("/out/stubborn")["error"]["code"] == "interrupted"


def test_waiting_requests_are_all_answered_and_never_run(s3_endpoint: str, bucket: "Bucket") -> None:
    with serving(s3_endpoint, MODEL_SERVER_QUEUE="6") as server:
        running = server.post_blocking(bucket, "cut")
        waiting = [server.post(server.task(bucket, f"waits-{n}", 'touch "$BOARD/ran"')) for n in range(6)]
        server.await_requests(7)
        os.kill(server.pid, signal.SIGTERM)
        answers = [posted.answer() for posted in (running, *waiting)]
        assert [answer.status for answer in answers] == [503] * 7
        assert {answer.json()["error"]["code"] for answer in answers} == {"interrupted"}
        assert server.ended() == 0
        assert not (server.board / "ran").exists()


def test_a_grace_longer_than_the_stop_does_not_outlast_it(s3_endpoint: str, bucket: "Bucket") -> None:
    """SageMaker kills after 30 s, so the algorithm's grace ends before; its task still gets a result."""
    settings = {"ALGORITHM_GRACE_SECONDS": "100"}
    expected = "did not end|was sent SIG|unfinished|^Task .*(?:worker_lost|interrupted): |killing it|^nginx: "
    with serving(s3_endpoint, warnings=expected, **settings) as server:
        posted = server.post_blocking(bucket, "stubborn", "trap '' TERM")
        started = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        assert posted.answer().status in (502, 503)
        assert server.ended() == 0
        assert time.monotonic() - started < 28
        assert bucket.result("/out/stubborn")["error"]["code"] == "interrupted"
        assert is_signed(bucket, "stubborn")


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET /ping HTTP/1.1\r\nHost:", b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"],
    ids=["nothing", "half a head", "half a body"],
)
def test_a_client_that_never_ends_its_request_does_not_hold_up_the_stop(s3_endpoint: str, begun: bytes) -> None:
    with serving(s3_endpoint) as server, socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(begun)
        assert server.pings()
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 4


def test_a_request_that_ends_after_the_workers_is_told_that_nobody_had_it(s3_endpoint: str) -> None:
    head = b"POST /invocations HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 9\r\n\r\n{"
    with (
        serving(s3_endpoint, warnings="^nginx: .*gunicorn.sock failed") as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection,
    ):
        connection.sendall(head)
        assert server.pings()
        workers = server.workers
        os.kill(server.pid, signal.SIGTERM)
        eventually(lambda: not (server.run_folder / "gunicorn/gunicorn.sock").exists(), "the end of gunicorn")
        os.kill(server.pid, signal.SIGSTOP)  # it would end nginx in a second
        try:
            # nginx keeps a connection to each that it has asked.
            eventually(lambda: not any(worker.is_there() for worker in workers), "their end")
            connection.sendall(b"12345678")
            answer = connection.makefile("rb").read()
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"code": "unavailable"' in answer
        assert server.ended() == 0


SAVES = """trap 'echo saved >"$ALGORITHM_OUTPUT_PATH/a/checkpoint"; exit 1' TERM
mkdir "$ALGORITHM_OUTPUT_PATH/a"
echo half >"$ALGORITHM_OUTPUT_PATH/half"
"""


@pytest.mark.parametrize("wished", ["true", "false"])
def test_what_an_interrupted_task_has_written_is_saved_apart_if_that_is_wished(
    s3_endpoint: str, bucket: "Bucket", wished: str
) -> None:
    with serving(s3_endpoint, ALGORITHM_SAVE_PARTIAL=wished) as server:
        posted = server.post_blocking(bucket, "cut", SAVES)
        os.kill(server.pid, signal.SIGTERM)
        assert posted.answer().status == 503
        assert server.ended() == 0
        saved = {"/out/cut/partial/a/checkpoint": b"saved\n", "/out/cut/partial/half": b"half\n"}
        saved = saved if wished == "true" else {}
        result = bucket.result("/out/cut")
        assert (result["error"]["code"], result["outputs"]) == ("interrupted", [])
        assert result["partial_outputs"] == len(saved)
        keys = bucket.keys()
        assert {key: bucket.get(key) for key in keys if key.startswith("/out/cut/partial/")} == saved


class Hanging:
    """Does nothing until the test is over, and hangs up then."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def apply(self, exchange: Exchange) -> None:
        self.over.wait(HELD_SECONDS)
        exchange.hang_up()


def test_an_s3_that_hangs_while_they_are_saved_does_not_hold_up_the_stop(s3: FaultyS3, bucket: "Bucket") -> None:
    hanging = Hanging()
    s3.fault("PUT", "/out/cut/partial/half", hanging, times=None)
    expected = "^Of 2 files that the interrupted task wrote 1 are saved$|was sent SIG"
    with serving(s3.endpoint, warnings=expected, ALGORITHM_SAVE_PARTIAL="true") as server:
        posted = server.post_blocking(bucket, "cut", SAVES)
        started = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        assert posted.answer().status == 503
        assert server.ended() == 0
        assert time.monotonic() - started < 28
        assert bucket.result("/out/cut")["partial_outputs"] == 1
        assert bucket.get("/out/cut/partial/a/checkpoint") == b"saved\n"
        hanging.over.set()


def test_a_result_that_s3_does_not_take_at_once_is_stored_before_the_stop_is_over(
    s3: FaultyS3, bucket: "Bucket"
) -> None:
    key = "/out/cut/.sagemaker_shim/inference_result.json"
    s3.fault("PUT", key, Answer(503, "SlowDown"), times=5)
    with serving(s3.endpoint, warnings="trying again in|was sent SIG") as server:
        posted = server.post_blocking(bucket, "cut")
        started = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        answer = posted.answer()
        assert (answer.status, answer.json()["error"]["code"]) == (503, "interrupted")
        assert server.ended() == 0
        assert time.monotonic() - started < 25
        assert bucket.result("/out/cut")["error"]["code"] == "interrupted"
        assert is_signed(bucket, "cut")


@dataclass
class Refusing:
    """Answers 503, and notes when it did."""

    times: list[float] = field(default_factory=list)

    def apply(self, exchange: Exchange) -> None:
        self.times.append(time.monotonic())
        Answer(503, "SlowDown").apply(exchange)


def test_a_result_that_s3_never_takes_is_tried_for_as_long_as_a_stop_may_last(s3: FaultyS3, bucket: "Bucket") -> None:
    refusing = Refusing()
    s3.fault("PUT", "/out/cut/.sagemaker_shim/inference_result.json", refusing, times=None)
    expected = (
        "trying again in|^report: |^nginx: |unfinished|killing it|could not be stored|have no result|was sent SIG"
    )
    with serving(s3.endpoint, warnings=expected) as server:
        posted = server.post_blocking(bucket, "cut")
        started = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        answer = posted.answer()
        assert answer.status in (502, 503)
        assert answer.json()["error"]["code"] in ("worker_lost", "result_not_stored")
        assert server.ended() == 1
        assert time.monotonic() - started < 28
        assert refusing.times[-1] - started > 15
