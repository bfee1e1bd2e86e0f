"""Objects that are asked for before anyone waits for them: each once, and told of by whoever gets it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rig import wait_until
from s3_rig import DATA, asking, connections_of, gives, running_storage
from s3_stand_in import Exchange

from model_server.cancellation import Cancellation
from model_server.s3_faults import NameRefused
from model_server.storage import Storage

if TYPE_CHECKING:
    from model_server.s3_client import Asked

    Getting = Callable[[Storage, Asked | None], bytes]

pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.fixture
def get(cancellation: Cancellation, tmp_path: Path) -> Getting:
    """Gets an object into a file, which may have been asked for, and returns what is in it."""

    def getting(storage: Storage, asked: Asked | None) -> bytes:
        path = tmp_path / "file"
        storage.get_file("bucket", "key", str(path), cancellation, asked)
        return path.read_bytes()

    return getting


def test_what_was_asked_for_is_not_asked_for_again(get: Getting) -> None:
    with asking(gives) as (storage, server):
        assert get(storage, None) == DATA
        asked = [storage.ask_ahead("bucket", "key", connects=connects) for connects in (False, True)]
        wait_until(lambda: len(server.requests) == 3, "both are asked for")
        assert [get(storage, one) for one in asked] == [DATA, DATA]
        assert get(storage, storage.ask_ahead("bucket", "key", connects=False)) == DATA
        assert get(storage, storage.ask_ahead("bucket", "key", connects=False)) == DATA
    assert sorted(connections_of(server)[:3]) == [1, 1, 2]  # two of them came at the same time
    assert (len(server.requests), server.connections) == (5, 2)


def test_nothing_is_asked_for_where_a_connection_would_have_to_be_made(get: Getting) -> None:
    with asking(gives) as (storage, server):
        assert storage.ask_ahead("bucket", "key", connects=False) is None
        assert get(storage, None) == DATA
    assert connections_of(server) == [1]


def gets_what_was_asked_for(get: Getting, meets: Callable[[Exchange], None]) -> list[int]:
    """Get an object, ask for it again, which meets something else, and return on which connection each request came."""

    def answers(exchange: Exchange) -> None:
        meets(exchange) if len(server.requests) == 2 else gives(exchange)

    with asking(answers) as (storage, server):
        assert get(storage, None) == DATA
        assert get(storage, storage.ask_ahead("bucket", "key", connects=False)) == DATA
    return connections_of(server)


def test_what_was_asked_for_and_got_no_answer_is_asked_for_on_a_new_connection(
    get: Getting, caplog: pytest.LogCaptureFixture
) -> None:
    def closes(exchange: Exchange) -> None:
        exchange.close_connection = True

    assert gets_what_was_asked_for(get, closes) == [1, 1, 2]
    assert not [record for record in caplog.records if record.name.startswith("longshore")]


def test_what_was_asked_for_and_is_refused_for_a_while_is_asked_for_again(get: Getting) -> None:
    def is_busy(exchange: Exchange) -> None:
        exchange.reply(503, b"<Error><Code>SlowDown</Code></Error>")

    assert gets_what_was_asked_for(get, is_busy) == [1, 1, 1]


def test_what_was_asked_for_and_is_not_wanted_any_more_keeps_no_connection(get: Getting) -> None:
    with asking(gives) as (storage, server):
        assert get(storage, None) == DATA
        asked = storage.ask_ahead("bucket", "key", connects=False)
        assert asked
        asked.close()
        assert get(storage, None) == DATA
    assert server.connections == 2


@pytest.mark.parametrize(("bucket", "key"), [("no bucket's name", "key"), ("bucket", "")])
def test_what_can_not_be_asked_for_is_told_by_whoever_gets_it(
    cancellation: Cancellation, tmp_path: Path, bucket: str, key: str
) -> None:
    with asking(gives) as (storage, server):
        assert storage.ask_ahead(bucket, key, connects=True) is None
        with pytest.raises(NameRefused):
            storage.get_file(bucket, key, str(tmp_path / "file"), cancellation)
    assert server.requests == []


def test_where_nobody_answers_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_storage("http://127.0.0.1:1", 1) as storage:
        assert storage.ask_ahead("bucket", "key", connects=True) is None
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with asking(gives) as (storage, server):
        assert storage.ask_ahead("bucket", "key", connects=True) is None
    assert server.requests == []


@pytest.mark.parametrize("was_replaced", [False, True])
def test_of_what_was_asked_for_and_refused_only_the_keys_that_it_was_signed_with_are_forgotten(
    get: Getting, monkeypatch: pytest.MonkeyPatch, was_replaced: bool
) -> None:
    def knows_the_second(exchange: Exchange) -> None:
        if "Credential=AKID/" in exchange.headers["authorization"] and len(server.requests) > 1:
            exchange.reply(400, b"<Error><Code>ExpiredToken</Code></Error>")
        else:
            gives(exchange)

    with asking(knows_the_second) as (storage, server):
        assert get(storage, None) == DATA
        asked = storage.ask_ahead("bucket", "key", connects=False)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "second")
        if was_replaced:
            storage.client.forget_credentials(storage.client.credentials())
            second = storage.client.credentials()
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "third")
        assert get(storage, asked) == DATA
        assert storage.client.credentials().access_key == "second"
        if was_replaced:
            assert storage.client.credentials() is second
