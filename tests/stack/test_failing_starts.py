"""A server that can't start says why in a line, ends with an error at once, and leaves nothing behind."""

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from server import copy_of_the_program, eventually, failed_start, launched, namespace


def test_a_port_that_is_taken_is_named(s3_endpoint: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        code, _, stderr = failed_start(s3_endpoint, SAGEMAKER_BIND_TO_PORT=port)
    assert code == 1
    logs = [json.loads(line)["log"] for line in stderr]
    assert any(f":{port} failed" in line and "Address already in use" in line for line in logs)
    assert logs[-1] == "Stopped: nginx ended with code 1"


def test_every_bad_setting_has_a_line_and_the_exit_code_is_78(s3_endpoint: str) -> None:
    code, stdout, stderr = failed_start(
        s3_endpoint,
        MODEL_SERVER_WORKERS="none",
        MODEL_SERVER_TIMEOUT="-1",
        SAGEMAKER_BIND_TO_PORT="70000",
        MODEL_SERVER_SIGNING_KEY_HEX="not-a-secret-key",
        LOG_LEVEL="loud",
    )
    assert (code, stdout) == (78, [])
    assert sorted(line.partition(":")[0] for line in stderr) == [
        "LOG_LEVEL",
        "MODEL_SERVER_SIGNING_KEY_HEX",
        "MODEL_SERVER_TIMEOUT",
        "MODEL_SERVER_WORKERS",
        "SAGEMAKER_BIND_TO_PORT",
    ]
    assert "not-a-secret-key" not in "".join(stderr)


@pytest.mark.parametrize("name", ["ALGORITHM_ENTRYPOINT", "GRAND_CHALLENGE_COMPONENT_ENTRYPOINT_B64J"])
def test_a_server_without_a_command_ends_with_78(s3_endpoint: str, name: str) -> None:
    settings = {"ALGORITHM_ENTRYPOINT": ""} | ({name: "bnVsbA=="} if name.endswith("B64J") else {})
    code, stdout, stderr = failed_start(s3_endpoint, **settings)
    assert (code, stdout) == (78, [])
    (line,) = stderr
    assert "ALGORITHM_ENTRYPOINT" in line


@pytest.mark.parametrize("name", ["ALGORITHM_INPUT_PATH", "ALGORITHM_OUTPUT_PATH", "MODEL_SERVER_RUN_PATH"])
def test_a_folder_that_can_not_be_written_to_is_named(s3_endpoint: str, name: str) -> None:
    code, stdout, stderr = failed_start(s3_endpoint, **{name: "/proc/1/fdinfo/longshore"})
    assert (code, stdout) == (1, [])
    (line,) = stderr
    assert "/proc/1/fdinfo/longshore" in line


def test_a_run_path_that_is_too_long_for_a_socket_is_named(s3_endpoint: str, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    code, stdout, stderr = failed_start(s3_endpoint, MODEL_SERVER_RUN_PATH=str(long))
    assert (code, stdout) == (1, [])
    (line,) = stderr
    assert "MODEL_SERVER_RUN_PATH" in line
    assert "too long" in line
    assert list(long.iterdir()) == []


def test_a_gunicorn_that_can_not_boot_ends_the_start_with_its_error(s3_endpoint: str, tmp_path: Path) -> None:
    program = copy_of_the_program(tmp_path / "container", wsgi="raise ImportError('no such model')")
    with launched(s3_endpoint, program=program) as server:
        assert server.ended() == 1
        logs = [json.loads(line)["log"] for line in server.lines("stderr")]
        assert any("no such model" in line for line in logs)
        assert logs[-1].startswith("Stopped: gunicorn ended with code ")
        assert not any("nginx" in line for line in logs)


def test_a_missing_nginx_is_named(s3_endpoint: str) -> None:
    nginx = subprocess.run(
        ["/bin/sh", "-c", "PATH=$PATH:/usr/sbin:/usr/local/sbin command -v nginx"], capture_output=True, text=True
    ).stdout.strip()
    words = namespace("-m")
    if words is None:  # `namespace` has seen that it is not permitted
        return
    hide = [*words, "sh", "-c", 'mount --bind /dev/null "$0" && exec "$@"', nginx]
    with launched(s3_endpoint, *hide) as server:
        assert server.ended() == 1
        assert server.lines("stderr") == ["nginx is not installed: install the package nginx-light or nginx"]


def test_without_a_run_path_the_servers_own_folder_is_a_fresh_one_and_removed(s3_endpoint: str) -> None:
    with launched(s3_endpoint, MODEL_SERVER_RUN_PATH="") as server:
        eventually(server.pings, "a 200 on /ping")
        eventually(lambda: len(server.workers) == 2, "all workers")
        folder = Path(os.readlink(f"/proc/{server.nginx.pid}/cwd"))  # nginx's paths are relative to it
        assert folder.name.startswith("longshore-")
        assert not folder.is_relative_to(server.folder / "run")
        assert server.stop() == 0
        assert not folder.exists()
