"""Our signatures are the ones that botocore makes, which AWS answers for."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from types import SimpleNamespace
from unittest.mock import patch

import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from model_server import s3_signature
from model_server.s3_signature import EMPTY, UNSIGNED, Keys, Signer, encoded_key, encoded_query

ORIGIN = "https://bucket.s3.eu-north-1.amazonaws.com"
HOST = ORIGIN.partition("//")[2]
NOON = datetime(2026, 2, 28, 12, 0, 1, tzinfo=UTC)
KEYS = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
WITH_TOKEN = KEYS._replace(token="IQoJb3JpZ2luX2VjEA==/+token")

AWKWARD = [
    "plain",
    "/leading/slash",
    "a//b",
    "a/./b/../c",
    "..",
    "a+b c%20d%",
    "~tilde-._",
    "scans/ü/画像 1.mha",
    "what?x=1#y",
    "=&;:@,$!*'()[]{}|\\^`<>\"",
    "\t\n\x01",
    "\U0001f9e0",
]


@contextmanager
def clocks_at(moment: datetime) -> Iterator[None]:
    """Let botocore's clock and ours show a moment."""
    clock = SimpleNamespace(strftime=time.strftime, gmtime=lambda: moment.utctimetuple())
    with (
        patch.object(botocore.auth, "get_current_datetime", lambda *_, **__: moment.replace(tzinfo=None)),
        patch.object(s3_signature, "time", clock),
    ):
        yield


def authorization_of_botocore(
    keys: Keys,
    region: str,
    method: str,
    path: str,
    query: str,
    headers: dict[str, str],
    payload: str,
    service: str = "s3",
) -> str:
    class Theirs(S3SigV4Auth):
        def payload(self, request: AWSRequest) -> str:
            return payload

    url = f"https://{headers['host']}{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method, url, headers={name: value for name, value in headers.items() if name != "host"})
    Theirs(Credentials(*keys), service, region).add_auth(request)
    signed: str = request.headers["Authorization"]
    return signed


def authorizations(
    keys: Keys,
    key: str,
    *,
    signer: Signer | None = None,
    region: str = "eu-north-1",
    method: str = "GET",
    query: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    payload: str = EMPTY,
    moment: datetime = NOON,
) -> tuple[str, str]:
    """Return the same request's signature, ours and botocore's."""
    path, asked = f"/{encoded_key(key)}", encoded_query(query or {})
    headers = {"host": HOST, **(headers or {})}
    with clocks_at(moment):
        ours = (signer or Signer("s3", region)).signed(keys, method, path, asked, headers, payload)
        theirs = authorization_of_botocore(keys, region, method, path, asked, headers, payload)
    return ours["authorization"], theirs


def test_the_hash_of_nothing_is_right() -> None:
    assert sha256(b"").hexdigest() == EMPTY


@pytest.mark.parametrize("keys", [KEYS, WITH_TOKEN], ids=["keys", "token"])
@pytest.mark.parametrize("key", AWKWARD)
def test_a_request_is_signed_as_botocore_signs_it(keys: Keys, key: str) -> None:
    ours, theirs = authorizations(keys, key)
    assert ours == theirs


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1"])
@pytest.mark.parametrize("payload", [EMPTY, UNSIGNED])
def test_so_it_is_in_every_region_whatever_the_body(region: str, payload: str) -> None:
    ours, theirs = authorizations(WITH_TOKEN, "key", region=region, payload=payload, method="PUT")
    assert ours == theirs
    assert f"/{region}/s3/aws4_request" in ours


NAMES = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1).map("x-amz-meta-{}".format)
VALUES = st.text(st.characters(exclude_categories=["C"]))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(
    key=TEXT,
    query=st.dictionaries(TEXT, TEXT, max_size=3),
    headers=st.dictionaries(NAMES, VALUES, max_size=3),
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE"]),
    keys=st.sampled_from([KEYS, WITH_TOKEN]),
    moment=st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2099, 1, 1), timezones=st.just(UTC)),
)
def test_whatever_is_asked_is_signed_as_botocore_signs_it(
    key: str, query: dict[str, str], headers: dict[str, str], method: str, keys: Keys, moment: datetime
) -> None:
    ours, theirs = authorizations(keys, key, query=query, headers=headers, method=method, moment=moment)
    assert ours == theirs


def test_values_with_blanks_in_them_are_signed_as_they_arrive() -> None:
    ours, theirs = authorizations(
        KEYS, "key", headers={"x-amz-meta-a": "  two   blanks\tand a tab  ", "range": "bytes=0-"}
    )
    assert ours == theirs


def test_a_signer_goes_on_past_midnight_and_with_other_keys() -> None:
    """The key that it derives for a day is kept, for as long as the day and the secret are the same."""
    signer = Signer("s3", "eu-north-1")
    before, after = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    other = Keys("AKIDOTHER", "other", "token")
    for keys, moment in [(KEYS, before), (KEYS, before), (KEYS, after), (other, after), (KEYS, after), (KEYS, before)]:
        ours, theirs = authorizations(keys, "key", signer=signer, moment=moment)
        assert ours == theirs


def test_what_is_signed_names_its_keys_and_all_of_its_headers() -> None:
    headers = {"host": HOST, "range": "bytes=1-2"}
    signed = Signer("s3", "eu-north-1").signed(WITH_TOKEN, "GET", "/key", "", headers, EMPTY)
    assert signed["x-amz-security-token"] == WITH_TOKEN.token
    assert signed["x-amz-content-sha256"] == EMPTY
    _, scope, names, _ = signed["authorization"].replace(",", "").split()
    assert scope.startswith(f"Credential={KEYS.access_key}/")
    assert names.removeprefix("SignedHeaders=").split(";") == sorted(signed.keys() - {"authorization"})
    assert KEYS.secret_key not in str(signed)
    assert headers == {"host": HOST, "range": "bytes=1-2"}, "what was given is as it was"


def test_the_token_of_a_session_has_a_header_of_its_own() -> None:
    signed = Signer("s3express", "us-west-2", "x-amz-s3session-token").signed(
        WITH_TOKEN, "GET", "/key", "", {"host": HOST}, EMPTY
    )
    assert signed["x-amz-s3session-token"] == WITH_TOKEN.token
    assert "x-amz-security-token" not in signed
    assert "/us-west-2/s3express/aws4_request" in signed["authorization"]


@given(TEXT)
def test_no_key_changes_what_is_asked_for(key: str) -> None:
    """Nothing of it ends the path, nor is it more than a path."""
    encoded = encoded_key(key)
    assert encoded.isascii()
    assert not set(encoded) & set("?#% \r\n") - {"%"}
    assert encoded.count("/") == key.count("/")
