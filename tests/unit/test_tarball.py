"""Tarballs from S3 into the folders of the model and the ground truth."""

import bz2
import errno
import gzip
import io
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, FlexibleChecksumError, ReadTimeoutError, ResponseStreamingError

from model_server import retrying, tarball, untar
from model_server.archive_limits import ArchiveLimits
from model_server.cancellation import Cancellation
from model_server.errors import (
    ClientLeft,
    LongshoreError,
    TarballBroken,
    TarballForbidden,
    TarballMissing,
    TarballOverLimit,
    TarballTooLarge,
    TarballUnavailable,
)
from model_server.s3_uri import S3Address
from model_server.settings import Settings
from model_server.storage import Storage
from model_server.user import SAME_USER, User

from .tarballs import MTIME, NO_LIMITS, Owned, file, folder, link, tarred, tree
from .waiting import DEADLINE_SECONDS, open_descriptors


class Body:
    """Stands in for an answer of S3's: bytes, or an object that is read, or an error after it."""

    status = 200

    def __init__(self, data: Any) -> None:
        self.size = len(data) if isinstance(data, bytes) else None
        self._data = io.BytesIO(data) if isinstance(data, bytes) else data

    def header(self, name: str) -> None:
        """State nothing: what has no ETag is fetched anew from its beginning."""

    def read_into(self, buffer: Any) -> int:
        data = self._data.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Be as an answer that is let go."""


class Objects:
    """Stands in for the S3 client: each key has the answers to one request after another, bodies or errors."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}

    def request(self, operation: str, method: str, bucket: str, key: str, **_: Any) -> Body:
        answer = self.answers[key].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Body(answer)

    def credentials(self) -> None:
        """Have none."""

    def forget_credentials(self, used: None) -> None:
        """Be as a client that finds others."""


@pytest.fixture
def objects() -> Objects:
    return Objects()


