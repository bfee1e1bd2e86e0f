"""What is done before the first task, how it can fail, and who is told: the user, the log, and a stored object."""

import json
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

import pytest
from resident_server import (
    SETUP_KEY,
    await_ping,
    health_calls,
    is_setup_result_stored,
    ping,
    place,
    printed,
    program,
    resident,
    say_on_health,
    setup_result,
    starting_resident,
)
from server import START_SECONDS, Server, eventually, launched, serving

if TYPE_CHECKING:
    from conftest import Bucket

FAILED_TO_START = "Failed to start the algorithm container's inference server"
UNHEALTHY = (
    "The algorithm container's inference server didn\u2019t pass the health check within {} seconds or the /health "
    "endpoint took to long to respond ({} seconds per call). Verify that the container starts correctly and that "
    "/health responds quickly."
)
NOWHERE = {"MODEL_SERVER_SETUP_RESULT_BUCKET": ""}
FORBIDDEN = {"MODEL_SERVER_SETUP_RESULT_BUCKET": "no-such-bucket"}


def assert_ended_as_told(server: Server, bucket: "Bucket", sentence: str) -> None:
    """Check that a server ended with 0 because of what the result of its set-up says, and told the user the same."""
    assert server.ended(START_SECONDS) == 0
    result = setup_result(bucket)
    assert (result["return_code"], result["user_safe_error_message"]) == (1, sentence)
    assert printed(server, "stderr")[-1] == (sentence, None)
    external = [record for record in server.records("stderr") if not record["internal"]]
    assert external[-1]["level"] == "ERROR"


