"""Files that go up: each body with its checksum, each part tried again by itself, and only what is whole is stored."""

from __future__ import annotations

import base64
import os
import re
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from s3_rig import MIB, large, running_storage, written

from faulty_s3 import Answer, Exchange, FaultyS3, LostAnswer, Reply, Reset
from model_server import s3_upload, turn
from model_server.errors import StorageRefused, StorageUnavailable
from model_server.s3_faults import ObjectForbidden
from model_server.storage import Storage
from model_server.turn import FairPlaces, Turns

if TYPE_CHECKING:
    from tests.conftest import Bucket

KEY = "/out/task/large +ü"
CHECKSUM = "x-amz-checksum-crc32"
PART = 5 * MIB
"""The least that S3 takes."""

DEADLINE_SECONDS = 10.0

pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is large be less, so that the tests are fast; a server that checks signatures sees the real sizes."""
    monkeypatch.setattr(s3_upload, "PART_BYTES", PART)
    monkeypatch.setattr(s3_upload, "WHOLE_BYTES", PART)


@pytest.fixture
def storage(s3: FaultyS3) -> Iterator[Storage]:
    with running_storage(s3.endpoint) as storage:
        yield storage


def put(storage: Storage, bucket: Bucket, path: Path) -> int:
    with path.open("rb") as file:
        return storage.put_file(file, bucket.name, KEY)


def crc32_of(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def asked(s3: FaultyS3) -> list[str]:
    """Return what was asked for, in order of its kind: the method, and what of an upload in parts it is."""
    return sorted(f"{request.method} {re.sub('&?uploadId=.*', '', request.query)}".strip() for request in s3.requests)


def uploads_left(bucket: Bucket) -> int:
    return len(bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", []))


IN_PARTS = ["POST", "POST uploads=", "PUT partNumber=1", "PUT partNumber=2", "PUT partNumber=3"]


@pytest.mark.parametrize("size", [0, 1, s3_upload.SMALL_BYTES, s3_upload.SMALL_BYTES + 1, PART])
def test_a_file_of_one_part_goes_up_with_its_checksum(
    storage: Storage, bucket: Bucket, s3: FaultyS3, tmp_path: Path, size: int
) -> None:
    data = os.urandom(size)
    assert put(storage, bucket, written(tmp_path / "file", data)) == size
    assert bucket.get(KEY) == data
    (request,) = s3.requests
    assert request.headers[CHECKSUM] == crc32_of(data)
    assert CHECKSUM in request.headers["Authorization"], "it is signed"
    assert request.headers["Content-Length"] == str(size)


class Noted:
    """Notes bodies, which the proxy does not."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def apply(self, exchange: Any) -> None:
        self.bodies.append(exchange._body)
        exchange.answer(exchange.ask())


def test_each_part_goes_up_with_its_checksum_and_the_end_names_them_all(
    storage: Storage, bucket: Bucket, s3: FaultyS3, tmp_path: Path
) -> None:
    data = large(10)
    noted = Noted()
    s3.fault("POST", KEY, noted, times=None)
    assert put(storage, bucket, written(tmp_path / "file", data)) == len(data)
    assert bucket.get(KEY) == data
    assert asked(s3) == IN_PARTS
    sums = {}
    for request in s3.requests:
        if request.method == "PUT":
            sums[int(request.query.partition("partNumber=")[2].partition("&")[0])] = request.headers[CHECKSUM]
    expected = [crc32_of(data[:PART]), crc32_of(data[PART : 2 * PART]), crc32_of(data[2 * PART :])]
    assert [sums[number] for number in (1, 2, 3)] == expected
    end = noted.bodies[-1].decode()
    assert re.findall("<ChecksumCRC32>(.*?)</ChecksumCRC32>", end) == expected
    assert re.findall("<PartNumber>(.*?)</PartNumber>", end) == ["1", "2", "3"]
    begun = next(request for request in s3.requests if request.method == "POST")
    assert begun.headers["x-amz-checksum-algorithm"] == "CRC32"


@pytest.mark.parametrize("fault", [Answer(503, "SlowDown"), Reset(), LostAnswer(), Answer(400, "BadDigest")])
@pytest.mark.parametrize("size", [1000, MIB])
def test_a_body_that_failed_is_sent_again(
    storage: Storage, bucket: Bucket, s3: FaultyS3, tmp_path: Path, size: int, fault: Any
) -> None:
    data = os.urandom(size)
    s3.fault("PUT", KEY, fault)
    put(storage, bucket, written(tmp_path / "file", data))
    assert bucket.get(KEY) == data
    assert asked(s3) == ["PUT", "PUT"]


