"""One request to S3 and its answer: signed, sent on a connection that is kept, and a refusal as botocore's own errors.

Nothing is tried again here, but for two things that no caller could know of: a kept connection that the other side had
closed, and a bucket that S3 says is in another region.
"""

import ssl
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse, RemoteDisconnected
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    IncompleteReadError,
    ParamValidationError,
    ReadTimeoutError,
    ResponseStreamingError,
    SSLError,
)

from .s3_connection import Body, Connection, Connections
from .s3_place import Place, Places
from .s3_signature import EMPTY, UNSIGNED, Keys, encoded_key, encoded_query

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from botocore.credentials import Credentials

NOTHING: Mapping[str, str] = MappingProxyType({})
MAX_ERROR_BYTES = 64 * 1024
SESSION_SECONDS = 240
"""How long the keys of a session with a bucket are used; they are good for five minutes."""

REDIRECTS = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
"""What is answered for a bucket that is in another region than where it was asked for, besides redirects."""

LOST = (ConnectionResetError, BrokenPipeError, RemoteDisconnected)


class Answer:
    """What S3 answered to a request that it granted; read it to its end, so that its connection is kept."""

    def __init__(self, response: HTTPResponse, url: str) -> None:
        self._response = response
        self._url = url
        self.status = response.status
        self.size = response.length
        """Bytes of the body, None where the answer does not say."""
        self.received = 0

    def header(self, name: str) -> str | None:
        return self._response.headers.get(name)

    def read_into(self, buffer: "WriteableBuffer") -> int:
        """Fill a buffer as far as there is more, and return by how much: 0 at the end, which is compared."""
        try:
            count = self._response.readinto(buffer)
        except TimeoutError as error:
            raise ReadTimeoutError(endpoint_url=self._url) from error
        except (OSError, HTTPException) as error:
            raise ResponseStreamingError(error=error) from error
        self.received += count
        if not count and self.size is not None and self.received != self.size:
            raise self.cut_off(self.size)
        return count

    def cut_off(self, expected: int) -> IncompleteReadError:
        """Return the error of a body that ends before so many bytes."""
        return IncompleteReadError(actual_bytes=self.received, expected_bytes=expected)

    def read(self, most: int | None = None) -> bytes:
        """Return the body, or the beginning of it."""
        parts, left = [], most
        while left is None or left > 0:
            buffer = bytearray(min(MAX_ERROR_BYTES, left or MAX_ERROR_BYTES))
            count = self.read_into(buffer)
            if not count:
                break
            parts.append(bytes(buffer[:count]))
            left = None if left is None else left - count
        return b"".join(parts)


