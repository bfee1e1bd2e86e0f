"""Is it a task? Every rule of the task JSON, and every fault of it at once."""

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model_server.errors import BodyUnreadable, TaskInvalid
from model_server.task import Task, parse_body, parse_tasks

LARGEST_BODY = 64 * 1024
ITEM = {"relative_path": "a/b.txt", "bucket_name": "bucket", "bucket_key": "key"}
TASK = {"pk": "1", "inputs": [ITEM], "output_bucket_name": "bucket", "output_prefix": "out/", "timeout": "PT1M"}
MISSING = object()


def task(**more: Any) -> dict[str, Any]:
    return {name: value for name, value in (TASK | more).items() if value is not MISSING}


def item(**more: Any) -> dict[str, Any]:
    return task(inputs=[{name: value for name, value in (ITEM | more).items() if value is not MISSING}])


def parse(value: Any) -> Task:
    ((parsed,), as_lines) = parse_body(json.dumps(value).encode(), lines=False)
    assert not as_lines
    return parsed


def faults(value: Any) -> list[dict[str, Any]]:
    with pytest.raises(TaskInvalid) as caught:
        parse(value)
    return caught.value.detail


def places(value: Any) -> list[tuple[Any, ...]]:
    return [tuple(fault["loc"]) for fault in faults(value)]


def test_the_task_of_the_real_client_is_taken_as_it_is() -> None:
    parsed = parse(task(output_prefix="/io/algorithms/job/1-2", inputs=[ITEM | {"decompress": False}], timeout="PT1M"))
    assert parsed.output_prefix == "/io/algorithms/job/1-2/"
    assert parsed.result_key == "/io/algorithms/job/1-2/.sagemaker_shim/inference_result.json"
    assert parsed.timeout == timedelta(minutes=1)
    assert str(parsed.inputs[0].relative_path) == "a/b.txt"


def test_unknown_keys_are_ignored() -> None:
    assert parse(item(colour="red") | {"priority": 1}) == parse(TASK)


def test_a_task_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(TASK).pk = "2"


@pytest.mark.parametrize("field", ["pk", "inputs", "output_bucket_name", "output_prefix"])
def test_a_field_that_is_missing_is_named(field: str) -> None:
    (fault,) = faults(task(**{field: MISSING}))
    assert (fault["type"], fault["loc"], fault["msg"]) == ("missing", ["body", field], "Field required")


@pytest.mark.parametrize("field", ["relative_path", "bucket_name", "bucket_key"])
def test_a_field_of_an_input_that_is_missing_is_named(field: str) -> None:
    (fault,) = faults(item(**{field: MISSING}))
    assert (fault["type"], fault["loc"]) == ("missing", ["body", "inputs", 0, field])


@pytest.mark.parametrize("field", ["pk", "output_bucket_name", "output_prefix"])
@pytest.mark.parametrize("value", [1, None, [], {}, True])
def test_what_must_be_text_is_no_other_type(field: str, value: Any) -> None:
    (fault,) = faults(task(**{field: value}))
    assert (fault["type"], fault["loc"]) == ("string_type", ["body", field])


@pytest.mark.parametrize("value", [1, None, "x", {}])
def test_inputs_are_a_list(value: Any) -> None:
    (fault,) = faults(task(inputs=value))
    assert (fault["type"], fault["loc"]) == ("list_type", ["body", "inputs"])


def test_a_task_may_have_no_inputs() -> None:
    assert parse(task(inputs=[])).inputs == []


@pytest.mark.parametrize("pk", ["1", "a-b_c.d", "a b", "ü", "…", "x" * 240, ".hidden", "-rf", "123e4567-e89b-12d3"])
def test_a_pk_is_any_plain_path_segment(pk: str) -> None:
    assert parse(task(pk=pk)).pk == pk


@pytest.mark.parametrize("pk", ["", ".", "..", "a/b", "/", "../x", "a\0b", "x" * 241, "é" * 121, "\ud800"])
def test_a_pk_that_is_no_safe_path_segment_is_refused(pk: str) -> None:
    assert places(task(pk=pk)) == [("body", "pk")]


