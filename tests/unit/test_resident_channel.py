"""Questions to the keeper of a resident program and their answers, over real sockets."""

import array
import fcntl
import json
import select
import socket
import termios
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from model_server.cancellation import Cancellation
from model_server.errors import ClientLeft, InvokeRefused, ServerNotHealthy, TimeLimitExceeded, WorkerLost
from model_server.resident_channel import DONE, NOBODY, Answer, Question, ResidentChannel

from .waiting import DEADLINE_SECONDS, open_descriptors, wait_until

LINES = ["é" * 16_000 + "\n"] * 100


@pytest.fixture
def channel() -> Iterator[ResidentChannel]:
    before = open_descriptors()
    made = ResidentChannel()
    yield made
    made.close()
    assert open_descriptors() == before


@pytest.fixture
def asking() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def question_to(channel: ResidentChannel) -> Question:
    """Return the next question, as the keeper does."""
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    assert poll.poll(DEADLINE_SECONDS * 1000), "no question"
    return channel.receive()


@pytest.mark.parametrize(
    "answer",
    [
        DONE,
        Answer("invoke_refused", [500], 1.25, ["one\n", "two\n"], 123),
        Answer("time_limit_exceeded", [2.5], 2.5, ["\x00\ud83d\n", "ü\n"]),
        Answer(None, seconds=1.0, last_stderr_lines=LINES),
    ],
    ids=["done", "refused", "time limit", "2 MB"],
)
def test_an_answer_comes_as_it_was_given(channel: ResidentChannel, asking: ThreadPoolExecutor, answer: Answer) -> None:
    asked = asking.submit(channel.invoke, "task", 2.5, Cancellation())
    question = question_to(channel)
    assert (question.task, question.run_seconds) == ("task", 2.5)
    assert question.take()
    question.answer(answer)
    assert asked.result(DEADLINE_SECONDS) == answer


def test_answers_go_to_who_asked_in_whatever_order_they_are_given(
    channel: ResidentChannel, asking: ThreadPoolExecutor
) -> None:
    asked = {pk: asking.submit(channel.invoke, pk, None, Cancellation()) for pk in ("a", "b", "c")}
    questions = sorted((question_to(channel) for _ in asked), key=lambda question: question.task or "", reverse=True)
    for seconds, question in enumerate(questions):
        assert question.run_seconds is None
        assert question.take()
        question.answer(Answer(None, seconds=seconds))
    assert {pk: future.result(DEADLINE_SECONDS).seconds for pk, future in asked.items()} == {"c": 0, "b": 1, "a": 2}


def test_the_longest_name_of_a_task_fits(channel: ResidentChannel, asking: ThreadPoolExecutor) -> None:
    pk = "\x01" * 255
    asked = asking.submit(channel.invoke, pk, 1e300, Cancellation())
    question = question_to(channel)
    assert (question.task, question.run_seconds) == (pk, 1e300)
    question.answer(DONE)
    asked.result(DEADLINE_SECONDS)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (Answer("server_not_healthy", [5.0, 2.0]), ServerNotHealthy),
        (Answer("time_limit_exceeded", [2.5]), TimeLimitExceeded),
        (Answer("invoke_refused", [500]), InvokeRefused),
        (NOBODY, WorkerLost),
    ],
)
def test_health_that_fails_is_raised_with_its_facts(
    channel: ResidentChannel, asking: ThreadPoolExecutor, answer: Answer, fault: type[Exception]
) -> None:
    asked = asking.submit(channel.await_health, Cancellation())
    question = question_to(channel)
    assert question.task is None
    question.answer(answer)
    with pytest.raises(fault) as raised:
        asked.result(DEADLINE_SECONDS)
    assert vars(raised.value) == vars(fault(*answer.error_args))


def is_withdrawn(question: Question) -> bool:
    return bool(select.select([question], [], [], 0)[0])


def test_a_task_that_is_cancelled_is_withdrawn_and_its_end_waited_for(
    channel: ResidentChannel, asking: ThreadPoolExecutor
) -> None:
    cancellation = Cancellation()
    asked = asking.submit(channel.invoke, "task", None, cancellation)
    question = question_to(channel)
    assert question.take()
    cancellation.cancel(ClientLeft())
    wait_until(lambda: is_withdrawn(question))
    assert not asked.done()
    question.answer(Answer("interrupted", [], 3.0, ["last\n"]))
    answer = asked.result(DEADLINE_SECONDS)
    assert (answer.error, answer.seconds, answer.last_stderr_lines) == ("interrupted", 3.0, ["last\n"])


