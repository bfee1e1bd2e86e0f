"""The predictor's HTTP, through Flask's client: what SageMaker asks, and JSON for every error."""

from __future__ import annotations

import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rig import Rig, signed_result, wait_until

from faulty_s3 import Answer, FaultyS3, Together

if TYPE_CHECKING:
    from conftest import Start
    from tests.conftest import Bucket

RETRY_AFTER = "5"


def lines(*tasks: Any) -> bytes:
    return b"".join(json.dumps(task).encode() + b"\n" for task in tasks)


def faults(answer: Any) -> set[tuple[str, str]]:
    """Return place and type of each fault of a 422."""
    assert answer.status_code == 422
    return {(".".join(map(str, fault["loc"])), fault["type"]) for fault in answer.json["detail"]}


# -- /ping and /execution-parameters


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
def test_ping_is_empty_and_says_whether_tasks_can_run(start: Start, method: str, ready: bool, status: int) -> None:
    answer = start("does_nothing", ready=ready).app.test_client().open("/ping", method=method)
    assert (answer.status_code, answer.data) == (status, b"")
    assert "Content-Type" not in answer.headers


def test_ping_is_not_logged(start: Start) -> None:
    rig = start("does_nothing", env={"LOG_LEVEL": "DEBUG"})
    rig.app.test_client().get("/ping")
    assert rig.log() == []


def test_ping_is_answered_while_a_task_runs(start: Start, bucket: Bucket, tmp_path: Path) -> None:
    rig, go_on = waiting_rig(start, bucket, tmp_path)
    posted = rig.post_in_thread(named_task(bucket, "one"))
    wait_until(lambda: started(tmp_path) == ["one"], "the task")
    assert rig.app.test_client().get("/ping").status_code == 200
    assert not posted.answered
    go_on()
    assert posted.answer().status_code == 200


def test_execution_parameters_are_the_defaults(start: Start) -> None:
    answer = start("does_nothing").app.test_client().get("/execution-parameters")
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert answer.json == {"MaxConcurrentTransforms": 1, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 6}


def test_execution_parameters_follow_the_settings(start: Start) -> None:
    env = {"MODEL_SERVER_BATCH_STRATEGY": "multi_record", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "20"}
    answer = start("does_nothing", env=env).app.test_client().get("/execution-parameters")
    assert answer.json == {"MaxConcurrentTransforms": 1, "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": 20}


# -- routes


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/", 404, None),
        ("GET", "/docs", 404, None),
        ("GET", "/openapi.json", 404, None),
        ("GET", "/ping/", 404, None),
        ("POST", "/invocations/", 404, None),
        ("GET", "/execution-parameters/", 404, None),
        ("GET", "/static/x", 404, None),
        ("GET", "/invocations", 405, {"POST"}),
        ("PUT", "/invocations", 405, {"POST"}),
        ("OPTIONS", "/invocations", 405, {"POST"}),
        ("DELETE", "/ping", 405, {"GET", "HEAD", "POST"}),
        ("OPTIONS", "/ping", 405, {"GET", "HEAD", "POST"}),
        ("POST", "/execution-parameters", 405, {"GET"}),
    ],
)
def test_what_is_not_served_is_said_in_json(
    start: Start, method: str, path: str, status: int, allow: set[str] | None
) -> None:
    answer = start("does_nothing").app.test_client().open(path, method=method)
    assert (answer.status_code, answer.content_type) == (status, "application/json")
    assert answer.json["detail"] == {404: "Not Found", 405: "Method Not Allowed"}[status]
    assert answer.json["error"]["code"] == {404: "not_found", 405: "method_not_allowed"}[status]
    assert answer.json["error"]["hint"]
    assert set(answer.headers.get("Allow", "").split(", ")) == (allow or {""})


def test_execution_parameters_answer_get_only(start: Start) -> None:
    answer = start("does_nothing").app.test_client().head("/execution-parameters")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")


# -- what is refused