@pytest.fixture
def store(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(retrying, "FIRST_PAUSE_SECONDS", 0.001)
    made = Storage(None, 1)
    made.__dict__["client"] = objects
    return made


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    cancellation = Cancellation()
    yield cancellation
    cancellation.close()


def fetch_tarball(
    address: S3Address, folder: Path, which: str, user: User, store: Storage, cancellation: Cancellation
) -> list[Path]:
    """Return what is noted as new."""
    fetched: list[Path] = []
    tarball.fetch_tarball(address, folder, which, user, NO_LIMITS, store, cancellation, fetched)
    return fetched


def fetch_all(settings: Settings, user: User, store: Storage, cancellation: Cancellation) -> list[Path]:
    fetched: list[Path] = []
    tarball.fetch_all(settings, user, store, cancellation, fetched)
    return sorted(fetched)


@pytest.fixture
def fetch(objects: Objects, store: Storage, cancellation: Cancellation, target: Path) -> Callable[..., list[Path]]:
    """Fetch a tarball whose answers are these into the target."""

    def fetching(*answers: Any, folder: Path = target) -> list[Path]:
        objects.answers["key"] = [*answers]
        return fetch_tarball(S3Address("bucket", "key"), folder, "model", SAME_USER, store, cancellation)

    return fetching


Fetch = Callable[..., list[Path]]


def test_what_is_new_is_told_and_nothing_else_is_left(fetch: Fetch, target: Path) -> None:
    (target / "before").write_text("before")
    (target / "both").mkdir()
    (target / "both" / "before").write_text("before")
    new = fetch(tarred(file("f"), file("d/e/f"), file("both/f"), file("before")))
    assert new == [target / "both" / "f", target / "d", target / "f"]
    assert sorted(os.listdir(target)) == ["before", "both", "d", "f"]
    assert (target / "both" / "before").read_text() == "before"
    assert (target / "both" / "f").read_text() == "content"
    assert (target / "before").read_text() == "content"


def test_nothing_is_unpacked_where_a_link_leads_to_our_own_files(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(Path(tarball.__file__).parent)
    before = sorted(os.listdir(tmp_path / "model"))
    with pytest.raises(TarballBroken):
        fetch(tarred(file("f")), folder=tmp_path / "model")
    assert sorted(os.listdir(tmp_path / "model")) == before


@pytest.mark.usefixtures("umask")
def test_a_folder_that_is_missing_is_made(fetch: Fetch, tmp_path: Path) -> None:
    made = tmp_path / "a" / "b"
    assert fetch(tarred(file("f")), folder=made) == [made / "f"]
    assert stat.S_IMODE(made.stat().st_mode) == 0o755


def test_a_folder_that_is_a_link_is_filled(fetch: Fetch, target: Path) -> None:
    through = target.parent / "through"
    through.symlink_to("target")
    assert fetch(tarred(file("f")), folder=through) == [through / "f"]
    assert os.listdir(target) == ["f"]


def test_links_that_were_there_are_replaced_and_never_followed(fetch: Fetch, target: Path) -> None:
    elsewhere = target.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "f").write_text("elsewhere")
    (target / "d").symlink_to(elsewhere)
    (target / "f").symlink_to(elsewhere / "f")
    assert fetch(tarred(file("d/f"), file("f"))) == []
    assert (elsewhere / "f").read_text() == "elsewhere"
    assert tree(target).keys() == {"d", "d/f", "f"}
    assert not (target / "d").is_symlink()


def test_a_folder_replaces_a_file_but_a_file_no_folder(fetch: Fetch, target: Path) -> None:
    (target / "f").write_text("before")
    (target / "d" / "inner").mkdir(parents=True)
    assert fetch(tarred(file("f/x"))) == []
    assert (target / "f" / "x").exists()
    with pytest.raises(TarballBroken):
        fetch(tarred(file("d")))
    assert sorted(os.listdir(target)) == ["d", "f"]
    assert (target / "d" / "inner").is_dir()


def test_a_folder_that_is_there_keeps_its_rights_and_its_time(fetch: Fetch, target: Path) -> None:
    (target / "d").mkdir(mode=0o700)
    fetch(tarred(folder("d"), folder("d/e"), folder("n")))
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o700
    assert (target / "d" / "e").stat().st_mtime == (target / "n").stat().st_mtime == MTIME


def test_an_archive_over_a_limit_is_told_as_that_and_the_log_names_the_setting(
    objects: Objects, store: Storage, cancellation: Cancellation, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    objects.answers["key"] = [tarred(file("f"), file("g"))]
    with pytest.raises(TarballOverLimit):
        tarball.fetch_tarball(
            S3Address("bucket", "key"), target, "model", SAME_USER, ArchiveLimits(0, 1, 0), store, cancellation, []
        )
    assert "it is over MODEL_SERVER_MAX_ARCHIVE_FILES=1" in caplog.text
    assert os.listdir(target) == []


def test_the_folder_is_the_users_only_where_the_archive_names_it(
    objects: Objects, store: Storage, cancellation: Cancellation, owned: Owned, target: Path
) -> None:
    for members, expected in (([link("l", "x")], {}), ([folder("./")], {".": (7, 8)})):
        objects.answers["key"] = [tarred(*members)]
        owned.given = {}
        fetch_tarball(S3Address("bucket", "key"), target, "model", User(uid=7, gid=8), store, cancellation)
        assert {path: ids for path, ids in owned.given.items() if not path.startswith(".staging-")} == expected


class Interrupted:
    """A body that breaks off after some bytes with an error of the connection's."""

    def __init__(self, data: bytes, error: Exception) -> None:
        self.data = io.BytesIO(data)
        self.error: Exception | None = error

    def read(self, size: int) -> bytes:
        if data := self.data.read(size):
            return data
        assert self.error
        raise self.error

    def close(self) -> None:
        pass


LARGE = tarred(file("f", b"x" * 3_000_000), file("g"))


@pytest.mark.parametrize(
    "broken",
    [
        Interrupted(LARGE[:2_000_000], ResponseStreamingError(error="broken")),
        Interrupted(LARGE[:2_000_000], ResponseStreamingError(error="TLS")),
        Interrupted(LARGE, ResponseStreamingError(error="after all of it")),
        Interrupted(b"", ReadTimeoutError(endpoint_url="late")),
    ],
)
def test_a_body_that_breaks_off_is_fetched_anew(fetch: Fetch, target: Path, broken: Interrupted) -> None:
    assert fetch(broken, LARGE) == [target / "f", target / "g"]


class InterruptedOnce(Interrupted):
    """One that seems to be at its end when it is read on, as a connection that is closed does."""

    def read(self, size: int) -> bytes:
        if data := self.data.read(size):
            return data
        error, self.error = self.error, None
        if error:
            raise error
        return b""


def test_a_body_that_seems_to_end_after_it_broke_off_is_fetched_anew(fetch: Fetch, target: Path) -> None:
    assert fetch(InterruptedOnce(LARGE[:2_000_000], ResponseStreamingError(error="broken")), LARGE) == [
        target / "f",
        target / "g",
    ]


def test_a_stream_ends_with_the_cancellation(objects: Objects, store: Storage, cancellation: Cancellation) -> None:
    reason = ClientLeft()
    objects.answers["key"] = [LARGE]
    read = []

    def consume(body: io.BufferedReader) -> None:
        read.append(body.read(1))
        cancellation.cancel(reason)
        read.append(body.read())

    with pytest.raises(ClientLeft) as caught:
        store.get_stream("bucket", "key", consume, cancellation)
    assert (caught.value, len(read)) == (reason, 1)


def test_what_a_broken_attempt_made_is_gone(fetch: Fetch, target: Path) -> None:
    other = Interrupted(tarred(file("stale"), file("d/stale")), ResponseStreamingError(error="broken"))
    assert fetch(other, tarred(file("d/f"))) == [target / "d"]
    assert tree(target).keys() == {"d", "d/f"}


class Mistaken:
    """A body whose checksum is wrong, which is told at its end."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        if data := self._data.read(size):
            return data
        raise FlexibleChecksumError(error_msg="wrong")


@pytest.mark.parametrize("wrong", [LARGE, b"\1" + LARGE[1:], gzip.compress(LARGE)[:-1], b""])
def test_a_body_with_a_wrong_checksum_is_fetched_anew_whatever_is_in_it(
    fetch: Fetch, target: Path, wrong: bytes
) -> None:
    fetch(Mistaken(wrong), tarred(file("right")))
    assert os.listdir(target) == ["right"]


def test_a_whole_body_that_is_no_tarball_is_not_fetched_again(fetch: Fetch, objects: Objects, target: Path) -> None:
    with pytest.raises(TarballBroken, match="Could not set up model: Tarfile could not be extracted"):
        fetch(b"no tarball", LARGE)
    assert len(objects.answers["key"]) == 1
    assert os.listdir(target) == []


def answer(status: int, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")  # type: ignore[typeddict-item]


FAULTS = [
    ([answer(404, "NoSuchKey")], TarballMissing),
    ([answer(403, "AccessDenied")], TarballForbidden),
    ([answer(403, "InvalidAccessKeyId")], TarballUnavailable),
    ([answer(503, "SlowDown")] * 100, TarballUnavailable),
    ([tarred(file("../jane-doe"))], TarballBroken),
    ([tarred(file("jane-doe"), file("jane-doe/x"))], TarballBroken),
    ([tarred(file("jane-doe", pax_headers={"size": "jane-doe"}))], TarballBroken),
    ([LARGE[:2_000_000]], TarballBroken),
    ([gzip.compress(LARGE)[:-4]], TarballBroken),
    ([bz2.compress(LARGE)[:-4]], TarballBroken),
    ([gzip.compress(LARGE) + b"garbage"], TarballBroken),
]


@pytest.mark.parametrize(("answers", "expected"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_every_fault_has_its_error_and_one_line_in_the_log_without_names(
    fetch: Fetch,
    target: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[Any],
    expected: type[LongshoreError],
) -> None:
    monkeypatch.setattr(retrying, "MAX_ATTEMPTS", 3)
    caplog.set_level("INFO")
    with pytest.raises(expected, match="Could not set up model: ") as caught:
        fetch(*answers)
    assert type(caught.value) is expected
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    assert "jane-doe" not in caplog.text
    assert "key" not in caplog.text.replace("NoSuchKey", "").replace("InvalidAccessKeyId", "")
    assert os.listdir(target) == []


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, TarballTooLarge),
        (errno.EDQUOT, TarballTooLarge),
        (errno.EFBIG, TarballTooLarge),
        (errno.EROFS, TarballBroken),
        (errno.EIO, TarballBroken),
    ],
)
def test_a_disk_that_can_not_take_it_is_told(
    fetch: Fetch,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    expected: type[LongshoreError],
) -> None:
    def failing(*_: Any) -> None:
        raise OSError(number, os.strerror(number), "jane-doe")

    monkeypatch.setattr(untar, "_copy", failing)
    caplog.set_level("INFO")
    with pytest.raises(expected):
        fetch(LARGE)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert os.strerror(number) in caplog.text
    assert "jane-doe" not in caplog.text
    assert os.listdir(target) == []


def test_a_folder_that_can_not_be_made_is_told(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TarballBroken):
        fetch(LARGE, folder=tmp_path / "file" / "model")


@pytest.mark.parametrize("data", [LARGE, gzip.compress(LARGE), gzip.compress(tarred() + bytes(20_000_000))])
def test_a_cancellation_ends_it_and_passes_through(
    fetch: Fetch, target: Path, cancellation: Cancellation, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    reason = ClientLeft()
    start, reads = untar._Source.read, 0

    def cancelling(self: untar._Source, size: int) -> bytes:
        nonlocal reads
        reads += 1
        cancellation.cancel(reason)
        return start(self, size)

    monkeypatch.setattr(untar._Source, "read", cancelling)
    with pytest.raises(ClientLeft) as caught:
        fetch(data)
    assert (caught.value, reads) == (reason, 1)
    assert os.listdir(target) == []


# --- both at the same time


def both(tmp_path: Path, **more: str) -> Settings:
    return Settings.from_env(
        {
            "ALGORITHM_MODEL": "s3://bucket/model",
            "ALGORITHM_MODEL_PATH": str(tmp_path / "model"),
            "ALGORITHM_GROUND_TRUTH": "s3://bucket/truth",
            "ALGORITHM_GROUND_TRUTH_PATH": str(tmp_path / "truth"),
        }
        | more
    )


def test_each_goes_into_its_folder(
    tmp_path: Path, objects: Objects, store: Storage, cancellation: Cancellation
) -> None:
    objects.answers = {"model": [tarred(file("m"))], "truth": [tarred(file("t"))]}
    new = fetch_all(both(tmp_path), SAME_USER, store, cancellation)
    assert new == [tmp_path / "model" / "m", tmp_path / "truth" / "t"]


@pytest.mark.parametrize(("unset", "left"), [("MODEL", "truth"), ("GROUND_TRUTH", "model")])
def test_what_is_not_set_is_not_fetched(
    tmp_path: Path, objects: Objects, store: Storage, cancellation: Cancellation, unset: str, left: str
) -> None:
    objects.answers = {left: [tarred(file("f"))]}
    new = fetch_all(both(tmp_path, **{f"ALGORITHM_{unset}": ""}), SAME_USER, store, cancellation)
    assert new == [tmp_path / left / "f"]
    assert os.listdir(tmp_path) == [left]


def test_the_models_fault_is_told_if_both_fail(
    tmp_path: Path, objects: Objects, store: Storage, cancellation: Cancellation, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Barrier(2)  # both fail before one of them can end the other
    fetching = tarball.fetch_tarball

    def failing_together(*arguments: Any) -> Any:
        try:
            return fetching(*arguments)
        except LongshoreError:
            failed.wait(DEADLINE_SECONDS)
            raise

    monkeypatch.setattr(tarball, "fetch_tarball", failing_together)
    for model, truth in ((answer(404, "NoSuchKey"), b"none"), (b"none", answer(404, "NoSuchKey"))):
        objects.answers = {"model": [model], "truth": [truth]}
        with pytest.raises(TarballBroken if model == b"none" else TarballMissing) as caught:
            fetch_all(both(tmp_path), SAME_USER, store, cancellation)
        assert caught.value.message.startswith("Could not set up model: ")
    assert cancellation.reason is None


class Endless:
    """A body that does not end before the test does."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.deadline = time.monotonic() + DEADLINE_SECONDS

    def read(self, size: int) -> bytes:
        assert time.monotonic() < self.deadline, "nobody ended it in time"
        data, self.data = self.data or bytes(size), b""
        return data

    def close(self) -> None:
        pass


def test_a_model_that_fails_ends_the_other(
    tmp_path: Path, objects: Objects, store: Storage, cancellation: Cancellation
) -> None:
    objects.answers = {"model": [answer(404, "NoSuchKey")], "truth": [Endless(tarred(file("f")))]}
    with pytest.raises(TarballMissing, match="Could not set up model: "):
        fetch_all(both(tmp_path), SAME_USER, store, cancellation)
    assert [list(path.iterdir()) for path in tmp_path.iterdir()] == [[], []]
    assert cancellation.reason is None


def test_a_ground_truth_that_fails_waits_for_the_model_whose_fault_goes_first(
    tmp_path: Path, objects: Objects, store: Storage, cancellation: Cancellation
) -> None:
    objects.answers = {"truth": [answer(404, "NoSuchKey")], "model": [gzip.compress(LARGE)]}
    with pytest.raises(TarballMissing, match="Could not set up ground truth: "):
        fetch_all(both(tmp_path), SAME_USER, store, cancellation)
    objects.answers = {"truth": [answer(404, "NoSuchKey")], "model": [gzip.compress(LARGE)[:-1]]}
    with pytest.raises(TarballBroken, match="Could not set up model: "):
        fetch_all(both(tmp_path), SAME_USER, store, cancellation)


def test_a_cancellation_ends_both(tmp_path: Path, objects: Objects, store: Storage, cancellation: Cancellation) -> None:
    reason = ClientLeft()
    cancellation.cancel(reason)
    objects.answers = {key: [Endless(tarred(file("f")))] for key in ("model", "truth")}
    with pytest.raises(ClientLeft) as caught:
        fetch_all(both(tmp_path), SAME_USER, store, cancellation)
    assert caught.value is reason


def test_nothing_stays_open(tmp_path: Path, objects: Objects, store: Storage, cancellation: Cancellation) -> None:
    before = open_descriptors()
    for _ in range(3):
        objects.answers = {"model": [gzip.compress(LARGE)], "truth": [b"no tarball"]}
        with pytest.raises(TarballBroken):
            fetch_all(both(tmp_path), SAME_USER, store, cancellation)
    assert open_descriptors() == before
    assert not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]
