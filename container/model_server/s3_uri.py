"""Addresses of S3 objects."""

import re
from typing import NamedTuple

PATTERN = re.compile(r"(https|s3)://(?P<bucket>[^/]+)/?(?P<key>.*)", re.DOTALL)


class S3Address(NamedTuple):
    bucket: str
    key: str


def parse_s3_uri(uri: str) -> S3Address:
    """Return bucket and key of `s3://bucket/key`; exactly one slash is between them, so a key may begin with one.

    Raises ValueError. That `https` means the same is the drop-in's rule.
    """
    found = PATTERN.fullmatch(uri)
    if not found:
        raise ValueError("Not a valid S3 uri, it must be like s3://bucket/key")
    return S3Address(found["bucket"], found["key"])