@pytest.mark.parametrize("kind", ["text/plain", "text/csv; header=present", "application/vnd.longshore.payload+json"])
def test_a_content_type_that_is_no_tasks_is_a_415_that_names_the_setting(
    start: Start, bucket: Bucket, kind: str
) -> None:
    answer = start("does_nothing").post(bucket.task(), content_type=kind)
    assert (answer.status_code, answer.content_type) == (415, "application/json")
    assert answer.json["error"]["code"] == "content_type_unsupported"
    assert "ALGORITHM_PAYLOADS" in answer.json["error"]["message"]
    assert [(fault["loc"], fault["type"]) for fault in answer.json["detail"]] == [(["body"], "model_attributes_type")]
    assert bucket.keys() == []


@pytest.mark.parametrize("payloads", ["", "true"])
@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=a", "application/x-www-form-urlencoded"])
def test_a_form_is_a_415_whatever_is_set(start: Start, bucket: Bucket, kind: str, payloads: str) -> None:
    answer = start("does_nothing", env={"ALGORITHM_PAYLOADS": payloads}).post(bucket.task(), content_type=kind)
    assert (answer.status_code, answer.json["error"]["code"]) == (415, "form_unsupported")
    assert bucket.keys() == []


@pytest.mark.parametrize("kind", [None, "application/json; charset=utf-8", "Application/JSON", "application/x+json"])
def test_json_by_any_name_and_no_content_type_are_taken(start: Start, bucket: Bucket, kind: str | None) -> None:
    assert start("does_nothing").post(bucket.task(), content_type=kind).status_code == 200


@pytest.mark.parametrize(
    ("kind", "size", "status", "code"),
    [
        ("application/json", 25 * 2**20, 400, "body_unreadable"),  # as it ends before that
        ("application/json", 25 * 2**20 + 1, 413, "tasks_too_large"),
        ("text/csv", 110 * 2**20, 503, "client_left"),  # likewise
        ("text/csv", 110 * 2**20 + 1, 413, "body_too_large"),
    ],
)
def test_a_body_beyond_the_limit_is_413(start: Start, kind: str, size: int, status: int, code: str) -> None:
    rig = start("does_nothing", env={"ALGORITHM_PAYLOADS": "true"})
    answer = rig.app.test_client().post(
        "/invocations",
        input_stream=io.BytesIO(b"{"),  # the length decides, before anything is read
        content_type=kind,
        environ_overrides={"CONTENT_LENGTH": str(size), "wsgi.input_terminated": False},
    )
    assert (answer.status_code, answer.content_type) == (status, "application/json")
    assert answer.json["error"]["code"] == code


def test_a_body_that_is_no_text_is_400(start: Start) -> None:
    answer = start("does_nothing").post(b'{"pk": "\xff"}')
    assert (answer.status_code, answer.json["detail"]) == (400, "There was an error parsing the body")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", ("body", "missing")),
        (b" \n ", ("body.3", "json_invalid")),
        (b"{", ("body.1", "json_invalid")),
        (b'{"pk": x}', ("body.7", "json_invalid")),
        (b"[]", ("body", "model_attributes_type")),
        (b'"task"', ("body", "model_attributes_type")),
        (b"null", ("body", "missing")),
        (b"1" * 10_000, ("body.0", "json_invalid")),
        (b"[" * 100_000, ("body.0", "json_invalid")),
    ],
    ids=["empty", "blank", "open", "bare word", "list", "string", "null", "number", "nested"],
)
def test_a_body_that_is_no_task_is_422(start: Start, body: bytes, expected: tuple[str, str]) -> None:
    answer = start("does_nothing").post(body)
    assert answer.json["error"]["code"] == "task_invalid"
    assert faults(answer) == {expected}
    assert len(answer.data) < 64 * 1024


