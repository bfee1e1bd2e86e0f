"""What functional tests share: a predictor in this process, and `invoke` as another."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from invocation import Invocation
from job_rig import Job
from rig import Rig, algorithm

from fake_clock import Clock
from model_server import freeing, retrying
from model_server.cancellation import Cancellation

if TYPE_CHECKING:
    from tests.conftest import Bucket


logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the S3 server's, which runs in this process too


class Start(Protocol):
    """Starts a predictor for one of the tiny programs; keywords are Rig's."""

    def __call__(self, name: str, *arguments: str, **options: object) -> Rig: ...


@pytest.fixture
def start(tmp_path: Path, bucket: Bucket) -> Iterator[Start]:
    rigs: list[Rig] = []

    def starting(name: str, *arguments: str, **options: object) -> Rig:
        rigs.append(Rig(tmp_path, bucket, [algorithm(name), *arguments], **options))
        return rigs[-1]

    yield starting
    for rig in rigs:
        rig.discard()


@pytest.fixture
def invoke(tmp_path: Path, bucket: Bucket) -> Iterator[Invocation]:
    invocation = Invocation(tmp_path, bucket)
    yield invocation
    invocation.end()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    job.end()


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    cancellation = Cancellation()
    yield cancellation
    cancellation.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let the pauses between attempts pass at once; everything else of them is real."""
    clock = Clock()
    monkeypatch.setattr(retrying, "time", clock)
    monkeypatch.setattr(Cancellation, "wait", lambda _, seconds: clock.sleep(seconds))
    return clock


@pytest.fixture
def slow_freeing(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Have nothing freed beside an answer until the event is set; all else of it is real."""
    go_on, close = threading.Event(), freeing._close

    def closing(descriptors: list[int]) -> None:
        if threading.current_thread().name == "freeing":
            go_on.wait()
        close(descriptors)

    monkeypatch.setattr(freeing, "_close", closing)
    yield go_on
    go_on.set()
