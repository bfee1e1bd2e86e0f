"""A client that leaves takes its task along: a retry never runs beside the first attempt."""

import os
import re
import signal
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from server import WAIT_FOR_GO, Server, eventually, is_signed, serving

if TYPE_CHECKING:
    from conftest import Bucket


@pytest.fixture(scope="module")
def server(s3_endpoint: str) -> Iterator[Server]:
    settings = {"ALGORITHM_GRACE_SECONDS": "1", "MODEL_SERVER_QUEUE": "4"}
    with serving(s3_endpoint, warnings="did not end within 1 s of SIGTERM", **settings) as running:
        yield running


@pytest.fixture(autouse=True)
def clear_board(server: Server) -> None:
    server.clear_board()


def stored(bucket: "Bucket", pk: str) -> bool:
    return f"/out/{pk}/.sagemaker_shim/inference_result.json" in set(bucket.keys())


def test_a_running_task_ends_with_its_client(server: Server, bucket: "Bucket") -> None:
    posted = server.post_blocking(bucket, "left", "sleep 300 & sleep 300 &")
    assert len(server.algorithm) >= 3
    posted.leave()
    eventually(lambda: not server.algorithm, "the end of the algorithm's whole group")
    eventually(lambda: stored(bucket, "left"), "a result")
    result = bucket.result("/out/left")
    assert result["error"]["code"] == "client_left"
    assert result["return_code"] == 1
    assert result["outputs"] == []
    assert is_signed(bucket, "left")
    assert server.run(bucket.task("next")).json()["return_code"] == 0


def test_a_running_task_that_ignores_sigterm_ends_with_its_client(server: Server, bucket: "Bucket") -> None:
    server.post_blocking(bucket, "stubborn", "trap '' TERM").leave()
    eventually(lambda: not server.algorithm, "the end of the algorithm's whole group")
    assert server.run(bucket.task("next")).json()["return_code"] == 0
    assert bucket.result("/out/stubborn")["error"]["code"] == "client_left"


def test_a_retry_waits_for_the_end_of_the_attempt_whose_client_left(server: Server, bucket: "Bucket") -> None:
    first = server.task(bucket, "again", f'touch "$BOARD/busy"; trap \'\' TERM; touch "$BOARD/up"\n{WAIT_FOR_GO}')
    retry = server.task(bucket, "retry", 'test -e "$BOARD/gone" || echo no >> "$BOARD/overlap"')
    retry["pk"], retry["output_prefix"] = first["pk"], first["output_prefix"]
    posted = server.post(first)
    server.await_sign("up")
    (old,) = {process.group for process in server.algorithm}
    posted.leave()
    again = server.post(retry)
    eventually(lambda: old not in {p.group for p in server.algorithm}, "the end of the first attempt")
    (server.board / "gone").touch()
    assert again.answer().status == 200
    assert bucket.result("/out/again")["error"] is None  # the result of the retry is the one that stays


def test_a_waiting_task_leaves_the_queue_with_its_client_and_never_runs(server: Server, bucket: "Bucket") -> None:
    first = server.post_blocking(bucket, "first")
    leaving = [server.post(server.task(bucket, f"gone-{number}", 'touch "$BOARD/ran"')) for number in range(4)]
    server.await_requests(5)
    assert server.run(bucket.task("refused")).status == 503
    for posted in leaving:
        posted.leave()
    server.await_requests(1)
    staying = [server.post(bucket.task(f"stays-{number}")) for number in range(4)]
    server.await_requests(5)
    server.go()
    assert [posted.answer().status for posted in (first, *staying)] == [200] * 5
    assert not (server.board / "ran").exists()
    assert not re.search("^/out/gone", "\n".join(bucket.keys()), re.MULTILINE)


def test_a_task_whose_client_left_before_a_worker_took_it_is_none(server: Server, bucket: "Bucket") -> None:
    """Its result would come after that of a retry, which another worker has taken and run meanwhile."""
    line = "A request was answered 503 (client_left: The task was cancelled because its client closed the connection)"
    before = server.own_lines("stdout").count(line)  # other tests had some, too
    workers = server.workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGSTOP)
    try:
        server.post(server.task(bucket, "late", 'touch "$BOARD/ran"')).leave()
        assert server.raw(b"no request\r\n\r\n").startswith(b"HTTP/1.1 400 ")  # by nginx, which has heard of it now
    finally:
        for worker in workers:
            os.kill(worker.pid, signal.SIGCONT)
    eventually(lambda: server.own_lines("stdout").count(line) > before, "an end of the request")
    assert server.run(bucket.task("next")).json()["return_code"] == 0
    assert not (server.board / "ran").exists()
    assert not stored(bucket, "late")


def test_a_client_that_leaves_in_the_middle_of_its_request_costs_nothing(server: Server, bucket: "Bucket") -> None:
    before = server.requests_held()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{")
    assert server.run(bucket.task("next")).json()["return_code"] == 0
    assert server.requests_held() == before