def test_every_fault_of_a_task_is_named_at_once_and_the_input_is_not_repeated(start: Start, bucket: Bucket) -> None:
    task = {
        "pk": "../secret-value",
        "inputs": [
            {"relative_path": "/secret-value", "bucket_name": "b", "bucket_key": "k"},
            {"relative_path": "a/../../secret-value", "bucket_name": "secret value!", "bucket_key": ""},
            {"relative_path": "x", "bucket_name": "b", "bucket_key": "k", "decompress": "secret-value"},
            {"bucket_name": "b"},
            "secret-value",
        ],
        "output_bucket_name": "",
        "output_prefix": "",
        "timeout": "-PT1S",
    }
    answer = start("does_nothing").post(task)
    assert faults(answer) == {
        ("body.pk", "value_error"),
        ("body.inputs.0.relative_path", "value_error"),
        ("body.inputs.1.relative_path", "value_error"),
        ("body.inputs.1.bucket_name", "value_error"),
        ("body.inputs.1.bucket_key", "string_too_short"),
        ("body.inputs.2.decompress", "bool_parsing"),
        ("body.inputs.3.relative_path", "missing"),
        ("body.inputs.3.bucket_key", "missing"),
        ("body.inputs.4", "model_attributes_type"),
        ("body.output_bucket_name", "value_error"),
        ("body.output_prefix", "value_error"),
        ("body.timeout", "value_error"),
    }
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("paths", "fault"),
    [
        (["a", "a"], "body.inputs.1.relative_path"),
        (["a", "b/../b", "./a"], "body.inputs.1.relative_path"),
        (["a", "./a"], "body.inputs.1.relative_path"),
        (["a", "a/b"], "body.inputs.1.relative_path"),
        (["a/b/c", "a"], "body.inputs.0.relative_path"),
        (["../a"], "body.inputs.0.relative_path"),
        (["."], "body.inputs.0.relative_path"),
        (["n" * 256], "body.inputs.0.relative_path"),
        (["nul\0"], "body.inputs.0.relative_path"),
    ],
)
def test_a_path_that_clashes_or_leaves_is_refused_before_anything_is_downloaded(
    start: Start, bucket: Bucket, paths: list[str], fault: str
) -> None:
    answer = start("does_nothing").post(bucket.task(inputs=[bucket.item(path, "in") for path in paths]))
    assert fault in {place for place, _ in faults(answer)}
    assert bucket.keys() == []


@pytest.mark.parametrize("timeout", [0, -1, "PT0S", "-PT1S", "10 parsecs", []])
def test_a_time_limit_that_is_none_is_refused(start: Start, bucket: Bucket, timeout: Any) -> None:
    assert {place for place, _ in faults(start("does_nothing").post(bucket.task(timeout=timeout)))} == {"body.timeout"}


def test_a_time_limit_can_be_written_in_every_way_that_was_taken_before(start: Start, bucket: Bucket) -> None:
    rig = start("does_nothing")
    for timeout in ("PT1H10M30S", "P1D", 30, 30.5, "00:01:00", "1 days, 00:00:00", None):
        assert rig.run(bucket.task(timeout=timeout))["return_code"] == 0, timeout


def test_unknown_keys_of_a_task_are_ignored(start: Start, bucket: Bucket) -> None:
    assert start("does_nothing").post(bucket.task(of_a_later_version=1)).status_code == 200


def test_a_thousand_faults_are_counted_and_not_all_listed(start: Start, bucket: Bucket) -> None:
    answer = start("does_nothing").post(bucket.task(inputs=[{}] * 1000))
    assert answer.status_code == 422
    assert answer.json["detail"][-1]["msg"] == "2900 more faults are not listed"
    assert len(answer.data) < 64 * 1024


def test_before_the_set_up_is_done_a_task_is_503_and_not_run(start: Start, bucket: Bucket) -> None:
    answer = start("does_nothing", ready=False).post(bucket.task())
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "not_ready")
    assert bucket.keys() == []


# -- several tasks in one body


