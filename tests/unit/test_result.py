"""The result document: sagemaker-shim's keys in their order, then ours, and its signature."""

import hashlib
import hmac
import json
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretBytes

from model_server import errors
from model_server.process import Exit
from model_server.result import MAX_HTTP_BYTES, Record, Result, http_documents, signature
from model_server.stage_in import StagedIn
from model_server.stage_out import StagedOut
from model_server.task import Task

DROP_IN_KEYS = [
    "pk",
    "return_code",
    "user_safe_error_message",
    "user_process_last_stderr_lines",
    "exec_duration",
    "invoke_duration",
    "outputs",
    "sagemaker_shim_version",
]
OUR_KEYS = [
    "error",
    "queue_seconds",
    "download_seconds",
    "unpack_seconds",
    "run_seconds",
    "upload_seconds",
    "peak_memory_bytes",
    "input_bytes",
    "output_bytes",
    "refused_outputs",
    "partial_outputs",
]
TASK = Task(pk="1-ü", inputs=[], output_bucket_name="bucket", output_prefix="/io/1")


def ended(seconds: float = 1.0, error: errors.LongshoreError | None = None, stderr: list[str] | None = None) -> Exit:
    return Exit(error, seconds, stderr or [], 4096)


def document(record: Record) -> dict[str, Any]:
    return json.loads(record.result().document())


def large(lines: list[str] | None = None, files: int = 0) -> Result:
    return Record(TASK, exit=ended(stderr=lines), staged_out=StagedOut([f"{n:09}" for n in range(files)])).result()


@pytest.mark.parametrize("record", [Record(TASK), Record(TASK, exit=ended()), Record(TASK, error=errors.QueueFull())])
def test_the_keys_are_the_drop_ins_in_its_order_and_then_ours(record: Record) -> None:
    assert list(document(record)) == DROP_IN_KEYS + OUR_KEYS


def test_a_task_that_went_well_tells_all_of_it() -> None:
    staged_out = StagedOut(["a/b.json", "c d.txt"], [("x", "it is a link that leaves the output folder")], 7, 0.25)
    record = Record(TASK, 0.5, StagedIn(11, 1.5, 0.125), ended(2.0, stderr=["note\n"]), staged_out)
    told = document(record)
    assert told["return_code"] == 0
    assert told["user_safe_error_message"] == ""
    assert told["error"] is None
    assert told["user_process_last_stderr_lines"] == ["note\n"]
    assert told["outputs"] == [
        {"relative_path": path, "bucket_name": "bucket", "bucket_key": f"/io/1/{path}", "decompress": False}
        for path in ("a/b.json", "c d.txt")
    ]
    assert told["refused_outputs"] == [{"relative_path": "x", "reason": "it is a link that leaves the output folder"}]
    assert [told[f"{part}_seconds"] for part in ("queue", "download", "unpack", "run", "upload")] == [
        0.5,
        1.5,
        0.125,
        2.0,
        0.25,
    ]
    assert (told["peak_memory_bytes"], told["input_bytes"], told["output_bytes"]) == (4096, 11, 7)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (errors.AlgorithmFailed(3), 3, ""),
        (errors.AlgorithmFailed(137), 137, ""),
        (errors.TimeLimitExceeded(60), 1, "Time limit exceeded"),
        (errors.ZipBroken("inputs[0]"), 1, "Input zip file could not be extracted"),
    ],
)
def test_a_failure_is_told_in_the_drop_ins_keys_and_in_ours(
    error: errors.LongshoreError, code: int, sentence: str
) -> None:
    told = document(Record(TASK, exit=ended(error=error), error=error))
    assert (told["return_code"], told["user_safe_error_message"]) == (code, sentence)
    assert told["error"] == {"code": error.code, "message": error.message, "hint": error.hint}


@pytest.mark.parametrize(
    ("seconds", "iso"),
    [
        (1.0, "PT1S"),
        (0.034299, "PT0.034299S"),
        (60.0, "PT1M"),
        (61.25, "PT1M1.25S"),
        (3725.5, "PT1H2M5.5S"),
        (86_400.0, "P1D"),
    ],
)
def test_a_duration_is_written_as_the_drop_in_writes_it(seconds: float, iso: str) -> None:
    assert document(Record(TASK, exit=ended(seconds)))["exec_duration"] == iso
    assert Result.model_validate_json(large().document()).exec_duration == timedelta(seconds=1)


