"""Buckets that are elsewhere: in another region, behind an access point, or with sessions of their own."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError
from s3_rig import running_storage
from s3_stand_in import Exchange, StandIn, standing_in

from model_server import s3_client, s3_connection
from model_server.cancellation import Cancellation
from model_server.errors import StorageRefused, StorageUnavailable
from model_server.file_crew import join_in
from model_server.s3_faults import NameRefused, ObjectForbidden
from model_server.storage import Storage

if TYPE_CHECKING:
    from model_server.s3_client import Asked

DATA = b"data"
DEADLINE_SECONDS = 10
THERE = "ap-south-1"
WAITING = 5
EXPRESS = "scans--usw2-az1--x-s3"
ACCESS_POINT = "arn:aws:s3:eu-central-1:123456789012:accesspoint/scans"
MULTI_REGION = "arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap"

pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDROLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-of-the-role")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")


def scope_of(headers: Any) -> list[str]:
    """Return the key, the day, the region and the service that a request is signed with."""
    return str(headers["authorization"]).partition("Credential=")[2].partition(",")[0].split("/")


def regions_of(server: StandIn) -> list[str]:
    return [scope_of(seen.headers)[2] for seen in server.requests]


Refusing = Callable[[Exchange], None]


def by_header(exchange: Exchange) -> None:
    body = b"<Error><Code>PermanentRedirect</Code></Error>"
    exchange.reply(301, body, x_amz_bucket_region=THERE)


def by_document(exchange: Exchange) -> None:
    code = "AuthorizationHeaderMalformed"
    exchange.reply(400, f"<Error><Code>{code}</Code><Region>{THERE}</Region></Error>".encode())


def by_both(exchange: Exchange) -> None:
    body = b"<Error><Code>IllegalLocationConstraintException</Code><Region>nowhere</Region></Error>"
    exchange.reply(400, body, x_amz_bucket_region=THERE)


@pytest.mark.parametrize("refuse", [by_header, by_document, by_both])
def test_a_bucket_of_another_region_is_found_and_remembered(cancellation: Cancellation, refuse: Refusing) -> None:
    def answers(exchange: Exchange) -> None:
        exchange.body()
        if scope_of(exchange.headers)[2] == THERE:
            exchange.reply(200, DATA if exchange.command == "GET" else b"")
        else:
            refuse(exchange)

    with standing_in(answers) as server, running_storage(server.endpoint) as storage:
        for _ in range(2):
            assert storage.get_bytes("bucket", "key", cancellation) == DATA
            storage.put_bytes(b"data", "bucket", "key", {})
    assert regions_of(server) == ["us-east-1", THERE, THERE, THERE, THERE]


def test_a_bucket_that_turned_out_to_be_elsewhere_is_moved_once_for_all_that_was_asked_of_it(
    cancellation: Cancellation, tmp_path: Path
) -> None:
    def answers(exchange: Exchange) -> None:
        if scope_of(exchange.headers)[2] == THERE:
            exchange.reply(200, DATA)
        else:
            by_header(exchange)

    with standing_in(answers) as server, running_storage(server.endpoint) as storage:
        asked = [storage.ask_ahead("bucket", "key", connects=True) for _ in range(3)]
        assert all(asked)
        for one in asked:
            assert storage.get_file("bucket", "key", str(tmp_path / "file"), cancellation, one) == len(DATA)
    assert sorted(regions_of(server)) == sorted(["us-east-1"] * 3 + [THERE] * 3)


@pytest.mark.parametrize("says", [THERE, None, "us-east-1", "not a region/.."])
def test_a_bucket_that_is_in_no_region_ends_in_words(cancellation: Cancellation, says: str | None) -> None:
    def answers(exchange: Exchange) -> None:
        headers = {"x_amz_bucket_region": says} if says else {}
        exchange.reply(301, b"<Error><Code>PermanentRedirect</Code></Error>", **headers)

    with (
        standing_in(answers) as server,
        running_storage(server.endpoint) as storage,
        pytest.raises((StorageRefused, NameRefused)),
    ):
        storage.get_bytes("bucket", "key", cancellation)
    assert len(server.requests) <= 2


def test_a_refusal_for_another_reason_moves_no_bucket(cancellation: Cancellation) -> None:
    def answers(exchange: Exchange) -> None:
        body = f"<Error><Code>AccessDenied</Code><Region>{THERE}</Region></Error>".encode()
        exchange.reply(403, body, x_amz_bucket_region=THERE)

    with standing_in(answers) as server, running_storage(server.endpoint) as storage:
        for _ in range(2):
            with pytest.raises(ObjectForbidden):
                storage.get_bytes("bucket", "key", cancellation)
    assert regions_of(server) == ["us-east-1", "us-east-1"]


@pytest.mark.parametrize(
    "document",
    [b"", b"not XML", b"<Error><Code>AccessDen", b"\xff\xfe\x00", b'<?xml version="1.0" encoding="klingon"?><Error/>'],
)
def test_a_refusal_whose_document_can_not_be_read_is_what_its_status_says(
    cancellation: Cancellation, document: bytes
) -> None:
    with (
        standing_in(lambda exchange: exchange.reply(403, document)) as server,
        running_storage(server.endpoint) as storage,
        pytest.raises(ObjectForbidden),
    ):
        storage.get_bytes("bucket", "key", cancellation)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Callable[[StandIn], None]:
    """Leads all connections to AWS to a server here; what is asked of it stays as it would be."""

    def leading(server: StandIn) -> None:
        address = urlsplit(server.endpoint)

        def connection(host: str, port: int, timeout: float, context: Any) -> HTTPConnection:
            return HTTPConnection(address.hostname or "", address.port, timeout=timeout)

        monkeypatch.setattr(s3_connection, "HTTPSConnection", connection)
        for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)

    return leading


@pytest.fixture
def storage() -> Iterator[Storage]:
    with running_storage(None, region="us-west-2") as storage:
        yield storage


class Express:
    """A bucket of S3 Express: gives keys for a while, and takes no others."""

    def __init__(self) -> None:
        self.sessions = 0
        self.refuses = 0

    def __call__(self, exchange: Exchange) -> None:
        exchange.body()
        key = scope_of(exchange.headers)[0]
        if exchange.path == "/?session=":
            known = key == "AKIDROLE" and exchange.headers["x-amz-security-token"] == "token-of-the-role"
            if not known or "x-amz-s3session-token" in exchange.headers:
                exchange.reply(403, b"<Error><Code>InvalidToken</Code></Error>")
                return
            self.sessions += 1
            given = f"<AccessKeyId>AKID{self.sessions}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
            body = f"<Credentials><SessionToken>session-{self.sessions}</SessionToken>{given}</Credentials>"
            exchange.reply(200, f"<CreateSessionResult>{body}</CreateSessionResult>".encode())
        elif self.refuses:
            self.refuses -= 1
            exchange.reply(400, b"<Error><Code>ExpiredToken</Code></Error>")
        elif (
            key == f"AKID{self.sessions}"
            and exchange.headers["x-amz-s3session-token"] == f"session-{self.sessions}"
            and "x-amz-security-token" not in exchange.headers
        ):
            exchange.reply(200, DATA if exchange.command == "GET" else b"")
        else:
            exchange.reply(403, b"<Error><Code>AccessDenied</Code></Error>")


def test_a_bucket_that_wants_a_session_is_asked_for_one_which_is_kept(
    storage: Storage, aws: Callable[[StandIn], None], cancellation: Cancellation, monkeypatch: pytest.MonkeyPatch
) -> None:
    express, now = Express(), [1000.0]
    monkeypatch.setattr(s3_client, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with standing_in(express) as server:
        aws(server)
        for _ in range(2):
            assert storage.get_bytes(EXPRESS, "key", cancellation) == DATA
            storage.put_bytes(b"data", EXPRESS, "key", {})
        assert express.sessions == 1
        now[0] += s3_client.SESSION_SECONDS
        assert storage.get_bytes(EXPRESS, "key", cancellation) == DATA
        assert express.sessions == 2, "it ends by itself"
        express.refuses = 1
        assert storage.get_bytes(EXPRESS, "key", cancellation) == DATA
        assert express.sessions == 3, "and when S3 says so"
    assert {seen.headers["host"] for seen in server.requests} == {
        f"{EXPRESS}.s3express-usw2-az1.us-west-2.amazonaws.com"
    }
    assert {tuple(scope_of(seen.headers)[2:4]) for seen in server.requests} == {("us-west-2", "s3express")}


def test_all_who_want_a_session_of_a_bucket_get_it(
    storage: Storage,
    aws: Callable[[StandIn], None],
    cancellation: Cancellation,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Also where one of them has its turn while another asks for the session's keys, on a connection that is there."""
    express, now = Express(), [1000.0]
    monkeypatch.setattr(s3_client, "time", SimpleNamespace(monotonic=lambda: now[0]))

    asked: dict[int, Asked | None] = {}

    def ask_ahead(number: int, connects: bool) -> bool:
        asked[number] = storage.ask_ahead(EXPRESS, f"key-{number}", connects)
        return asked[number] is not None

    def get(number: int) -> int:
        path = str(tmp_path / str(number))
        return storage.get_file(EXPRESS, f"key-{number}", path, cancellation, asked.get(number))

    with standing_in(express) as server:
        aws(server)
        for sessions in (1, 2):
            transfers: list[Future[None]] = []
            join_in(storage.pool, storage.transfers, deque(range(20)), get, transfers, ask_ahead)
            for transfer in transfers:
                transfer.result(DEADLINE_SECONDS)
            assert express.sessions == sessions
            now[0] += s3_client.SESSION_SECONDS
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [DATA] * 20