@pytest.mark.parametrize("kind", ["application/jsonlines", "application/x-ndjson", "application/json"])
def test_several_tasks_run_in_order_and_answer_one_line_each(start: Start, bucket: Bucket, kind: str) -> None:
    rig = start("exits_as_told")
    tasks = []
    for code in (0, 3, 0):
        bucket.put(f"code-{code}", str(code))
        pk = f"task-{len(tasks)}"
        tasks.append(bucket.task(pk, inputs=[bucket.item("code", f"code-{code}")]))
    answer = rig.post(lines(*tasks), kind)
    assert (answer.status_code, answer.content_type) == (200, "application/jsonlines")
    assert answer.data.endswith(b"\n")
    results = [json.loads(line) for line in answer.data.splitlines()]
    assert results == [signed_result(bucket, task) for task in tasks]
    assert [result["return_code"] for result in results] == [0, 3, 0], "one that fails does not stop the others"


def test_a_line_that_we_failed_leaves_the_other_lines(start: Start, bucket: Bucket, s3: FaultyS3) -> None:
    s3.fault("GET", "unavailable", Answer(503, "SlowDown"), times=None)
    s3.fault("PUT", "/out/unstored/.sagemaker_shim/inference_result.json", Answer(403, "AccessDenied"), times=None)
    tasks = [
        bucket.task("good"),
        bucket.task("unstored"),
        bucket.task("unavailable", inputs=[bucket.item("x", "unavailable")]),
    ]
    answer = start("does_nothing", endpoint=s3.endpoint, retry_seconds=1).post(lines(*tasks))
    assert answer.status_code == 200
    results = [json.loads(line) for line in answer.data.splitlines()]
    assert [(result["pk"], result["return_code"]) for result in results] == [
        ("good", 0),
        ("unstored", 1),
        ("unavailable", 1),
    ]
    assert [result["error"] and result["error"]["code"] for result in results] == [
        None,
        "result_not_stored",
        "storage_unavailable",
    ]
    assert results[1]["user_safe_error_message"] == "The result of the task could not be uploaded"


def test_lines_that_we_failed_without_exception_are_answered_with_the_first_error(
    start: Start, bucket: Bucket, s3: FaultyS3
) -> None:
    s3.fault("PUT", "/out/one/.sagemaker_shim/inference_result.json", Answer(403, "AccessDenied"), times=None)
    s3.fault("GET", "unavailable", Answer(503, "SlowDown"), times=None)
    tasks = [bucket.task("one"), bucket.task("two", inputs=[bucket.item("x", "unavailable")])]
    answer = start("does_nothing", endpoint=s3.endpoint, retry_seconds=1).post(lines(*tasks))
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "result_not_stored")


def test_one_task_as_a_line_is_answered_with_a_line(start: Start, bucket: Bucket) -> None:
    answer = start("does_nothing").post(lines(bucket.task()), "application/jsonlines")
    assert (answer.content_type, answer.data.count(b"\n")) == ("application/jsonlines", 1)


def test_one_task_over_several_lines_of_json_is_one_task(start: Start, bucket: Bucket) -> None:
    answer = start("does_nothing").post(json.dumps(bucket.task(), indent=2).encode() + b"\n")
    assert (answer.status_code, answer.content_type) == (200, "application/json")


@pytest.mark.parametrize("kind", ["application/jsonlines", "application/json"])
def test_one_bad_line_refuses_the_whole_body_before_anything_is_done(start: Start, bucket: Bucket, kind: str) -> None:
    body = lines(bucket.task("one"), bucket.task("two", timeout=0)) + b"{broken\n" + lines(bucket.task("four"))
    answer = start("does_nothing").post(body, kind)
    assert faults(answer) == {("body.1.timeout", "value_error"), ("body.2.1", "json_invalid")}
    assert bucket.keys() == []


# -- large results


