"""predict.sh as a user runs it: tasks and payloads, answers, and faults."""

import json
import os
import pty
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from local_scripts import DEADLINE_SECONDS, PROJECT, Script, run_script, serving

ALGORITHMS = PROJECT / "tests" / "algorithms"
HEAD = "sepal_length,sepal_width,petal_length,petal_width"


@pytest.fixture(scope="module")
def url(checkout: Path, trained: Script) -> Iterator[str]:
    """The address where serve-local.sh serves the model that was trained."""
    with serving(checkout, "--host") as (_, address):
        yield address


def algorithm(name: str) -> str:
    """Return the option that makes `serve` run one of the tests' algorithms."""
    return f"--env=ALGORITHM_ENTRYPOINT={json.dumps([str(ALGORITHMS / name)])}"


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Answer a POST with these bytes and the end of the connection; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(answer)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.timeout = DEADLINE_SECONDS
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        thread.join()


def test_a_task_is_answered_with_its_result_and_its_outputs(checkout: Path, url: str) -> None:
    answer = run_script(checkout, "predict.sh", "--url", url, checkout / "local-test/payload.json")
    assert answer.process.returncode == 0, answer.said
    assert json.loads("".join(answer.stdout))["return_code"] == 0
    assert answer.stderr == ["s3://example/predictions/garden/garden.csv\n"]


def test_a_payload_is_answered_with_predictions(checkout: Path, url: str) -> None:
    answer = run_script(checkout, "predict.sh", "--url", url, checkout / "local-test/payload.csv")
    assert answer.process.returncode == 0, answer.said
    assert answer.stdout[0] == f"{HEAD},species\n"
    assert {line.rstrip().rpartition(",")[2] for line in answer.stdout[1:]} == {"setosa", "versicolor", "virginica"}


def test_the_answer_is_written_to_a_file_where_one_is_named(checkout: Path, url: str, tmp_path: Path) -> None:
    target = tmp_path / "predictions.csv"
    payload = checkout / "local-test/payload.csv"
    answer = run_script(checkout, "predict.sh", payload, "--url", url, "--output", target)
    assert answer.process.returncode == 0, answer.said
    assert answer.stdout == []
    assert target.read_text().startswith(f"{HEAD},species\n")


def test_a_failed_task_is_exit_code_1_and_says_why(checkout: Path, url: str, tmp_path: Path) -> None:
    task = json.loads((checkout / "local-test/payload.json").read_text())
    task["inputs"][0]["bucket_key"] = "irises/none.csv"
    path = tmp_path / "task.json"
    path.write_text(json.dumps(task))
    answer = run_script(checkout, "predict.sh", "--url", url, path)
    assert answer.process.returncode == 1
    assert json.loads("".join(answer.stdout))["error"]["code"] == "input_missing"
    assert "The task ended with return code 1.\n" in answer.stderr


def test_several_tasks_fail_when_one_does(checkout: Path, url: str, tmp_path: Path) -> None:
    task = json.loads((checkout / "local-test/payload.json").read_text())
    failing = task | {"pk": "failing", "inputs": []}
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in (task, failing)))
    answer = run_script(checkout, "predict.sh", "--url", url, path)
    assert answer.process.returncode == 1
    assert "s3://example/predictions/garden/garden.csv\n" in answer.stderr
    assert answer.stderr.count("The task ended with return code 1.\n") == 1


def test_a_failed_payload_is_exit_code_1_and_says_what_the_program_said(
    checkout: Path, url: str, tmp_path: Path
) -> None:
    path = tmp_path / "payload.csv"
    path.write_text(f"{HEAD}\n1,2,3,wide\n")
    answer = run_script(checkout, "predict.sh", "--url", url, path)
    assert answer.process.returncode == 1
    assert answer.stderr[0] == "The server answered 422.\n"
    assert "  payload.csv, row 1: petal_width is 'wide', not a length in centimetres.\n" in answer.stderr


