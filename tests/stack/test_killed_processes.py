"""kill -9 at each process of the server, as the kernel does when memory runs out."""

import json
import os
import signal
from typing import TYPE_CHECKING, Any

from server import Server, eventually, is_signed, serving

if TYPE_CHECKING:
    from conftest import Bucket

WORKER_LOST = r"was sent SIGKILL|[Uu]nfinished tasks|exited|Worker .* ended|^Task .*(?:worker_lost|interrupted): "
STOPPED = r"^(Stopping|Stopped): "


def versions(bucket: "Bucket", pk: str) -> list[dict[str, Any]]:
    """Return all results that were ever stored for a task, the oldest first."""
    key = f"/out/{pk}/.sagemaker_shim/inference_result.json"
    listed = bucket.client.list_object_versions(Bucket=bucket.name, Prefix=key).get("Versions", [])
    bodies = [
        bucket.client.get_object(Bucket=bucket.name, Key=key, VersionId=version["VersionId"])["Body"].read()
        for version in reversed(listed)
    ]
    return [json.loads(body) for body in bodies]


def keep_versions(bucket: "Bucket") -> None:
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})


def retry_of(task: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return other | {"pk": task["pk"], "output_prefix": task["output_prefix"]}


def await_workers(server: Server, old: set[int], number: int = 2) -> None:
    eventually(
        lambda: len(server.workers) == number and not old & {worker.pid for worker in server.workers}, "new workers"
    )
    eventually(server.pings, "a 200 on /ping")


def test_a_worker_that_is_killed_in_mid_task_costs_that_task_only(s3_endpoint: str, bucket: "Bucket") -> None:
    keep_versions(bucket)
    with serving(s3_endpoint, warnings=f"{WORKER_LOST}|^nginx: .*(closed connection|reset by peer)") as server:
        for attempt in range(3):
            server.clear_board()
            pk = f"lost-{attempt}"
            posted = server.post_blocking(bucket, pk, "trap '' TERM; sleep 300 & sleep 300 &")
            groups = {process.group for process in server.algorithm}
            retry = retry_of(bucket.task(pk), server.task(bucket, f"retry-{attempt}", 'touch "$BOARD/ran"'))
            worker = server.running_worker()
            os.kill(worker.pid, signal.SIGKILL)
            answer = posted.answer()
            assert answer.status == 502
            assert answer.json()["error"]["code"] == "worker_lost"

            again = server.run(retry)
            if again.status == 502:  # it met the connection of the dead worker
                again = server.run(retry)
            assert again.status == 200
            assert (server.board / "ran").exists()
            assert not groups & {process.group for process in server.algorithm}
            results = versions(bucket, pk)
            assert [result["error"] and result["error"]["code"] for result in results] == ["worker_lost", None]
            assert results[0]["return_code"] == 1
            assert results[0]["user_safe_error_message"]
            assert bucket.result(f"/out/{pk}")["error"] is None
            await_workers(server, {worker.pid})


def test_the_result_of_a_lost_task_is_signed(s3_endpoint: str, bucket: "Bucket") -> None:
    with serving(s3_endpoint, warnings=f"{WORKER_LOST}|^nginx: .*(closed connection|reset by peer)") as server:
        posted = server.post_blocking(bucket, "lost")
        os.kill(server.running_worker().pid, signal.SIGKILL)
        assert posted.answer().status == 502
        eventually(lambda: "inference_result" in "".join(bucket.keys()), "a result")
        assert bucket.result("/out/lost")["error"]["code"] == "worker_lost"
        assert is_signed(bucket, "lost")


def test_a_lost_task_has_its_line_in_the_log(s3_endpoint: str, bucket: "Bucket") -> None:
    with serving(s3_endpoint, warnings=f"{WORKER_LOST}|^nginx: .*(closed connection|reset by peer)") as server:
        posted = server.post_blocking(bucket, "lost")
        os.kill(server.running_worker().pid, signal.SIGKILL)
        assert posted.answer().status == 502
        line = (
            "Task lost ended with return code 1 (worker_lost: The server process that ran the task ended unexpectedly)"
        )
        eventually(lambda: server.own_lines("stderr").count(line) == 1, "the task's line")


def test_workers_that_are_killed_free_the_places_of_their_waiting_requests(s3_endpoint: str, bucket: "Bucket") -> None:
    settings = {"MODEL_SERVER_QUEUE": "4"}
    with serving(s3_endpoint, warnings=f"{WORKER_LOST}|^nginx: ", **settings) as server:
        running = server.post_blocking(bucket, "runs")
        waiting = [server.post(server.task(bucket, f"lost-{n}", 'touch "$BOARD/ran"')) for n in range(4)]
        server.await_requests(5)
        old = {worker.pid for worker in server.workers}
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        assert [posted.answer().status for posted in (running, *waiting)] == [502] * 5
        await_workers(server, old)

        first = server.post_blocking(bucket, "first")
        waiting = [server.post(bucket.task(f"waits-{n}")) for n in range(4)]
        server.await_requests(5)
        assert server.run(bucket.task("refused")).status == 503
        server.go()
        assert [posted.answer().status for posted in (first, *waiting)] == [200] * 5
        assert not (server.board / "ran").exists()


def test_idle_workers_that_are_killed_are_replaced(s3_endpoint: str, bucket: "Bucket") -> None:
    with serving(s3_endpoint, warnings=f"{WORKER_LOST}|^nginx: ") as server:
        old = {worker.pid for worker in server.workers}
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        await_workers(server, old)
        assert server.run(bucket.task("next")).status == 200


def test_serve_ends_with_an_error_when_gunicorn_is_killed(s3_endpoint: str, bucket: "Bucket") -> None:
    with serving(s3_endpoint, warnings=f"{STOPPED}|{WORKER_LOST}|^nginx: ") as server:
        posted = server.post_blocking(bucket, "cut")
        waiting = server.post(bucket.task("waits"))
        server.await_requests(2)
        os.kill(server.gunicorn.pid, signal.SIGKILL)
        assert posted.answer().status in (502, 503)
        assert waiting.answer().status in (502, 503)
        assert server.ended() == 1
        assert server.own_lines("stderr")[-1] == "Stopped: gunicorn was ended by SIGKILL"
        assert bucket.result("/out/cut")["error"]["code"] in ("interrupted", "worker_lost")
        assert is_signed(bucket, "cut")


def test_serve_ends_with_an_error_when_nginx_is_killed(s3_endpoint: str, bucket: "Bucket") -> None:
    with serving(s3_endpoint, warnings=f"{STOPPED}|{WORKER_LOST}|^nginx: ") as server:
        posted = server.post_blocking(bucket, "cut")
        os.kill(server.nginx.pid, signal.SIGKILL)
        assert server.ended() == 1
        posted.leave()
        assert server.own_lines("stderr")[-1] == "Stopped: nginx was ended by SIGKILL"
        assert bucket.result("/out/cut")["error"]["code"] in ("interrupted", "client_left")
        assert is_signed(bucket, "cut")


def test_nothing_stays_when_serve_itself_is_killed(s3_endpoint: str, bucket: "Bucket") -> None:
    settings = {"ALGORITHM_GRACE_SECONDS": "1"}
    with serving(s3_endpoint, **settings) as server:
        posted = server.post_blocking(bucket, "cut", "trap '' TERM; sleep 300 & sleep 300 &")
        assert len(server.belonging()) >= 7
        os.kill(server.pid, signal.SIGKILL)
        assert server.ended() == -signal.SIGKILL
        eventually(lambda: not server.belonging(), "an end of gunicorn, nginx and the algorithm", 25)
        posted.leave()
        assert bucket.result("/out/cut")["error"]["code"] in ("interrupted", "client_left")
        server.files_may_stay = True  # nobody was left to remove them


def test_an_algorithm_that_is_killed_costs_its_task_only(s3_endpoint: str, bucket: "Bucket") -> None:
    with serving(s3_endpoint) as server:
        posted = server.post_blocking(bucket, "killed")
        (group,) = {process.group for process in server.algorithm}
        os.kill(group, signal.SIGKILL)
        answer = posted.answer()
        assert answer.status == 200
        assert answer.json()["return_code"] == 137
        assert server.run(bucket.task("next")).json()["return_code"] == 0