def test_a_result_over_5_mb_goes_without_its_outputs_over_http_and_whole_to_s3(start: Start, bucket: Bucket) -> None:
    task = bucket.task(timeout="PT60S")
    answer = start("writes_many_files").post(task)
    assert answer.status_code == 200
    assert len(answer.data) <= 5_000_000
    short, whole = answer.json, signed_result(bucket, task)
    assert len(whole["outputs"]) == 400
    assert len(json.dumps(whole, ensure_ascii=False).encode()) > 5_000_000
    assert short.pop("outputs_omitted").startswith("The result is too large for this answer")
    del whole["outputs"], whole["refused_outputs"]
    assert short == whole


def test_a_result_stays_under_5_mb_over_http_whatever_the_algorithm_says(start: Start, bucket: Bucket) -> None:
    task = bucket.task()
    answer = start("writes_long_lines_of_control_characters").post(task)
    assert answer.status_code == 200
    assert len(answer.data) <= 5_000_000
    lines, whole = answer.json["user_process_last_stderr_lines"], signed_result(bucket, task)
    assert len(whole["user_process_last_stderr_lines"]) == 100
    assert 0 < len(lines) < 100
    assert lines == whole["user_process_last_stderr_lines"][-len(lines) :]


# -- the queue


def named_task(bucket: Bucket, name: str) -> dict[str, Any]:
    bucket.put(f"names/{name}", f"{name}\n")
    return bucket.task(name, inputs=[bucket.item("name", f"names/{name}")])


def waiting_rig(start: Start, bucket: Bucket, folder: Path, queue: int = 3) -> tuple[Rig, Any]:
    """Return a predictor whose tasks end once the function that comes with it was called."""
    go_on = folder / "go on"
    env = {"STARTED": str(folder / "started"), "GO_ON": str(go_on), "MODEL_SERVER_QUEUE": str(queue)}
    return start("waits_for_a_word", env=env), go_on.touch


def started(folder: Path) -> list[str]:
    file = folder / "started"
    return file.read_text().split() if file.exists() else []


def test_one_task_runs_at_a_time_and_the_others_wait_in_the_order_they_came(
    start: Start, bucket: Bucket, tmp_path: Path
) -> None:
    rig, go_on = waiting_rig(start, bucket, tmp_path)
    names = ["one", "two", "three", "four"]
    posted = []
    for place, name in enumerate(names):
        posted.append(rig.post_in_thread(named_task(bucket, name)))
        wait_until(lambda place=place: started(tmp_path) and rig.waiting() == place, f"{name} in its place")
    assert started(tmp_path) == ["one"]
    go_on()
    results = [request.answer().json for request in posted]
    assert started(tmp_path) == names
    assert [result["pk"] for result in results] == names
    assert [result["return_code"] for result in results] == [0] * 4
    assert results[0]["queue_seconds"] < min(result["queue_seconds"] for result in results[1:])
    rig.check_at_rest()


def test_tasks_of_a_body_whose_results_replace_each_other_are_named(start: Start, bucket: Bucket) -> None:
    rig = start("does_nothing")
    tasks = [bucket.task(str(number)) | {"output_prefix": "/out/same"} for number in range(12)]
    assert rig.post(lines(bucket.task("other"), *tasks), content_type="application/jsonlines").status_code == 200
    named = ", ".join(map(str, range(10))) + " and 2 more"
    (warning,) = rig.lines("stderr", internal=True)
    assert warning == f"Tasks have the output_prefix of another, so results replace each other: {named}"


class SlowBody(io.BytesIO):
    """Half a task, whose end nobody can read until there is word for that."""

    def __init__(self) -> None:
        super().__init__(b"{")
        self.ends = threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        assert self.ends.wait(60)
        return super().read(size)