def test_a_task_that_is_not_valid_is_answered_with_each_of_its_faults(checkout: Path, url: str, tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    path.write_text('{"pk": "x", "inputs": [{"relative_path": 3}]}')
    answer = run_script(checkout, "predict.sh", "--url", url, path)
    assert answer.process.returncode == 1
    assert answer.stderr[:2] == ["The server answered 422.\n", "The task is not valid\n"]
    assert "  body.inputs.0.bucket_name: Field required\n" in answer.stderr
    assert "  body.output_bucket_name: Field required\n" in answer.stderr


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/geo+json"]
)
def test_a_failed_task_is_exit_code_1_whatever_its_content_type_looks_like(
    checkout: Path, url: str, tmp_path: Path, content_type: str
) -> None:
    task = json.loads((checkout / "local-test/payload.json").read_text())
    path = tmp_path / "task.json"
    path.write_text(json.dumps(task | {"inputs": []}))
    answer = run_script(checkout, "predict.sh", "--url", url, "--content-type", content_type, path)
    assert answer.process.returncode == 1
    assert "The task ended with return code 1.\n" in answer.stderr


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("tasks.json", '[{"pk": "a"}, {"pk": "b"}]', "is a list of tasks, which `process-local.sh --tasks "),
        ("broken.json", '{"pk": "a"', "is not JSON (Expecting ',' delimiter: line 1 column 11 (char 10))"),
        ("EMPTY.JSON", " \n", "is empty."),
    ],
)
def test_json_that_can_not_be_answered_is_not_posted(
    checkout: Path, tmp_path: Path, name: str, text: str, sentence: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    answer = run_script(checkout, "predict.sh", "--url", "http://127.0.0.1:9", path)
    assert answer.process.returncode == 1
    assert answer.said.startswith(f"predict: {path} {sentence}"), answer.said


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("a.csv", "text/csv"),
        ("a.CSV", "text/csv"),
        ("a.csv.gz", "application/gzip"),
        ("a.tar.bz2", "application/x-bzip2"),
        ("a.png", "image/png"),
        ("a.geojson", "application/vnd.longshore.payload+json"),
        ("a.webmanifest", "application/vnd.longshore.payload+json"),
        ("a.jsonl", "application/jsonlines"),
        ("a.mha", "application/octet-stream"),
        ("a.odd", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_the_content_type_is_guessed_the_same_on_every_machine(
    checkout: Path, tmp_path: Path, name: str, content_type: str
) -> None:
    # As if this machine's mime.types knew all of these otherwise.
    table = tmp_path / "mime.types"
    table.write_text("text/odd csv gz bz2 png geojson webmanifest jsonl mha odd\n")
    known = f"import mimetypes; mimetypes.init([{str(table)!r}])"
    code = f"{known}; import pathlib, predict; print(predict.guess(pathlib.Path({name!r})))"
    command = [checkout / ".venv/bin/python", "-c", code]
    seen = subprocess.run(command, cwd=checkout / "local-test", capture_output=True, text=True)
    assert seen.stdout == f"{content_type}\n", seen.stderr


@pytest.mark.parametrize("target", ["", "missing/answer.csv"])
def test_a_file_that_the_answer_can_not_go_to_is_refused_before_the_post(
    checkout: Path, tmp_path: Path, target: str
) -> None:
    options = ["--url", "http://127.0.0.1:9", "--output", tmp_path / target]
    answer = run_script(checkout, "predict.sh", checkout / "local-test/payload.csv", *options)
    assert answer.process.returncode == 64
    assert f"folder{' ' if target else ':'}" in answer.stderr[-1]
    assert "does not answer" not in answer.said


CUT_OFF = {
    "by its length": b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 8\r\n\r\nhalf",
    "by its chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n4\r\n",
}


@pytest.mark.parametrize("answer", CUT_OFF.values(), ids=CUT_OFF)
@pytest.mark.parametrize("name", ["payload.csv", "payload.json"])
def test_an_answer_that_is_cut_off_is_exit_code_1_and_replaces_nothing(
    checkout: Path, tmp_path: Path, name: str, answer: bytes
) -> None:
    before = tmp_path / "answer.csv"
    before.write_text("of yesterday")
    for options in (["--output", before], []):
        with answering(answer) as url:
            ended = run_script(checkout, "predict.sh", "--url", url, checkout / "local-test" / name, *options)
        assert ended.process.returncode == 1
        assert ended.stderr[-1].startswith("predict: The answer is lost: it ended too early"), ended.said
    assert [path.read_text() for path in tmp_path.iterdir()] == ["of yesterday"]


@pytest.mark.parametrize("body", [b"<html></html>", b"[]", b"3", b""])
def test_an_answer_to_a_task_that_is_no_result_is_named(checkout: Path, body: bytes) -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)) as url:
        answer = run_script(checkout, "predict.sh", "--url", url, checkout / "local-test/payload.json")
    assert answer.process.returncode == 1
    assert answer.said == f"predict: http://{url} answers with what is no result of a task: is it a model server?\n"


