"""What a task's run by a resident program comes to: its answer, or the error of one that did not begin or broke off."""

from collections.abc import Iterator
from contextlib import closing
from typing import cast

import pytest

from model_server.cancellation import Cancellation
from model_server.errors import (
    ClientLeft,
    Interrupted,
    InvokeBroken,
    InvokeRefused,
    InvokeUnreachable,
    LongshoreError,
    TimeLimitExceeded,
    WorkerLost,
)
from model_server.resident_channel import NOBODY, Answer, ResidentChannel
from model_server.runner import call_resident


class Program:
    """A resident program that gives one answer, and keeps what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[tuple[str, float | None, Cancellation]] = []

    def invoke(self, task: str, run_seconds: float | None, cancellation: Cancellation) -> Answer:
        self.asked.append((task, run_seconds, cancellation))
        return self.answer


def as_channel(program: Program) -> ResidentChannel:
    return cast(ResidentChannel, program)


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    with closing(Cancellation()) as made:
        yield made


def answer(error: LongshoreError | None = None) -> Answer:
    failed = Answer.failed(error) if error else Answer(None)
    return Answer(failed.error, failed.error_args, 1.5, ["a line\n"], 4096)


@pytest.mark.parametrize("error", [None, TimeLimitExceeded(2.0), InvokeRefused(500)])
def test_a_task_that_ran_has_what_it_took_whatever_came_of_it(
    cancellation: Cancellation, error: LongshoreError | None
) -> None:
    program = Program(answer(error))
    ended = call_resident("task", as_channel(program), 7.0, cancellation)
    assert (ended.seconds, ended.last_stderr_lines, ended.peak_memory_bytes) == (1.5, ["a line\n"], 4096)
    assert ended.resident is True
    assert type(ended.error) is type(error)
    assert str(ended.error) == str(error)
    assert program.asked == [("task", 7.0, cancellation)]


@pytest.mark.parametrize("error", [InvokeUnreachable(), InvokeBroken()])
def test_a_task_that_was_not_taken_or_broke_off_has_its_error_only(
    cancellation: Cancellation, error: LongshoreError
) -> None:
    with pytest.raises(type(error)):
        call_resident("task", as_channel(Program(answer(error))), None, cancellation)


def test_a_program_without_a_keeper_is_a_lost_one(cancellation: Cancellation) -> None:
    with pytest.raises(WorkerLost):
        call_resident("task", as_channel(Program(NOBODY)), None, cancellation)


@pytest.mark.parametrize("error", [Interrupted(), WorkerLost()])
def test_a_task_that_was_ended_says_why_its_end_was_wished(cancellation: Cancellation, error: LongshoreError) -> None:
    program = as_channel(Program(answer(error)))
    assert type(call_resident("task", program, None, cancellation).error) is type(error)
    reason = ClientLeft()
    cancellation.cancel(reason)
    ended = call_resident("task", program, None, cancellation)
    assert (ended.error, ended.seconds) == (reason, 1.5)
    assert call_resident("task", as_channel(Program(answer())), None, cancellation).error is None
    with pytest.raises(ClientLeft):
        call_resident("task", as_channel(Program(NOBODY)), None, cancellation)