def test_a_task_that_is_cancelled_before_it_begins_is_not_waited_for_and_does_not_begin(
    channel: ResidentChannel, asking: ThreadPoolExecutor
) -> None:
    cancellation = Cancellation()
    asked = asking.submit(channel.invoke, "task", None, cancellation)
    question = question_to(channel)
    cancellation.cancel(ClientLeft())
    assert asked.result(DEADLINE_SECONDS) == NOBODY
    assert not question.take()


def test_an_answer_for_a_task_that_did_not_begin_is_none(channel: ResidentChannel, asking: ThreadPoolExecutor) -> None:
    asked = asking.submit(channel.invoke, "task", None, Cancellation())
    question_to(channel).answer(DONE)
    assert asked.result(DEADLINE_SECONDS) == NOBODY


def test_waiting_for_a_turn_ends_with_its_cancellation(channel: ResidentChannel, asking: ThreadPoolExecutor) -> None:
    cancellation = Cancellation()
    asked = asking.submit(channel.await_health, cancellation)
    question = question_to(channel)
    cancellation.cancel(ClientLeft())
    with pytest.raises(ClientLeft):
        asked.result(DEADLINE_SECONDS)
    question.answer(DONE)


def unread(connection: socket.socket) -> int:
    """Return how many bytes were sent on a connection that the other side has not read yet."""
    number = array.array("i", [0])
    fcntl.ioctl(connection, termios.TIOCOUTQ, number)
    return number[0]


def test_a_cancellation_in_the_middle_of_an_answer_leaves_it_whole(
    channel: ResidentChannel, asking: ThreadPoolExecutor
) -> None:
    """A large answer comes in pieces: the keeper may pause between two of them."""
    cancellation = Cancellation()
    asked = asking.submit(channel.invoke, "task", None, cancellation)
    question = question_to(channel)
    document = json.dumps(vars(Answer(None, seconds=4.0))).encode()
    assert question.take()
    connection = question._asker
    connection.sendall(document[:10])
    wait_until(lambda: not unread(connection))
    cancellation.cancel(ClientLeft())
    select.select([question], [], [], 0.2)  # by then it would have been withdrawn
    connection.sendall(document[10:])
    connection.close()
    assert asked.result(DEADLINE_SECONDS).seconds == 4.0


def leave_unread(channel: ResidentChannel) -> None:
    """The keeper ends before it takes the question."""


def drop_the_question(channel: ResidentChannel) -> None:
    """The keeper ends before it answers."""
    question_to(channel)._asker.close()


def answer_half(channel: ResidentChannel) -> None:
    """The keeper ends in the middle of its answer."""
    question = question_to(channel)
    assert question.take()
    question._asker.sendall(json.dumps(vars(DONE)).encode()[:20])
    question._asker.close()


@pytest.mark.parametrize("before", [leave_unread, drop_the_question, answer_half])
def test_a_keeper_that_ends_without_a_whole_answer_is_lost(
    channel: ResidentChannel, asking: ThreadPoolExecutor, before: Callable[[ResidentChannel], None]
) -> None:
    asked = asking.submit(channel.invoke, "task", None, Cancellation())
    wait_until(lambda: select.select([channel], [], [], 0)[0])
    before(channel)
    channel.close_keeper()
    assert isinstance(asked.result(DEADLINE_SECONDS).fault, WorkerLost)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_keeper_that_is_gone_is_lost(channel: ResidentChannel, cancelled: bool) -> None:
    cancellation = Cancellation()
    if cancelled:
        cancellation.cancel(ClientLeft())
    channel.close_keeper()
    assert channel.invoke("task", None, cancellation) == NOBODY
    with pytest.raises(ClientLeft if cancelled else WorkerLost):
        channel.await_health(cancellation)


@pytest.mark.parametrize("lines", [[], LINES], ids=["small", "2 MB"])
def test_an_asker_that_is_gone_is_no_fault_of_the_keeper(channel: ResidentChannel, lines: list[str]) -> None:
    connection = channel._asked("task", None)
    question = question_to(channel)
    assert question.take()
    connection.close()
    question.answer(Answer(None, last_stderr_lines=lines))


def test_an_asker_that_leaves_while_it_is_answered_is_no_fault_of_the_keeper(channel: ResidentChannel) -> None:
    connection = channel._asked("task", None)
    question = question_to(channel)
    answering = threading.Thread(target=question.answer, args=(Answer(None, last_stderr_lines=LINES),))
    answering.start()
    connection.recv(10)
    connection.close()
    answering.join(DEADLINE_SECONDS)
    assert not answering.is_alive()
