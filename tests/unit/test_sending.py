"""Answers that are sent: a few at a time, and none that there is no room for."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from model_server import sending
from model_server.cancellation import Cancellation
from model_server.errors import Interrupted, OutputDiskFull
from model_server.payload_answer import Answer
from model_server.sending import IN_MEMORY_BYTES, SENDERS, Sending


@pytest.fixture
def packed(tmp_path: Path) -> Callable[[int], Answer]:
    def packing(size: int = 5) -> Answer:
        path = tmp_path / "answer"
        path.write_bytes(bytes(size))
        return Answer(path.open("rb"), size, "text/csv", 1)

    return packing


def test_the_next_answer_waits_until_one_is_sent(packed: Callable[[], Answer], tmp_path: Path) -> None:
    answers = Sending(tmp_path / "bodies")
    sent = [answers.begin(packed(), Cancellation()) for _ in range(SENDERS)]
    begun = threading.Event()

    def begin() -> None:
        sent.append(answers.begin(packed(), Cancellation()))
        begun.set()

    thread = threading.Thread(target=begin)
    thread.start()
    assert not begun.is_set()
    for _ in range(2):
        sent[0].file.close()  # which counts once
    thread.join(30)
    assert begun.is_set()
    cancelled = Cancellation()
    cancelled.cancel(Interrupted())
    waiting = packed()
    with pytest.raises(Interrupted):
        answers.begin(waiting, cancelled)
    assert waiting.file.closed
    assert {answer.file.read() for answer in sent[1:]} == {bytes(5)}
    for answer in sent:
        answer.file.close()


def test_an_answer_larger_than_the_room_for_it_is_refused_before_it_begins(
    packed: Callable[[int], Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending.shutil, "disk_usage", lambda path: SimpleNamespace(free=IN_MEMORY_BYTES))
    answers = Sending(tmp_path / "bodies")
    for _ in range(SENDERS + 1):  # it gives its place back
        with pytest.raises(OutputDiskFull):
            answers.begin(packed(IN_MEMORY_BYTES + 1), Cancellation())
    answers.begin(packed(IN_MEMORY_BYTES), Cancellation()).file.close()


def test_an_answer_that_no_descriptor_is_free_for_gives_its_place_back(
    packed: Callable[[], Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    answers = Sending(tmp_path / "bodies")
    with monkeypatch.context() as full:
        full.setattr(sending.os, "dup", refuse)
        for _ in range(SENDERS):
            with pytest.raises(OSError, match="Too many open files"):
                answers.begin(packed(), Cancellation())
    cancelled = Cancellation()
    cancelled.cancel(Interrupted())  # it would be raised by one that waits
    answers.begin(packed(), cancelled).file.close()
