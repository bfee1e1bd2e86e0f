"""Objects that come in parts, and streams that break off: whole, of one version, and nothing twice that need not be."""

from __future__ import annotations

import base64
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from s3_rig import MIB, large, running_storage

from fake_clock import Clock
from faulty_s3 import Answer, CutBody, Exchange, FaultyS3, Reply, Reset
from model_server import s3_download
from model_server.cancellation import Cancellation
from model_server.errors import ClientLeft, StorageUnavailable
from model_server.s3_faults import ObjectMissing
from model_server.storage import Storage

if TYPE_CHECKING:
    from tests.conftest import Bucket

KEY = "scans/large +ü"
WHOLE, FIRST, SECOND, THIRD = None, "bytes=0-1048575", "bytes=1048576-2097151", "bytes=2097152-2097154"


Getting = Callable[[int], bytes]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is large be less, so that the tests are fast; a server that checks signatures sees the real sizes."""
    monkeypatch.setattr(s3_download, "PART_BYTES", MIB)


@pytest.fixture
def storage(s3: FaultyS3) -> Iterator[Storage]:
    with running_storage(s3.endpoint) as storage:
        yield storage


@pytest.fixture(scope="module")
def data() -> bytes:
    return large(2)


@pytest.fixture
def get(storage: Storage, bucket: Bucket, cancellation: Cancellation, tmp_path: Path) -> Callable[[], bytes]:
    """Gets the object into a file, and returns what is in it."""

    def getting() -> bytes:
        path = tmp_path / "file"
        size = storage.get_file(bucket.name, KEY, str(path), cancellation)
        got = path.read_bytes()
        assert size == len(got)
        return got

    return getting


def ranges(s3: FaultyS3) -> list[str | None]:
    """Return what was asked for, in any order: None is the whole object."""
    return sorted((request.headers.get("Range") for request in s3.requests), key=str)


@pytest.fixture
def get_of_many(storage: Storage, bucket: Bucket, cancellation: Cancellation, tmp_path: Path) -> Getting:
    """Gets the object into a file as one of many, for as many of its parts as the argument says."""

    def getting(parts: int) -> bytes:
        path, left = tmp_path / "file", [True] * parts
        storage.get_file(bucket.name, KEY, str(path), cancellation, None, lambda: bool(left) and left.pop())
        return path.read_bytes()

    return getting


class OfPart:
    """Applies a fault to the first request that has a Range, or to one that has this one."""

    def __init__(self, fault: Any, wanted: str | None = None, times: int = 1) -> None:
        self.fault = fault
        self.wanted = wanted
        self.left = times

    def apply(self, exchange: Exchange) -> None:
        asked = exchange.seen.headers.get("Range")
        if self.left and asked and self.wanted in (None, asked):
            self.left -= 1
            self.fault.apply(exchange)
        else:
            exchange.answer(exchange.ask())


class CutAt:
    """Answers as S3 does, and hangs up after so many bytes of the body."""

    def __init__(self, size: int) -> None:
        self.size = size

    def apply(self, exchange: Exchange) -> None:
        reply = exchange.ask()
        exchange.answer(Reply(reply.status, reply.headers, reply.body[: self.size]), len(reply.body))
        exchange.hang_up()


class Changed:
    """Answers as S3 does, but for headers: None takes one away."""

    def __init__(self, **headers: str | None) -> None:
        self.headers = {name.replace("_", "-").lower(): value for name, value in headers.items()}

    def apply(self, exchange: Exchange) -> None:
        reply = exchange.ask()
        kept = [(name, value) for name, value in reply.headers if name.lower() not in self.headers]
        added = [(name, value) for name, value in self.headers.items() if value is not None]
        exchange.answer(Reply(reply.status, kept + added, reply.body))


class KnowsNoRange:
    """Answers with the whole object, whatever is asked for."""

    def __init__(self, whole: bytes) -> None:
        self.whole = whole

    def apply(self, exchange: Exchange) -> None:
        reply = exchange.ask()
        exchange.answer(Reply(200, reply.headers, self.whole))


def test_a_large_object_comes_in_parts_that_are_of_one_version(
    bucket: Bucket, s3: FaultyS3, get: Callable[[], bytes], data: bytes
) -> None:
    bucket.put(KEY, data)
    assert get() == data
    assert ranges(s3) == sorted([WHOLE, SECOND, THIRD], key=str)
    etag = bucket.client.head_object(Bucket=bucket.name, Key=KEY)["ETag"]
    for request in s3.requests:
        assert request.headers.get("If-Match") == (etag if request.headers.get("Range") else None)


def test_a_large_object_is_read_on_while_it_is_one_of_many(
    bucket: Bucket, s3: FaultyS3, get_of_many: Getting, data: bytes
) -> None:
    bucket.put(KEY, data)
    for _ in range(2):
        assert get_of_many(3) == data
    assert ranges(s3) == [WHOLE, WHOLE]


@pytest.mark.parametrize(("parts", "others"), [(1, [THIRD]), (2, [])])
def test_others_help_with_what_is_left_when_it_is_that_no_more(
    bucket: Bucket, s3: FaultyS3, get_of_many: Getting, data: bytes, parts: int, others: list[str]
) -> None:
    bucket.put(KEY, data)
    assert get_of_many(parts) == data
    assert ranges(s3) == sorted([WHOLE, *others], key=str)


def test_one_of_many_that_broke_off_is_asked_for_again_from_its_last_part_on(
    bucket: Bucket, s3: FaultyS3, get_of_many: Getting, data: bytes, clock: Clock
) -> None:
    bucket.put(KEY, data)
    s3.fault("GET", KEY, CutAt(MIB + MIB // 2))
    assert get_of_many(3) == data
    assert ranges(s3) == sorted([WHOLE, "bytes=1048576-"], key=str)


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB])
def test_an_object_of_one_part_is_one_request(
    bucket: Bucket, s3: FaultyS3, get: Callable[[], bytes], data: bytes, size: int
) -> None:
    bucket.put(KEY, data[:size])
    assert get() == data[:size]
    assert ranges(s3) == [WHOLE]


@pytest.mark.parametrize("fault", [Answer(503, "SlowDown"), CutBody(), Reset()], ids=["refused", "cut off", "reset"])
def test_a_part_that_failed_is_asked_for_again_alone(
    bucket: Bucket, s3: FaultyS3, get: Callable[[], bytes], data: bytes, fault: Any, clock: Clock
) -> None:
    bucket.put(KEY, data)
    s3.fault("GET", KEY, OfPart(fault, SECOND), times=None)
    assert get() == data
    assert ranges(s3) == sorted([WHOLE, SECOND, SECOND, THIRD], key=str)


def test_a_first_part_that_broke_off_is_asked_for_again_alone(
    bucket: Bucket, s3: FaultyS3, get: Callable[[], bytes], data: bytes, clock: Clock
) -> None:
    bucket.put(KEY, data)
    s3.fault("GET", KEY, CutAt(MIB // 2))
    assert get() == data
    assert ranges(s3) == sorted([WHOLE, FIRST, SECOND, THIRD], key=str)


def test_a_part_that_never_comes_ends_in_words(
    bucket: Bucket, s3: FaultyS3, get: Callable[[], bytes], data: bytes, clock: Clock
) -> None:
    bucket.put(KEY, data)
    s3.fault("GET", KEY, OfPart(Answer(503, "SlowDown"), SECOND, times=1000), times=None)
    with pytest.raises(StorageUnavailable):
        get()
    assert ranges(s3).count(WHOLE) == 1, "the minute is over then"


@pytest.mark.parametrize("checks", ["If-Match", "ETag", "Range"])
def test_an_object_that_is_replaced_between_its_parts_comes_anew_as_a_whole(
    bucket: Bucket, s3: FaultyS3, get: Callable[[], bytes], data: bytes, clock: Clock, checks: str
) -> None:
    """Also from a server that ignores If-Match: it says by its ETag, or by 416, that it is another object."""
    old, new = data, data[: MIB // 2] if checks == "Range" else data[::-1]
    bucket.put(KEY, old)

    class ReplacedBefore:
        def apply(self, exchange: Exchange) -> None:
            bucket.put(KEY, new)
            if checks != "If-Match":
                del exchange.seen.headers["If-Match"]  # type: ignore[attr-defined]
            exchange.answer(exchange.ask())

    s3.fault("GET", KEY, OfPart(ReplacedBefore(), times=2 if checks != "If-Match" else 1), times=None)
    assert get() == new
    assert ranges(s3).count(WHOLE) == 2


def test_a_server_that_knows_no_range_is_asked_for_none_from_then_on(
    bucket: Bucket, s3: FaultyS3, get: Callable[[], bytes], data: bytes, clock: Clock
) -> None:
    bucket.put(KEY, data)
    s3.fault("GET", KEY, KnowsNoRange(data), times=None)
    assert get() == data
    before = len(s3.requests)
    assert get() == data
    assert [request.headers.get("Range") for request in s3.requests[before:]] == [WHOLE]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_an_object_without_an_etag_that_could_be_asked_for_comes_as_a_whole(
    bucket: Bucket, s3: FaultyS3, get: Callable[[], bytes], data: bytes, etag: str | None
) -> None:
    bucket.put(KEY, data)
    s3.fault("GET", KEY, Changed(etag=etag), times=None)
    assert get() == data
    assert ranges(s3) == [WHOLE]


def test_an_object_that_is_gone_between_its_parts_is_missing(
    bucket: Bucket, s3: FaultyS3, get: Callable[[], bytes], data: bytes
) -> None:
    bucket.put(KEY, data)
    s3.fault("GET", KEY, OfPart(Answer(404, "NoSuchKey")), times=None)
    with pytest.raises(ObjectMissing):
        get()


def crc32_of(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def sha256_of(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def sha1_of(data: bytes) -> str:
    return base64.b64encode(hashlib.sha1(data).digest()).decode()


CHECKSUMS = {"crc32": crc32_of, "sha256": sha256_of, "sha1": sha1_of}


@pytest.mark.parametrize("size", [0, 1000, 2 * MIB + 3], ids=["empty", "small", "large"])
@pytest.mark.parametrize("kind", CHECKSUMS)
def test_a_stated_checksum_is_compared(
    bucket: Bucket, s3: FaultyS3, get: Callable[[], bytes], data: bytes, clock: Clock, kind: str, size: int
) -> None:
    bucket.put(KEY, data[:size])
    none = dict.fromkeys([f"x_amz_checksum_{other}" for other in CHECKSUMS])
    right = Changed(**none | {f"x_amz_checksum_{kind}": CHECKSUMS[kind](data[:size])})
    wrong = Changed(**none | {f"x_amz_checksum_{kind}": CHECKSUMS[kind](b"something else")})
    s3.fault("GET", KEY, wrong, times=1)
    s3.fault("GET", KEY, right, times=None)
    assert get() == data[:size]
    assert ranges(s3).count(WHOLE) == 2
    assert {request.headers.get("x-amz-checksum-mode") for request in s3.requests} >= {"ENABLED"}


@pytest.mark.parametrize("streamed", [False, True], ids=["file", "stream"])
def test_an_object_whose_checksum_is_never_right_ends_in_words(
    bucket: Bucket,
    s3: FaultyS3,
    storage: Storage,
    get: Callable[[], bytes],
    cancellation: Cancellation,
    clock: Clock,
    streamed: bool,
) -> None:
    bucket.put(KEY, "data")
    s3.fault("GET", KEY, Changed(x_amz_checksum_crc32=crc32_of(b"other")), times=None)
    with pytest.raises(StorageUnavailable):
        storage.get_bytes(bucket.name, KEY, cancellation) if streamed else get()


@pytest.mark.parametrize("value", [f"{crc32_of(b'')}-3", ""])
def test_a_checksum_of_the_checksums_of_parts_is_none_of_the_object(
    bucket: Bucket, s3: FaultyS3, get: Callable[[], bytes], value: str
) -> None:
    bucket.put(KEY, "data")
    s3.fault("GET", KEY, Changed(x_amz_checksum_crc32=value, x_amz_checksum_crc64nvme="AAAAAAAAAAA="), times=None)
    assert get() == b"data"


class Consumer:
    """Reads a stream to its end; notes how often it was called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, stream: io.BufferedReader) -> bytes:
        self.calls += 1
        return stream.read()


