"""Connections to S3: kept and used again, made anew where the other side ended them, over TLS and through proxies."""

from __future__ import annotations

import base64
import io
import os
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from s3_rig import DATA, MIB, asking, connections_of, gives, running_storage
from s3_stand_in import Authority, Exchange, authority, forward, standing_in

from model_server import s3_connection, s3_download, turn
from model_server.cancellation import Cancellation
from model_server.errors import ClientLeft, StorageUnavailable
from model_server.s3_connection import IDLE_SECONDS, Connections
from model_server.s3_faults import ObjectForbidden
from model_server.turn import FairPlaces, Turns, await_readable

DEADLINE_SECONDS = 10

pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture(autouse=True)
def keys_and_no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("tls"), "127.0.0.1", "localhost")


def test_a_connection_is_used_for_one_request_after_the_other(cancellation: Cancellation, tmp_path: Path) -> None:
    with asking(gives) as (storage, server):
        for _ in range(5):
            assert storage.get_bytes("bucket", "key", cancellation) == DATA
            assert storage.get_file("bucket", "key", str(tmp_path / "file"), cancellation) == len(DATA)
            storage.put_bytes(b"", "bucket", "key", {})
            storage.put_bytes(DATA, "bucket", "key", {})
    assert connections_of(server) == [1] * 20


def test_a_connection_on_which_s3_refused_something_is_kept(cancellation: Cancellation) -> None:
    def refuses(exchange: Exchange) -> None:
        exchange.reply(403, b"<Error><Code>AccessDenied</Code></Error>")

    with asking(refuses) as (storage, server):
        for _ in range(3):
            with pytest.raises(ObjectForbidden):
                storage.get_bytes("bucket", "key", cancellation)
    assert connections_of(server) == [1, 1, 1]


