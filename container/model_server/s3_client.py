"""One request to S3 and its answer: signed, sent on a connection that is kept, and a refusal as botocore's own errors.

Nothing is tried again here, but for two things that no caller could know of: a kept connection that the other side had
closed, and a bucket that S3 says is in another region.
"""

import ssl
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from http.client import HTTPException
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

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

from .http_answer import BrokenAnswer, HttpAnswer
from .s3_connection import LOST, Body, Connection, Connections
from .s3_place import Place, Places
from .s3_signature import EMPTY, UNSIGNED, Keys, Signer, encoded_key, encoded_query
from .turn import end_turn

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from botocore.credentials import Credentials

NOTHING: Mapping[str, str] = MappingProxyType({})
MAX_ERROR_BYTES = 64 * 1024
FILL_SECONDS = 0.05
"""How long a reader may have to wait until it can look whether its task goes on, if something came."""

PLENTY_SECONDS = 0.5
"""How long much of a large body is waited for, before it counts as one that comes slowly."""

SOON_SECONDS = 0.001
"""What comes within this time is not worth a change of turns."""

SESSION_SECONDS = 240
"""How long the keys of a session with a bucket are used; they are good for five minutes."""

REDIRECTS = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
"""What is answered for a bucket that is in another region than where it was asked for, besides redirects."""


T = TypeVar("T")


class Answer:
    """What S3 answered to a request; closing it keeps its connection if it was read to its end, and ends it if not."""

    def __init__(self, http: HttpAnswer, connection: Connection, connections: Connections) -> None:
        self._http = http
        self._connection = connection
        self._connections = connections
        self._is_open = True
        self.status = http.status
        self.size = http.size
        """Bytes of the body, None where the answer does not say."""
        self.received = 0

    def header(self, name: str) -> str | None:
        """Return a header, whose name is in lower case."""
        return self._http.headers.get(name)

    def read_into(self, buffer: "WriteableBuffer") -> int:
        """Fill a buffer as far as something is there, and return by how much: 0 at the end, which is compared."""
        return self._read(lambda: self._http.read_into(buffer))

    def fill(self, buffer: "WriteableBuffer") -> int:
        """Do the same until it is full, for FILL_SECONDS at most."""
        return self._read(lambda: self._http.fill(buffer, FILL_SECONDS))

    def take(self, buffer: "WriteableBuffer") -> int:
        """Fill a buffer with what is there, and return by how much."""
        return self._read(lambda: self._http.take(buffer))

    def await_plenty(self) -> bool:
        """Wait until there is much to take, or all that is left; return whether that came in PLENTY_SECONDS."""
        return self._told(lambda: self._http.has_plenty(PLENTY_SECONDS))

    def has_plenty(self) -> bool:
        """Say whether there is much to take, or all that is left, at once or nearly so."""
        return self._told(lambda: self._http.has_plenty(SOON_SECONDS))

    def _read(self, read: Callable[[], int]) -> int:
        count = self._told(read)
        self.received += count
        if not count and self.size is not None and self.received != self.size:
            raise self.cut_off(self.size)
        return count

    def _told(self, ask: Callable[[], T]) -> T:
        """Raise what fails as botocore's errors."""
        try:
            return ask()
        except TimeoutError as error:
            raise ReadTimeoutError(endpoint_url=self._connection.origin) from error
        except (OSError, BrokenAnswer) as error:
            raise ResponseStreamingError(error=error) from error

    def cut_off(self, expected: int) -> IncompleteReadError:
        """Return the error of a body that ends before so many bytes."""
        return IncompleteReadError(actual_bytes=self.received, expected_bytes=expected)

    def read(self, most: int | None = None) -> bytes:
        """Return the body, or the beginning of it."""
        body = bytearray()
        buffer = bytearray(MAX_ERROR_BYTES if self.size is None else min(self.size, MAX_ERROR_BYTES))
        while (most is None or len(body) < most) and (count := self.read_into(buffer)):
            body += buffer[:count]
        return bytes(body[:most])

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            if self._http.can_go_on:
                self._connections.give_back(self._connection)
            else:
                self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Request(NamedTuple):
    """A request as it is sent, signed."""

    origin: str
    method: str
    target: str
    headers: Mapping[str, str]
    body: Body

    def send_on(self, connection: Connection) -> None:
        connection.send(self.method, self.target, self.headers, self.body)


