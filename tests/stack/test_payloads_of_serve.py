"""Payloads through nginx and gunicorn: large ones, slow and leaving clients, refusals of what nobody has read."""

import hashlib
import http.client
import json
import os
import select
import signal
import socket
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pytest
from resident_server import serving_resident
from server import WAIT_FOR_GO, Answer, Posted, Process, Server, eventually, serving

from model_server.sending import SENDERS

if TYPE_CHECKING:
    from conftest import Bucket

ALGORITHMS = Path(__file__).parent.parent / "algorithms"
WARNINGS = r"was sent SIGKILL|exited|Worker .* ended|^nginx: .*(closed|reset by peer|too large body)"

MB = 1000 * 1000
HELD_MB = 40
"""How much a process may grow, at most, for a payload of 100 MB."""


def payloads_to(name: str, **more: str) -> dict[str, str]:
    """Return the settings of a server that gives payloads to one of the tiny programs."""
    return {"ALGORITHM_PAYLOADS": "true", "ALGORITHM_ENTRYPOINT": json.dumps([str(ALGORITHMS / name)])} | more


@pytest.fixture(scope="module")
def server(s3_endpoint: str) -> Iterator[Server]:
    """A server whose payloads are shell scripts, which run in the output folder."""
    settings = payloads_to("runs_its_payload", MODEL_SERVER_QUEUE="4", ALGORITHM_GRACE_SECONDS="1")
    with serving(s3_endpoint, warnings=WARNINGS, **settings) as running:
        yield running


@pytest.fixture(autouse=True)
def clear_board(request: pytest.FixtureRequest) -> None:
    if "server" in request.fixturenames:
        request.getfixturevalue("server").clear_board()


def post(server: Server, body: bytes | str, kind: str = "text/plain", **headers: str) -> Posted:
    return server.send(
        "POST", "/invocations", body.encode() if isinstance(body, str) else body, headers | {"Content-Type": kind}
    )


def run(server: Server, body: bytes | str, kind: str = "text/plain", **headers: str) -> Answer:
    return post(server, body, kind, **headers).answer()


def post_blocking(server: Server, name: str, lines: str = "") -> Posted:
    """Send a script that runs until `go` is on the board, and return once it runs."""
    posted = post(server, f'touch "$BOARD/{name}"\n{lines}\n{WAIT_FOR_GO}echo {name} >{name}.txt')
    server.await_sign(name)
    return posted


def padded(lines: str) -> bytes:
    """Return a script that is larger than what sockets buffer."""
    return f"{lines}\nexit 0\n".encode().ljust(20 * MB, b"#")


# -- large ones


def peak_mb(processes: list[Process]) -> list[float]:
    return [int(process.status("VmHWM")[0]) / 1000 for process in processes]


def digest(file: BinaryIO) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "payload"
    with path.open("wb") as file:
        for _ in range(100):
            file.write(os.urandom(MB))
    return path


def exchange(server: Server, path: Path, chunked: bool, copy: Path, **headers: str) -> http.client.HTTPResponse:
    """Send a file as a payload and write the answer to another, neither of them held here either."""
    with (
        closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=90)) as connection,
        path.open("rb") as file,
    ):
        body = iter(lambda: file.read(MB), b"") if chunked else file
        length = {} if chunked else {"Content-Length": str(path.stat().st_size)}
        sent = {"Content-Type": "application/octet-stream"} | length | headers
        connection.request("POST", "/invocations", body, sent, encode_chunked=chunked)
        answer = connection.getresponse()
        with copy.open("wb") as out:
            while chunk := answer.read(MB):
                out.write(chunk)
        return answer


def test_100_mb_come_and_go_and_no_process_holds_them(s3_endpoint: str, large: Path, tmp_path: Path) -> None:
    settings = payloads_to("echoes_input", MODEL_SERVER_WORKERS="1")
    with serving(s3_endpoint, **settings) as server, large.open("rb") as original:
        expected = digest(original)
        for accept in ("*/*", "application/zip"):
            assert run(server, b"small", "application/octet-stream", Accept=accept).status == 200
        processes = [*server.workers, server.nginx, *server.children(server.nginx.pid)]
        before = peak_mb(processes)
        copy = tmp_path / "copy"
        for chunked in (False, True):
            answer = exchange(server, large, chunked, copy)
            assert (answer.status, answer.headers["Content-Type"]) == (200, "application/octet-stream")
            assert answer.headers["Content-Length"] == str(100 * MB)
            with copy.open("rb") as came:
                assert digest(came) == expected
        answer = exchange(server, large, False, copy, Accept="application/zip")
        with zipfile.ZipFile(copy) as archive, archive.open("payload.bin") as member:
            assert digest(member) == expected  # type: ignore[arg-type]
        grown = [after - was for was, after in zip(before, peak_mb(processes), strict=True)]
        assert max(grown) < HELD_MB, grown
        eventually(lambda: not [path for path in server.files() if "bodies" in path and "/0" in path], "no nginx file")


