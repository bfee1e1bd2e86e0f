"""The scripts of local-test/ without Docker, as a user runs them (tests/image has them with Docker)."""

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from local_scripts import DEADLINE_SECONDS, MADE, PROJECT, Script, copy_checkout, run_script, serving
from quiet_port import quiet_port

ALGORITHMS = PROJECT / "tests" / "algorithms"
HEAD = "sepal_length,sepal_width,petal_length,petal_width"
SCRIPTS = ["train-local.sh", "serve-local.sh", "process-local.sh", "predict.sh"]
JOBS = ["train-local.sh", "process-local.sh"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("local-test"))


@pytest.fixture(scope="module")
def trained(checkout: Path) -> Script:
    """A training that has ended, and left its model in the checkout's test-dir."""
    return run_script(checkout, "train-local.sh", "--host")


@pytest.fixture(scope="module")
def url(checkout: Path, trained: Script) -> Iterator[str]:
    """The address where serve-local.sh serves the model that was trained."""
    with serving(checkout, "--host") as (_, address):
        yield address


@pytest.fixture
def test_dir(checkout: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "a test-dir"
    shutil.copytree(checkout / "local-test" / "test-dir", copy, ignore=MADE)
    return copy


def checkout_without_packages(folder: Path) -> Path:
    copy = copy_checkout(folder)
    (copy / ".venv").unlink()
    return copy


def algorithm(name: str) -> str:
    """Return the option that makes `serve` run one of the tests' algorithms."""
    return f"--env=ALGORITHM_ENTRYPOINT={json.dumps([str(ALGORITHMS / name)])}"


def program(folder: Path, text: str) -> str:
    """Write a shell program, and return it as the variables that name a command have it."""
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return json.dumps([str(path)])


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


def test_a_training_shows_its_metric_and_leaves_its_model(checkout: Path, trained: Script) -> None:
    assert trained.process.returncode == 0, trained.said
    assert "accuracy=0.96;\n" in trained.stdout
    assert "decision-tree.joblib" in "".join(trained.stderr)
    assert (checkout / "local-test/test-dir/model/decision-tree.joblib").is_file()
    trained.await_nothing_left()


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


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "ftp://127.0.0.1", "http://", "http://127.0.0.1:port"])
def test_what_is_no_address_of_a_server_is_refused(checkout: Path, address: str) -> None:
    answer = run_script(checkout, "predict.sh", "--url", address, checkout / "local-test/payload.csv")
    assert answer.process.returncode == 64
    assert f"{address} is not the address of a server" in answer.stderr[-1]


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


def test_a_server_that_can_not_start_is_an_error_with_its_reason(checkout: Path, test_dir: Path) -> None:
    options = ["--test-dir", test_dir, "--port", str(quiet_port()), "--env", "MODEL_SERVER_WORKERS=some"]
    server = run_script(checkout, "serve-local.sh", "--host", *options)
    assert server.process.returncode == 1
    assert "MODEL_SERVER_WORKERS: " in server.said
    assert server.stderr[-1] == "serve-local: The model server did not start.\n"
    server.await_nothing_left()


