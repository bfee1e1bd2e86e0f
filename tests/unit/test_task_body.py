"""The tasks in a body: one or a line each, whatever the bytes are, and within bounds of time and memory."""

import io
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model_server import errors, task_body
from model_server.errors import BodyUnreadable, TaskInvalid, TasksTooLarge
from model_server.task import parse_tasks
from model_server.task_body import MAX_BYTES, MAX_VALUES, read_tasks

from .task_samples import ITEM, MISSING, TASK, read, task

LARGEST_ANSWER = 64 * 1024


def lines(*values: Any, end: str = "\n") -> bytes:
    return end.join(json.dumps(value) for value in values).encode()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\n \t\n"])
@pytest.mark.parametrize("promised", [True, False])
def test_several_lines_are_several_tasks_in_their_order(end: str, promised: bool) -> None:
    body = lines(task(pk="1"), task(pk="2"), task(pk="3"), end=end) + end.encode()
    tasks, as_lines = read(body, lines=promised)
    assert ([parsed.pk for parsed in tasks], as_lines) == (["1", "2", "3"], True)


def test_one_line_that_was_promised_as_lines_is_answered_as_lines() -> None:
    assert read(lines(TASK), lines=True)[1] is True
    assert read(lines(TASK) + b"\n", lines=False)[1] is False


def test_one_task_may_be_written_over_several_lines() -> None:
    (parsed,), as_lines = read(json.dumps(TASK, indent=2).encode(), lines=False)
    assert (parsed.pk, as_lines) == ("1", False)


def test_the_fault_of_a_line_is_named_by_its_line() -> None:
    with pytest.raises(TaskInvalid) as caught:
        read(lines(task(pk="1"), task(pk=MISSING), task(timeout=0)) + b"\nnot json", lines=True)
    assert [fault["loc"] for fault in caught.value.faults] == [
        ["body", 1, "pk"],
        ["body", 2, "timeout"],
        ["body", 3, 0],
    ]


def test_a_list_of_tasks_names_the_fault_by_its_place() -> None:
    with pytest.raises(TaskInvalid) as caught:
        parse_tasks([TASK, 5, task(pk=MISSING)], root="tasks")
    assert [fault["loc"] for fault in caught.value.faults] == [["tasks", 1], ["tasks", 2, "pk"]]
    assert [parsed.pk for parsed in parse_tasks([TASK, task(pk="2")])] == ["1", "2"]


@pytest.mark.parametrize(
    ("body", "kind", "loc"),
    [
        (b"", "missing", ["body"]),
        (b" \n\t ", "json_invalid", ["body", 4]),
        (b"[]", "model_attributes_type", ["body"]),
        (b'"x"', "model_attributes_type", ["body"]),
        (b"7", "model_attributes_type", ["body"]),
        (b'{"pk":', "json_invalid", ["body", 6]),
        (b"{'pk': 1}", "json_invalid", ["body", 1]),
        (b'{"pk": ' + b"1" * 5000 + b"}", "json_invalid", ["body", 0]),
        (b"[" * 200_000, "json_invalid", ["body", 0]),
        (b'{"a":' * 100_000, "json_invalid", ["body", 0]),
    ],
)
def test_a_body_that_is_no_task_says_what_it_is(body: bytes, kind: str, loc: list[Any]) -> None:
    with pytest.raises(TaskInvalid) as caught:
        read(body, lines=False)
    assert [(fault["type"], fault["loc"]) for fault in caught.value.faults] == [(kind, loc)]


def test_invalid_json_has_the_shape_that_fastapi_gives_it() -> None:
    with pytest.raises(TaskInvalid) as caught:
        read(b'{"pk": x}', lines=False)
    assert caught.value.detail == [
        {"type": "json_invalid", "loc": ["body", 7], "msg": "JSON decode error", "ctx": {"error": "Expecting value"}}
    ]


@pytest.mark.parametrize("body", [b"\xff\xfe{}", '{"pk": "ü"}'.encode("latin-1"), json.dumps(TASK).encode("utf-16")])
def test_a_body_that_is_not_utf8_is_unreadable(body: bytes) -> None:
    with pytest.raises(BodyUnreadable):
        read(body, lines=False)