def test_requests_that_are_not_read_yet_take_no_more_than_the_places_of_the_queue(start: Start, bucket: Bucket) -> None:
    """Each has a thread of the worker, and /ping is to find one."""
    rig = start("does_nothing", env={"MODEL_SERVER_QUEUE": "2"})
    bodies = [SlowBody() for _ in range(4)]

    def post(body: SlowBody) -> Any:
        return rig.app.test_client().post("/invocations", input_stream=body, content_type="application/json")

    with ThreadPoolExecutor(len(bodies)) as threads:
        posted = [threads.submit(post, body) for body in bodies]
        try:
            wait_until(lambda: "queue_full" in rig.log_text(), "no place to be left")
            assert rig.post(bucket.task("refused")).headers["Retry-After"] == RETRY_AFTER
        finally:
            for body in bodies:
                body.ends.set()
    codes = [request.result().json["error"]["code"] for request in posted]
    assert sorted(codes) == ["queue_full", *["task_invalid"] * 3]
    assert rig.post(bucket.task("next")).status_code == 200


def test_a_stop_stores_the_results_of_a_body_several_at_a_time(
    start: Start, bucket: Bucket, s3: FaultyS3, tmp_path: Path
) -> None:
    env = {"STARTED": str(tmp_path / "started"), "GO_ON": str(tmp_path / "never")}
    rig = start("waits_for_a_word", env=env, endpoint=s3.endpoint)
    tasks, together = [named_task(bucket, f"task-{number}") for number in range(9)], Together(4)
    for task in tasks[1:]:
        s3.fault("PUT", f"{task['output_prefix']}/.sagemaker_shim/inference_result.json", together)
    posted = rig.post_in_thread(lines(*tasks))
    wait_until(lambda: started(tmp_path), "the first task")
    rig.predictor.stop()
    assert (posted.answer().status_code, posted.answer().json["error"]["code"]) == (503, "interrupted")
    assert [signed_result(bucket, task)["error"]["code"] for task in tasks] == ["interrupted"] * 9
    assert started(tmp_path) == ["task-0"]


def test_a_full_queue_is_a_503_with_retry_after_at_once(start: Start, bucket: Bucket, tmp_path: Path) -> None:
    rig, go_on = waiting_rig(start, bucket, tmp_path, queue=1)
    running = rig.post_in_thread(named_task(bucket, "running"))
    wait_until(lambda: started(tmp_path), "the first task")
    waiting = rig.post_in_thread(named_task(bucket, "waiting"))
    wait_until(lambda: rig.waiting() == 1, "the second in the queue")
    before = time.monotonic()
    answer = rig.post(named_task(bucket, "refused"))
    assert time.monotonic() - before < 5
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, RETRY_AFTER)
    assert answer.json["error"]["code"] == "queue_full"
    assert not running.answered
    assert not waiting.answered
    go_on()
    assert [request.answer().status_code for request in (running, waiting)] == [200, 200]
    assert started(tmp_path) == ["running", "waiting"]
    assert not [key for key in bucket.keys() if "refused/" in key]  # noqa: SIM118 - no dict


def test_a_place_in_the_queue_is_free_again_after_its_task(start: Start, bucket: Bucket, tmp_path: Path) -> None:
    rig, go_on = waiting_rig(start, bucket, tmp_path, queue=1)
    go_on()
    for number in range(3):
        pair = [rig.post_in_thread(named_task(bucket, f"{number}-{side}")) for side in "ab"]
        assert [request.answer().status_code for request in pair] == [200, 200]
    assert rig.waiting() == 0


def test_stopping_ends_the_running_task_and_the_waiting_ones_with_results(
    start: Start, bucket: Bucket, tmp_path: Path
) -> None:
    rig, _ = waiting_rig(start, bucket, tmp_path)
    tasks = [named_task(bucket, "running"), named_task(bucket, "waiting")]
    running = rig.post_in_thread(tasks[0])
    wait_until(lambda: started(tmp_path), "the first task")
    waiting = rig.post_in_thread(tasks[1])
    wait_until(lambda: rig.waiting() == 1, "the second in the queue")
    rig.predictor.stop()
    for request in (running, waiting):
        answer = request.answer()
        assert (answer.status_code, answer.json["error"]["code"]) == (503, "interrupted")
    result = signed_result(bucket, tasks[0])
    assert result["user_safe_error_message"] == "The task was interrupted because the container is stopping"
    assert started(tmp_path) == ["running"]
    rig.check_at_rest()