class OfQuery:
    """Applies a fault to the first so many requests whose query has this."""

    def __init__(self, fault: Any, wanted: str, times: int = 1) -> None:
        self.fault = fault
        self.wanted = wanted
        self.left = times

    def apply(self, exchange: Exchange) -> None:
        if self.left and self.wanted in exchange.seen.query:
            self.left -= 1
            self.fault.apply(exchange)
        else:
            exchange.answer(exchange.ask())


@pytest.mark.parametrize("fault", [Answer(503, "SlowDown"), Reset(), Answer(400, "BadDigest")])
def test_a_part_that_failed_is_sent_again_alone(
    storage: Storage, bucket: Bucket, s3: FaultyS3, tmp_path: Path, fault: Any
) -> None:
    data = large(10)
    s3.fault("PUT", KEY, OfQuery(fault, "partNumber=2"), times=None)
    put(storage, bucket, written(tmp_path / "file", data))
    assert bucket.get(KEY) == data
    assert asked(s3) == sorted([*IN_PARTS, "PUT partNumber=2"])


class SaysHalf:
    """Answers 200 and the beginning of a document."""

    def apply(self, exchange: Exchange) -> None:
        exchange.answer(Reply(200, [], b'<?xml version="1.0" encoding="UTF-8"?>\n   <CompleteMultipart'))


END_FAILS = [Answer(200, "InternalError"), Answer(503, "SlowDown"), SaysHalf(), Answer(500, "InternalError")]


@pytest.mark.parametrize("fault", END_FAILS, ids=["200", "503", "half", "500"])
def test_an_end_that_failed_costs_no_part(
    storage: Storage, bucket: Bucket, s3: FaultyS3, tmp_path: Path, fault: Any
) -> None:
    data = large(10)
    s3.fault("POST", KEY, OfQuery(fault, "uploadId="), times=None)
    put(storage, bucket, written(tmp_path / "file", data))
    assert bucket.get(KEY) == data
    assert asked(s3) == sorted([*IN_PARTS, "POST"])


@pytest.mark.parametrize("fault", [Answer(200, "InternalError"), SaysHalf(), Answer(503, "SlowDown")])
def test_a_beginning_that_failed_is_asked_for_again(
    storage: Storage, bucket: Bucket, s3: FaultyS3, tmp_path: Path, fault: Any
) -> None:
    data = large(10)
    s3.fault("POST", KEY, OfQuery(fault, "uploads"), times=None)
    put(storage, bucket, written(tmp_path / "file", data))
    assert bucket.get(KEY) == data
    assert asked(s3) == sorted([*IN_PARTS, "POST uploads="])


@pytest.mark.parametrize("code", ["NoSuchUpload", "InvalidPart"])
@pytest.mark.parametrize(("method", "query"), [("PUT", "partNumber=2"), ("POST", "uploadId=")], ids=["part", "end"])
def test_an_upload_that_s3_does_not_know_any_more_is_begun_anew(
    storage: Storage, bucket: Bucket, s3: FaultyS3, tmp_path: Path, method: str, query: str, code: str
) -> None:
    data = large(10)
    s3.fault(method, KEY, OfQuery(Answer(404 if code == "NoSuchUpload" else 400, code), query), times=None)
    put(storage, bucket, written(tmp_path / "file", data))
    assert bucket.get(KEY) == data
    assert asked(s3).count("POST uploads=") == 2
    assert uploads_left(bucket) == 0


@pytest.mark.parametrize("abort", [None, Answer(403, "AccessDenied"), Reset()], ids=["granted", "refused", "reset"])
def test_an_upload_that_is_given_up_is_ended_if_we_may(
    storage: Storage, bucket: Bucket, s3: FaultyS3, tmp_path: Path, abort: Any
) -> None:
    s3.fault("PUT", KEY, OfQuery(Answer(403, "AccessDenied"), "partNumber=3"), times=None)
    if abort:
        s3.fault("DELETE", KEY, abort, times=None)
    path = written(tmp_path / "file", large(10))
    with pytest.raises(ObjectForbidden):
        put(storage, bucket, path)
    assert "DELETE" in {request.method for request in s3.requests}
    assert uploads_left(bucket) == (1 if abort else 0)
    assert bucket.keys() == []