@pytest.mark.parametrize(
    "path",
    ["a", "a/b/c.txt", "a b/ü.txt", "./a", "a//b", "a/", ".a", "..a", "a..", "x" * 255, "a/" * 63 + "b", "-x", "~"],
)
def test_a_relative_path_is_any_path_that_stays_in_its_folder(path: str) -> None:
    assert not parse(item(relative_path=path)).inputs[0].relative_path.is_absolute()


@pytest.mark.parametrize(
    "path",
    ["", ".", "./", "/", "/a", "//a", "..", "../a", "a/../b", "a/..", "a\0b", "x" * 256, "a/" * 64 + "b", "\ud800"],
)
def test_a_relative_path_that_could_leave_its_folder_is_refused(path: str) -> None:
    assert places(item(relative_path=path)) == [("body", "inputs", 0, "relative_path")]


def test_a_deep_path_is_refused_in_good_time() -> None:
    inputs = [ITEM | {"relative_path": f"{number}/" + "a/" * 1500 + "b"} for number in range(100)]
    found = faults(task(inputs=inputs))
    assert {fault["msg"] for fault in found} == {"Value error, must have at most 64 segments"}


@pytest.mark.parametrize("value", [task(pk="a\ud800"), item(relative_path="a/\ud800/b"), task(output_prefix="\ud800")])
def test_half_a_character_is_said_in_plain_words(value: dict[str, Any]) -> None:
    (fault,) = faults(value)
    assert fault["msg"] == "Value error, must be valid Unicode"


@pytest.mark.parametrize("character", ["\n", "\r", "\t", "\x1b", "\x7f", "\x85", "\u2028", "\u2029"])
def test_a_pk_does_not_split_a_line_of_the_log(character: str) -> None:
    (fault,) = faults(task(pk=f"a{character}b"))
    assert fault["msg"] == "Value error, must not hold control characters"


BUCKETS = [
    "my-bucket",
    "My_Bucket.1",
    "x" * 255,
    "arn:aws:s3:eu-west-1:123456789012:accesspoint/name",
    "arn:aws:s3:us-east-1:123456789012:accesspoint:name",
    "arn:aws-cn:s3-object-lambda:cn-north-1:123456789012:accesspoint/my.name",
    "arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-1/accesspoint/name",
]
NO_BUCKETS = ["", "a/b", "a b", "x" * 256, "bucket\n", "ü", "s3://bucket", "arn:aws:s3:::bucket", "a:b"]


@pytest.mark.parametrize("name", BUCKETS)
def test_a_bucket_is_a_name_or_an_access_point(name: str) -> None:
    assert parse(item(bucket_name=name)).inputs[0].bucket_name == name
    assert parse(task(output_bucket_name=name)).output_bucket_name == name


@pytest.mark.parametrize("name", NO_BUCKETS)
def test_what_is_no_bucket_is_said_in_the_drop_ins_words(name: str) -> None:
    (fault,) = faults(item(bucket_name=name))
    assert (fault["loc"], fault["msg"]) == (
        ["body", "inputs", 0, "bucket_name"],
        "Value error, Invalid bucket name",
    )
    assert places(task(output_bucket_name=name)) == [("body", "output_bucket_name")]


@pytest.mark.parametrize("key", ["/leading", "a//b", " ", "a+b", "ü", "x" * 1024, "a\nb"])
def test_a_key_is_kept_as_it_is(key: str) -> None:
    assert parse(item(bucket_key=key)).inputs[0].bucket_key == key


def test_a_key_is_not_empty() -> None:
    assert places(item(bucket_key="")) == [("body", "inputs", 0, "bucket_key")]


@pytest.mark.parametrize(("value", "parsed"), [(True, True), (False, False), ("true", True), (1, True), ("no", False)])
def test_decompress_is_a_lax_bool(value: Any, parsed: bool) -> None:
    assert parse(item(decompress=value)).inputs[0].decompress is parsed
    assert parse(item()).inputs[0].decompress is False


@pytest.mark.parametrize("value", ["maybe", 2, None, []])
def test_decompress_is_nothing_else(value: Any) -> None:
    assert places(item(decompress=value)) == [("body", "inputs", 0, "decompress")]