def test_a_byte_order_mark_does_no_harm() -> None:
    assert read(b"\xef\xbb\xbf" + lines(TASK), lines=False)[0][0].pk == "1"


def test_a_byte_order_mark_makes_no_text_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    body = lines(TASK)
    monkeypatch.setattr(task_body, "MAX_BYTES", len(body) + 3)
    assert read(b"\xef\xbb\xbf" + body, lines=False)[0][0].pk == "1"


@pytest.mark.parametrize("count", [101, 5_000])
def test_many_faults_are_counted_and_not_all_listed(count: int) -> None:
    with pytest.raises(TaskInvalid) as caught:
        read(lines(task(inputs=[{}] * count)), lines=False)
    found = caught.value.faults
    assert len(found) == 101
    assert found[-1]["msg"] == f"{3 * count - 100} more faults are not listed"
    assert len(json.dumps(found)) < LARGEST_ANSWER


@pytest.mark.parametrize("count", [101, 500])
def test_many_faults_of_lines_are_counted_once(count: int) -> None:
    with pytest.raises(TaskInvalid) as caught:
        read(lines(task(inputs=[{}] * count), task(inputs=[{}] * count)), lines=True)
    assert len(caught.value.faults) == 101
    assert caught.value.faults[-1]["msg"] == f"{6 * count - 100} more faults are not listed"


# -- whatever comes

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=20),
    st.sampled_from(["PT1M", "a/b", "..", "/", "bucket", "\ud800", "é" * 1000, "x" * 5000, "-P1D", 10**30, "\0"]),
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
inputs_like = st.fixed_dictionaries(
    {}, optional={name: scalars | st.just(ITEM.get(name, True)) for name in [*ITEM, "decompress"]}
)
tasks_like = st.fixed_dictionaries(
    {},
    optional={name: anything | st.just(value) for name, value in TASK.items() if name != "inputs"}
    | {"inputs": st.lists(inputs_like | anything, max_size=5) | anything},
)


def answer(body: bytes, promised: bool) -> Any:
    """Return the tasks in a body, or else what a 422 or 400 says of it."""
    try:
        return read(body, promised)[0]
    except (TaskInvalid, BodyUnreadable) as error:
        return {"detail": error.detail, "error": error.as_json()}


@settings(max_examples=300, deadline=None)
@given(tasks_like | anything, st.booleans())
@example({"inputs": [{"relative_path": "\U0001f600" * 4000}] * 300}, False)
@example(task(timeout=float("nan")), False)
@example(task(pk="\ud800" * 1000, inputs=[{"relative_path": "\ud800" * 1000}] * 200), True)
def test_any_json_value_is_a_task_or_a_short_list_of_faults(value: Any, promised: bool) -> None:
    answered = answer(json.dumps(value).encode(), promised)
    assert answered
    if isinstance(answered, dict):
        assert len(json.dumps(answered)) < LARGEST_ANSWER
        assert all(fault["msg"] and fault["loc"][0] == "body" for fault in answered["detail"])


bodies = st.lists(tasks_like.map(json.dumps), max_size=4).map(lambda rows: "\n".join(rows).encode())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | bodies, st.booleans())
def test_any_bytes_are_tasks_or_refused(body: bytes, promised: bool) -> None:
    answered = answer(body, promised)
    assert answered
    assert isinstance(answered, list) or len(json.dumps(answered)) < LARGEST_ANSWER


# -- bounds


