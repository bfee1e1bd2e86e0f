"""Which tasks a worker had when it ended."""

import os
import select
from collections.abc import Iterator

import pytest

from model_server.ledger import AcceptedTask, Ledger
from model_server.task import Task, parse_tasks

OURS = os.getpid()


def task(pk: str, **more: str) -> Task:
    values = {"pk": pk, "inputs": [], "output_bucket_name": "bucket", "output_prefix": "/out"} | more
    return parse_tasks([values])[0]


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger()
    yield made
    made._reader.close()
    made._writer.close()


def pks(ledger: Ledger, worker: int = OURS) -> list[str]:
    return [accepted.pk for accepted in ledger.unfinished(worker)]


def test_a_task_that_was_not_finished_is_known_when_its_worker_has_ended(ledger: Ledger) -> None:
    ledger.accepted([task("1"), task("2"), task("3")])
    ledger.finished(task("1"))
    ledger.worker_ended(OURS)
    assert ledger.receive() == [OURS]
    assert pks(ledger) == ["2", "3"]


def test_it_is_known_until_it_is_forgotten(ledger: Ledger) -> None:
    ledger.accepted([task("1")])
    ledger.receive()
    assert ledger.workers() == [OURS]
    assert pks(ledger) == ["1"]
    ledger.forget(OURS)
    assert pks(ledger) == []
    assert ledger.workers() == []


def test_a_task_that_was_sent_twice_is_counted_twice(ledger: Ledger) -> None:
    ledger.accepted([task("1"), task("1")])
    ledger.finished(task("1"))
    ledger.receive()
    assert pks(ledger) == ["1"]


def test_a_worker_that_had_nothing_leaves_nothing(ledger: Ledger) -> None:
    ledger.worker_ended(OURS)
    assert ledger.receive() == [OURS]
    assert pks(ledger) == []


def test_a_late_word_of_a_worker_that_was_settled_stops_nothing(ledger: Ledger) -> None:
    ledger.accepted([task("1")])
    ledger.receive()
    ledger.forget(OURS)
    ledger.finished(task("1"))
    ledger.accepted([task("2")])
    assert ledger.receive() == []
    assert pks(ledger) == ["2"]


def test_its_descriptor_says_when_there_is_something_to_receive(ledger: Ledger) -> None:
    assert not select.select([ledger], [], [], 0)[0]
    ledger.accepted([task("1")])
    assert select.select([ledger], [], [], 0)[0]
    ledger.receive()
    assert not select.select([ledger], [], [], 0)[0]


def test_the_largest_task_that_is_taken_can_be_told(ledger: Ledger) -> None:
    largest = task("é" * 120, output_bucket_name="x" * 255, output_prefix="\x01" * 986)
    ledger.accepted([largest])
    ledger.receive()
    (accepted,) = ledger.unfinished(OURS)
    assert accepted.task() == largest


def test_enough_of_a_task_is_kept_for_its_result() -> None:
    kept = AcceptedTask.of(task("1", output_prefix="//a b+ü"))
    assert kept.task().result_key == "//a b+ü/.sagemaker_shim/inference_result.json"