class Asked(NamedTuple):
    """A request that was sent ahead, to where the bucket was thought to be, with these credentials or later ones."""

    place: Place
    used: "Credentials"
    request: _Request
    connection: Connection

    def close(self) -> None:
        """Wait for no answer."""
        self.connection.close()


@dataclass
class _Session:
    """A session with a bucket: who makes it, its keys and until when they are used, how it last failed, and when."""

    making: threading.Lock = field(default_factory=threading.Lock)
    keys: Keys | None = None
    good_until: float = 0.0
    fault: Exception | None = None
    failed: float = 0.0


class S3Client:
    """Makes requests; shared by all threads of a process.

    `endpoint` is a server other than AWS's; `expected_owner` the account that every bucket must belong to.
    """

    def __init__(self, endpoint: str | None, region: str | None, expected_owner: str | None = None) -> None:
        self._places = Places(endpoint, region)
        self._connections = Connections(self._places.certificates)
        self._always = {"x-amz-expected-bucket-owner": expected_owner} if expected_owner else {}
        self._sessions: dict[str, _Session] = {}

    def credentials(self) -> "Credentials":
        """Return those in use, which are looked for if there are none; raises botocore's errors."""
        return self._places.credentials()

    def forget_credentials(self, used: "Credentials | None") -> None:
        """Look for credentials anew, unless that has been done since `used` were found."""
        self._places.forget_credentials(used)
        self._sessions.clear()

    def close(self) -> None:
        self._connections.close()

    def request(
        self,
        operation: str,
        method: str,
        bucket: str,
        key: str,
        query: Mapping[str, str] = NOTHING,
        headers: Mapping[str, str] = NOTHING,
        body: Body = b"",
        asked: Asked | None = None,
    ) -> Answer:
        """Return the answer to a request, if it is a good one, to be closed; `operation` is S3's name for it.

        It may have been `asked` ahead. Raises ClientError for what S3 refuses, and botocore's errors for what is wrong
        with the way to it, a bucket's name or the credentials.
        """
        if asked:
            place = asked.place
            answer = self._exchange(asked.request, asked.connection)
        else:
            place = self._places.of(bucket)
            answer = self._exchange(self._signed(place, bucket, method, key, query, headers, body))
        if answer.status >= 300:
            error, region = _refusal(answer, operation)
            if not region or region == place.region:
                raise error
            self._places.move(bucket, region)
            answer = self._exchange(self._signed(self._places.of(bucket), bucket, method, key, query, headers, body))
            if answer.status >= 300:
                raise _refusal(answer, operation)[0]
        return answer

    def ask_ahead(self, bucket: str, key: str, headers: Mapping[str, str], connects: bool) -> Asked | None:
        """Send a GET for which `request` takes the answer later, on an idle connection, or a new one if it `connects`.

        None where there is no such connection, and where something is wrong, which `request` will tell.
        """
        connection: Connection | None = None
        try:
            place, used = self._places.of(bucket), self.credentials()
            connection = self._connections.take_idle(place.origin)
            if connection is None and connects:
                connection = self._connections.take(place.origin, fresh=True)
            if connection is None:
                return None
            request = self._signed(place, bucket, "GET", key, NOTHING, headers, b"")
            _open(connection)
            request.send_on(connection)
        except Exception:  # whatever it is
            if connection:
                connection.close()
            return None
        return Asked(place, used, request, connection)

    def _signed(
        self,
        place: Place,
        bucket: str,
        method: str,
        key: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: Body,
    ) -> _Request:
        if not key:
            raise ParamValidationError(report="An object's key can not be empty")
        keys = self._session_keys(place, place.session_signer, bucket) if place.session_signer else self._places.keys()
        path, encoded = f"{place.base}/{encoded_key(key)}", encoded_query(query)
        unsigned = {"host": place.host, **self._always, **headers}
        signed = place.signer.signed(keys, method, path, encoded, unsigned, UNSIGNED if body else EMPTY)
        if body or method != "GET":
            signed["content-length"] = str(len(body))
        return _Request(place.origin, method, f"{path}?{encoded}" if encoded else path, signed, body)

    def _exchange(self, request: _Request, asked_on: Connection | None = None) -> Answer:
        """Send a request, if that was not done, and wait for the head of its answer.

        It is sent once more, on a new connection, if a kept one has ended.
        """
        connection = asked_on or self._connections.take(request.origin)
        while True:
            try:
                return Answer(_answer(request, connection, bool(asked_on)), connection, self._connections)
            except BaseException as error:
                connection.close()
                if not (connection.was_used and isinstance(error, LOST)):
                    raise
            connection, asked_on = self._connections.take(request.origin, fresh=True), None

    def _session_keys(self, place: Place, signer: Signer, bucket: str) -> Keys:
        """Return the keys of a session with a bucket that wants one (S3 Express), a new one if the last has ended."""
        end_turn()  # or who has the lock could wait for a turn, and who has the turn for the lock
        session, asked = self._sessions.setdefault(bucket, _Session()), time.monotonic()
        with session.making:
            if session.keys and time.monotonic() < session.good_until:
                return session.keys
            if session.fault and asked < session.failed:  # or all that wait for it would fail one after another
                raise copy(session.fault)
            try:
                session.keys = self._session_made(place, signer)
            except Exception as error:
                session.fault, session.failed = copy(error), time.monotonic()
                raise
            session.good_until = time.monotonic() + SESSION_SECONDS
            return session.keys

    def _session_made(self, place: Place, signer: Signer) -> Keys:
        path = place.base or "/"
        signed = signer.signed(self._places.keys(), "GET", path, "session=", {"host": place.host}, EMPTY)
        with self._exchange(_Request(place.origin, "GET", f"{path}?session=", signed, b"")) as answer:
            if answer.status >= 300:
                raise _refusal(answer, "CreateSession")[0]
            said = elements_of(answer.read(MAX_ERROR_BYTES))
        if not said.keys() >= {"AccessKeyId", "SecretAccessKey", "SessionToken"}:
            raise refusal(said, 500, "CreateSession")
        return Keys(said["AccessKeyId"], said["SecretAccessKey"], said["SessionToken"])