@pytest.mark.parametrize("document", [b"", b"<CreateSessionResult><Credentials>", b"<CreateSessionResult/>"])
def test_a_session_of_which_nothing_is_said_is_asked_for_again(
    storage: Storage, aws: Callable[[StandIn], None], cancellation: Cancellation, document: bytes
) -> None:
    express, left = Express(), [2]

    def answers(exchange: Exchange) -> None:
        if left[0]:
            left[0] -= 1
            exchange.reply(200, document)
        else:
            express(exchange)

    with standing_in(answers) as server:
        aws(server)
        assert storage.get_bytes(EXPRESS, "key", cancellation) == DATA
    assert express.sessions == 1


def test_a_session_that_is_never_given_ends_in_words(
    storage: Storage, aws: Callable[[StandIn], None], cancellation: Cancellation
) -> None:
    with standing_in(lambda exchange: exchange.reply(503)) as server:
        aws(server)
        with pytest.raises(StorageUnavailable):
            storage.get_bytes(EXPRESS, "key", cancellation)
    assert {seen.target for seen in server.requests} == {"/?session="}


def test_a_session_that_fails_is_not_asked_for_by_all_who_wait_for_it(
    storage: Storage, aws: Callable[[StandIn], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after another, each with its patience: nobody would be told for minutes."""
    looks, all_wait = itertools.count(), threading.Event()

    def monotonic() -> float:
        if (look := next(looks)) >= WAITING:  # all have looked at the clock, before they wait
            all_wait.set()
        return look

    def answers(exchange: Exchange) -> None:
        assert all_wait.wait(DEADLINE_SECONDS)
        exchange.reply(503)

    def request() -> None:
        storage.client.request("GetObject", "GET", EXPRESS, "key")

    monkeypatch.setattr(s3_client, "time", SimpleNamespace(monotonic=monotonic))
    with standing_in(answers) as server, ThreadPoolExecutor(WAITING + 1) as pool:
        aws(server)
        requests = [pool.submit(request) for _ in range(WAITING + 1)]
        assert {type(asked.exception(DEADLINE_SECONDS)) for asked in requests} == {ClientError}
        assert len(server.requests) == 1
        with pytest.raises(ClientError):
            request()
        assert len(server.requests) == 2, "who comes later asks again"


def test_a_bucket_may_be_an_access_point(
    storage: Storage, aws: Callable[[StandIn], None], cancellation: Cancellation
) -> None:
    with standing_in(lambda exchange: exchange.reply(200, DATA)) as server:
        aws(server)
        assert storage.get_bytes(ACCESS_POINT, "a key", cancellation) == DATA
    (seen,) = server.requests
    assert seen.target == "/a%20key"
    assert seen.headers["host"] == "scans-123456789012.s3-accesspoint.eu-central-1.amazonaws.com"
    assert scope_of(seen.headers)[2:4] == ["eu-central-1", "s3"]


def test_one_of_several_regions_is_refused_in_words(
    storage: Storage, aws: Callable[[StandIn], None], cancellation: Cancellation
) -> None:
    with standing_in(lambda exchange: exchange.reply(200, DATA)) as server:
        aws(server)
        with pytest.raises(NameRefused):
            storage.get_bytes(MULTI_REGION, "key", cancellation)
        with pytest.raises(NameRefused):
            storage.put_bytes(b"", MULTI_REGION, "key", {})
    assert server.requests == []


def test_keys_that_were_found_anew_open_a_session_anew(
    storage: Storage, aws: Callable[[StandIn], None], cancellation: Cancellation
) -> None:
    express = Express()
    with standing_in(express) as server:
        aws(server)
        assert storage.get_bytes(EXPRESS, "key", cancellation) == DATA
        storage.client.forget_credentials(storage.client.credentials())
        assert storage.get_bytes(EXPRESS, "key", cancellation) == DATA
    assert express.sessions == 2