class SlowS3(ThreadingHTTPServer):
    """Takes any PUT, once `go_on` is set; `asked` says that one waits, `put` which came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SlowS3Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.asked, self.go_on = threading.Event(), threading.Event()
        self.put: list[str] = []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class SlowS3Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SlowS3

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.put.append(self.path)
        self.server.asked.set()
        self.server.go_on.wait()
        self.send_response(200)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


# -- while it starts


def test_tasks_are_refused_until_the_program_is_healthy_and_the_result_is_stored(bucket: "Bucket") -> None:
    with starting_resident(bucket, "503") as server:
        await_ping(server, 503, START_SECONDS)
        eventually(lambda: health_calls(server), "a call of /health")
        answer = server.run(bucket.task("early"))
        assert (answer.status, answer.json()["error"]["code"]) == (503, "not_ready")
        assert ping(server) == 503
        assert not is_setup_result_stored(bucket)
        assert "Retry-After" not in answer.headers
        say_on_health(server, "200")
        await_ping(server, 200)
        assert setup_result(bucket)["return_code"] == 0
        assert server.run(bucket.task("task")).json()["return_code"] == 0


@pytest.mark.parametrize("mode", ["exec", "resident"])
def test_the_result_is_stored_before_the_first_200(bucket: "Bucket", mode: str) -> None:
    with SlowS3() as s3:
        settings = resident(bucket) | {"ALGORITHM_MODE": mode, "ALGORITHM_HEALTH_TIMEOUT": "1"}
        with launched(s3.endpoint, **settings) as server:
            assert s3.asked.wait(START_SECONDS)
            await_ping(server, 503, START_SECONDS)
            assert [ping(server) for _ in range(20)] == [503] * 20
            assert server.run(bucket.task("early")).json()["error"]["code"] == "not_ready"
            s3.go_on.set()
            await_ping(server, 200)
        assert s3.put == [f"/{bucket.name}//io/app/pk/.sagemaker_shim/runtime_setup_result.json"]


def test_health_is_asked_for_often(bucket: "Bucket") -> None:
    """Were there seconds between two calls, this would not be over in time."""
    with starting_resident(bucket, "503 " * 100 + "200", ALGORITHM_HEALTH_TIMEOUT="10") as server:
        await_ping(server, 200, START_SECONDS)
        assert health_calls(server) == 101


@pytest.mark.parametrize("fault", ["404", "500", "503", "201", "204", "resets", "garbage", "hangs"])
def test_whatever_health_answers_but_a_redirect_may_pass(bucket: "Bucket", fault: str) -> None:
    patience = "0.3" if fault == "hangs" else "10"
    with starting_resident(bucket, f"{fault} {fault} 200", ALGORITHM_HEALTH_TIMEOUT=patience) as server:
        await_ping(server, 200, START_SECONDS)
        assert health_calls(server) == 3 or (fault == "hangs" and health_calls(server) > 3)
        assert setup_result(bucket)["return_code"] == 0
        assert server.records("stderr") == server.records("stderr")[:1]  # what the program prints at its start


def test_a_program_that_listens_late_is_waited_for(bucket: "Bucket") -> None:
    late = f'while [ ! -e "$BOARD/go" ]; do sleep 0.05; done; exec {program("serves_tasks")}'
    with starting_resident(bucket, ALGORITHM_ENTRYPOINT=late) as server:
        await_ping(server, 503, START_SECONDS)
        server.go()
        await_ping(server, 200)


# -- how it fails


@pytest.mark.parametrize("status", ["301", "302", "307"])
def test_a_redirect_ends_the_start_at_once(bucket: "Bucket", status: str) -> None:
    with starting_resident(bucket, f"503 {status} 200") as server:
        assert_ended_as_told(server, bucket, FAILED_TO_START)
        assert health_calls(server) == 2
        assert printed(server, "stderr")[-2] == (
            "Health check failed: Health endpoint returned redirect response",
            None,
        )


@pytest.mark.parametrize(
    ("command", "how"),
    [
        (program("exits_3"), "ended with exit code 3"),
        ("exit 0", "ended with exit code 0"),
        ("kill -9 $$", "was ended by SIGKILL"),
        ("echo last >&2; sleep 300 & exit 3", "ended with exit code 3"),
    ],
)
def test_a_program_that_ends_before_it_is_healthy_is_seen_at_once(bucket: "Bucket", command: str, how: str) -> None:
    with starting_resident(bucket, ALGORITHM_ENTRYPOINT=command, ALGORITHM_START_TIMEOUT="3000") as server:
        assert_ended_as_told(server, bucket, FAILED_TO_START)
        assert (f"Health check failed: The server {how}", None) in printed(server, "stderr")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (
            {"ALGORITHM_ENTRYPOINT": '["/no/such/program"]'},
            "The command defined by the containers ENTRYPOINT and CMD instructions does not exist",
        ),
        (
            {"ALGORITHM_ENTRYPOINT": '["/etc/passwd"]'},
            "The user defined in the containers USER instruction does not have permission to execute the command "
            "defined by the containers ENTRYPOINT and CMD instructions",
        ),
        ({"ALGORITHM_USER": "nobody-knows"}, "The user defined in the containers USER instruction does not exist"),
        ({"ALGORITHM_USER": "!"}, "Invalid argument for the containers USER instruction"),
    ],
    ids=["missing", "forbidden", "no user", "no name of a user"],
)
def test_a_program_that_can_not_be_started_is_said_with_its_reason(
    bucket: "Bucket", settings: dict[str, str], why: str
) -> None:
    with starting_resident(bucket, **settings) as server:
        assert_ended_as_told(server, bucket, FAILED_TO_START)
        assert printed(server, "stderr")[-2] == (f"Could not start server: {why}", None)


@pytest.mark.parametrize("health", ["503", "hangs"])
def test_a_program_that_is_not_healthy_in_time_is_said_with_both_limits(bucket: "Bucket", health: str) -> None:
    limits = {"ALGORITHM_START_TIMEOUT": "2", "ALGORITHM_HEALTH_TIMEOUT": "1"}
    with starting_resident(bucket, health, **limits) as server:
        assert_ended_as_told(server, bucket, UNHEALTHY.format(2, 1))
        assert "\u2019".encode() in bucket.get(SETUP_KEY)
        assert health_calls(server) > (health == "503")  # a call that hangs may be the only one


def test_a_hanging_call_does_not_outlast_the_start(bucket: "Bucket") -> None:
    limits = {"ALGORITHM_START_TIMEOUT": "1", "ALGORITHM_HEALTH_TIMEOUT": "300"}
    with starting_resident(bucket, "hangs", **limits) as server:
        assert_ended_as_told(server, bucket, UNHEALTHY.format(1, 300))


def test_a_program_that_ignores_sigterm_is_gone_when_its_start_failed(bucket: "Bucket") -> None:
    stubborn = {"name": "serves_tasks_and_ignores_sigterm", "ALGORITHM_GRACE_SECONDS": "0.3"}
    with starting_resident(bucket, "302", **stubborn) as server:
        assert_ended_as_told(server, bucket, FAILED_TO_START)  # that nothing is left is checked at the end of the block


@pytest.mark.parametrize("settings", [NOWHERE, FORBIDDEN], ids=["nowhere", "no such bucket"])
def test_a_failure_that_is_stored_nowhere_ends_with_1(bucket: "Bucket", settings: dict[str, str]) -> None:
    with starting_resident(bucket, "302", **settings) as server:
        assert server.ended(START_SECONDS) == 1
        assert (FAILED_TO_START, None) in printed(server, "stderr")
        assert server.own_lines("stderr")[-1] == "Stopped: The set-up failed"


def test_a_success_that_can_not_be_stored_ends_with_1(bucket: "Bucket") -> None:
    with starting_resident(bucket, **FORBIDDEN) as server:
        statuses: set[int] = set()
        while server.process.poll() is None:
            statuses.add(ping(server))
        assert server.ended() == 1
        assert 200 not in statuses
        assert "The result of the set-up could not be uploaded" in server.own_lines("stderr")


# -- the stored object


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        ("/io/app/pk", SETUP_KEY),
        ("/io/app/pk/", SETUP_KEY),
        ("io/app/pk", SETUP_KEY.removeprefix("/")),
        ("pk/", "pk/.sagemaker_shim/runtime_setup_result.json"),
    ],
)
def test_the_result_has_the_drop_ins_key_and_bytes(bucket: "Bucket", prefix: str, key: str) -> None:
    from model_server import VERSION

    settings = {
        "GRAND_CHALLENGE_COMPONENT_RUNTIME_OUTPUT_BUCKET_NAME": bucket.name,
        "GRAND_CHALLENGE_COMPONENT_RUNTIME_OUTPUT_PREFIX": prefix,
    }
    with serving(bucket.endpoint, **settings) as server:
        assert bucket.keys() == [key]
        expected = {
            "return_code": 0,
            "user_safe_error_message": "",
            "sagemaker_shim_version": f"longshore-{VERSION}",
        }
        assert bucket.get(key) == json.dumps(expected, separators=(",", ":")).encode()
        assert setup_result(bucket, key)["return_code"] == 0
        assert server.run(bucket.task("task")).status == 200


def test_without_a_signing_key_the_result_is_not_signed(bucket: "Bucket") -> None:
    settings = place(bucket) | {"MODEL_SERVER_SIGNING_KEY_HEX": ""}
    with serving(bucket.endpoint, warnings="signing key", **settings):
        assert bucket.metadata(SETUP_KEY) == {}
        assert json.loads(bucket.get(SETUP_KEY))["return_code"] == 0


def test_without_a_place_nothing_is_stored(bucket: "Bucket") -> None:
    with serving(bucket.endpoint, **NOWHERE):
        assert bucket.keys() == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_set_up_has_no_result(bucket: "Bucket", signum: int) -> None:
    with starting_resident(bucket, "503") as server:
        await_ping(server, 503, START_SECONDS)
        assert server.stop(signum) == 0
        assert bucket.keys() == []