def test_a_place_that_can_not_be_written_is_named_before_the_post(checkout: Path) -> None:
    options = ["--url", "http://127.0.0.1:9", "--output", "/proc/answer.csv"]
    answer = run_script(checkout, "predict.sh", checkout / "local-test/payload.csv", *options)
    assert answer.process.returncode == 1
    assert answer.said.startswith("predict: /proc/answer.csv can't be written: "), answer.said


def test_an_answer_may_go_to_what_is_no_plain_file(checkout: Path) -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole") as url:
        options = ["--url", url, "--output", "/dev/stderr"]
        answer = run_script(checkout, "predict.sh", checkout / "local-test/payload.csv", *options)
    assert (answer.process.returncode, answer.said) == (0, "whole")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:99999", "ftp://127.0.0.1", "http://", "http://127.0.0.1:port"]
    + ["http://a..b", f"http://{'x' * 70}.x", "http://127.0.0.1/a b"],
)
def test_what_is_no_address_of_a_server_is_refused(checkout: Path, address: str) -> None:
    answer = run_script(checkout, "predict.sh", "--url", address, checkout / "local-test/payload.csv")
    assert answer.process.returncode == 64
    assert f"{address} is not the address of a server" in answer.stderr[-1]


@pytest.mark.parametrize("option", ["--content-type=日本/x", "--accept=a\nb"])
def test_what_can_be_no_header_is_refused(checkout: Path, option: str) -> None:
    answer = run_script(checkout, "predict.sh", option, checkout / "local-test/payload.csv")
    assert answer.process.returncode == 64
    assert "can be no header" in answer.stderr[-1]


def test_ctrl_c_while_waiting_for_an_answer_is_exit_code_130_without_more_words(checkout: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_SECONDS)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        answer = Script(checkout, "predict.sh", "--url", url, checkout / "local-test/payload.csv")
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(DEADLINE_SECONDS)
            assert connection.recv(1)
            assert answer.end(signal.SIGINT) == 130
    assert answer.said == ""


def test_json_that_is_no_task_is_a_payload(checkout: Path, tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text('{"width": 3}')
    with serving(checkout, "--host", algorithm("echoes_input")) as (_, url):
        answer = run_script(checkout, "predict.sh", "--url", url, path)
    assert (answer.process.returncode, "".join(answer.stdout)) == (0, '{"width": 3}'), answer.said


def test_an_answer_that_is_no_text_is_saved_and_named_on_a_terminal(checkout: Path, tmp_path: Path) -> None:
    path = tmp_path / "scan.png"
    path.write_bytes(b"\x89PNG\x1b]0;owned\x07")
    (tmp_path / "scan-answer.png").write_text("of yesterday")
    with serving(checkout, "--host", algorithm("echoes_input")) as (_, url):
        terminal, program_end = pty.openpty()
        command = [checkout / "local-test/predict.sh", "--url", url, path]
        ended = subprocess.run(
            command, cwd=tmp_path, stdout=program_end, stderr=subprocess.PIPE, text=True, timeout=DEADLINE_SECONDS
        )
        os.close(program_end)
    os.set_blocking(terminal, False)
    with pytest.raises(OSError):  # noqa: PT011 - nothing was written to it
        os.read(terminal, 1)
    os.close(terminal)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == "The answer is in scan-answer-2.png: 14 bytes.\n"
    assert (tmp_path / "scan-answer-2.png").read_bytes() == path.read_bytes()
    assert (tmp_path / "scan-answer.png").read_text() == "of yesterday"


def test_without_a_server_it_is_said_what_must_run(checkout: Path) -> None:
    answer = run_script(checkout, "predict.sh", "--url", "http://127.0.0.1:9", checkout / "local-test/payload.csv")
    assert answer.process.returncode == 1
    assert "serve-local.sh must run in another terminal" in answer.said
