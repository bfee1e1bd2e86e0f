"""AWS's Signature Version 4 as S3 wants it, for requests of which everything but the body is signed.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html. botocore's own signer makes the same
of a request in twenty times the time, a third of all that a small object takes; a test compares the two.
"""

import hmac
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import quote

UNSIGNED = "UNSIGNED-PAYLOAD"
EMPTY = sha256(b"").hexdigest()
ALGORITHM = "AWS4-HMAC-SHA256"
KEY_SAFE = "/~"
QUERY_SAFE = "-_.~"


class Keys(NamedTuple):
    """What a request is signed with."""

    access_key: str
    secret_key: str
    token: str | None = None


class Signer:
    """Signs requests to one service in one region; the key that it derives for a day is kept."""

    def __init__(self, service: str, region: str, token_header: str = "x-amz-security-token") -> None:  # noqa: S107
        self._service = service
        self._region = region
        self._token_header = token_header
        self._derived: tuple[str, str, hmac.HMAC | None] = ("", "", None)

    def signed(
        self, keys: Keys, method: str, path: str, query: str, headers: Mapping[str, str], payload: str
    ) -> dict[str, str]:
        """Return the headers of a request with those that sign it.

        `path` and `query` are encoded already, the query in order of its names; names of headers are in lower case,
        `host` among them. `payload` is the body's SHA-256 in hexadecimal, or UNSIGNED.
        """
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        headers = {**headers, "x-amz-content-sha256": payload, "x-amz-date": moment}
        if keys.token:
            headers[self._token_header] = keys.token
        names = sorted(headers)
        signed_names = ";".join(names)
        lines = "".join([f"{name}:{' '.join(headers[name].split())}\n" for name in names])
        canonical = f"{method}\n{path}\n{query}\n{lines}\n{signed_names}\n{payload}"
        scope = f"{moment[:8]}/{self._region}/{self._service}/aws4_request"
        text = f"{ALGORITHM}\n{moment}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
        signing = self._keyed(keys.secret_key, moment[:8]).copy()
        signing.update(text.encode())
        signature = signing.hexdigest()
        headers["authorization"] = (
            f"{ALGORITHM} Credential={keys.access_key}/{scope}, SignedHeaders={signed_names}, Signature={signature}"
        )
        return headers

    def _keyed(self, secret: str, day: str) -> hmac.HMAC:
        known_secret, known_day, keyed = self._derived
        if keyed is None or (known_secret, known_day) != (secret, day):
            key = f"AWS4{secret}".encode()
            for part in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            keyed = hmac.new(key, digestmod="sha256")
            self._derived = secret, day, keyed
        return keyed


def encoded_key(key: str) -> str:
    """Return an object's key as it stands in a path."""
    return quote(key, safe=KEY_SAFE)


def encoded_query(parameters: Mapping[str, str]) -> str:
    """Return a query in the order in which it is signed."""
    if not parameters:
        return ""
    pairs = sorted((quote(name, safe=QUERY_SAFE), quote(value, safe=QUERY_SAFE)) for name, value in parameters.items())
    return "&".join([f"{name}={value}" for name, value in pairs])
