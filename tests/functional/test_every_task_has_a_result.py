"""Whatever happens, an accepted task ends in a signed, uploaded result with a sentence that a user may read."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from rig import KEY, outputs_of, signed_result

from faulty_s3 import Answer, CutBody, Delay, Fault, FaultyS3, Hold, LostAnswer
from model_server import archive, s3_download
from model_server.errors import WorkerLost
from model_server.ledger import AcceptedTask
from model_server.lost_tasks import store_lost_results
from model_server.scoreboard import Stuck
from model_server.settings import Settings

if TYPE_CHECKING:
    from conftest import Start
    from tests.conftest import Bucket

ACCEPTED = ("pk", "output_bucket_name", "output_prefix")
SLOW_DOWN = Answer(503, "SlowDown")
RESULT_KEY = "/out/task/.sagemaker_shim/inference_result.json"


def test_a_missing_object_ends_in_a_result_that_names_the_input_by_its_place(start: Start, bucket: Bucket) -> None:
    bucket.put("in", "data")
    inputs = [bucket.item("there", "in"), bucket.item("patient-7.mha", "scans/patient-7.mha")]
    rig = start("echoes_input")
    result = rig.run(bucket.task(inputs=inputs))
    assert (result["return_code"], result["exec_duration"], result["outputs"]) == (1, None, [])
    assert result["user_safe_error_message"] == "An input file does not exist"
    assert result["error"] == {
        "code": "input_missing",
        "message": "An input file does not exist",
        "hint": "See inputs[1] of the task.",
    }
    told = [record for record in rig.log() if record["source"] == "stderr" and not record["internal"]]
    assert [(record["log"], record["task"]) for record in told] == [("An input file does not exist", "task")]
    assert "patient-7" not in json.dumps(result) + rig.log_text()


def test_a_forbidden_object_ends_in_a_result(start: Start, bucket: Bucket, s3: FaultyS3) -> None:
    bucket.put("in", "data")
    s3.fault("GET", "in", Answer(403, "AccessDenied"), times=None)
    result = start("echoes_input", endpoint=s3.endpoint).run(bucket.task(inputs=[bucket.item("file", "in")]))
    assert result["error"]["code"] == "input_forbidden"
    assert result["user_safe_error_message"] == "An input file does not exist or may not be read"
    assert [request.method for request in s3.requests] == ["GET", "PUT"], "asking again would not help"


def test_a_missing_bucket_ends_in_a_result(start: Start, bucket: Bucket) -> None:
    task = bucket.task(inputs=[bucket.item("file", "in") | {"bucket_name": "no-such-bucket"}])
    assert start("echoes_input").run(task)["error"]["code"] == "input_missing"


def test_an_impossible_bucket_name_ends_in_a_result(start: Start, bucket: Bucket) -> None:
    task = bucket.task(inputs=[bucket.item("file", "in") | {"bucket_name": "-._-"}])
    assert start("echoes_input").run(task)["error"]["code"] in ("input_missing", "input_forbidden")


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "AuthorizationHeaderMalformed"), (400, "IllegalLocationConstraintException"), (301, "PermanentRedirect")],
)
def test_a_wrong_region_is_our_fault_not_the_tasks(
    start: Start, bucket: Bucket, s3: FaultyS3, status: int, code: str
) -> None:
    s3.fault("GET", "in", Answer(status, code), times=None)
    task = bucket.task(inputs=[bucket.item("file", "in")])
    answer = start("echoes_input", endpoint=s3.endpoint).post(task)
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "storage_refused")


def test_a_transfer_that_hangs_does_not_keep_a_failed_task_and_the_next_task_sees_nothing_of_it(
    start: Start, bucket: Bucket, s3: FaultyS3
) -> None:
    bucket.put("hangs", os.urandom(300_000))
    bucket.put("in", "data")
    hold = Hold()
    s3.fault("GET", "hangs", hold)
    rig = start("echoes_input", endpoint=s3.endpoint)
    started = time.monotonic()
    inputs = [bucket.item("late", "hangs"), bucket.item("missing", "missing")]
    assert rig.run(bucket.task("first", inputs=inputs))["error"]["code"] == "input_missing"
    assert time.monotonic() - started < 5, "the other transfer hangs for longer"
    assert not hold.released.is_set()
    hold.released.set()
    assert outputs_of(rig.run(bucket.task("second", inputs=[bucket.item("own", "in")]))) == ["own"]
    rig.storage.pool.shutdown()
    rig.check_at_rest()


def test_one_bad_input_ends_the_transfers_of_the_others(start: Start, bucket: Bucket, s3: FaultyS3) -> None:
    bucket.put("slow", "data")
    s3.fault("GET", "slow", SLOW_DOWN, times=None)
    inputs = [bucket.item(f"{number}", "slow") for number in range(5)] + [bucket.item("missing", "missing")]
    started = time.monotonic()
    result = start("echoes_input", endpoint=s3.endpoint).run(bucket.task(inputs=inputs))
    assert result["error"]["code"] == "input_missing"
    assert "inputs[5]" in result["error"]["hint"]
    assert time.monotonic() - started < 30, "the others would be tried again for about a minute"


@pytest.mark.parametrize(
    "fault",
    [SLOW_DOWN, Answer(500, "InternalError"), Answer(403, "ExpiredToken"), Answer(400, "RequestTimeout"), CutBody()],
    ids=lambda fault: getattr(fault, "code", "CutBody"),
)
def test_s3_may_fail_for_a_while_in_both_directions(start: Start, bucket: Bucket, s3: FaultyS3, fault: Any) -> None:
    bucket.put("in", "data" * 1000)
    s3.fault("GET", "in", fault, times=2)
    if not isinstance(fault, CutBody):
        s3.fault("PUT", "/out/task/file", fault, times=2)
        s3.fault("PUT", RESULT_KEY, fault, times=2)
    rig = start("echoes_input", endpoint=s3.endpoint)
    result = rig.run(bucket.task(inputs=[bucket.item("file", "in")]))
    assert outputs_of(result) == ["file"]
    assert bucket.get("/out/task/file") == b"data" * 1000
    assert any("trying again in" in line for line in rig.lines("stderr", internal=True))


def test_a_slow_s3_is_waited_for(start: Start, bucket: Bucket, s3: FaultyS3) -> None:
    bucket.put("in", "data")
    s3.fault("GET", "in", Delay(0.5))
    result = start("echoes_input", endpoint=s3.endpoint).run(bucket.task(inputs=[bucket.item("file", "in")]))
    assert result["download_seconds"] >= 0.5


def test_s3_that_fails_for_inputs_only_ends_in_a_503_and_a_stored_result(
    start: Start, bucket: Bucket, s3: FaultyS3
) -> None:
    bucket.put("in", "data")
    s3.fault("GET", None, SLOW_DOWN, times=None)
    task = bucket.task(inputs=[bucket.item("file", "in")])
    rig = start("echoes_input", endpoint=s3.endpoint, retry_seconds=0.4)
    answer = rig.post(task)
    assert answer.status_code == 503
    assert answer.json["error"]["code"] == "storage_unavailable"
    result = signed_result(bucket, task)
    assert result["return_code"] == 1
    assert result["user_safe_error_message"] == "S3 could not be reached or kept failing"
    assert answer.json["error"] == result["error"]
    *gets, put = [request.method for request in s3.requests]
    assert (set(gets), put) == ({"GET"}, "PUT")
    assert len(gets) > 1
    rig.check_at_rest()


def test_credentials_that_s3_does_not_know_are_our_fault_not_the_tasks(
    start: Start, bucket: Bucket, s3: FaultyS3
) -> None:
    s3.fault("GET", None, Answer(403, "InvalidAccessKeyId"), times=None)
    task = bucket.task(inputs=[bucket.item("file", "in")])
    answer = start("echoes_input", endpoint=s3.endpoint).post(task)
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "storage_refused")
    assert signed_result(bucket, task)["error"]["code"] == "storage_refused"


@pytest.mark.parametrize("fault", [Answer(403, "AccessDenied"), SLOW_DOWN], ids=lambda fault: fault.code)
def test_one_output_that_cannot_be_put_ends_in_a_result_without_outputs(
    start: Start, bucket: Bucket, s3: FaultyS3, fault: Answer
) -> None:
    bucket.put("in", "data")
    s3.fault("PUT", "/out/task/b", fault, times=None)
    task = bucket.task(inputs=[bucket.item(name, "in") for name in "abc"])
    rig = start("echoes_input", endpoint=s3.endpoint, retry_seconds=0.1)
    answer = rig.post(task)
    expected = "outputs_not_stored" if fault.status == 403 else "storage_unavailable"
    assert (answer.status_code, answer.json["error"]["code"]) == (503, expected)
    result = signed_result(bucket, task)
    assert (result["return_code"], result["outputs"], result["error"]["code"]) == (1, [], expected)
    assert result["exec_duration"] is not None
    rig.check_at_rest()


@pytest.mark.parametrize("fault", [Answer(403, "AccessDenied"), SLOW_DOWN], ids=lambda fault: fault.code)
def test_a_result_that_cannot_be_put_is_a_503(start: Start, bucket: Bucket, s3: FaultyS3, fault: Answer) -> None:
    s3.fault("PUT", RESULT_KEY, fault, times=None)
    rig = start("does_nothing", endpoint=s3.endpoint, retry_seconds=0.1)
    answer = rig.post(bucket.task())
    assert (answer.status_code, answer.content_type) == (503, "application/json")
    assert answer.json == {
        "detail": "The result of the task could not be uploaded",
        "error": {
            "code": "result_not_stored",
            "message": "The result of the task could not be uploaded",
            "hint": "The server's log names S3's answer.",
        },
    }
    rig.check_at_rest()
    assert any(fault.code in line for line in rig.lines("stderr", internal=True))


@pytest.mark.parametrize(
    ("method", "key", "fault"),
    [
        ("PUT", RESULT_KEY, Answer(403, "AccessDenied")),
        ("PUT", RESULT_KEY, SLOW_DOWN),
        ("PUT", "/out/task/in", Answer(403, "AccessDenied")),
        ("PUT", "/out/task/in", SLOW_DOWN),
        ("GET", "in", Answer(404, "NoSuchKey")),
        ("GET", "in", Answer(403, "SignatureDoesNotMatch")),
        ("GET", "in", SLOW_DOWN),
    ],
    ids=lambda value: value.code if isinstance(value, Answer) else value,
)
def test_a_task_that_s3_fails_leaves_no_descriptor_for_the_garbage_collector(
    start: Start, bucket: Bucket, s3: FaultyS3, method: str, key: str, fault: Answer
) -> None:
    bucket.put("in", "data")
    s3.fault(method, key, fault, times=None)
    rig = start("echoes_input", endpoint=s3.endpoint, retry_seconds=0.1)
    gc.collect()
    gc.disable()
    try:
        before = eventfds()
        answers = [rig.post(bucket.task(inputs=[bucket.item("in", "in")])) for _ in range(2)]
        assert all(answer.status_code == 503 or answer.json["return_code"] == 1 for answer in answers)
        assert eventfds() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("fault", [Answer(400, "RequestTimeout"), LostAnswer()])
def test_a_result_that_is_put_at_the_second_try_leaves_no_descriptor_for_the_garbage_collector(
    start: Start, bucket: Bucket, s3: FaultyS3, fault: Fault
) -> None:
    s3.fault("PUT", RESULT_KEY, fault)
    rig = start("does_nothing", endpoint=s3.endpoint)
    gc.collect()
    gc.disable()
    try:
        before = eventfds()
        assert rig.post(bucket.task()).status_code == 200
        assert eventfds() == before
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("name", "more", "code"),
    [
        ("echoes_input", {"relative_path": "scans.zip", "decompress": True}, "zip_broken"),
        ("echoes_input", {"relative_path": "missing", "bucket_key": "missing"}, "input_missing"),
        ("no_such_program", {"relative_path": "in"}, "command_missing"),
        ("replaces_its_output_folder", {"relative_path": "in"}, "output_folder_gone"),
        ("exits_3", {"relative_path": "in"}, "algorithm_failed"),
    ],
)
def test_a_task_that_fails_leaves_no_descriptor_for_the_garbage_collector(
    start: Start, bucket: Bucket, name: str, more: dict[str, Any], code: str
) -> None:
    bucket.put("in", "no zip")
    rig = start(name)
    gc.collect()
    gc.disable()
    try:
        before = eventfds()
        for _ in range(2):
            answer = rig.post(bucket.task(inputs=[bucket.item("in", "in") | more]))
            assert answer.json["error"]["code"] == code
        assert eventfds() == before
    finally:
        gc.enable()


def eventfds() -> int:
    """Return how many cancellations are open in this process."""
    return [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()].count(
        "anon_inode:[eventfd]"
    )


def test_the_summary_line_says_when_the_result_is_not_stored(start: Start, bucket: Bucket) -> None:
    rig = start("does_nothing")
    rig.post(bucket.task())
    rig.post(bucket.task(output_bucket_name="no-such-bucket"))
    first, second = [line for line in rig.lines("stdout", internal=True) if line.startswith("Task task ended")]
    assert first.startswith("Task task ended with return code 0: queued ")
    assert second.startswith("Task task ended with return code 0, its result is not stored: queued ")


def test_a_lost_task_whose_result_cannot_be_stored_does_not_cost_those_of_others(
    bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = [bucket.task("bad", output_bucket_name="no-such-bucket"), bucket.task("good")]
    lost = [AcceptedTask(*(task[name] for name in ACCEPTED)) for task in tasks]
    settings = Settings.from_env({"AWS_S3_ENDPOINT_URL": bucket.endpoint, "MODEL_SERVER_SIGNING_KEY_HEX": KEY.hex()})
    assert store_lost_results(lost, WorkerLost, settings) is False
    assert signed_result(bucket, tasks[1])["error"]["code"] == "worker_lost"
    sentence = "worker_lost: The server process that ran the task ended unexpectedly"
    assert sorted(record.getMessage() for record in caplog.records if "ended with" in record.getMessage()) == [
        f"Task bad ended with return code 1 ({sentence}); The output bucket of the task does not exist",
        f"Task good ended with return code 1 ({sentence})",
    ]
    assert store_lost_results(lost[1:], WorkerLost, settings) is True


@pytest.mark.parametrize("name", ["no-such-bucket", "No_Bucket", "..", "a", "x" * 255])
def test_an_output_bucket_that_is_not_there_is_a_422(start: Start, bucket: Bucket, name: str) -> None:
    rig = start("does_nothing")
    answer = rig.post(bucket.task(output_bucket_name=name))
    assert (answer.status_code, answer.json["error"]["code"]) == (422, "output_bucket_missing")
    assert [fault["loc"] for fault in answer.json["detail"]] == [["body", "output_bucket_name"]]
    rig.check_at_rest()


def test_a_name_that_s3_takes_for_no_buckets_is_a_422(start: Start, bucket: Bucket, s3: FaultyS3) -> None:
    s3.fault("PUT", RESULT_KEY, Answer(400, "InvalidBucketName"), times=None)
    answer = start("does_nothing", endpoint=s3.endpoint).post(bucket.task())
    assert (answer.status_code, answer.json["error"]["code"]) == (422, "output_bucket_missing")


@pytest.mark.parametrize("answer", [Answer(404, "NoSuchKey"), Answer(404, "404"), Answer(400, "InvalidArgument")])
def test_what_does_not_lie_in_the_bucket_is_a_503(start: Start, bucket: Bucket, s3: FaultyS3, answer: Answer) -> None:
    s3.fault("PUT", RESULT_KEY, answer, times=None)
    told = start("does_nothing", endpoint=s3.endpoint).post(bucket.task())
    assert (told.status_code, told.json["error"]["code"]) == (503, "result_not_stored")


def test_of_lines_without_a_result_the_error_that_may_pass_is_answered(
    start: Start, bucket: Bucket, s3: FaultyS3
) -> None:
    s3.fault("PUT", "/out/one/.sagemaker_shim/inference_result.json", Answer(404, "NoSuchBucket"), times=None)
    s3.fault("PUT", "/out/two/.sagemaker_shim/inference_result.json", Answer(403, "AccessDenied"), times=None)
    rig = start("does_nothing", endpoint=s3.endpoint)
    tasks = [json.dumps(bucket.task(pk)).encode() + b"\n" for pk in ("one", "two", "three")]
    answer = rig.post(b"".join(tasks[:2]))
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "result_not_stored")
    answer = rig.post(b"".join(tasks))
    told = [json.loads(line)["error"] for line in answer.data.splitlines()]
    assert answer.status_code == 200
    assert [error and error["code"] for error in told] == ["output_bucket_missing", "result_not_stored", None]


def test_without_an_s3_at_all_a_request_is_answered(start: Start, bucket: Bucket) -> None:
    answer = start("does_nothing", endpoint="http://127.0.0.1:9", retry_seconds=0.1).post(bucket.task())
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "result_not_stored")


def test_a_folder_that_cannot_be_reset_ends_in_a_result(start: Start, bucket: Bucket, tmp_path: Path) -> None:
    rig = start("does_nothing", env={"ALGORITHM_INPUT_PATH": str(tmp_path / "above/input")})
    rig.input.rmdir()
    rig.input.parent.rmdir()
    rig.input.parent.write_text("a file where the folder above was")
    task = bucket.task()
    answer = rig.post(task)
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "folders_not_reset")
    sentence = "The containers input and output directories could not be reset"
    assert signed_result(bucket, task)["user_safe_error_message"] == sentence


def test_a_folder_that_cannot_be_reset_is_known_also_where_the_result_is_not_stored(
    start: Start, bucket: Bucket, tmp_path: Path
) -> None:
    env = {"ALGORITHM_INPUT_PATH": str(tmp_path / "above/input")}
    rig = start("does_nothing", env=env, endpoint="http://127.0.0.1:9", retry_seconds=0.1)
    rig.input.rmdir()
    rig.input.parent.rmdir()
    rig.input.parent.write_text("a file where the folder above was")
    answer = rig.post(bucket.task())
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "result_not_stored")
    assert rig.scoreboard.state.stuck == Stuck.FOLDERS
    assert not rig.scoreboard.ready


def test_a_task_folder_that_is_gone_is_made_again(start: Start, bucket: Bucket) -> None:
    bucket.put("in", "data")
    rig = start("echoes_input")
    for number in range(2):
        rig.input.rmdir()
        rig.output.rmdir()
        result = rig.run(bucket.task(f"task-{number}", inputs=[bucket.item("file", "in")]))
        assert outputs_of(result) == ["file"]


@pytest.mark.parametrize("instead", ["nothing", "a file", "a link"])
def test_an_algorithm_that_replaces_its_output_folder_fails_and_the_next_task_does_not(
    start: Start, bucket: Bucket, tmp_path: Path, instead: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("not ours")
    rig = start("replaces_its_output_folder", instead, str(tmp_path / "elsewhere"))
    for pk in ("first", "second"):
        result = rig.run(bucket.task(pk))
        assert result["error"]["code"] == "output_folder_gone"
        assert (result["return_code"], result["outputs"]) == (1, [])
        assert result["exec_duration"] is not None
    assert (tmp_path / "elsewhere/file").read_text() == "not ours"


def test_what_nobody_thought_of_ends_in_a_result_and_the_reason_in_the_log_only(start: Start, bucket: Bucket) -> None:
    rig = start("does_nothing")
    rig.storage.pool.shutdown()  # nobody does this: any submission fails now
    task = bucket.task(inputs=[bucket.item("file", "in")])
    answer = rig.post(task)
    assert (answer.status_code, answer.json["error"]["code"]) == (500, "internal_error")
    result = signed_result(bucket, task)
    assert (result["return_code"], result["user_safe_error_message"]) == (1, "An unexpected error occurred")
    assert "RuntimeError" not in json.dumps(result) + answer.text
    rig.check_at_rest()
    assert any("RuntimeError" in line for line in rig.lines("stderr", internal=True))
    assert rig.lines("stderr") == ["An unexpected error occurred"]


def test_an_input_whose_path_the_file_system_refuses_ends_in_a_result(start: Start, bucket: Bucket) -> None:
    bucket.put("in", "data")
    long = "/".join(["d" * 250] * 12)  # allowed in a task, but not beneath any folder
    rig = start("does_nothing")
    padding = 4096 - len(str(rig.input)) - len(long)
    path = f"{long}/{'e' * min(250, max(1, padding))}"[:3072]
    result = rig.run(bucket.task(inputs=[bucket.item(path, "in")]))
    assert result["error"] is None or result["error"]["code"] == "input_path_unusable"


def use_up(*_: object) -> NoReturn:
    """Write to a file of a user whose quota is used up."""
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "patient-7")


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "zip"])
def test_a_quota_that_is_used_up_ends_in_a_result_and_the_next_task_runs(
    start: Start, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    """It takes a file system of its own to use one up, so the error is ours; all else is real."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as zipped:
        zipped.writestr("file", "data")
    bucket.put("in", data.getvalue())
    rig = start("echoes_input")
    inputs = [bucket.item("file", "in", decompress=packed)]
    with monkeypatch.context() as patch:
        if packed:
            patch.setattr(archive, "pieces", use_up)
        else:
            patch.setattr(s3_download, "write_at", use_up)
        result = rig.run(bucket.task("full", inputs=inputs))
    sentence = "Contents of zip file too large" if packed else "There is not enough disk space for the inputs"
    assert (result["return_code"], result["user_safe_error_message"]) == (1, sentence)
    assert outputs_of(rig.run(bucket.task("next", inputs=inputs))) == ["file"]
    assert "patient-7" not in rig.log_text()


