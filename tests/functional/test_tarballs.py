"""The model and the ground truth, fetched from a real S3 server into real folders, whatever the way to it does."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rig import CONTAINER, DEADLINE_SECONDS

from faulty_s3 import HELD_SECONDS, Answer, CutBody, Exchange, FaultyS3, LostAnswer, ShortBody, WrongBody
from model_server.archive_limits import ArchiveLimits
from model_server.cancellation import Cancellation
from model_server.errors import (
    LongshoreError,
    TarballBroken,
    TarballForbidden,
    TarballMissing,
    TarballOverLimit,
    TarballUnavailable,
)
from model_server.settings import Settings
from model_server.storage import Storage
from model_server.tarball import fetch_all, fetch_tarball
from model_server.user import SAME_USER, look_up

if TYPE_CHECKING:
    from faulty_s3 import Fault
    from tests.conftest import Bucket

MEBIBYTE = 1024 * 1024
MODEL, TRUTH = "/auxiliary/model.tar.gz", "/auxiliary/truth.tar"
WEIGHTS = os.urandom(3 * MEBIBYTE)


class Zeros(io.RawIOBase):
    """As many zeros as anyone wants."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        buffer[:] = bytes(len(buffer))
        return len(buffer)


def tarred(mode: str, **files: bytes | int) -> bytes:
    """Return a tarball of files, and of a folder that names them; an integer stands for so many zeros."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            info = tarfile.TarInfo(f"folder/{name}")
            info.size = content if isinstance(content, int) else len(content)
            archive.addfile(info, Zeros() if isinstance(content, int) else io.BytesIO(content))
    return buffer.getvalue()


class Fetching:
    """Fetches both tarballs into folders of a test."""

    def __init__(self, root: Path, bucket: Bucket, endpoint: str, user: str) -> None:
        self.model, self.truth = root / "opt" / "model", root / "opt" / "truth"
        self.settings = Settings.from_env(
            {
                "GRAND_CHALLENGE_COMPONENT_MODEL": f"s3://{bucket.name}/{MODEL}",
                "GRAND_CHALLENGE_COMPONENT_MODEL_DEST": str(self.model),
                "GRAND_CHALLENGE_COMPONENT_GROUND_TRUTH": f"s3://{bucket.name}/{TRUTH}",
                "GRAND_CHALLENGE_COMPONENT_GROUND_TRUTH_DEST": str(self.truth),
                "GRAND_CHALLENGE_COMPONENT_USER": user,
            }
        )
        self.bucket = bucket
        self.storage = Storage(endpoint, 4)
        self.cancellation = Cancellation()

    def __call__(self) -> list[Path]:
        fetched: list[Path] = []
        fetch_all(self.settings, look_up(self.settings.user), self.storage, self.cancellation, fetched)
        return sorted(fetched)

    def check_both(self) -> None:
        assert (self.model / "folder" / "weights").read_bytes() == WEIGHTS
        assert (self.truth / "folder" / "truth").read_bytes() == WEIGHTS
        assert os.listdir(self.model) == os.listdir(self.truth) == ["folder"]


@pytest.fixture
def ids() -> tuple[int, int]:
    """Whom the members are given to: root may give them to anyone, others to themselves only."""
    return (12345, 54321) if os.geteuid() == 0 else (os.geteuid(), os.getegid())


@pytest.fixture
def fetching(tmp_path: Path, bucket: Bucket, s3: FaultyS3, ids: tuple[int, int]) -> Iterator[Fetching]:
    bucket.put(MODEL, tarred("w:gz", weights=WEIGHTS))
    bucket.put(TRUTH, tarred("w", truth=WEIGHTS))
    fetching = Fetching(tmp_path, bucket, s3.endpoint, f"{ids[0]}:{ids[1]}")
    yield fetching
    fetching.storage.client.close()
    fetching.cancellation.close()


def test_both_are_unpacked_and_are_the_users(fetching: Fetching, s3: FaultyS3, ids: tuple[int, int]) -> None:
    assert fetching() == [fetching.model / "folder", fetching.truth / "folder"]
    fetching.check_both()
    for path in (*fetching.model.rglob("*"), *fetching.truth.rglob("*")):
        assert (path.stat().st_uid, path.stat().st_gid) == ids
    for folder in (fetching.model, fetching.truth):
        assert folder.stat().st_uid == os.geteuid()
    assert sorted((request.method, request.key) for request in s3.requests) == [("GET", MODEL), ("GET", TRUTH)]


@pytest.mark.parametrize(
    "fault",
    [CutBody(), ShortBody(), WrongBody(), LostAnswer(), Answer(503, "SlowDown"), Answer(500, "InternalError")],
    ids=lambda fault: type(fault).__name__,
)
@pytest.mark.parametrize("key", [MODEL, TRUTH])
def test_a_fault_on_the_way_passes(fetching: Fetching, s3: FaultyS3, fault: Fault, key: str) -> None:
    s3.fault("GET", key, fault, times=2)
    fetching()
    fetching.check_both()
    assert [request.key for request in s3.requests].count(key) == 3


def test_no_more_is_got_of_a_tarball_that_has_too_much_in_it(fetching: Fetching, s3: FaultyS3) -> None:
    address, limits = fetching.settings.ground_truth, ArchiveLimits(megabytes=1, files=0, ratio=0)
    assert address
    fetching.bucket.put(TRUTH, tarred("w", truth=16 * MEBIBYTE))  # its middle is beyond what is read ahead
    s3.fault("GET", TRUTH, CutBody())
    s3.fault("GET", TRUTH, Answer(403, "AccessDenied"), times=None)  # to whoever goes on where it broke
    with pytest.raises(TarballOverLimit):
        fetch_tarball(
            address, fetching.truth, "ground truth", SAME_USER, limits, fetching.storage, fetching.cancellation, []
        )
    assert [request.key for request in s3.requests] == [TRUTH]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Answer(404, "NoSuchKey"), TarballMissing),
        (Answer(403, "AccessDenied"), TarballForbidden),
        (Answer(403, "SignatureDoesNotMatch"), TarballUnavailable),
        (Answer(503, "SlowDown"), TarballUnavailable),
        (WrongBody(), TarballUnavailable),
        (CutBody(), TarballUnavailable),
    ],
)
@pytest.mark.parametrize(("key", "which"), [(MODEL, "model"), (TRUTH, "ground truth")])
def test_a_fault_that_stays_is_told(
    fetching: Fetching, s3: FaultyS3, fault: Fault, expected: type[LongshoreError], key: str, which: str
) -> None:
    fetching.storage = Storage(s3.endpoint, 4, retry_seconds=0.3)
    s3.fault("GET", key, fault, times=None)
    with pytest.raises(expected, match=f"Could not set up {which}: "):
        fetching()
    other = fetching.truth if key == MODEL else fetching.model
    assert os.listdir(fetching.model if key == MODEL else fetching.truth) == []
    assert os.listdir(other) in ([], ["folder"])  # it may have come before


def test_a_tarball_that_is_broken_in_s3_is_told(fetching: Fetching, bucket: Bucket, s3: FaultyS3) -> None:
    bucket.put(MODEL, tarred("w:gz", weights=WEIGHTS)[:-9])
    with pytest.raises(TarballBroken, match="Could not set up model: Tarfile could not be extracted"):
        fetching()
    assert [request.key for request in s3.requests].count(MODEL) == 1
    assert os.listdir(fetching.model) == []


class Meeting:
    """Holds an answer until another request has come."""

    def __init__(self, requests: int) -> None:
        self._barrier = threading.Barrier(requests)
        self.met: list[bool] = []

    def apply(self, exchange: Exchange) -> None:
        try:
            self._barrier.wait(HELD_SECONDS)
            self.met.append(True)
        except threading.BrokenBarrierError:
            self.met.append(False)
        exchange.answer(exchange.ask())


def test_both_are_fetched_at_the_same_time(fetching: Fetching, s3: FaultyS3) -> None:
    meeting = Meeting(2)
    s3.fault("GET", None, meeting, times=2)
    fetching()
    assert meeting.met == [True, True]
    assert {request.key for request in s3.requests[:2]} == {MODEL, TRUTH}  # and not one of them tried again
    fetching.check_both()


# --- memory

LARGEST_GROWTH = 32 * MEBIBYTE
LARGE = 256 * MEBIBYTE

FETCHES_TWO = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from model_server.archive_limits import ArchiveLimits
from model_server.cancellation import Cancellation
from model_server.errors import TarballBroken
from model_server.peak_memory import high_water_bytes
from model_server.s3_uri import S3Address
from model_server.storage import Storage
from model_server.tarball import fetch_tarball
from model_server.user import SAME_USER

_, _, endpoint, bucket, folder = sys.argv
storage = Storage(endpoint, 4)
for key in ("small", "large"):  # the first one loads whatever is needed
    before = high_water_bytes("self")
    try:
        address, target, limits = S3Address(bucket, key), Path(folder, key), ArchiveLimits(0, 0, 0)
        fetch_tarball(address, target, "model", SAME_USER, limits, storage, Cancellation(), [])
        outcome = "fetched"
    except TarballBroken:
        outcome = "refused"
print(outcome, high_water_bytes("self") - before)
"""


