"""S3's bad days, each of them on the wire: what passes costs a task nothing, and what does not ends in words."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from invocation import Invocation
from rig import outputs_of, signed_result, wait_until

from fake_clock import Clock
from faulty_s3 import Answer, CutBody, Exchange, Expired, FaultyS3, Replaced, Reset, ShortBody, WrongBody
from model_server import retrying

if TYPE_CHECKING:
    from rig import Rig

    from conftest import Start
    from tests.conftest import Bucket

RESULT_KEY = "/out/task/.sagemaker_shim/inference_result.json"
SLOW_DOWN = Answer(503, "SlowDown")


@dataclass
class SlowsDown:
    """Answers 503 for so many seconds of a clock since the first request that it met; notes when each of them came."""

    clock: Clock
    seconds: float
    met: list[float] = field(default_factory=list)

    def apply(self, exchange: Exchange) -> None:
        self.met.append(self.clock.now)
        if self.clock.now - self.met[0] < self.seconds:
            SLOW_DOWN.apply(exchange)
        else:
            exchange.answer(exchange.ask())


def says_again(rig: Rig) -> bool:
    return "trying again in" in rig.log_text()


def test_s3_that_refuses_connections_for_a_while_costs_no_input(start: Start, bucket: Bucket, s3: FaultyS3) -> None:
    bucket.put("in", "data")
    rig = start("echoes_input", endpoint=s3.endpoint)
    task = bucket.task(inputs=[bucket.item("file", "in")])
    with s3.refusing():
        posted = rig.post_in_thread(task)
        wait_until(lambda: says_again(rig), "a refused connection")
    assert outputs_of(posted.answer().json) == ["file"]
    assert bucket.get("/out/task/file") == b"data"


def test_s3_that_refuses_connections_for_a_while_costs_no_result(
    start: Start, bucket: Bucket, s3: FaultyS3, tmp_path: Path
) -> None:
    bucket.put("in", "name")
    started, go_on = tmp_path / "started", tmp_path / "go-on"
    rig = start("waits_for_a_word", endpoint=s3.endpoint, env={"STARTED": str(started), "GO_ON": str(go_on)})
    task = bucket.task(inputs=[bucket.item("name", "in")])
    posted = rig.post_in_thread(task)
    wait_until(started.is_file, "the algorithm")
    with s3.refusing():
        go_on.touch()
        wait_until(lambda: says_again(rig), "a refused connection")
    assert posted.answer().json["return_code"] == 0
    assert signed_result(bucket, task)["return_code"] == 0


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_connection_that_is_reset_is_made_anew(start: Start, bucket: Bucket, s3: FaultyS3, method: str) -> None:
    whole = os.urandom(3_000_000)
    bucket.put("in", whole)
    for key in ["in"] if method == "GET" else ["/out/task/file", RESULT_KEY]:
        s3.fault(method, key, Reset(), times=2)
    rig = start("echoes_input", endpoint=s3.endpoint)
    assert outputs_of(rig.run(bucket.task(inputs=[bucket.item("file", "in")]))) == ["file"]
    assert bucket.get("/out/task/file") == whole
    assert says_again(rig)


@pytest.mark.parametrize(
    "fault", [CutBody(), Reset(), ShortBody(), WrongBody()], ids=lambda fault: type(fault).__name__
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "zip"])
def test_a_file_that_never_comes_right_is_never_given_to_the_algorithm(
    start: Start, bucket: Bucket, s3: FaultyS3, clock: Clock, fault: Any, packed: bool
) -> None:
    bucket.put("in", os.urandom(300_000))
    s3.fault("GET", "in", fault, times=None)
    rig = start("says_hello", endpoint=s3.endpoint)
    task = bucket.task(inputs=[bucket.item("file", "in", decompress=packed)])
    answer = rig.post(task)
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "storage_unavailable")
    result = signed_result(bucket, task)
    assert (result["exec_duration"], result["outputs"]) == (None, []), "the algorithm did not run"
    assert len([request for request in s3.requests if request.method == "GET"]) >= 15
    rig.check_at_rest()


class FailsToComplete:
    """Answers the end of an upload in parts as S3 may: 200, and an error in the body; once."""

    def __init__(self) -> None:
        self.failed = False

    def apply(self, exchange: Exchange) -> None:
        if self.failed or "uploadId" not in exchange.seen.query:
            exchange.answer(exchange.ask())
        else:
            self.failed = True
            Answer(200, "InternalError").apply(exchange)


@pytest.mark.parametrize(("method", "fault"), [("PUT", SLOW_DOWN), ("PUT", Reset()), ("POST", FailsToComplete())])
def test_a_large_output_is_whole_though_one_of_its_parts_or_its_end_failed(
    start: Start, bucket: Bucket, s3: FaultyS3, method: str, fault: Any
) -> None:
    s3.fault(method, "/out/task/large", fault, times=None if method == "POST" else 2)  # one reset alone says nothing
    rig = start("writes_70_megabytes", endpoint=s3.endpoint)
    assert outputs_of(rig.run(bucket.task())) == ["large"]
    assert bucket.client.head_object(Bucket=bucket.name, Key="/out/task/large")["ContentLength"] == 70_000_000
    assert says_again(rig)


def test_an_object_that_changes_while_it_is_fetched_comes_whole_and_in_one_version(
    start: Start, bucket: Bucket, s3: FaultyS3
) -> None:
    old, new = b"old" * 1_000_000, b"new" * 900_000
    bucket.put("in", old)
    s3.fault("GET", "in", Replaced(lambda: bucket.put("in", new)))
    result = start("echoes_input", endpoint=s3.endpoint).run(bucket.task(inputs=[bucket.item("file", "in")]))
    assert result["input_bytes"] == len(new)
    assert bucket.get("/out/task/file") == new
    gets = [request for request in s3.requests if request.method == "GET"]
    assert [request.headers.get("Range") for request in gets] == [None, None]


@pytest.mark.parametrize(("method", "key"), [("GET", "in"), ("PUT", "/out/task/file"), ("PUT", RESULT_KEY)])
def test_s3_that_slows_down_for_almost_a_minute_costs_nothing_and_is_asked_ever_more_rarely(
    start: Start, bucket: Bucket, s3: FaultyS3, clock: Clock, method: str, key: str
) -> None:
    bucket.put("in", "data")
    slows_down = SlowsDown(clock, retrying.RETRY_SECONDS - 6)
    s3.fault(method, key, slows_down, times=None)
    rig = start("echoes_input", endpoint=s3.endpoint)
    assert outputs_of(rig.run(bucket.task(inputs=[bucket.item("file", "in")]))) == ["file"]
    pauses = [after - before for before, after in zip(slows_down.met, slows_down.met[1:], strict=False)]
    assert len(pauses) < 25
    assert pauses[0] < 0.3
    assert all(3 < pause <= 5 for pause in pauses[-5:])


def test_the_result_is_tried_for_a_minute_of_its_own(start: Start, bucket: Bucket, s3: FaultyS3, clock: Clock) -> None:
    """Though the minute of the inputs is over then."""
    bucket.put("in", "data")
    for_ever, for_a_while = SlowsDown(clock, float("inf")), SlowsDown(clock, retrying.RETRY_SECONDS - 6)
    s3.fault("GET", "in", for_ever, times=None)
    s3.fault("PUT", RESULT_KEY, for_a_while, times=None)
    task = bucket.task(inputs=[bucket.item("file", "in")])
    answer = start("echoes_input", endpoint=s3.endpoint).post(task)
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "storage_unavailable")
    assert for_ever.met[-1] - for_ever.met[0] == pytest.approx(retrying.RETRY_SECONDS)
    assert for_a_while.met[-1] - for_a_while.met[0] > retrying.RETRY_SECONDS - 6
    assert signed_result(bucket, task)["error"]["code"] == "storage_unavailable"


def test_a_result_that_s3_never_takes_was_tried_for_a_minute(
    start: Start, bucket: Bucket, s3: FaultyS3, clock: Clock
) -> None:
    for_ever = SlowsDown(clock, float("inf"))
    s3.fault("PUT", RESULT_KEY, for_ever, times=None)
    answer = start("does_nothing", endpoint=s3.endpoint).post(bucket.task())
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "result_not_stored")
    assert for_ever.met[-1] - for_ever.met[0] == pytest.approx(retrying.RETRY_SECONDS)


@contextmanager
def role_of_the_container(*access_key_ids: str) -> Iterator[str]:
    """Be the address that a container has its role's credentials from: the first one, then the next, for an hour."""
    given = iter(access_key_ids)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            until = datetime.now(UTC) + timedelta(hours=1)
            keys = {"AccessKeyId": next(given), "SecretAccessKey": "secret", "Token": "token"}
            body = json.dumps(keys | {"Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ")}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/role"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("refused_at", ["inputs", "outputs"])
def test_credentials_that_expired_before_their_time_are_asked_for_anew(
    invoke: Invocation, bucket: Bucket, s3: FaultyS3, refused_at: str
) -> None:
    for number in range(20):
        bucket.put(f"in-{number}", "data")
    s3.fault("GET" if refused_at == "inputs" else "PUT", None, Expired("ASIAOLD"), times=None)
    inputs = [bucket.item(f"{number}", f"in-{number}") for number in range(20)]
    task = bucket.task(inputs=inputs)
    with role_of_the_container("ASIAOLD", "ASIANEW") as address:
        environment = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": address, "AWS_ENDPOINT_URL_S3": s3.endpoint}
        environment |= {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
        ended = invoke.run("echoes_input", "-t", json.dumps([task]), env=environment)
    assert ended.returncode == 0, ended.stderr
    assert len(outputs_of(signed_result(bucket, task))) == 20
    assert "ASIANEW/" in s3.requests[-1].headers["Authorization"]
