"""nginx's configuration: everything filled in, every error in our words."""

import json
import re
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from model_server.errors import (
    BodyTooLarge,
    InternalError,
    LongshoreError,
    MethodNotAllowed,
    RouteMissing,
    StartFailed,
    WorkerLost,
)
from model_server.nginx import PRIVATE_CODES, _render, executable, unsent, upstream_answers
from model_server.refusals import ERRORS
from model_server.run_folder import RunFolder
from model_server.settings import Settings


def rendered(path: Path = Path("/run/longshore"), bodies: Path = Path("/tmp/bodies"), **environ: str) -> str:
    return _render(Settings.from_env(environ), RunFolder(path, bodies, None))


def code_of(text: str) -> str:
    return re.sub(r"#.*", "", text)


def test_no_placeholder_is_left() -> None:
    assert "@" not in code_of(rendered())
    assert code_of(rendered()).count("{") == code_of(rendered()).count("}")


@pytest.mark.parametrize("code", [*ERRORS, *PRIVATE_CODES])
def test_every_error_has_its_page(code: int) -> None:
    status = PRIVATE_CODES.get(code, code)
    (page,) = re.findall(rf"error_page {code} = (\S+);", rendered())
    (words,) = re.findall(rf"location = {page} {{ internal; (.*) }}$", rendered(), re.MULTILINE)
    assert ("add_header Allow $allowed_methods always; " in words) == (code == MethodNotAllowed.http_status)
    (answer,) = re.findall(rf"return {status} '(.*)';$", words)
    assert json.loads(answer) == {"detail": ERRORS[status]["message"], "error": ERRORS[status]}
    assert not re.search(r"[$']|\\[^u]", answer)


@pytest.mark.parametrize("error", [BodyTooLarge, InternalError, MethodNotAllowed, RouteMissing])
def test_an_error_that_is_ours_too_reads_the_same_from_nginx(error: type[LongshoreError]) -> None:
    assert ERRORS[error.http_status] == error().as_json()
    assert error.hint


def test_a_worker_that_is_lost_reads_as_in_its_tasks_result() -> None:
    assert ERRORS[502] == WorkerLost().as_json()


@pytest.mark.parametrize("code", [400, 404, 405, 408, 413, 414, 431, 500, 502, 503, 504])
def test_the_errors_that_nginx_makes_itself_are_listed(code: int) -> None:
    assert code in ERRORS


def test_an_error_page_can_not_be_asked_for() -> None:
    locations = [line for line in rendered().splitlines() if "location = " in line]
    assert len(locations) == len(ERRORS)
    assert all("internal;" in line for line in locations)


def test_paths_with_spaces_are_one_argument() -> None:
    text = rendered(Path("/my run/long shore"), Path("/my tmp/bodies"))
    (bodies,) = re.findall(r"client_body_temp_path (.*?);", text)
    assert bodies == '"/my tmp/bodies"'
    assert "my run" not in text.replace(bodies, "")


@pytest.mark.parametrize("character", ['"', "\\", "\n", "$"])
def test_a_path_that_nginx_would_misread_stops_the_start(character: str) -> None:
    with pytest.raises(StartFailed):
        rendered(bodies=Path(f"/tmp/a{character}b"))


@pytest.mark.parametrize(("payload", "limit"), [("6", "110m"), ("0", "0m")])
def test_the_largest_body_is_the_settings(payload: str, limit: str) -> None:
    assert f"client_max_body_size {limit};" in rendered(MODEL_SERVER_MAX_PAYLOAD_MB=payload)


def test_the_port_is_the_settings() -> None:
    assert re.search(r"listen 9090[ ;]", rendered(SAGEMAKER_BIND_TO_PORT="9090"))


def test_a_request_is_never_cut_or_posted_twice() -> None:
    text = code_of(rendered())
    assert "proxy_next_upstream off;" in text
    assert "proxy_read_timeout 365d;" in text
    assert "server_tokens off;" in text


def test_what_a_client_has_not_taken_yet_is_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            ours, _ = listening.accept()
            with ours:
                assert unsent(port) == {}
                ours.setblocking(False)
                with suppress(BlockingIOError):
                    while True:
                        ours.send(bytes(2**20))
                assert list(unsent(port)) == [f"0100007F:{client.getsockname()[1]:04X}"]
    assert unsent(port) == {}


@pytest.mark.parametrize(
    ("answer", "answers"),
    [("200 OK", True), ("503 Service Unavailable", True), ("500 Internal Server Error", False), (None, False)],
)
def test_gunicorn_answers_when_the_predictor_does(tmp_path: Path, answer: str | None, answers: bool) -> None:
    folder = RunFolder(tmp_path, tmp_path / "bodies", None)
    folder.socket.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder.socket))
        listener.listen()

        def reply() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(f"HTTP/1.1 {answer}\r\n\r\n".encode() if answer else b"")

        thread = threading.Thread(target=reply)
        thread.start()
        assert upstream_answers(folder) is answers
        thread.join()


@pytest.mark.parametrize("folder", ["bin", "sbin"])
def test_the_nginx_beside_our_python_goes_before_the_machines(folder: str, tmp_path: Path) -> None:
    own = tmp_path / folder / "nginx"
    own.parent.mkdir()
    own.touch(mode=0o755)
    assert executable(str(tmp_path)) == str(own)


def test_without_one_beside_our_python_it_is_the_machines(tmp_path: Path) -> None:
    assert Path(executable(str(tmp_path))).name == "nginx"
