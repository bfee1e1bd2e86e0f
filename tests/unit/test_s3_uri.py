"""Addresses of S3 objects, by the drop-in's rule: exactly one slash is between bucket and key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_server.s3_uri import parse_s3_uri


@pytest.mark.parametrize(
    ("uri", "bucket", "key"),
    [
        ("s3://b/k", "b", "k"),
        ("https://b/k", "b", "k"),
        ("s3://b//invocations/x", "b", "/invocations/x"),
        ("s3://b/a//b c+ü", "b", "a//b c+ü"),
        ("s3://b", "b", ""),
        ("s3://b/", "b", ""),
        ("s3://b/a\nb", "b", "a\nb"),
        ("s3://b/k?x#y", "b", "k?x#y"),
    ],
)
def test_a_uri_is_bucket_and_key(uri: str, bucket: str, key: str) -> None:
    assert parse_s3_uri(uri) == (bucket, key)


@pytest.mark.parametrize("uri", ["", "s3://", "s3:///k", "http://b/k", "b/k", "S3://b/k", " s3://b/k", "file:///x"])
def test_what_is_no_uri_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="S3 uri"):
        parse_s3_uri(uri)


@given(st.from_regex(r"[a-z0-9.\-]{3,63}", fullmatch=True), st.text())
def test_any_key_is_found_again(bucket: str, key: str) -> None:
    assert parse_s3_uri(f"s3://{bucket}/{key}") == (bucket, key)
