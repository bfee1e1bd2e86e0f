"""serve-local.sh without Docker, as a user runs it."""

import json
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from local_scripts import Script, run_script, serving
from quiet_port import quiet_port


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


def test_edited_code_is_served(checkout: Path, tmp_path: Path) -> None:
    edited = tmp_path / "container"
    shutil.copytree(checkout / "container", edited)
    predictor = edited / "predictor.py"
    predictor.write_text(predictor.read_text().replace('"MaxPayloadInMB"', '"EditedMaxPayloadInMB"'))
    with serving(checkout, "--host", "--mount", edited, "--batch") as (_, url):
        command = ["curl", "--silent", "--fail", f"{url}/execution-parameters"]
        answer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    assert answer == {"MaxConcurrentTransforms": 1, "BatchStrategy": "SINGLE_RECORD", "EditedMaxPayloadInMB": 6}


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