def test_a_connection_that_was_idle_for_long_is_not_used_again(
    cancellation: Cancellation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies on the way may have forgotten it, and who asks on it would wait for nothing."""
    now = [1000.0]
    monkeypatch.setattr(s3_connection, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with asking(gives) as (storage, server):
        for pause in (IDLE_SECONDS, IDLE_SECONDS + 1, 0):
            assert storage.get_bytes("bucket", "key", cancellation) == DATA
            now[0] += pause
        assert storage.get_bytes("bucket", "key", cancellation) == DATA
    assert connections_of(server) == [1, 1, 2, 2]


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("when", ["at once", "at the next request"])
def test_a_kept_connection_that_the_server_closes_costs_nothing(
    cancellation: Cancellation,
    known: Authority,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tls: bool,
    when: str,
) -> None:
    """Whether that is seen before the next request or only when that was sent."""

    def closes(exchange: Exchange) -> None:
        exchange.body()
        if when == "at once":
            exchange.reply(200, DATA, ETag='"1"')
            exchange.close_connection = True
        elif hasattr(exchange, "was_asked"):
            exchange.close_connection = True
        else:
            exchange.was_asked = True  # type: ignore[attr-defined]
            exchange.reply(200, DATA, ETag='"1"')

    monkeypatch.setenv("AWS_CA_BUNDLE", str(known.file))
    with standing_in(closes, known.server if tls else None) as server, running_storage(server.endpoint) as storage:
        for _ in range(5):
            assert storage.get_bytes("bucket", "key", cancellation) == DATA
            storage.put_bytes(DATA, "bucket", "key", {})
    assert server.connections == 10
    assert not [record for record in caplog.records if record.name.startswith("longshore")]


def test_a_new_connection_that_the_server_closes_is_a_fault(
    cancellation: Cancellation, caplog: pytest.LogCaptureFixture
) -> None:
    def closes(exchange: Exchange) -> None:
        exchange.close_connection = True

    with asking(closes, retry_seconds=0.0) as (storage, server), pytest.raises(StorageUnavailable):
        storage.get_bytes("bucket", "key", cancellation)
    assert server.connections == 1
    assert "ConnectionClosedError" in caplog.text


@pytest.mark.parametrize("says", ["Connection: close", "HTTP/1.0", "no length"])
def test_a_connection_that_will_be_closed_is_not_kept(cancellation: Cancellation, says: str) -> None:
    def answers(exchange: Exchange) -> None:
        version = "HTTP/1.0" if says == "HTTP/1.0" else "HTTP/1.1"
        close = "Connection: close\r\n" if says == "Connection: close" else ""
        length = f"Content-Length: {len(DATA)}\r\n" if says != "no length" else ""
        exchange.write(f"{version} 200 OK\r\n{close}{length}\r\n".encode() + DATA)
        exchange.close_connection = True

    with asking(answers) as (storage, server):
        for _ in range(3):
            assert storage.get_bytes("bucket", "key", cancellation) == DATA
    assert connections_of(server) == [1, 2, 3]


def chunks(data: bytes, size: int) -> bytes:
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def test_an_answer_in_chunks_comes_whole(cancellation: Cancellation, tmp_path: Path) -> None:
    def answers(exchange: Exchange) -> None:
        exchange.body()
        exchange.reply(200, chunks(DATA, 77) + b"0\r\n\r\n", Transfer_Encoding="chunked")

    with asking(answers) as (storage, server):
        for _ in range(2):
            assert storage.get_bytes("bucket", "key", cancellation) == DATA
            assert storage.get_file("bucket", "key", str(tmp_path / "file"), cancellation) == len(DATA)
            assert (tmp_path / "file").read_bytes() == DATA
            storage.put_bytes(b"more", "bucket", "key", {})
    assert connections_of(server) == [1] * 6


def test_one_that_breaks_off_between_its_chunks_is_asked_for_again(cancellation: Cancellation, tmp_path: Path) -> None:
    asked = []

    def answers(exchange: Exchange) -> None:
        asked.append(1)
        whole = len(asked) > 1
        exchange.reply(200, chunks(DATA, 77) + (b"0\r\n\r\n" if whole else b""), Transfer_Encoding="chunked")
        exchange.close_connection = not whole

    with asking(answers) as (storage, _):
        assert storage.get_file("bucket", "key", str(tmp_path / "file"), cancellation) == len(DATA)
    assert (tmp_path / "file").read_bytes() == DATA
    assert len(asked) == 2


def test_what_is_left_of_an_answer_is_never_the_answer_to_another_request(tmp_path: Path) -> None:
    """Though nothing says how long it is, and it looks like an answer."""
    other = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
    cancellations = [Cancellation(), Cancellation()]

    def answers(exchange: Exchange) -> None:
        if exchange.path.endswith("given-up"):
            cancellations[0].cancel(ClientLeft())
            exchange.reply(200, chunks(b"x" * (2 * MIB), MIB), Transfer_Encoding="chunked")
            exchange.write(other)
        else:
            gives(exchange)

    with asking(answers) as (storage, server):
        with pytest.raises(ClientLeft):
            storage.get_file("bucket", "given-up", str(tmp_path / "file"), cancellations[0])
        assert storage.get_bytes("bucket", "key", cancellations[1]) == DATA
    assert connections_of(server) == [1, 2]
    for cancellation in cancellations:
        cancellation.close()


def test_a_connection_on_which_something_came_that_nobody_asked_for_is_not_used() -> None:
    connections = Connections(None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        origin = f"http://127.0.0.1:{server.getsockname()[1]}"
        first = connections.take(origin)
        first.open()
        accepted, _ = server.accept()
        connections.give_back(first)
        assert connections.take(origin) is first
        connections.give_back(first)
        accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")
        assert connections.take(origin) is not first
        accepted.close()
    assert not first.is_open


def test_an_answer_before_the_whole_body_was_sent_is_read(tmp_path: Path) -> None:
    """Such as a refusal: it is told as what it is, not as a connection that broke."""

    def refuses(exchange: Exchange) -> None:
        exchange.reply(403, b"<Error><Code>AccessDenied</Code></Error>")
        exchange.close_connection = True

    path = tmp_path / "file"
    path.write_bytes(bytes(20 * MIB))
    with asking(refuses) as (storage, server), path.open("rb") as file, pytest.raises(ObjectForbidden):
        storage.put_file(file, "bucket", "key")
    assert len(server.requests) == 1


def test_a_server_may_say_that_it_goes_on(cancellation: Cancellation) -> None:
    def answers(exchange: Exchange) -> None:
        exchange.body()
        exchange.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        exchange.reply(200, DATA)

    with asking(answers) as (storage, _):
        storage.put_bytes(b"data", "bucket", "key", {})
        assert storage.get_bytes("bucket", "key", cancellation) == DATA


def test_connections_that_servers_closed_are_closed_here_whoever_they_led_to() -> None:
    connections = Connections(None)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        first = connections.take(f"http://127.0.0.1:{one.getsockname()[1]}")
        first.open()
        accepted, _ = one.accept()
        connections.give_back(first)
        accepted.close()
        second = connections.take(f"http://127.0.0.1:{other.getsockname()[1]}")
        assert not first.is_open
        second.close()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_server_of_an_authority_that_is_named_is_believed(
    known: Authority, monkeypatch: pytest.MonkeyPatch, cancellation: Cancellation, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(known.file))
    path = tmp_path / "file"
    path.write_bytes(bytes(MIB))
    with standing_in(gives, known.server, name) as server, running_storage(server.endpoint) as storage:
        for _ in range(3):
            assert storage.get_bytes("bucket", "key", cancellation) == DATA
        with path.open("rb") as file:
            assert storage.put_file(file, "bucket", "key") == MIB
    assert connections_of(server) == [1] * 4


@pytest.mark.parametrize("wrong", ["authority", "name", "file", "no file"])
def test_another_server_is_never_told_anything(
    known: Authority,
    monkeypatch: pytest.MonkeyPatch,
    cancellation: Cancellation,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    wrong: str,
) -> None:
    theirs = authority(tmp_path / "theirs", "elsewhere.example.org" if wrong == "name" else "127.0.0.1")
    files = {"authority": known.file, "name": theirs.file, "file": Path(__file__), "no file": tmp_path / "none"}
    monkeypatch.setenv("AWS_CA_BUNDLE", str(files[wrong]))
    with standing_in(gives, theirs.server) as server, running_storage(server.endpoint, 1, 0.0) as storage:
        with pytest.raises(StorageUnavailable):
            storage.get_bytes("bucket", "key", cancellation)
        assert server.requests == []
    assert "SSLError" in caplog.text


USER = "Basic " + base64.b64encode(b"someone:p@ss word").decode()


@pytest.mark.parametrize("user", ["", "someone:p%40ss%20word@"])
def test_a_request_goes_through_the_proxy_that_is_set(
    monkeypatch: pytest.MonkeyPatch, cancellation: Cancellation, user: str
) -> None:
    with standing_in(gives) as server, standing_in(forward) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.endpoint.replace("//", f"//{user}"))
        monkeypatch.setenv("http_proxy", proxy.endpoint.replace("//", f"//{user}"))
        with running_storage(server.endpoint) as storage:
            assert storage.get_bytes("bucket", "a key", cancellation) == DATA
            storage.put_bytes(b"data", "bucket", "a key", {})
    assert [seen.target for seen in proxy.requests] == [f"{server.endpoint}/bucket/a%20key"] * 2
    assert {seen.headers.get("proxy-authorization") for seen in proxy.requests} == {USER if user else None}
    assert {seen.headers["host"] for seen in proxy.requests} == {server.endpoint.partition("//")[2]}
    assert [seen.method for seen in server.requests] == ["GET", "PUT"]


@pytest.mark.parametrize("user", ["", "someone:p%40ss%20word@"])
def test_over_tls_it_goes_through_a_tunnel_that_tells_the_proxy_nothing(
    known: Authority, monkeypatch: pytest.MonkeyPatch, cancellation: Cancellation, user: str
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(known.file))
    with standing_in(gives, known.server) as server, standing_in(forward) as proxy:
        monkeypatch.setenv("https_proxy", proxy.endpoint.replace("//", f"//{user}"))
        with running_storage(server.endpoint) as storage:
            for _ in range(3):
                assert storage.get_bytes("bucket", "key", cancellation) == DATA
    assert [(seen.method, seen.target) for seen in proxy.requests] == [("CONNECT", server.endpoint.partition("//")[2])]
    assert proxy.requests[0].headers.get("proxy-authorization") == (USER if user else None)
    assert connections_of(server) == [1, 1, 1]
    assert not [name for seen in server.requests for name in seen.headers if name.startswith("proxy")]


def test_a_proxy_that_refuses_ends_in_words(
    known: Authority, monkeypatch: pytest.MonkeyPatch, cancellation: Cancellation
) -> None:
    def refuses(exchange: Exchange) -> None:
        exchange.reply(407)
        exchange.close_connection = True

    with standing_in(gives, known.server) as server, standing_in(refuses) as proxy:
        monkeypatch.setenv("https_proxy", proxy.endpoint)
        with running_storage(server.endpoint, 1, 0.0) as storage, pytest.raises(StorageUnavailable):
            storage.get_bytes("bucket", "key", cancellation)
    assert server.requests == []


def test_a_server_that_needs_no_proxy_is_asked_straight(
    monkeypatch: pytest.MonkeyPatch, cancellation: Cancellation
) -> None:
    with standing_in(gives) as server, standing_in(forward) as proxy:
        monkeypatch.setenv("http_proxy", proxy.endpoint)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with running_storage(server.endpoint) as storage:
            assert storage.get_bytes("bucket", "key", cancellation) == DATA
    assert proxy.requests == []


def test_what_tls_has_read_already_is_not_waited_for(known: Authority) -> None:
    """The rest of a record: the connection itself has nothing more to read, so that the wait would end in a fault."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(known.file)
    one, other = socket.socketpair()
    one.settimeout(DEADLINE_SECONDS)

    def answer() -> None:
        with known.server.wrap_socket(other, server_side=True) as theirs:
            theirs.sendall(b"head and body")
            theirs.recv(1)

    thread = threading.Thread(target=answer)
    thread.start()
    with client.wrap_socket(one, server_hostname="localhost") as ours, Turns():
        await_readable(ours)
        assert ours.recv(5) == b"head "
        await_readable(ours)
        assert ours.recv(20) == b"and body"
        ours.sendall(b".")
        thread.join(DEADLINE_SECONDS)


@pytest.fixture
def one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one thread at a time copy what is large."""
    turns = Turns(FairPlaces(1))
    monkeypatch.setattr(turn, "large_turns", lambda: turns)
    monkeypatch.setattr(s3_download, "large_turns", lambda: turns)


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("first", [1, 100_000, 500_000])
def test_a_large_body_that_stops_coming_keeps_no_other_waiting(
    cancellation: Cancellation,
    known: Authority,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    one_place: None,
    tls: bool,
    first: int,
) -> None:
    large = bytes(3 * MIB)
    other_has_come, stopped = threading.Event(), threading.Event()

    def answers(exchange: Exchange) -> None:
        if exchange.path.endswith("stops"):
            exchange.reply(200, large[:first], Content_Length=str(len(large)), ETag='"1"')
            stopped.set()
            assert other_has_come.wait(DEADLINE_SECONDS)
            exchange.write(large[first:])
        else:
            assert stopped.wait(DEADLINE_SECONDS)
            exchange.reply(200, large, ETag='"1"')

    def get(key: str) -> int:
        return storage.get_file("bucket", key, str(tmp_path / key), cancellation)

    monkeypatch.setenv("AWS_CA_BUNDLE", str(known.file))
    with (
        standing_in(answers, known.server if tls else None) as server,
        running_storage(server.endpoint) as storage,
        ThreadPoolExecutor(1) as pool,
    ):
        slow = pool.submit(get, "stops")
        assert get("other") == len(large)
        assert not slow.done()
        other_has_come.set()
        assert slow.result(DEADLINE_SECONDS) == len(large)
    assert len(server.requests) == 2


def test_a_body_that_stops_between_its_chunks_keeps_no_other_waiting(
    cancellation: Cancellation, tmp_path: Path, one_place: None
) -> None:
    large = bytes(3 * MIB)
    chunk = b"%x\r\n%b\r\n" % (len(large), large)
    other_has_come, stopped = threading.Event(), threading.Event()

    def answers(exchange: Exchange) -> None:
        if exchange.path.endswith("stops"):
            exchange.reply(200, chunk, Transfer_Encoding="chunked")
            stopped.set()
            assert other_has_come.wait(DEADLINE_SECONDS)
            exchange.write(b"0\r\n\r\n")
        else:
            assert stopped.wait(DEADLINE_SECONDS)
            exchange.reply(200, large, ETag='"1"')

    def get(key: str) -> int:
        return storage.get_file("bucket", key, str(tmp_path / key), cancellation)

    with asking(answers) as (storage, _), ThreadPoolExecutor(1) as pool:
        slow = pool.submit(get, "stops")
        assert get("other") == len(large)
        assert not slow.done()
        other_has_come.set()
        assert slow.result(DEADLINE_SECONDS) == len(large)


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_large_body_that_is_not_read_keeps_no_other_waiting(
    known: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, one_place: None, tls: bool
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(48 * MIB))
    other_has_come, stopped = threading.Event(), threading.Event()

    def answers(exchange: Exchange) -> None:
        if exchange.path.endswith("stops"):
            exchange.rfile.read(5 * MIB)
            stopped.set()
            assert other_has_come.wait(DEADLINE_SECONDS)
            exchange.rfile.read(43 * MIB)
        else:
            assert stopped.wait(DEADLINE_SECONDS)
            exchange.body()
        exchange.reply(200, ETag='"1"')

    def put(key: str) -> int:
        with path.open("rb") as file:
            return storage.put_file(file, "bucket", key)

    monkeypatch.setenv("AWS_CA_BUNDLE", str(known.file))
    with (
        standing_in(answers, known.server if tls else None) as server,
        running_storage(server.endpoint) as storage,
        ThreadPoolExecutor(1) as pool,
    ):
        slow = pool.submit(put, "stops")
        assert put("other") == 48 * MIB
        assert not slow.done()
        other_has_come.set()
        assert slow.result(DEADLINE_SECONDS) == 48 * MIB
    assert len(server.requests) == 2


def test_a_range_that_ends_too_early_is_not_the_end_of_a_stream(cancellation: Cancellation) -> None:
    """As a cache on the way may answer, of an object whose connection broke."""
    data = os.urandom(100_000)

    def answers(exchange: Exchange) -> None:
        asked = exchange.headers["range"]
        if not asked:
            exchange.reply(200, data[:50_000], Content_Length=str(len(data)), ETag='"1"')
            exchange.close_connection = True
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        end = 60_000 if start < 60_000 else len(data)
        exchange.reply(206, data[start:end], Content_Range=f"bytes {start}-{end - 1}/{len(data)}", ETag='"1"')

    with asking(answers) as (storage, server):
        assert storage.get_stream("bucket", "key", io.BufferedReader.read, cancellation) == data
    assert [seen.headers.get("range") for seen in server.requests] == [None, "bytes=50000-", "bytes=60000-"]