@pytest.mark.parametrize("fault", [CutBody(), Reset()], ids=["cut off", "reset"])
def test_a_stream_that_breaks_off_goes_on_where_it_was(
    bucket: Bucket, s3: FaultyS3, storage: Storage, cancellation: Cancellation, clock: Clock, fault: Any
) -> None:
    data = large(5)
    bucket.put(KEY, data)
    s3.fault("GET", KEY, fault, times=3)
    consumer = Consumer()
    assert storage.get_stream(bucket.name, KEY, consumer, cancellation) == data
    assert consumer.calls == 1
    whole, *later = s3.requests
    assert whole.headers.get("Range") is None
    starts = [int(request.headers["Range"].removeprefix("bytes=").removesuffix("-")) for request in later]
    assert len(starts) == 3
    assert starts == sorted(starts)
    etag = bucket.client.head_object(Bucket=bucket.name, Key=KEY)["ETag"]
    assert {request.headers["If-Match"] for request in later} == {etag}


def test_a_stream_whose_object_is_replaced_is_begun_anew(
    bucket: Bucket, s3: FaultyS3, storage: Storage, cancellation: Cancellation
) -> None:
    old, new = large(3), large(2)
    bucket.put(KEY, old)

    class Replaced:
        def apply(self, exchange: Exchange) -> None:
            CutBody().apply(exchange)
            bucket.put(KEY, new)

    s3.fault("GET", KEY, Replaced())
    consumer = Consumer()
    assert storage.get_stream(bucket.name, KEY, consumer, cancellation) == new
    assert consumer.calls == 2
    assert [request.headers.get("Range") is None for request in s3.requests] == [True, False, True]