def _open(connection: Connection) -> None:
    """Connect, unless that is done; raises botocore's errors."""
    if connection.is_open:
        return
    end_turn()
    url = connection.origin
    try:
        connection.open()
    except TimeoutError as error:
        raise ConnectTimeoutError(endpoint_url=url) from error
    except ssl.SSLError as error:
        raise SSLError(endpoint_url=url, error=error) from error
    except (OSError, HTTPException) as error:
        raise EndpointConnectionError(endpoint_url=url) from error


def _answer(request: _Request, connection: Connection, is_sent: bool) -> HttpAnswer:
    """Return the answer to a request; raises botocore's errors, those of LOST for a kept connection that has ended."""
    url = connection.origin
    if not is_sent:
        _open(connection)
    try:
        if not is_sent:
            request.send_on(connection)
        return connection.answer()
    except TimeoutError as error:
        raise ReadTimeoutError(endpoint_url=url) from error
    except LOST as error:
        if connection.was_used:
            raise
        raise ConnectionClosedError(endpoint_url=url) from error
    except ssl.SSLError as error:
        raise SSLError(endpoint_url=url, error=error) from error
    except (OSError, BrokenAnswer) as error:
        raise ConnectionClosedError(endpoint_url=url) from error


def _refusal(answer: Answer, operation: str) -> tuple[ClientError, str | None]:
    """Return the error of an answer that grants nothing, and the region that the bucket is in if S3 says so."""
    with answer:
        said = elements_of(answer.read(MAX_ERROR_BYTES))
    error = refusal(said, answer.status, operation)
    region = answer.header("x-amz-bucket-region") or said.get("Region")
    moved = answer.status in (301, 302, 307) or error.response["Error"]["Code"] in REDIRECTS
    return error, region if moved else None


def elements_of(document: bytes) -> dict[str, str]:
    """Return the text of each element of a small XML document, by its name; of none if it is no XML."""
    try:
        return {element.tag.rpartition("}")[2]: element.text or "" for element in ET.fromstring(document).iter()}  # noqa: S314 - S3's own, and small
    except (ET.ParseError, LookupError, ValueError):  # the last two of an encoding that nobody knows
        return {}


def refusal(said: Mapping[str, str], status: int, operation: str) -> ClientError:
    """Return botocore's error for what S3 says of a request that it does not grant."""
    parts: Any = {
        "Error": {"Code": said.get("Code", str(status)), "Message": said.get("Message", "")},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(parts, operation)