@pytest.mark.parametrize(
    ("prefix", "stored"),
    [("a", "a/"), ("a/", "a/"), ("/a", "/a/"), ("//a//", "//a//"), ("/", "/"), (" ", " /"), ("ü", "ü/")],
)
def test_a_prefix_gets_one_slash_at_its_end_and_keeps_all_others(prefix: str, stored: str) -> None:
    assert parse(task(output_prefix=prefix)).output_prefix == stored


def test_a_blank_prefix_is_refused_in_the_drop_ins_words() -> None:
    (fault,) = faults(task(output_prefix=""))
    assert fault["msg"] == "Value error, Prefix cannot be blank"


@pytest.mark.parametrize(("length", "fits"), [(1024 - 37, True), (1025 - 37, False), (70_000, False), (300_000, False)])
def test_a_prefix_leaves_room_for_the_key_of_the_result(length: int, fits: bool) -> None:
    prefix = "x" * (length - 1)
    if fits:
        assert len(parse(task(output_prefix=prefix)).result_key) == 1024
    else:
        assert places(task(output_prefix=prefix)) == [("body", "output_prefix")]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("PT1H10M30S", 4230),
        ("PT1M", 60),
        ("P1D", 86_400),
        ("P1Y", 365 * 86_400),
        ("PT0.5S", 0.5),
        ("P1DT1S", 86_401),
        (10, 10),
        (1.5, 1.5),
        ("01:02:03", 3723),
        ("1:02:03.5", 3723.5),
        ("2 days, 01:00:00", 2 * 86_400 + 3600),
    ],
)
def test_a_time_limit_is_an_iso_duration_a_number_or_a_clock(value: Any, seconds: float) -> None:
    limit = parse(task(timeout=value)).timeout
    assert limit is not None
    assert limit.total_seconds() == seconds


@pytest.mark.parametrize("value", [None, MISSING])
def test_a_time_limit_may_be_left_to_the_server(value: Any) -> None:
    assert parse(task(timeout=value)).timeout is None


@pytest.mark.parametrize("value", [0, -1, "PT0S", "-PT1M", 0.0, False, "00:00:00"])
def test_a_time_limit_is_positive(value: Any) -> None:
    assert places(task(timeout=value)) == [("body", "timeout")]


@pytest.mark.parametrize(
    "value", ["10", "", "soon", [], {}, "PT", 10**400, 1e300, float("nan"), float("inf"), "1M", "P" + "9" * 5000 + "D"]
)
def test_what_is_no_time_limit_is_refused(value: Any) -> None:
    assert places(task(timeout=value)) in ([("body", "timeout")], [("body", 0)])


def test_all_faults_are_named_at_once() -> None:
    wrong = {
        "inputs": [ITEM, {"relative_path": "/x", "bucket_name": "a/b"}, 7],
        "output_bucket_name": "a b",
        "output_prefix": "",
        "timeout": -1,
    }
    assert sorted(map(str, places(wrong))) == sorted(
        map(
            str,
            [
                ("body", "pk"),
                ("body", "inputs", 1, "relative_path"),
                ("body", "inputs", 1, "bucket_name"),
                ("body", "inputs", 1, "bucket_key"),
                ("body", "inputs", 2),
                ("body", "output_bucket_name"),
                ("body", "output_prefix"),
                ("body", "timeout"),
            ],
        )
    )


def colliding(*paths: str, zips: tuple[int, ...] = ()) -> dict[str, Any]:
    return task(inputs=[ITEM | {"relative_path": p, "decompress": n in zips} for n, p in enumerate(paths)])


@pytest.mark.parametrize(
    ("paths", "zips", "at"),
    [
        (["a", "b", "a"], (), [2]),
        (["a", "a", "a"], (), [1, 2]),
        (["a", "./a"], (), [1]),
        (["a/b", "a//b/"], (), [1]),
        (["a", "a/b"], (), [1]),
        (["a/b/c", "a"], (), [0]),
        (["x.zip", "x.zip"], (0, 1), [1]),
        (["a", "a/b.zip"], (1,), [1]),
    ],
)
def test_two_inputs_that_need_one_path_are_refused(paths: list[str], zips: tuple[int, ...], at: list[int]) -> None:
    found = faults(colliding(*paths, zips=zips))
    assert [fault["loc"] for fault in found] == [["body", "inputs", index, "relative_path"] for index in at]
    assert {fault["type"] for fault in found} == {"path_taken"}
    assert all("inputs[" in fault["msg"] for fault in found)
    assert not any(path in fault["msg"] for fault in found for path in paths if len(path) > 1)