def test_a_stream_of_a_server_that_knows_no_range_is_begun_anew(
    bucket: Bucket, s3: FaultyS3, storage: Storage, cancellation: Cancellation, clock: Clock
) -> None:
    data = large(3)
    bucket.put(KEY, data)
    s3.fault("GET", KEY, CutBody())
    s3.fault("GET", KEY, KnowsNoRange(data), times=None)
    consumer = Consumer()
    assert storage.get_stream(bucket.name, KEY, consumer, cancellation) == data
    assert consumer.calls == 2
    s3.requests.clear()
    assert storage.get_stream(bucket.name, KEY, consumer, cancellation) == data
    assert ranges(s3) == [WHOLE]


def test_a_stream_without_an_etag_that_breaks_off_is_begun_anew(
    bucket: Bucket, s3: FaultyS3, storage: Storage, cancellation: Cancellation, clock: Clock
) -> None:
    bucket.put(KEY, "data" * 1000)

    class CutWithoutETag:
        def apply(self, exchange: Exchange) -> None:
            reply = exchange.ask()
            kept = [(name, value) for name, value in reply.headers if name.lower() != "etag"]
            exchange.answer(Reply(200, kept, reply.body[:1000]), len(reply.body))
            exchange.hang_up()

    s3.fault("GET", KEY, CutWithoutETag())
    consumer = Consumer()
    assert storage.get_stream(bucket.name, KEY, consumer, cancellation) == b"data" * 1000
    assert consumer.calls == 2
    assert ranges(s3) == [WHOLE, WHOLE]


