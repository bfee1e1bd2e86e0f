"""What a client meets: /ping at any time, JSON for every error, nginx's as well, and bodies of every kind."""

import http.client
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from server import Server, median, serving

if TYPE_CHECKING:
    from conftest import Bucket

QUEUE = 3


@pytest.fixture(scope="module")
def server(s3_endpoint: str) -> Iterator[Server]:
    settings = {"MODEL_SERVER_QUEUE": str(QUEUE)}
    with serving(
        s3_endpoint, warnings="^nginx: .* too large (chunked )?body|^Invalid request from", **settings
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def clear_board(server: Server) -> None:
    server.clear_board()


def parsed(raw: bytes) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and JSON of one answer as it came over the connection."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert headers["content-type"] == "application/json", raw
    return int(first.split()[1]), headers, json.loads(body)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_ping_answers_200_and_nothing_else(server: Server, method: str) -> None:
    answer = server.ask(method, "/ping")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] in ("0", None)


def test_ping_is_fast_while_a_task_runs_and_the_queue_is_full(server: Server, bucket: "Bucket") -> None:
    running = server.post_blocking(bucket, "runs")
    waiting = [server.post(bucket.task(f"waits-{number}")) for number in range(QUEUE)]
    server.await_requests(1 + QUEUE)
    assert server.run(bucket.task("too-many")).status == 503
    pings = [server.ask("GET", "/ping") for _ in range(200)]
    server.go()
    assert {ping.status for ping in pings} == {200}
    assert median([ping.seconds for ping in pings]) < 0.1
    assert max(ping.seconds for ping in pings) < 2
    assert [posted.answer().status for posted in (running, *waiting)] == [200] * (1 + QUEUE)