def padded(size: int, character: bytes = b" ") -> bytes:
    """Return a body of a size whose task is followed by something of no meaning."""
    start = lines(TASK)[:-1] + b', "note": "'
    return start + character * ((size - len(start) - 2) // len(character)) + b'"}'


@pytest.mark.parametrize("character", [b" ", "é".encode()])
def test_tasks_of_the_largest_size_are_taken(character: bytes) -> None:
    assert read(padded(MAX_BYTES, character), lines=False)[0][0].pk == "1"


@pytest.mark.parametrize("character", [b" ", "é".encode(), "€".encode(), "\U0001f600".encode()])
def test_tasks_over_the_largest_size_are_refused(character: bytes) -> None:
    with pytest.raises(TasksTooLarge):
        read(padded(MAX_BYTES + 10, character), lines=False)


@pytest.mark.parametrize(
    ("wide", "size"), [("€", MAX_BYTES // 2), ("\U0001f600", MAX_BYTES // 4), ("\u0100", MAX_BYTES // 2)]
)
def test_one_wide_character_makes_all_characters_wide(wide: str, size: int) -> None:
    note = f', "more": "{wide}"}}'.encode()
    assert read(padded(size - 100)[:-1] + note, lines=False)[0][0].pk == "1"
    with pytest.raises(TasksTooLarge):
        read(padded(size + 100)[:-1] + note, lines=False)


class Announced:
    """A body that must not be read."""

    def read(self, size: int) -> bytes:
        raise AssertionError("it was read")


class Endless:
    """A body without an end, of which only so much may be asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.left = MAX_BYTES + 2 * task_body.CHUNK_BYTES

    def read(self, size: int) -> bytes:
        self.left -= size
        assert self.left > 0, "it was read beyond the bound"
        return (self.data * (size // len(self.data) + 1))[:size]


def test_a_body_that_is_announced_as_too_large_is_not_read() -> None:
    with pytest.raises(TasksTooLarge):
        read_tasks(Announced(), MAX_BYTES + 1, lines=False)


@pytest.mark.parametrize("data", [b" ", b"\n", b"[", b"{},", b'"', "\U0001f600".encode(), b"\x80", b"\xff"])
def test_no_more_of_a_body_is_read_than_the_bound(data: bytes) -> None:
    with pytest.raises(TasksTooLarge):
        read_tasks(Endless(data), None, lines=True)


@pytest.mark.parametrize("cut", [1, 30])
def test_tasks_that_end_before_what_was_announced_are_not_taken(cut: int) -> None:
    body = lines(TASK, task(pk="2"))
    whole = len(lines(TASK)) + 1
    with pytest.raises(BodyUnreadable):
        read_tasks(io.BytesIO(body[:whole]), len(body), lines=True)
    with pytest.raises(BodyUnreadable):
        read_tasks(io.BytesIO(body[:-cut]), len(body), lines=True)


VALUES_OF_AN_INPUT = 7


def many_inputs(values: int) -> dict[str, Any]:
    return task(inputs=[ITEM | {"relative_path": f"{n}"} for n in range(values // VALUES_OF_AN_INPUT)])


def test_tens_of_thousands_of_inputs_are_taken() -> None:
    large = many_inputs(MAX_VALUES - 20)
    assert len(read(lines(large), lines=False)[0][0].inputs) == len(large["inputs"])


@pytest.mark.parametrize("row", [b"x\n", b"[],", b'{"a":1}', b"\n", b"1,"])
def test_what_has_more_values_is_refused_before_it_is_parsed(row: bytes) -> None:
    with pytest.raises(TasksTooLarge):
        read(row * (MAX_VALUES + 1), lines=True)


def test_the_bounds_are_named_as_they_are() -> None:
    assert f"{MAX_BYTES // 2**20} MiB and {MAX_VALUES:,} values" in errors.TasksTooLarge.hint


@pytest.mark.parametrize(("unit", "promised"), [(b"{},", False), (b"{}\n", True), (b"x\n", True)])
def test_any_number_of_faults_takes_little_memory(unit: bytes, promised: bool) -> None:
    peaks = []
    for count in (1_000, 10_000):
        body = unit * count
        body = body if promised else b'{"inputs":[' + body + b"0]}"
        tracemalloc.start()
        with pytest.raises(TaskInvalid) as caught:
            read(body, promised)
        peaks.append(tracemalloc.get_traced_memory()[1] - 3 * len(body))
        tracemalloc.stop()
        assert len(caught.value.faults) == 101
    values = 9_000 if not promised else 0  # are in memory at once
    assert peaks[1] < peaks[0] + 100 * values + 500_000