def test_what_a_consumer_says_of_an_object_counts_once_all_of_it_came(
    bucket: Bucket, s3: FaultyS3, storage: Storage, cancellation: Cancellation
) -> None:
    bucket.put(KEY, large(3))

    def refuse(stream: io.BufferedReader) -> None:
        stream.read(10)
        raise KeyError("not what it should be")

    with pytest.raises(KeyError):
        storage.get_stream(bucket.name, KEY, refuse, cancellation)
    assert ranges(s3) == [WHOLE]


def test_a_cancelled_download_of_parts_ends_with_the_reason(
    bucket: Bucket, s3: FaultyS3, cancellation: Cancellation, get: Callable[[], bytes], data: bytes
) -> None:
    bucket.put(KEY, data)

    class Leaves:
        def apply(self, exchange: Exchange) -> None:
            cancellation.cancel(ClientLeft())
            exchange.answer(exchange.ask())

    s3.fault("GET", KEY, OfPart(Leaves()), times=None)
    with pytest.raises(ClientLeft):
        get()


def test_no_key_reaches_the_log_of_a_download(
    bucket: Bucket,
    s3: FaultyS3,
    get: Callable[[], bytes],
    data: bytes,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    bucket.put(KEY, data)
    s3.fault("GET", KEY, OfPart(Answer(503, "SlowDown"), times=3), times=None)
    assert get() == data
    assert "trying again" in caplog.text
    ours = [record.getMessage() for record in caplog.records if record.name != "werkzeug"]
    assert not [line for line in ours if "scans" in line or bucket.name in line]