def test_a_part_that_never_goes_ends_in_words(storage: Storage, bucket: Bucket, s3: FaultyS3, tmp_path: Path) -> None:
    s3.fault("PUT", KEY, OfQuery(Answer(503, "SlowDown"), "partNumber=1", times=1000), times=None)
    path = written(tmp_path / "file", large(10))
    with pytest.raises(StorageUnavailable):
        put(storage, bucket, path)
    assert asked(s3).count("POST uploads=") == 1, "the minute is over then"
    assert uploads_left(bucket) == 0


class Shrinks:
    """Makes a file shorter before it answers."""

    def __init__(self, path: Path, size: int, fault: Any) -> None:
        self.path = path
        self.size = size
        self.fault = fault

    def apply(self, exchange: Exchange) -> None:
        os.truncate(self.path, self.size)
        self.fault.apply(exchange)


@pytest.mark.parametrize(
    ("size", "request_query"),
    [(1000, ""), (MIB, ""), (2 * PART + 5, "partNumber=2")],
    ids=["small", "middle", "the second of three parts"],
)
def test_a_file_that_shrinks_goes_up_as_it_is_in_the_end(
    storage: Storage, bucket: Bucket, s3: FaultyS3, tmp_path: Path, size: int, request_query: str
) -> None:
    """Where a request that has to be made again can't be, for want of bytes: what is already there stays."""
    path = written(tmp_path / "file", os.urandom(size))
    shrinks = Shrinks(path, size - 900, Answer(503, "SlowDown"))
    s3.fault("PUT", KEY, OfQuery(shrinks, request_query), times=None)
    assert put(storage, bucket, path) == size - 900
    assert bucket.get(KEY) == path.read_bytes()


def test_where_the_kernel_can_not_send_a_file_its_parts_are_read(
    storage: Storage, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each from where it begins: they have one position between them, which four threads would move."""

    def refuse(*_: Any) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", refuse)
    data = large(20)
    put(storage, bucket, written(tmp_path / "file", data))
    assert bucket.get(KEY) == data


def test_no_more_large_files_go_up_at_one_time_than_there_are_places_for(
    storage: Storage, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, counting, sendfile = 3, threading.Lock(), os.sendfile
    turns, all_there = Turns(FairPlaces(places)), threading.Barrier(places)
    calls, at_work, most = 0, 0, 0
    monkeypatch.setattr(turn, "large_turns", lambda: turns)

    def watched(*what: Any) -> int:
        nonlocal calls, at_work, most
        with counting:
            calls, at_work = calls + 1, at_work + 1
            is_first, most = calls <= places, max(most, at_work)
        if is_first:
            all_there.wait(DEADLINE_SECONDS)
        try:
            return sendfile(*what)
        finally:
            with counting:
                at_work -= 1

    monkeypatch.setattr(os, "sendfile", watched)
    path = written(tmp_path / "file", os.urandom(2 * MIB))

    def put_as(number: int) -> int:
        with path.open("rb") as file:
            return storage.put_file(file, bucket.name, f"{KEY}-{number}")

    with ThreadPoolExecutor(4 * places) as pool:
        assert list(pool.map(put_as, range(4 * places))) == [2 * MIB] * 4 * places
    assert (at_work, most) == (0, places)


def test_metadata_and_encryption_are_asked_for(s3: FaultyS3, bucket: Bucket, tmp_path: Path) -> None:
    with running_storage(s3.endpoint) as storage:
        storage.put_bytes(b"{}", bucket.name, KEY, {"Signature_HMAC_SHA256": "0a1b"})
    assert bucket.metadata(KEY) == {"signature_hmac_sha256": "0a1b"}
    assert s3.requests[0].headers["x-amz-meta-signature_hmac_sha256"] == "0a1b"


def test_an_upload_that_is_refused_is_not_tried_again(
    storage: Storage, bucket: Bucket, s3: FaultyS3, tmp_path: Path
) -> None:
    s3.fault("PUT", KEY, Answer(400, "InvalidRequest"), times=None)
    path = written(tmp_path / "file", b"data")
    with pytest.raises(StorageRefused):
        put(storage, bucket, path)
    assert asked(s3) == ["PUT"]
