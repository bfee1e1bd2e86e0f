"""What fails leaves nothing open: neither connections nor files wait for the garbage collector."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from s3_rig import MIB, large, running_storage, written

from fake_clock import Clock
from faulty_s3 import Answer, CutBody, FaultyS3, Reset, ShortBody, WrongBody
from model_server import retrying, s3_download, s3_upload
from model_server.archive_limits import ArchiveLimits
from model_server.cancellation import Cancellation
from model_server.errors import LongshoreError, without_frames
from model_server.s3_faults import ObjectForbidden, ObjectMissing
from model_server.stage_in import StagedIn, stage_in
from model_server.task import Task

if TYPE_CHECKING:
    from tests.conftest import Bucket

KEY = "key"
NO_LIMITS = ArchiveLimits(0, 0, 0)
FAULTS = [CutBody(), Reset(), ShortBody(), WrongBody(), Answer(503, "SlowDown"), Answer(403, "AccessDenied")]


@pytest.fixture(autouse=True)
def small_parts_and_no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(retrying, "time", clock)
    monkeypatch.setattr(Cancellation, "wait", lambda _, seconds: clock.sleep(seconds))
    monkeypatch.setattr(s3_download, "PART_BYTES", MIB)
    monkeypatch.setattr(s3_upload, "PART_BYTES", 5 * MIB)
    monkeypatch.setattr(s3_upload, "WHOLE_BYTES", 5 * MIB)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def open_now() -> list[str]:
    """Return what the descriptors of this process lead to."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one of the folder itself
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return found


def connections_to(server: FaultyS3) -> int:
    """Return how many connections to the server are open at our end, whatever became of the other."""
    port = f":{int(server.endpoint.rpartition(':')[2]):04X}"
    lines = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    ours = {f"socket:[{line[9]}]" for line in lines if line[2].endswith(port)}
    return sum(one in ours for one in open_now())


def failing(action: Callable[[], object]) -> None:
    """Do what fails, and do with its error what the callers do."""
    try:
        action()
    except (LongshoreError, ObjectForbidden, ObjectMissing) as error:
        without_frames(error)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: getattr(fault, "code", type(fault).__name__))
@pytest.mark.parametrize("way", ["file", "stream", "parts", "upload"])
def test_what_failed_leaves_no_connection_and_no_file_open(
    bucket: Bucket, s3: FaultyS3, tmp_path: Path, no_collector: None, fault: Any, way: str
) -> None:
    bucket.put(KEY, large(2) if way == "parts" else "data" * 1000)
    path = written(tmp_path / "out", large(5 if way == "upload" else 1))
    cancellation = Cancellation()
    s3.fault("PUT" if way == "upload" else "GET", KEY, fault, times=None)
    with running_storage(s3.endpoint) as storage:
        storage.pool.submit(os.getpid).result()

        def act() -> object:
            if way == "upload":
                with path.open("rb") as file:
                    return storage.put_file(file, bucket.name, KEY)
            if way == "stream":
                return storage.get_bytes(bucket.name, KEY, cancellation)
            return storage.get_file(bucket.name, KEY, str(tmp_path / "in"), cancellation)

        for _ in range(2):
            failing(act)
        storage.client.close()
        assert connections_to(s3) == 0
        assert [one for one in open_now() if str(tmp_path) in one] == []
    cancellation.close()


def test_what_was_asked_for_when_an_input_failed_keeps_no_connection_open(
    bucket: Bucket, s3: FaultyS3, tmp_path: Path, no_collector: None
) -> None:
    names = [f"{number:03d}" for number in range(100)]
    for name in names:
        bucket.put(name, b"data")
    cancellation = Cancellation()
    items = [{"relative_path": name, "bucket_name": bucket.name, "bucket_key": name} for name in names]
    task = Task.model_validate({"pk": "1", "inputs": items, "output_bucket_name": "b", "output_prefix": "/io/1"})
    s3.fault("GET", names[70], Answer(404, "NoSuchKey"), times=None)
    with running_storage(s3.endpoint, 2) as storage:
        (tmp_path / "input").mkdir()
        failing(lambda: stage_in(task, tmp_path / "input", storage, cancellation, NO_LIMITS, StagedIn()))
        assert len(s3.requests) < len(names)
        storage.client.close()
        assert connections_to(s3) == 0
    cancellation.close()
