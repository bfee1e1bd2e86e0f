"""Many requests at once: one task runs at a time across all workers, the queue is fair, and all are answered."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from server import Server, eventually, median, serving

if TYPE_CHECKING:
    from conftest import Bucket

QUEUE = 16


@pytest.fixture(scope="module")
def server(s3_endpoint: str) -> Iterator[Server]:
    with serving(s3_endpoint, MODEL_SERVER_WORKERS="3", MODEL_SERVER_QUEUE=str(QUEUE), warnings="^S3: ") as running:
        yield running


@pytest.fixture(autouse=True)
def clear_board(server: Server) -> None:
    server.clear_board()


def held(server: Server) -> dict[str, int]:
    """Return how many processes and open descriptors of each kind the server has, and how many files."""
    tree = server.tree()
    kinds = Counter(descriptor for process in tree for descriptor in process.descriptors())
    return {"processes": len(tree), "files": len(server.files())} | kinds


def at_rest(server: Server) -> dict[str, int]:
    """Return what the server holds once that has stopped changing: the last connections are closed after an answer."""
    seen = [held(server)]

    def stays() -> bool:
        time.sleep(0.5)
        seen.append(held(server))
        return seen[-1] == seen[-2]

    eventually(stays, "a server at rest")
    return seen[-1]


def await_as_before(server: Server, before: dict[str, int]) -> None:
    """Wait until the server holds what it held; each worker may keep two connections to S3 more or less."""
    now: dict[str, int] = {}

    def is_as_before() -> bool:
        now.clear()
        now.update(held(server))
        others = [{kind: number for kind, number in count.items() if kind != "socket"} for count in (before, now)]
        return others[0] == others[1] and abs(now["socket"] - before["socket"]) <= 2 * len(server.workers)

    with suppress(AssertionError):
        eventually(is_as_before, "as idle as before", 10)
        return
    raise AssertionError(f"before: {before}, now: {now}")


def burst(server: Server, bucket: "Bucket", number: int, name: str) -> Counter[int]:
    """Post tasks at once and return the number of answers by their status."""
    posted = [server.post(bucket.task(f"{name}-{index}")) for index in range(number)]
    return Counter(request.answer().status for request in posted)


def test_tasks_of_several_workers_never_overlap(server: Server, bucket: "Bucket") -> None:
    script = 'mkdir "$BOARD/busy" || touch "$BOARD/overlap"\necho x >> "$BOARD/runs"\nsleep 0.05\nrmdir "$BOARD/busy"'
    posted = [server.post(server.task(bucket, f"alone-{number}", script)) for number in range(QUEUE)]
    assert [request.answer().json()["return_code"] for request in posted] == [0] * QUEUE
    assert not (server.board / "overlap").exists()
    assert (server.board / "runs").read_text() == "x\n" * QUEUE


def test_all_workers_take_requests(server: Server, bucket: "Bucket") -> None:
    """The test before would prove little if one worker had all of them."""
    first = server.post_blocking(bucket, "first")
    running = server.running_worker()
    os.kill(running.pid, signal.SIGSTOP)  # else it may be the quickest every time
    try:
        posted = [server.post(bucket.task(f"spread-{number}")) for number in range(QUEUE)]
        eventually(lambda: server.requests_held() > 1, "a request in another worker")
    finally:
        os.kill(running.pid, signal.SIGCONT)
    server.await_requests(1 + QUEUE)
    holders = [worker for worker in server.workers if "anon_inode:[eventfd]" in worker.descriptors()]
    server.go()
    assert [request.answer().status for request in (first, *posted)] == [200] * (1 + QUEUE)
    assert len(holders) > 1


def test_waiting_tasks_run_first_come_first_served(server: Server, bucket: "Bucket") -> None:
    first = server.post_blocking(bucket, "first")
    waiting = []
    for number in range(8):
        waiting.append(server.post(server.task(bucket, f"next-{number}", f'echo {number} >> "$BOARD/order"')))
        server.await_requests(2 + number)
    server.go()
    assert [request.answer().status for request in (first, *waiting)] == [200] * 9
    assert (server.board / "order").read_text().split() == [str(number) for number in range(8)]


def test_a_full_queue_answers_503_with_retry_after_at_once(server: Server, bucket: "Bucket") -> None:
    first = server.post_blocking(bucket, "first")
    waiting = [server.post(bucket.task(f"waits-{number}")) for number in range(QUEUE)]
    server.await_requests(1 + QUEUE)
    refused = [server.run(bucket.task(f"refused-{number}")) for number in range(3)]
    assert [answer.status for answer in refused] == [503] * 3
    for answer in refused:
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.json()["error"]["code"] == "queue_full"
        assert answer.seconds < 2
    server.go()
    assert [request.answer().status for request in (first, *waiting)] == [200] * (1 + QUEUE)
    assert "refused" not in "".join(bucket.keys())


def test_the_queue_time_is_in_the_result(server: Server, bucket: "Bucket") -> None:
    first = server.post_blocking(bucket, "first", "sleep 0.3")
    second = server.post(bucket.task("second"))
    server.await_requests(2)
    server.go()
    assert first.answer().json()["queue_seconds"] < second.answer().json()["queue_seconds"]
    assert bucket.result("/out/second")["queue_seconds"] > 0


def test_200_tasks_at_once_are_all_answered_and_leave_nothing(server: Server, bucket: "Bucket") -> None:
    for number in range(3):  # nginx keeps some idle connections to gunicorn, and each worker one to S3
        burst(server, bucket, 60, f"warm-{number}")
    before = at_rest(server)
    stored_before = len(bucket.keys())
    answers = burst(server, bucket, 200, "burst")
    assert set(answers) <= {200, 503}
    assert answers[200] >= QUEUE
    assert len(bucket.keys()) - stored_before == answers[200]
    await_as_before(server, before)
    assert median([server.ask("GET", "/ping").seconds for _ in range(50)]) < 0.1


def test_100_tasks_one_after_another_leave_nothing(server: Server, bucket: "Bucket") -> None:
    script = 'echo said; echo said >&2; echo kept > "$ALGORITHM_OUTPUT_PATH/kept"; sleep 0 &'
    tasks = [server.task(bucket, f"task-{number}", script) for number in range(10)]
    for task in tasks:
        assert server.run(task).json()["return_code"] == 0
    before, files = at_rest(server), server.files()
    for task in tasks * 10:
        assert server.run(task).json()["return_code"] == 0
    await_as_before(server, before)
    assert server.files() == files


def test_tasks_that_fail_leave_nothing(server: Server, bucket: "Bucket") -> None:
    """An error that kept what it was raised through would keep a descriptor of its task."""
    fails = server.task(bucket, "fails", "exit 3")
    missing = bucket.task("missing", [bucket.item("a", "missing"), bucket.item("b", "scripts/fails")])
    cut = server.task(bucket, "cut", "sleep 60", timeout="PT0.1S")
    for task in (fails, missing, cut) * 3:
        assert server.run(task).json()["return_code"] != 0
    before = at_rest(server)
    for task in (fails, missing, cut) * 10:
        assert server.run(task).json()["return_code"] != 0
    await_as_before(server, before)
    assert server.requests_held() == 0


def test_sagemakers_concurrency_raises_the_queue(s3_endpoint: str, bucket: "Bucket") -> None:
    settings = {"MODEL_SERVER_QUEUE": "1", "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "4"}
    with serving(s3_endpoint, **settings) as server:
        assert server.ask("GET", "/execution-parameters").json()["MaxConcurrentTransforms"] == 1
        first = server.post_blocking(bucket, "first")
        waiting = [server.post(bucket.task(f"waits-{number}")) for number in range(4)]
        server.await_requests(5)
        assert server.run(bucket.task("refused")).status == 503
        server.go()
        assert [request.answer().status for request in (first, *waiting)] == [200] * 5


def test_a_single_worker_with_a_running_task_answers_ping_and_queues(s3_endpoint: str, bucket: "Bucket") -> None:
    with serving(s3_endpoint, MODEL_SERVER_WORKERS="1", MODEL_SERVER_QUEUE="2") as server:
        assert len(server.workers) == 1
        first = server.post_blocking(bucket, "first")
        waiting = [server.post(bucket.task(f"waits-{number}")) for number in range(2)]
        server.await_requests(3)
        pings = [server.ask("GET", "/ping") for _ in range(50)]
        assert {ping.status for ping in pings} == {200}
        assert median([ping.seconds for ping in pings]) < 0.1
        assert server.run(bucket.task("refused")).status == 503
        server.go()
        assert [request.answer().status for request in (first, *waiting)] == [200] * 3


def test_ping_is_answered_beside_as_many_requests_as_may_wait(s3_endpoint: str, bucket: "Bucket") -> None:
    """Also where these are more than nginx and gunicorn usually have connections for."""
    places = 600
    with serving(s3_endpoint, MODEL_SERVER_WORKERS="1", MODEL_SERVER_QUEUE=str(places), LOG_LEVEL="DEBUG") as server:
        running = server.post_blocking(bucket, "runs")
        waiting = [server.post(bucket.task(f"waits-{number}")) for number in range(places)]
        server.await_requests(places + 1)
        assert server.pings()
        refused = server.run(bucket.task("refused"))
        assert (refused.status, refused.json()["error"]["code"]) == (503, "queue_full")
        for request in waiting:
            request.leave()
        server.await_requests(1)
        server.go()
        assert running.answer().status == 200