def test_the_next_task_runs_well_after_every_kind_of_failure(start: Start, bucket: Bucket, s3: FaultyS3) -> None:
    bucket.put("code", "0")
    bucket.put("bad", "7")
    good = [bucket.item("code", "code")]
    rig = start("exits_as_told", endpoint=s3.endpoint, retry_seconds=0.1)
    s3.fault("GET", "unavailable", SLOW_DOWN, times=None)
    failing = [
        bucket.task("missing", inputs=[*good, bucket.item("x", "missing")]),
        bucket.task("failing", inputs=[bucket.item("code", "bad")]),
        bucket.task("unavailable", inputs=[*good, bucket.item("x", "unavailable")]),
    ]
    for task in failing:
        rig.post(task)
        assert signed_result(bucket, task)["return_code"] != 0
        assert rig.run(bucket.task("good", inputs=good))["return_code"] == 0


def test_no_object_key_and_no_file_name_is_in_our_lines_at_info(start: Start, bucket: Bucket, s3: FaultyS3) -> None:
    bucket.put("in/patient-one", "data")
    s3.fault("GET", "in/patient-one", SLOW_DOWN, times=1)
    s3.fault("PUT", "/out/task/patient-two.txt", SLOW_DOWN, times=1)
    rig = start("echoes_input", endpoint=s3.endpoint)
    rig.run(bucket.task(inputs=[bucket.item("patient-two.txt", "in/patient-one")]))
    rig.post(bucket.task("second", inputs=[bucket.item("patient-three.txt", "in/patient-four")]))
    (rig.output / "patient-five").write_text("left by a task")
    rig.post(bucket.task("third", output_bucket_name="no-such-bucket"))
    rig.close()
    assert "patient" not in rig.log_text()
    assert "trying again" in rig.log_text()


def test_at_debug_what_s3_said_is_in_the_log(start: Start, bucket: Bucket, s3: FaultyS3) -> None:
    rig = start("does_nothing", env={"LOG_LEVEL": "DEBUG"})
    rig.run(bucket.task(inputs=[bucket.item("file", "missing")]))
    assert any(record["level"] == "DEBUG" for record in rig.log())


def test_a_tasks_own_folders_cannot_be_led_elsewhere_by_a_link_that_was_left(
    start: Start, bucket: Bucket, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    bucket.put("in", "data")
    rig = start("echoes_input")
    os.symlink(elsewhere, rig.input / "folder")
    result = rig.run(bucket.task(inputs=[bucket.item("folder/file", "in")]))
    assert outputs_of(result) == ["folder/file"]
    assert list(elsewhere.iterdir()) == []