@pytest.mark.parametrize(
    ("paths", "zips"),
    [(["a", "b"], ()), (["a/b", "a/c"], ()), (["a", "A"], ()), (["x", "x/y"], (0,)), (["ab", "a/b"], ())],
)
def test_inputs_beside_each_other_are_fine(paths: list[str], zips: tuple[int, ...]) -> None:
    assert len(parse(colliding(*paths, zips=zips)).inputs) == len(paths)


# -- bodies


def lines(*values: Any, end: str = "\n") -> bytes:
    return end.join(json.dumps(value) for value in values).encode()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\n \t\n"])
@pytest.mark.parametrize("promised", [True, False])
def test_several_lines_are_several_tasks_in_their_order(end: str, promised: bool) -> None:
    body = lines(task(pk="1"), task(pk="2"), task(pk="3"), end=end) + end.encode()
    tasks, as_lines = parse_body(body, lines=promised)
    assert ([parsed.pk for parsed in tasks], as_lines) == (["1", "2", "3"], True)


def test_one_line_that_was_promised_as_lines_is_answered_as_lines() -> None:
    assert parse_body(lines(TASK), lines=True)[1] is True
    assert parse_body(lines(TASK) + b"\n", lines=False)[1] is False


def test_one_task_may_be_written_over_several_lines() -> None:
    (parsed,), as_lines = parse_body(json.dumps(TASK, indent=2).encode(), lines=False)
    assert (parsed.pk, as_lines) == ("1", False)


def test_the_fault_of_a_line_is_named_by_its_line() -> None:
    with pytest.raises(TaskInvalid) as caught:
        parse_body(lines(task(pk="1"), task(pk=MISSING), task(timeout=0)) + b"\nnot json", lines=True)
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
        parse_body(body, lines=False)
    assert [(fault["type"], fault["loc"]) for fault in caught.value.faults] == [(kind, loc)]


def test_invalid_json_has_the_shape_that_fastapi_gives_it() -> None:
    with pytest.raises(TaskInvalid) as caught:
        parse_body(b'{"pk": x}', lines=False)
    assert caught.value.detail == [
        {"type": "json_invalid", "loc": ["body", 7], "msg": "JSON decode error", "ctx": {"error": "Expecting value"}}
    ]


@pytest.mark.parametrize("body", [b"\xff\xfe{}", '{"pk": "ü"}'.encode("latin-1"), json.dumps(TASK).encode("utf-16")])
def test_a_body_that_is_not_utf8_is_unreadable(body: bytes) -> None:
    with pytest.raises(BodyUnreadable):
        parse_body(body, lines=False)


def test_a_byte_order_mark_does_no_harm() -> None:
    assert parse_body(b"\xef\xbb\xbf" + lines(TASK), lines=False)[0][0].pk == "1"


@pytest.mark.parametrize("count", [101, 5_000])
def test_many_faults_are_counted_and_not_all_listed(count: int) -> None:
    found = faults(task(inputs=[{}] * count))
    assert len(found) == 101
    assert found[-1]["msg"] == f"{3 * count - 100} more faults are not listed"
    assert len(json.dumps(found)) < LARGEST_BODY


@pytest.mark.parametrize("count", [101, 500])
def test_many_faults_of_lines_are_counted_once(count: int) -> None:
    with pytest.raises(TaskInvalid) as caught:
        parse_body(lines(task(inputs=[{}] * count), task(inputs=[{}] * count)), lines=True)
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
        return parse_body(body, promised)[0]
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
        assert len(json.dumps(answered)) < LARGEST_BODY
        assert all(fault["msg"] and fault["loc"][0] == "body" for fault in answered["detail"])


bodies = st.lists(tasks_like.map(json.dumps), max_size=4).map(lambda rows: "\n".join(rows).encode())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | bodies, st.booleans())
def test_any_bytes_are_tasks_or_refused(body: bytes, promised: bool) -> None:
    answered = answer(body, promised)
    assert answered
    assert isinstance(answered, list) or len(json.dumps(answered)) < LARGEST_BODY