def test_a_body_beyond_110_mib_is_413_in_json(server: Server) -> None:
    head = (
        f"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: text/csv\r\nContent-Length: {110 * 2**20 + 1}\r\n\r\n"
    )
    assert b'"code": "body_too_large"' in server.raw(head.encode())


# -- one at a time


def test_payloads_run_one_after_another_in_clean_folders(server: Server) -> None:
    first = post_blocking(server, "first", "echo half >half.txt")
    second = post(server, padded("ls -A . ../input >seen.txt"))
    server.await_requests(2)
    server.go()
    assert first.answer().headers["Content-Type"] == "application/zip"
    assert second.answer().body == b".:\nseen.txt\n\n../input:\npayload.txt\n"


def test_a_payload_after_one_that_failed_finds_clean_folders(server: Server) -> None:
    failed = run(server, "touch a b; exit 3")
    assert (failed.status, failed.headers["X-Amzn-SageMaker-Custom-Attributes"]) == (422, "return_code=3")
    assert failed.json()["error"]["code"] == "algorithm_failed"
    assert run(server, "ls -A . ../input >seen.txt").body == b".:\nseen.txt\n\n../input:\npayload.txt\n"


def test_tasks_run_as_ever(server: Server, bucket: "Bucket") -> None:
    bucket.put("script", "echo 1 >a.txt")
    task = bucket.task("task", [bucket.item("payload.sh", "script")])
    assert [output["relative_path"] for output in server.run(task).json()["outputs"]] == ["a.txt"]


# -- clients


def test_a_running_payload_ends_with_its_client(server: Server) -> None:
    posted = post_blocking(server, "leaves", "sleep 300 &")
    assert server.algorithm
    posted.leave()
    eventually(lambda: not server.algorithm, "the end of the algorithm's whole group")
    assert run(server, "echo 1 >a.txt").body == b"1\n"


def test_a_waiting_payload_leaves_the_queue_with_its_client_though_nobody_has_read_it(server: Server) -> None:
    first = post_blocking(server, "first")
    leaving = [post(server, padded('touch "$BOARD/ran"')) for _ in range(4)]
    server.await_requests(5)
    for posted in leaving:
        posted.leave()
    server.await_requests(1)
    server.go()
    assert first.answer().body == b"first\n"
    assert run(server, "echo 1 >a.txt").body == b"1\n"
    assert not (server.board / "ran").exists()