def memory_to_fetch(tmp_path: Path, bucket: Bucket, small: bytes, large: bytes) -> tuple[str, int]:
    """Fetch two tarballs in a process of its own; return how the second one went and what it added to the peak."""
    bucket.put("small", small)
    bucket.put("large", large)
    done = subprocess.run(
        [sys.executable, "-c", FETCHES_TWO, CONTAINER, bucket.endpoint, bucket.name, tmp_path],
        stdout=subprocess.PIPE,
        timeout=4 * DEADLINE_SECONDS,
        check=True,
    )
    outcome, growth = done.stdout.split()
    return outcome.decode(), int(growth)


@pytest.mark.parametrize(("mode", "size"), [("w", LARGE // 2), ("w:gz", LARGE), ("w:bz2", LARGE), ("w:xz", LARGE)])
def test_a_large_tarball_is_not_held_in_memory(tmp_path: Path, bucket: Bucket, mode: str, size: int) -> None:
    outcome, growth = memory_to_fetch(tmp_path, bucket, tarred(mode, small=MEBIBYTE), tarred(mode, large=size))
    assert outcome == "fetched"
    assert (tmp_path / "large" / "folder" / "large").stat().st_size == size
    assert growth < LARGEST_GROWTH


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_that_bursts_is_not_held_in_memory(tmp_path: Path, bucket: Bucket, kind: bytes) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, LARGE
    bomb = gzip.compress(header.tobuf() + bytes(LARGE), compresslevel=1)
    outcome, growth = memory_to_fetch(tmp_path, bucket, tarred("w:gz", small=MEBIBYTE), bomb)
    assert (outcome, list((tmp_path / "large").iterdir())) == ("refused", [])
    assert growth < LARGEST_GROWTH