class S3Client:
    """Makes requests; shared by all threads of a process.

    `endpoint` is a server other than AWS's; `expected_owner` the account that every bucket must belong to.
    """

    def __init__(self, endpoint: str | None, region: str | None, expected_owner: str | None = None) -> None:
        self._places = Places(endpoint, region)
        self._connections = Connections(self._places.certificates)
        self._always = {"x-amz-expected-bucket-owner": expected_owner} if expected_owner else {}
        self._sessions: dict[str, tuple[Keys, float]] = {}  # with the moment until which they are used
        self._making_session = threading.Lock()

    def place_of(self, bucket: str) -> Place:
        """Return where a bucket is; raises what botocore does for a name that can be no bucket's."""
        return self._places.of(bucket)

    @property
    def known_credentials(self) -> "Credentials | None":
        """The credentials in use, None before the first request."""
        return self._places.known_credentials

    def forget_credentials(self, used: "Credentials | None") -> None:
        """Look for credentials anew, unless that has been done since `used` were found."""
        self._places.forget_credentials(used)
        self._sessions.clear()

    def close(self) -> None:
        self._connections.close()

    @contextmanager
    def request(
        self,
        operation: str,
        method: str,
        bucket: str,
        key: str,
        query: Mapping[str, str] = NOTHING,
        headers: Mapping[str, str] = NOTHING,
        body: Body = b"",
    ) -> Iterator[Answer]:
        """Give the block the answer to a request, if it is a good one; `operation` is S3's name for it.

        Raises ClientError for what S3 refuses, and botocore's errors for what is wrong with the way to it, a bucket's
        name or the credentials. Whatever the block leaves of the body is not read: the connection is closed then.
        """
        if not key:
            raise ParamValidationError(report="An object's key can not be empty")
        place = self._places.of(bucket)
        path = f"{place.base}/{encoded_key(key)}"
        answered = self._send(place, bucket, method, path, query, headers, body)
        if answered[1].status >= 300:
            error, region = self._refusal(*answered, operation)
            if not region or region == place.region:
                raise error
            self._places.move(bucket, region)
            place = self._places.of(bucket)
            path = f"{place.base}/{encoded_key(key)}"
            answered = self._send(place, bucket, method, path, query, headers, body)
            if answered[1].status >= 300:
                raise self._refusal(*answered, operation)[0]
        connection, response = answered
        answer = Answer(response, connection.origin)
        try:
            yield answer
        finally:
            self._done(connection, response)

    def _done(self, connection: Connection, response: HTTPResponse) -> None:
        if not response.length:  # None once it is read, 0 where there is no body
            response.close()
        if response.isclosed() and not response.will_close:
            self._connections.give_back(connection)
        else:
            response.close()
            connection.close()

    def _send(
        self,
        place: Place,
        bucket: str,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: Body,
    ) -> tuple[Connection, HTTPResponse]:
        keys = self._session_keys(place, bucket) if place.has_sessions else self._places.keys()
        encoded = encoded_query(query)
        payload = UNSIGNED if body else EMPTY
        unsigned = {"host": place.host, **self._always, **headers}
        signed = place.signer.signed(keys, method, path, encoded, unsigned, payload)
        if body or method != "GET":
            signed["content-length"] = str(len(body))
        return self._exchange(place.origin, method, f"{path}?{encoded}" if encoded else path, signed, body)

    def _exchange(
        self, origin: str, method: str, target: str, headers: Mapping[str, str], body: Body
    ) -> tuple[Connection, HTTPResponse]:
        """Send a request and wait for the head of its answer, on a new connection if a kept one has ended."""
        connection = self._connections.take(origin)
        while True:
            try:
                return connection, _ask(connection, method, target, headers, body)
            except BaseException as error:
                connection.close()
                if not (connection.was_used and isinstance(error, LOST)):
                    raise
            connection = self._connections.take(origin, fresh=True)

    def _refusal(
        self, connection: Connection, response: HTTPResponse, operation: str
    ) -> tuple[ClientError, str | None]:
        """Return the error of an answer that is none, and the region that the bucket is in if S3 says so."""
        answer = Answer(response, connection.origin)
        try:
            body = answer.read(MAX_ERROR_BYTES)
        finally:
            self._done(connection, response)
        said = elements_of(body)
        error = refusal(said, response.status, operation)
        region = answer.header("x-amz-bucket-region") or said.get("Region")
        moved = response.status in (301, 302, 307) or error.response["Error"]["Code"] in REDIRECTS
        return error, region if moved else None

    def _session_keys(self, place: Place, bucket: str) -> Keys:
        """Return the keys of a session with a bucket that wants one (S3 Express), a new one if the last has ended."""
        with self._making_session:
            known, until = self._sessions.get(bucket, (None, 0.0))
            if known and time.monotonic() < until:
                return known
            signed = place.signer.signed(self._places.keys(), "GET", "/", "session=", {"host": place.host}, EMPTY)
            answered = self._exchange(place.origin, "GET", "/?session=", signed, b"")
            if answered[1].status >= 300:
                raise self._refusal(*answered, "CreateSession")[0]
            connection, response = answered
            try:
                said = elements_of(Answer(response, connection.origin).read(MAX_ERROR_BYTES))
            finally:
                self._done(connection, response)
            keys = Keys(said["AccessKeyId"], said["SecretAccessKey"], said["SessionToken"])
            self._sessions[bucket] = keys, time.monotonic() + SESSION_SECONDS
            return keys


def _ask(connection: Connection, method: str, target: str, headers: Mapping[str, str], body: Body) -> HTTPResponse:
    url = connection.origin
    try:
        connection.open()
    except TimeoutError as error:
        raise ConnectTimeoutError(endpoint_url=url) from error
    except ssl.SSLError as error:
        raise SSLError(endpoint_url=url, error=error) from error
    except (OSError, HTTPException) as error:
        raise EndpointConnectionError(endpoint_url=url) from error
    try:
        try:
            connection.send(method, target, headers, body)
        except (BrokenPipeError, ConnectionResetError):
            if not body:
                raise
            # else it may have answered before it had the whole body, and told why
        return connection.answer()
    except TimeoutError as error:
        raise ReadTimeoutError(endpoint_url=url) from error
    except LOST as error:
        if connection.was_used:
            raise
        raise ConnectionClosedError(endpoint_url=url) from error
    except ssl.SSLError as error:
        raise SSLError(endpoint_url=url, error=error) from error
    except (OSError, HTTPException) as error:
        raise ConnectionClosedError(endpoint_url=url) from error


def elements_of(document: bytes) -> dict[str, str]:
    """Return the text of each element of a small XML document, by its name; of none if it is no XML."""
    try:
        return {element.tag.rpartition("}")[2]: element.text or "" for element in ET.fromstring(document).iter()}  # noqa: S314 - S3's own, and small
    except ET.ParseError:
        return {}


def refusal(said: Mapping[str, str], status: int, operation: str) -> ClientError:
    """Return botocore's error for what S3 says of a request that it does not grant."""
    parts: Any = {
        "Error": {"Code": said.get("Code", str(status)), "Message": said.get("Message", "")},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(parts, operation)