class SlowReader:
    """Sends a script and reads no more than the head of the answer, until it is told to read on."""

    def __init__(self, server: Server, lines: str) -> None:
        self._connection = socket.socket()
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._connection.settimeout(60)
        self._connection.connect(("127.0.0.1", server.port))
        head = (
            f"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: {len(lines)}\r\n\r\n"
        )
        self._connection.sendall(head.encode() + lines.encode())
        self._response = http.client.HTTPResponse(self._connection)
        self._response.begin()

    def rest(self) -> bytes:
        return self._response.read()

    def steadily(self) -> int:
        """Read the rest for some seconds, without a pause that would look like one, and return its bytes."""
        size = 0
        while chunk := self._response.read(MB // 4):
            size += len(chunk)
            time.sleep(0.03)
        return size

    def __enter__(self) -> "SlowReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()
        self._connection.close()


def test_a_slow_reader_of_a_large_answer_holds_neither_slot_nor_folder(server: Server) -> None:
    with SlowReader(server, "head -c 100000000 /dev/zero >a.bin") as slow:
        assert run(server, "ls -A >seen.txt").body == b"seen.txt\n"
        eventually(lambda: server.requests_held() == 0, "no request in a worker")
        assert len(slow.rest()) == 100_000_000


def test_slow_readers_hold_no_thread_of_the_server(s3_endpoint: str) -> None:
    settings = payloads_to("runs_its_payload", MODEL_SERVER_WORKERS="1", MODEL_SERVER_QUEUE="0")
    with serving(s3_endpoint, **settings) as server, ExitStack() as readers:
        slow = [readers.enter_context(SlowReader(server, "head -c 12000000 /dev/zero >a.bin")) for _ in range(8)]
        assert server.pings()
        assert run(server, "echo 1 >a.txt").body == b"1\n"
        assert {len(reader.rest()) for reader in slow} == {12_000_000}


def test_a_program_that_empties_tmp_costs_no_large_body_and_no_large_answer(s3_endpoint: str) -> None:
    settings = payloads_to("runs_its_payload", MODEL_SERVER_RUN_PATH="")  # so that nginx's folder is in TMPDIR
    with serving(s3_endpoint, warnings="is made again", **settings) as server:
        with SlowReader(server, 'rm -rf "$TMPDIR"/*; head -c 20000000 /dev/zero >a.bin') as slow:
            assert run(server, b"ls -A >a.txt\nexit 0\n".ljust(3 * MB, b"#")).body == b"a.txt\n"
            assert len(slow.rest()) == 20_000_000
        emptied = 'rm -rf "$TMPDIR"/*; touch "$BOARD/running"'
        running = post(server, f"{emptied}\n{WAIT_FOR_GO}echo running >a.txt")
        server.await_sign("running")
        made_again = "The folder of large bodies was removed and is made again"
        eventually(lambda: server.log_text().count(made_again) == 2, "the folder, while the program runs")
        waiting = post(server, b"echo 1 >a.txt\nexit 0\n".ljust(3 * MB, b"#"))
        server.go()
        assert running.answer().body == b"running\n"
        assert waiting.answer().body == b"1\n"


def test_ping_is_answered_though_more_answers_wait_to_be_taken_than_there_are_threads(s3_endpoint: str) -> None:
    """The test is in nginx's place here, and takes nothing of the answers until it has been answered."""
    settings = payloads_to("runs_its_payload", MODEL_SERVER_WORKERS="1", MODEL_SERVER_QUEUE="1")
    with serving(s3_endpoint, **settings) as server, ExitStack() as connections:

        def asked(request: bytes) -> socket.socket:
            connection = connections.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(30)
            connection.connect(str(server.run_folder / "gunicorn" / "gunicorn.sock"))
            connection.sendall(request)
            return connection

        lines = b"head -c 5000000 /dev/zero >a.bin"
        head = b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 32\r\n\r\n"
        sent = []
        for number in range(12):
            sent.append(asked(head + lines))

            def is_held(number: int = number) -> bool:
                answered = bool(select.select([sent[number]], [], [], 0)[0])
                return answered or server.requests_held() == number + 1 - SENDERS

            eventually(is_held, "an answer that begins, or its place in the queue")
        assert asked(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n").recv(15) == b"HTTP/1.1 200 OK"
        answers = []
        for connection in sent:
            with http.client.HTTPResponse(connection) as answer:
                answer.begin()
                answers.append((answer.status, len(answer.read())))
        assert answers.count((200, 5_000_000)) == SENDERS + 2
        assert {status for status, _ in answers} == {200, 503}


# -- refusals, and ends


def test_a_large_body_that_is_refused_unread_is_answered_in_json(server: Server, s3_endpoint: str) -> None:
    first = post_blocking(server, "first")
    waiting = [post(server, "echo 1 >a.txt") for _ in range(4)]
    server.await_requests(5)
    for _ in range(5):
        refused = run(server, padded(":"))
        assert (refused.status, refused.json()["error"]["code"]) == (503, "queue_full")
        assert refused.headers["Retry-After"]
        form = run(server, padded(":"), "application/x-www-form-urlencoded")
        assert (form.status, form.json()["error"]["code"]) == (415, "form_unsupported")
    server.go()
    assert [posted.answer().status for posted in (first, *waiting)] == [200] * 5
    with serving(s3_endpoint) as without:
        for _ in range(5):
            refused = run(without, padded(":"), "text/csv")
            assert (refused.status, refused.json()["error"]["code"]) == (415, "content_type_unsupported")
            assert "ALGORITHM_PAYLOADS" in refused.json()["error"]["message"]


def test_a_worker_that_is_killed_costs_its_payload_only_and_nothing_is_stored(server: Server, bucket: "Bucket") -> None:
    posted = post_blocking(server, "lost", "trap '' TERM; sleep 300 & sleep 300 &")
    old = {process.pid for process in server.algorithm}
    worker = server.running_worker()
    os.kill(worker.pid, signal.SIGKILL)
    answer = posted.answer()
    assert (answer.status, answer.json()["error"]["code"]) == (502, "worker_lost")
    again = eventually(lambda: found if (found := run(server, "ls -A >seen.txt")).status != 502 else None, "an answer")
    assert (again.status, again.body) == (200, b"seen.txt\n")
    assert not old & {process.pid for process in server.algorithm}
    assert bucket.keys() == []
    eventually(lambda: len(server.workers) == 2 and worker.pid not in {w.pid for w in server.workers}, "a new worker")


def test_a_stop_interrupts_a_payload_and_answers_those_that_wait(s3_endpoint: str) -> None:
    with serving(s3_endpoint, **payloads_to("runs_its_payload", ALGORITHM_GRACE_SECONDS="1")) as server:
        running = post_blocking(server, "running")
        waiting = post(server, padded('touch "$BOARD/ran"'))
        server.await_requests(2)
        os.kill(server.pid, signal.SIGTERM)
        for posted in (running, waiting):
            answer = posted.answer()
            assert (answer.status, answer.json()["error"]["code"]) == (503, "interrupted")
        assert server.ended() == 0
        assert not (server.board / "ran").exists()


@pytest.fixture
def packing(s3_endpoint: str) -> Iterator[tuple[Server, Posted]]:
    """A server that packs, for minutes, the answer to a payload."""
    with serving(s3_endpoint, **payloads_to("runs_its_payload")) as server:
        posted = post(server, "truncate -s 100G a.bin b.bin")

        def packs() -> bool:
            opened = (path for worker in server.workers for path in worker.descriptors())
            return any("/output/" in path and path.endswith(" (deleted)") for path in opened)

        eventually(packs, "a zip that nobody else sees")
        yield server, posted


def test_a_client_that_leaves_while_its_answer_is_packed_frees_the_slot(packing: tuple[Server, Posted]) -> None:
    server, posted = packing
    posted.leave()
    assert run(server, "ls -A >seen.txt").body == b"seen.txt\n"
    eventually(lambda: server.requests_held() == 0, "no request in a worker")


def test_a_stop_while_an_answer_is_packed_interrupts_its_payload(packing: tuple[Server, Posted]) -> None:
    server, posted = packing
    os.kill(server.pid, signal.SIGTERM)
    answer = posted.answer()
    assert (answer.status, answer.json()["error"]["code"]) == (503, "interrupted")
    assert server.ended() == 0


def test_a_stop_lets_a_client_that_reads_steadily_have_the_whole_answer(s3_endpoint: str) -> None:
    with serving(s3_endpoint, **payloads_to("runs_its_payload")) as server:
        with SlowReader(server, "head -c 30000000 /dev/zero >a.bin") as slow:
            os.kill(server.pid, signal.SIGTERM)
            assert slow.steadily() == 30_000_000
        assert server.ended() == 0


def test_a_client_that_reads_no_more_of_its_answer_does_not_hold_up_the_stop(s3_endpoint: str) -> None:
    settings = payloads_to("runs_its_payload")
    with serving(s3_endpoint, **settings) as server, SlowReader(server, "head -c 30000000 /dev/zero >a.bin"):
        assert server.stop() == 0
        assert not any("killing it" in line for line in server.own_lines())


def test_a_resident_program_takes_payloads(bucket: "Bucket") -> None:
    with serving_resident(bucket, name="serves_payloads", ALGORITHM_PAYLOADS="true") as server:
        for number in range(3):
            answer = run(server, f"{number},2\n", "text/csv", Accept="text/csv")
            assert (answer.status, answer.headers["Content-Type"]) == (200, "text/csv")
            assert answer.body == f"{number},2\n".encode()
        packed = run(server, "x", "image/png", Accept="application/zip")
        assert zipfile.ZipFile(BytesIO(packed.body)).namelist() == ["payload.png"]
