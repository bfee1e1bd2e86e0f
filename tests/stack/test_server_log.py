"""The log of a running server: records only, one line a task, and nothing that identifies a patient."""

import os
import signal
from collections import Counter
from typing import TYPE_CHECKING

from server import SIGNING_KEY, eventually, serving

if TYPE_CHECKING:
    from conftest import Bucket


def test_every_line_is_a_record_nginxs_gunicorns_and_the_algorithms_too(s3_endpoint: str, bucket: "Bucket") -> None:
    expected = "^nginx: |was sent SIGKILL|^Worker|unfinished|^Task .*(?:worker_lost|interrupted): "
    with serving(s3_endpoint, warnings=expected) as server:
        server.run(server.task(bucket, "says", 'echo "to stdout"; echo "to stderr" >&2; printf "\\377 no newline"'))
        server.raw(b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 200000000\r\n\r\n")
        old = server.workers[0]
        os.kill(old.pid, signal.SIGKILL)
        eventually(lambda: old.pid not in {w.pid for w in server.workers} and len(server.workers) == 2, "a new worker")
        server.stop_if_running()
        records = server.records()
        assert {record["task"] for record in records if not record["internal"]} == {"says"}
        said = [(record["source"], record["level"], record["log"]) for record in records if not record["internal"]]
        assert said == [
            ("stdout", "INFO", "to stdout"),
            ("stdout", "INFO", "\ufffd no newline"),
            ("stderr", "WARNING", "to stderr"),
        ]
        own = [record["log"] for record in records if record["internal"]]
        assert any(line.startswith("nginx: ") and "too large body" in line for line in own)
        assert any(str(old.pid) in line and "SIGKILL" in line for line in own)
        assert {record["task"] for record in records if record["internal"]} == {None}


def test_ping_is_not_logged_and_a_task_is_in_one_line(s3_endpoint: str, bucket: "Bucket") -> None:
    with serving(s3_endpoint) as server:
        eventually(lambda: "Serving on port" in server.log_text(), "the last line of the start")
        before = len(server.records())
        for method in ("GET", "HEAD", "POST") * 10:
            server.ask(method, "/ping")
        for number in range(5):
            server.run(server.task(bucket, f"task-{number}", f"exit {number}"))
        eventually(lambda: len(server.records()) >= before + 5, "a line for each task")
        server.stop_if_running()
        lines = [line for line in server.own_lines()[before:] if line not in ("Received SIGTERM", "Stopped")]
        assert Counter(line.split()[1] for line in lines) == {f"task-{number}": 1 for number in range(5)}


def test_no_key_file_name_or_secret_is_in_our_lines(s3_endpoint: str, bucket: "Bucket") -> None:
    with serving(s3_endpoint, warnings="^S3: |^Task no-bucket: The output bucket") as server:
        bucket.put("patients/jane-doe/scan.dcm", "x")
        script = 'cp "$ALGORITHM_INPUT_PATH/jane-doe.dcm" "$ALGORITHM_OUTPUT_PATH/report-of-jane-doe.csv"'
        task = server.task(bucket, "good", script)
        task["inputs"].append(bucket.item("jane-doe.dcm", "patients/jane-doe/scan.dcm"))
        assert server.run(task).json()["outputs"][0]["relative_path"] == "report-of-jane-doe.csv"
        for item in (
            bucket.item("jane-doe.dcm", "patients/jane-doe/missing.dcm"),
            bucket.item("../jane-doe.dcm", "patients/jane-doe/scan.dcm"),
            bucket.item("jane-doe.zip", "patients/jane-doe/scan.dcm", decompress=True),
            bucket.item("jane-doe/" + "x" * 255, "patients/jane-doe/scan.dcm"),
        ):
            server.run(bucket.task("bad", [item]))
        server.run(bucket.task("no-bucket", output_bucket_name="jane-doe-bucket", output_prefix="/jane-doe"))
        server.ask("GET", "/jane-doe?name=jane-doe")
        server.stop_if_running()
        log = server.log_text()
        assert "Task good ended" in log
        for secret in ("jane-doe", SIGNING_KEY, "a-secret-of-the-server"):
            assert secret not in log


def test_log_level_hides_our_lines_and_none_of_the_algorithms(s3_endpoint: str, bucket: "Bucket") -> None:
    with serving(s3_endpoint, LOG_LEVEL="ERROR") as server:
        server.run(server.task(bucket, "says", "echo to stdout; echo to stderr >&2"))
        answer = server.run(server.task(bucket, "cut", "sleep 60", timeout="PT0.2S"))
        assert answer.json()["error"]["code"] == "time_limit_exceeded"
        server.stop_if_running()
        assert server.own_lines() == []
        assert [(record["task"], record["log"]) for record in server.records()] == [
            ("says", "to stdout"),
            ("says", "to stderr"),
            ("cut", "Time limit exceeded"),
        ]


def test_a_server_without_a_signing_key_says_so_once_and_does_not_sign(s3_endpoint: str, bucket: "Bucket") -> None:
    settings = {"MODEL_SERVER_SIGNING_KEY_HEX": ""}
    with serving(s3_endpoint, warnings="There is no signing key", **settings) as server:
        server.run(bucket.task("one"))
        server.run(bucket.task("two"))
        server.stop_if_running()
        assert sum("There is no signing key" in line for line in server.own_lines()) == 1
        assert bucket.metadata("/out/two/.sagemaker_shim/inference_result.json") == {}