@pytest.mark.parametrize(
    "path", ["/", "/pings", "/ping/", "/invocations/", "/docs", "/.error/404", "/invocations/x?y=z"]
)
def test_an_unknown_path_is_a_404_in_json(server: Server, path: str) -> None:
    answer = server.ask("GET", path)
    assert answer.status == 404
    assert answer.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/ping", "GET, HEAD, POST"),
        ("OPTIONS", "/ping", "GET, HEAD, POST"),
        ("GET", "/invocations", "POST"),
        ("PUT", "/invocations", "POST"),
        ("POST", "/execution-parameters", "GET"),
        ("TRACE", "/ping", "GET, HEAD, POST"),
        ("TRACE", "/execution-parameters?a=b", "GET"),
        ("TRACE", "/invocations", "POST"),
    ],
)
def test_a_wrong_method_is_a_405_in_json_that_names_the_right_ones(
    server: Server, method: str, path: str, allowed: str
) -> None:
    answer = server.ask(method, path)
    assert answer.status == 405
    assert answer.headers["Allow"] == allowed
    assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"GET /%zz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 400, "bad_request"),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "bad_request"),
        (b"what is this\r\n\r\n", 400, "bad_request"),
        (b"GET /ping HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET /ping HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "uri_too_long"),
        (b"TRACE /ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 405, "method_not_allowed"),
        (b"GET /ping HTTP/3.7\r\nHost: a\r\n\r\n", 505, "http_version_unsupported"),
        (b"POST /ping HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "not_implemented"),
        (b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 200000000\r\n\r\n", 413, "body_too_large"),
    ],
    ids=[
        "malformed uri",
        "path above the root",
        "tls",
        "garbage",
        "no host",
        "huge header",
        "huge uri",
        "trace",
        "version",
        "transfer encoding",
        "huge body",
    ],
)
def test_what_nginx_refuses_is_json_too(server: Server, request_bytes: bytes, status: int, code: str) -> None:
    answered, headers, body = parsed(server.raw(request_bytes))
    assert (answered, body["error"]["code"]) == (status, code)
    assert body["detail"] == body["error"]["message"]
    assert headers["server"] == "nginx"


@pytest.mark.parametrize(
    "headers",
    [b"Content-Type: a/b\r\nContent-Type: c/d\r\n", b"X: a\x01b\r\n"],
    ids=["two content types", "control character"],
)
def test_what_gunicorn_refuses_is_json_too(server: Server, headers: bytes) -> None:
    request = b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n" + headers + b"\r\n"
    status, _, body = parsed(server.raw(request))
    assert (status, body["error"]["code"]) == (400, "bad_request")
    assert body["detail"] == body["error"]["message"]


def test_hundreds_of_headers_are_taken(server: Server) -> None:
    headers = b"".join(b"X-%d: 1\r\n" % number for number in range(500))
    assert server.raw(b"GET /ping HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_chunked_body_over_the_limit_is_a_413_in_json(server: Server) -> None:
    """SageMaker sends chunks when MaxPayloadInMB is 0, so only what came says how large a body is."""
    head = b"POST /invocations HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    status, _, body = parsed(server.raw(head + b"6f00000\r\n" + b" " * 0x6F00000 + b"\r\n0\r\n\r\n"))
    assert (status, body["error"]["code"]) == (413, "body_too_large")


def test_the_server_header_has_no_version(server: Server) -> None:
    for answer in (server.ask("GET", "/ping"), server.ask("GET", "/x"), server.ask("POST", "/invocations", b"{")):
        assert answer.headers.get_all("Server") == ["nginx"]
        assert not re.search("gunicorn|werkzeug|flask|python", str(answer.headers), re.IGNORECASE)


def test_a_chunked_task_runs(server: Server, bucket: "Bucket") -> None:
    text = json.dumps(bucket.task("chunked")).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/invocations", iter([text[:20], text[20:]]), encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 200
    assert json.loads(response.read())["return_code"] == 0
    connection.close()
    assert bucket.result("/out/chunked")["pk"] == "chunked"


def test_a_body_of_20_mb_is_taken(server: Server, bucket: "Bucket") -> None:
    task = json.dumps(bucket.task("large")).encode()
    answer = server.ask("POST", "/invocations", task + b" " * (20_000_000 - len(task)))
    assert answer.status == 200
    assert answer.json()["return_code"] == 0


def test_requests_of_one_connection_follow_each_other(server: Server, bucket: "Bucket") -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.connect()
    first_socket = connection.sock
    for number in range(3):
        connection.request("POST", "/invocations", json.dumps(bucket.task(f"kept-{number}")))
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())["pk"]) == (200, f"kept-{number}")
        connection.request("GET", "/missing")
        response = connection.getresponse()
        response.read()
        assert response.status == 404
        assert connection.sock is first_socket
    connection.close()


def test_headers_that_sagemaker_adds_change_nothing(server: Server, bucket: "Bucket") -> None:
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json;verbose=true, */*",
        "User-Agent": "AHC/2.0",
        "Host": "model.aws.local:8080",
        "X-Amzn-SageMaker-Custom-Attributes": "trace=" + "a" * 1000,
        "X-Amzn-SageMaker-Inference-Id": "id",
        "X-Amzn-SageMaker-Target-Model": "../../model.tar.gz",
        "X-Amzn-SageMaker-Session-Id": "NEW_SESSION",
        "X_Odd_Name": "1",
    }
    answer = server.ask("POST", "/invocations", json.dumps(bucket.task("headers")).encode(), headers)
    assert answer.status == 200
    assert answer.json()["return_code"] == 0


def test_a_client_of_http_1_0_is_served(server: Server) -> None:
    assert server.raw(b"GET /ping HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_several_tasks_in_one_body_run_in_order_and_answer_a_line_each(server: Server, bucket: "Bucket") -> None:
    tasks = [server.task(bucket, f"line-{number}", f"exit {number}") for number in range(3)]
    body = b"".join(json.dumps(task).encode() + b"\n" for task in tasks)
    answer = server.ask("POST", "/invocations", body, {"Content-Type": "application/jsonlines"})
    assert answer.status == 200
    results = [json.loads(line) for line in answer.body.splitlines()]
    assert [(result["pk"], result["return_code"]) for result in results] == [(f"line-{n}", n) for n in range(3)]


def test_a_task_with_faults_is_refused_by_field_and_does_not_run(server: Server, bucket: "Bucket") -> None:
    answer = server.run({"pk": "bad/pk", "inputs": []})
    assert answer.status == 422
    assert {tuple(fault["loc"]) for fault in answer.json()["detail"]} == {
        ("body", "pk"),
        ("body", "output_bucket_name"),
        ("body", "output_prefix"),
    }
    assert bucket.keys() == []


def test_execution_parameters_are_the_defaults_without_settings(server: Server) -> None:
    answer = server.ask("GET", "/execution-parameters")
    assert answer.status == 200
    assert answer.json() == {"MaxConcurrentTransforms": 1, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 6}


def test_execution_parameters_follow_the_settings(s3_endpoint: str) -> None:
    settings = {"SAGEMAKER_BATCH_STRATEGY": "multi_record", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "50"}
    with serving(s3_endpoint, SAGEMAKER_BATCH="true", **settings) as server:
        assert server.ask("GET", "/execution-parameters").json() == {
            "MaxConcurrentTransforms": 1,
            "BatchStrategy": "MULTI_RECORD",
            "MaxPayloadInMB": 50,
        }
