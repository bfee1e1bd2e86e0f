"""Is it a task? Every rule of the task JSON, and every fault of it at once."""

import json
from datetime import timedelta
from typing import Any

import pytest

from model_server.errors import TaskInvalid
from model_server.task import Task

from .task_samples import ITEM, MISSING, TASK, read, task


def item(**more: Any) -> dict[str, Any]:
    return task(inputs=[{name: value for name, value in (ITEM | more).items() if value is not MISSING}])


def parse(value: Any) -> Task:
    ((parsed,), as_lines) = read(json.dumps(value).encode(), lines=False)
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