def test_a_task_that_did_not_run_has_no_duration() -> None:
    told = document(Record(TASK, error=errors.InputMissing("inputs[0]")))
    assert (told["exec_duration"], told["invoke_duration"], told["run_seconds"]) == (None, None, 0.0)


def test_the_version_says_whose_it_is() -> None:
    assert document(Record(TASK))["sagemaker_shim_version"].startswith("longshore-")


def test_the_signature_is_over_the_very_bytes() -> None:
    data = Record(TASK).result().document()
    expected = hmac.new(b"\x00key", data, hashlib.sha256).hexdigest()
    assert signature(data, SecretBytes(b"\x00key")) == {"signature_hmac_sha256": expected}
    assert signature(data + b" ", SecretBytes(b"\x00key")) != signature(data, SecretBytes(b"\x00key"))


def test_without_a_key_there_is_no_signature() -> None:
    assert signature(b"{}", None) == {}


def test_a_document_that_is_small_enough_is_the_answer_as_it_is() -> None:
    result = large(files=3)
    assert result.http_document() == result.document()
    assert result.http_document(len(result.document())) == result.document()


def test_an_answer_that_would_be_too_large_leaves_the_outputs_out_and_says_so() -> None:
    result = large(files=60_000)
    answer = result.http_document()
    told = json.loads(answer)
    assert len(result.document()) > MAX_HTTP_BYTES >= len(answer)
    assert not {"outputs", "refused_outputs"} & told.keys()
    assert "S3" in told["outputs_omitted"]
    assert [key for key in told if key in DROP_IN_KEYS] == [key for key in DROP_IN_KEYS if key != "outputs"]
    assert len(json.loads(result.document())["outputs"]) == 60_000


@pytest.mark.parametrize("limit", [MAX_HTTP_BYTES, MAX_HTTP_BYTES // 10])
@pytest.mark.parametrize("character", ["x", '"', "\U0001f600", "\x01"])
def test_the_last_lines_of_stderr_do_not_make_an_answer_too_large(limit: int, character: str) -> None:
    lines = [f"{number}{character * 16_000}\n" for number in range(100)]
    answer = large(lines, 1000).http_document(limit)
    assert len(answer) <= limit
    kept = json.loads(answer)["user_process_last_stderr_lines"]
    assert kept == lines[100 - len(kept) :]
    assert kept


def test_the_first_half_of_the_last_lines_goes_until_the_rest_just_fits() -> None:
    lines = [f"line {number}\n" for number in range(10)]
    whole = len(large(lines).document())
    bodies = [large(lines).http_document(limit) for limit in range(200, whole)]
    kept = [json.loads(body)["user_process_last_stderr_lines"] for body in bodies]
    assert {tuple(some) for some in kept} == {tuple(lines[first:]) for first in (6, 9, 10)}
    for limit, body in enumerate(bodies, 200):
        assert len(body) <= limit or not json.loads(body)["user_process_last_stderr_lines"]
    just_fit = {
        len(some) for limit, (some, body) in enumerate(zip(kept, bodies, strict=True), 200) if len(body) == limit
    }
    assert just_fit == {4, 1, 0}


def test_documents_that_fit_together_are_all_whole() -> None:
    results = [large(files=files) for files in (40_000, 1, 0)]
    assert len(results[0].document()) > MAX_HTTP_BYTES / 2
    assert http_documents(results) == [result.document() for result in results]


def test_the_largest_documents_are_shortened_until_all_fit() -> None:
    results = [large(files=files) for files in (3, 60_000, 5_000, 70_000)]
    documents = http_documents(results)
    assert sum(map(len, documents)) <= MAX_HTTP_BYTES
    assert [document == result.document() for document, result in zip(documents, results, strict=True)] == [
        True,
        False,
        True,
        False,
    ]


def test_a_result_can_be_told_as_failed() -> None:
    error = errors.ResultNotStored()
    told = json.loads(large(files=1).failed_by(error).document())
    assert (told["return_code"], told["user_safe_error_message"]) == (1, error.message)
    assert told["error"] == error.as_json()
    assert list(told) == DROP_IN_KEYS + OUR_KEYS