def test_what_came_into_s3_is_kept(checkout: Path, trained: Script, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with serving(checkout, "--host", "--pretty", "--keep", kept) as (server, url):
        run_script(checkout, "predict.sh", "--url", url, checkout / "local-test/payload.json")
        assert server.end(signal.SIGINT) == 0, server.said
    files = {path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_file()}
    prefix = "example/predictions/garden/"
    assert files == {prefix + "garden.csv", prefix + ".sagemaker_shim/inference_result.json"}
    assert "algorithm [garden] File 1 of 1: 4 rows." in server.said
    assert '"internal"' not in server.said
    server.await_nothing_left()


def test_what_was_in_s3_is_not_kept_however_large(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "s3/scans").mkdir(parents=True)
    (tmp_path / "s3/scans/large.mha").write_bytes(bytes(9 * 1024 * 1024))
    kept = tmp_path / "kept"
    job = run_script(checkout, "process-local.sh", "--host", "--s3", tmp_path / "s3", "--keep", kept)
    assert job.process.returncode == 0, job.said
    assert not list(kept.rglob("*.mha"))


def test_what_is_kept_goes_where_the_user_stands(checkout: Path, trained: Script, tmp_path: Path) -> None:
    kept = Path(os.path.relpath(tmp_path / "kept"))
    options = ["--tasks", checkout / "local-test/tasks.json", "--keep", kept]
    job = run_script(checkout, "process-local.sh", "--host", *options)
    assert job.process.returncode == 0, job.said
    assert (tmp_path / "kept/example/predictions/garden/garden.csv").is_file()


@pytest.mark.parametrize(
    ("option", "sentence"), [("--keep", "is not a folder"), ("--mount", "it must be a checkout's container/")]
)
def test_a_path_that_an_option_can_not_use_is_refused_at_the_start(
    checkout: Path, tmp_path: Path, option: str, sentence: str
) -> None:
    path = tmp_path if option == "--mount" else checkout / "local-test/payload.csv"
    job = run_script(checkout, "serve-local.sh", "--host", option, path)
    assert job.process.returncode == 64
    assert sentence in job.stderr[-1]


@pytest.mark.parametrize(("script", "code"), [("exit 0", 1), ("exit 3", 3)])
def test_what_can_not_be_kept_costs_nothing_else(
    checkout: Path, test_dir: Path, tmp_path: Path, script: str, code: int
) -> None:
    seed, kept = tmp_path / "s3", tmp_path / "kept"
    for name in ("a", "b", "c"):
        (seed / "bucket" / name).parent.mkdir(parents=True, exist_ok=True)
        (seed / "bucket" / name).write_text(name)
    # As if they had come since.
    command = program(tmp_path, f"rm {seed}/bucket/*; {script}")
    (kept / "bucket/b").mkdir(parents=True)
    options = ["--test-dir", test_dir, "--s3", seed, "--keep", kept, f"--env=ALGORITHM_ENTRYPOINT={command}"]
    job = run_script(checkout, "process-local.sh", "--host", *options)
    assert job.process.returncode == code, job.said
    assert "s3://bucket/'b' is not copied: Is a directory.\n" in job.stderr
    assert f"==> Not all of S3 is copied to {kept}\n" in job.stderr
    assert [(kept / "bucket" / name).read_text() for name in ("a", "c")] == ["a", "c"]


def test_edited_code_is_served(checkout: Path, tmp_path: Path) -> None:
    edited = tmp_path / "container"
    shutil.copytree(checkout / "container", edited)
    predictor = edited / "predictor.py"
    predictor.write_text(predictor.read_text().replace('"MaxPayloadInMB"', '"EditedMaxPayloadInMB"'))
    with serving(checkout, "--host", "--mount", edited, "--batch") as (_, url):
        command = ["curl", "--silent", "--fail", f"{url}/execution-parameters"]
        answer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    assert answer == {"MaxConcurrentTransforms": 1, "BatchStrategy": "SINGLE_RECORD", "EditedMaxPayloadInMB": 6}


def test_a_failed_training_has_its_exit_code_and_its_reason(checkout: Path, test_dir: Path) -> None:
    (test_dir / "input/config/hyperparameters.json").write_text('{"max_depth": "deep"}')
    training = run_script(checkout, "train-local.sh", "--host", "--test-dir", test_dir)
    assert training.process.returncode == 2
    shown = "".join(training.stderr)
    assert "==> output/failure:" in shown
    assert "invalid int value: 'deep'" in shown.partition("==> output/failure:")[2]
    assert (test_dir / "output/failure").is_file()


def test_a_training_that_is_stopped_saves_its_checkpoint(checkout: Path, test_dir: Path, tmp_path: Path) -> None:
    saves = "trap 'sleep 0.3; echo saved >\"$SAVE\"; exit 7' TERM; echo running; while :; do sleep 0.05; done"
    command = program(tmp_path, saves)
    variables = [f"--env=ALGORITHM_TRAIN_ENTRYPOINT={command}", f"--env=SAVE={test_dir / 'checkpoints/last'}"]
    training = Script(checkout, "train-local.sh", "--host", "--test-dir", test_dir, *variables)
    training.await_word("running\n")
    assert training.end(signal.SIGINT) == 7, training.said
    assert (test_dir / "checkpoints/last").read_text() == "saved\n"
    training.await_nothing_left()


def test_processing_runs_the_program_over_the_test_dir(checkout: Path, trained: Script) -> None:
    processing = run_script(checkout, "process-local.sh", "--host")
    assert processing.process.returncode == 0, processing.said
    assert processing.stdout == ["File 1 of 1: 3 rows.\n"]
    predictions = (checkout / "local-test/test-dir/processing/output/meadow.csv").read_text()
    assert predictions.count("\n") == 4
    assert "/processing/output/meadow.csv" in "".join(processing.stderr)


def test_processing_passes_its_arguments_on(checkout: Path, test_dir: Path, tmp_path: Path) -> None:
    command = program(tmp_path, 'printf "<%s>" "$@"; echo why >&2; exit 3')
    processing = run_script(
        checkout,
        "process-local.sh",
        *("--host", "--test-dir", test_dir, f"--env=ALGORITHM_ENTRYPOINT={command}"),
        *("--", "--help", "a b", "--", ""),
    )
    assert processing.process.returncode == 3
    assert processing.stdout == ["<--help><a b><--><>"]
    assert "==> output/message: " in processing.said


def test_a_job_that_is_stopped_before_all_instances_ran_has_not_succeeded(
    checkout: Path, test_dir: Path, tmp_path: Path
) -> None:
    command = program(tmp_path, "trap 'exit 0' TERM; echo running; while :; do sleep 0.05; done")
    options = ["--test-dir", test_dir, "--instances", "3", f"--env=ALGORITHM_ENTRYPOINT={command}"]
    job = Script(checkout, "process-local.sh", "--host", *options)
    job.await_word("running\n")
    assert job.end(signal.SIGTERM) == 128 + signal.SIGTERM, job.said
    assert "==> algo-1 ended with exit code 0\n" in job.stderr
    assert "algo-2" not in job.said


@pytest.mark.parametrize("text", ["", "null", "{}"])
def test_a_description_of_the_instances_that_says_nothing_is_as_none(checkout: Path, test_dir: Path, text: str) -> None:
    (test_dir / "config/resourceconfig.json").write_text(text)
    job = run_script(checkout, "process-local.sh", "--host", "--test-dir", test_dir, algorithm("does_nothing"))
    assert job.process.returncode == 0, job.said


@pytest.mark.parametrize(("text", "sentence"), [("{", "is not JSON."), ("[1]", "is not a JSON object.")])
def test_a_description_of_the_instances_that_is_odd_is_named(
    checkout: Path, test_dir: Path, text: str, sentence: str
) -> None:
    described = test_dir / "config/resourceconfig.json"
    described.write_text(text)
    job = run_script(checkout, "process-local.sh", "--host", "--test-dir", test_dir)
    assert job.process.returncode == 1
    assert job.said == f"process-local: {described} {sentence}\n"


def test_a_list_of_tasks_is_spread_over_instances(checkout: Path, trained: Script, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    tasks = checkout / "local-test/tasks.json"
    options = ["--tasks", tasks, "--instances", "2", "--keep", kept]
    processing = run_script(checkout, "process-local.sh", "--host", *options)
    assert processing.process.returncode == 0, processing.said
    for host in ("algo-1", "algo-2"):
        assert f"==> output/message: 0 of 1 tasks failed on {host}\n" in processing.stderr
    files = {path.name for path in (kept / "example").rglob("*.csv")}
    assert files == {"garden.csv", "roof.csv"}
    assert [path.name for path in kept.iterdir()] == ["example"]


def test_a_run_leaves_nothing_that_git_would_add(checkout: Path, trained: Script) -> None:
    assert run_script(checkout, "train-local.sh", "--host").process.returncode == 0
    assert (checkout / "local-test/test-dir/model.before/decision-tree.joblib").is_file()
    run_script(checkout, "process-local.sh", "--host")
    git = ["git", "-C", str(checkout)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    status = [*git, "status", "--porcelain", "--untracked-files=all", "--ignored=no", "local-test/test-dir"]
    seen = subprocess.run(status, stdout=subprocess.PIPE, text=True, check=True).stdout
    shutil.rmtree(checkout / ".git")
    listed = [*["git", "-C", str(PROJECT)], "ls-files", "--cached", "--others", "--exclude-standard"]
    known = subprocess.run([*listed, "local-test/test-dir"], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert {line[3:].strip('"') for line in seen.splitlines()} == set(known.splitlines())


def test_the_samples_image_has_the_packages_of_this_machine() -> None:
    # A model that was trained in one of them is served in the other.
    pinned = (PROJECT / "local-test/sample-algorithm/requirements.txt").read_text().split()
    assert set(pinned) <= set((PROJECT / "local-test/requirements.txt").read_text().split())


@pytest.mark.parametrize("name", JOBS)
def test_a_folder_that_is_no_test_dir_is_not_emptied(checkout: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output/precious").write_text("mine")
    job = run_script(checkout, name, "--host", "--test-dir", tmp_path)
    assert job.process.returncode == 1
    assert "can't be used as /opt/ml" in job.said
    assert (tmp_path / "output/precious").read_text() == "mine"


def test_the_model_of_before_is_kept_until_the_next_training(checkout: Path, test_dir: Path, tmp_path: Path) -> None:
    command = program(tmp_path, "exit 3")
    fails = ["--host", "--test-dir", test_dir, f"--env=ALGORITHM_TRAIN_ENTRYPOINT={command}"]
    for name in ("old", "new"):
        (test_dir / "model/of").mkdir(parents=True)
        (test_dir / "model/of" / name).write_text("mine")
        training = run_script(checkout, "train-local.sh", *fails)
        assert training.process.returncode == 3, training.said
        assert f"==> What was in {test_dir}/model is in {test_dir}/model.before now\n" in training.stderr
        assert list((test_dir / "model").iterdir()) == []
    # A training that failed left no model, and the next takes nothing away.
    run_script(checkout, "train-local.sh", *fails)
    assert [path.name for path in (test_dir / "model.before/of").iterdir()] == ["new"]


def test_nothing_is_emptied_for_a_training_that_does_not_begin(checkout: Path, test_dir: Path) -> None:
    """A bucket whose name S3 refuses ends it while S3 is filled."""
    for name in ("model", "output", "s3/No Bucket"):
        (test_dir / name).mkdir(parents=True)
        (test_dir / name / "precious").write_text("mine")
    training = run_script(checkout, "train-local.sh", "--host", "--test-dir", test_dir, "--s3", test_dir / "s3")
    assert training.process.returncode == 1
    assert "could not be copied to S3" in training.stderr[-1]
    assert "==> Training\n" not in training.said
    for name in ("model", "output"):
        assert (test_dir / name / "precious").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("train-local.sh", "model"),
        ("train-local.sh", "output"),
        ("process-local.sh", "output"),
        ("process-local.sh", "processing/output"),
    ],
)
def test_a_link_in_the_place_of_a_folder_that_is_emptied_is_refused(
    checkout: Path, test_dir: Path, tmp_path: Path, name: str, link: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "precious").write_text("mine")
    (test_dir / link).symlink_to(data)
    job = run_script(checkout, name, "--host", "--test-dir", test_dir)
    assert job.process.returncode == 1
    assert f"{test_dir / link} leads to {data}, which would be emptied" in job.said
    assert (data / "precious").read_text() == "mine"


def test_a_venv_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    checkout = checkout_without_packages(tmp_path)
    (checkout / ".venv").mkdir()
    (checkout / ".venv/pyvenv.cfg").write_text("mine")
    job = run_script(checkout, "train-local.sh", "--host")
    assert job.process.returncode == 1
    assert f"{checkout}/.venv is there already, and is not made by these scripts" in job.said
    assert [path.name for path in (checkout / ".venv").iterdir()] == ["pyvenv.cfg"]


def test_a_venv_that_was_left_half_made_is_made_anew(tmp_path: Path) -> None:
    checkout = checkout_without_packages(tmp_path)
    (checkout / ".venv").mkdir()
    for name in ("lock", "pyvenv.cfg", "rest"):
        (checkout / ".venv" / name).touch()
    # Such a file is an installation without any download.
    (checkout / "nothing.txt").write_text("# no package\n")
    install = 'set -euo pipefail; source "$0/local-test/setup.sh"; find_python; need_packages nothing.txt; is_whole'
    ended = subprocess.run(["bash", "-c", install, checkout], capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert ended.returncode == 0, ended.stderr
    assert not (checkout / ".venv/rest").exists()


def test_a_port_that_is_taken_is_named(checkout: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = run_script(checkout, "serve-local.sh", "--host", "--port", str(port))
    assert server.process.returncode == 1
    assert f"Port {port} can't be used (Address already in use): --port chooses another." in server.said


@pytest.mark.parametrize("port", ["0", "-1", "65536", "http"])
def test_what_is_no_port_is_refused(checkout: Path, port: str) -> None:
    server = run_script(checkout, "serve-local.sh", "--host", "--port", port)
    assert server.process.returncode == 64
    assert f"{port} is no port: it is a number from 1 to 65535" in server.stderr[-1]


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_needs_nothing_installed(tmp_path: Path, name: str) -> None:
    shutil.copytree(PROJECT / "local-test", tmp_path / "local-test")
    script = run_script(tmp_path, name, "--help")
    assert script.process.returncode == 0, script.said
    assert script.stdout[0].startswith(f"usage: {name} ")
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_unknown_option_is_refused_with_the_usage(checkout: Path, name: str) -> None:
    script = run_script(checkout, name, "--hots")
    assert script.process.returncode == 64, script.said
    assert f"usage: {name}" in script.said


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("serve-local.sh", "==> Starting a stand-in"),
        ("serve-local.sh", "==> Starting the model"),
        ("serve-local.sh", "==> Serving"),
        ("train-local.sh", "==> Starting a stand-in"),
        ("train-local.sh", "==> Training"),
        ("process-local.sh", "==> Processing"),
    ],
)
def test_a_signal_at_any_stage_leaves_nothing_behind(
    checkout: Path, test_dir: Path, name: str, word: str, signum: int
) -> None:
    port = ["--port", str(quiet_port())] if name == "serve-local.sh" else []
    script = Script(checkout, name, "--host", "--test-dir", test_dir, *port)
    script.await_word(word)
    code = script.end(signum)
    assert code == 0 if word == "==> Serving" else code in (128 + signum, 128 + signal.SIGTERM), script.said
    script.await_nothing_left()


def test_a_second_signal_does_not_hurry_the_clean_up(checkout: Path, test_dir: Path) -> None:
    script = Script(checkout, "train-local.sh", "--host", "--test-dir", test_dir)
    script.await_word("==> Training")
    for _ in range(3):
        os.killpg(script.process.pid, signal.SIGINT)
        time.sleep(0.01)
    script.end()
    script.await_nothing_left()
