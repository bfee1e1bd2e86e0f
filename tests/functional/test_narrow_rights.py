"""A platform's role has s3:GetObject on inputs and s3:PutObject on outputs, and that is enough for everything."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from invocation import LONGSHORE, Invocation
from narrow_s3 import NarrowS3
from rig import KEY, signed_result

from faulty_s3 import Answer
from model_server.result import SIGNATURE_KEY

if TYPE_CHECKING:
    from conftest import Start
    from tests.conftest import Bucket

SETUP_RESULT = "/io/algorithms/job/42/.sagemaker_shim/runtime_setup_result.json"


@pytest.fixture
def narrow(s3_endpoint: str) -> Iterator[NarrowS3]:
    with NarrowS3(s3_endpoint, readable="/", writable="/") as s3:
        yield s3


def kinds(s3: NarrowS3) -> set[str]:
    return {request.method for request in s3.requests}


def tarball(name: str, text: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def clients_environment(invoke: Invocation, bucket: Bucket, s3: NarrowS3) -> dict[str, str]:
    """Return what the client sets (C3), and where its folders are on this machine."""
    prefix = "GRAND_CHALLENGE_COMPONENT_"
    root = invoke.root
    folders = {"INPUT_PATH": "input", "OUTPUT_PATH": "output", "LINKED_INPUT_PARENT": "data", "MODEL_DEST": "model"}
    folders |= {"GROUND_TRUTH_DEST": "data/ground_truth", "WRITABLE_DIRECTORIES": "tmp"}
    folders |= {"POST_CLEAN_DIRECTORIES": "model"}
    return {
        "PATH": invoke.environment["PATH"],
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret-of-aws",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_S3_ENDPOINT_URL": s3.endpoint,
        "LOG_LEVEL": "INFO",
        "PYTHONUNBUFFERED": "1",
        "no_proxy": "amazonaws.com",
        prefix + "MAX_MEMORY_MB": "7168",
        prefix + "SIGNING_KEY_HEX": KEY.hex(),
        prefix + "API_METHOD": "exec",
        prefix + "RUNTIME_OUTPUT_PREFIX": "/io/algorithms/job/42",
        prefix + "RUNTIME_OUTPUT_BUCKET_NAME": bucket.name,
        prefix + "MODEL": f"s3://{bucket.name}//auxiliary-data/models/algorithm-model.tar.gz",
        prefix + "GROUND_TRUTH": f"s3://{bucket.name}//auxiliary-data/truths/ground-truth.tar.gz",
    } | {prefix + name: str(root / folder) for name, folder in folders.items()}


def run_as_the_client_does(invoke: Invocation, bucket: Bucket, s3: NarrowS3, *tasks: dict[str, Any]) -> Any:
    """Put the list of tasks where the client puts it, and run it by the client's command line (C1)."""
    key = "/invocations/algorithms/job/42/invocation.json"
    bucket.put(key, json.dumps(tasks))
    invoke.environment = clients_environment(invoke, bucket, s3)
    script = json.dumps(["/bin/sh", "-c", f"cat {invoke.root}/model/weights > {invoke.root}/output/weights"])
    environment = {"ALGORITHM_ENTRYPOINT": script}
    return invoke.run(None, "--file", f"s3://{bucket.name}/{key}", program=LONGSHORE, env=environment)


def setup_result(bucket: Bucket) -> dict[str, Any]:
    assert SIGNATURE_KEY in bucket.metadata(SETUP_RESULT)
    return json.loads(bucket.get(SETUP_RESULT))


def test_a_job_of_the_client_needs_no_other_right(invoke: Invocation, bucket: Bucket, narrow: NarrowS3) -> None:
    bucket.put("/auxiliary-data/models/algorithm-model.tar.gz", tarball("weights", "of the model"))
    bucket.put("/auxiliary-data/truths/ground-truth.tar.gz", tarball("truth", "of the ground"))
    bucket.put("/images/scan 1+2.mha", "a scan")
    inputs = [bucket.item("images/scan.mha", "/images/scan 1+2.mha", decompress=False)]
    tasks = [bucket.task(f"42-{number}", inputs=inputs, timeout="PT1M") for number in range(2)]
    ended = run_as_the_client_does(invoke, bucket, narrow, *tasks)
    assert ended.returncode == 0, ended.stderr
    assert setup_result(bucket)["return_code"] == 0
    for task in tasks:
        assert signed_result(bucket, task)["return_code"] == 0
        assert bucket.get(f"{task['output_prefix']}/weights") == b"of the model"
    assert narrow.refused == []
    assert kinds(narrow) == {"GET", "PUT"}
    invoke.assert_tidy()


def test_a_model_that_is_missing_may_answer_403(invoke: Invocation, bucket: Bucket, narrow: NarrowS3) -> None:
    bucket.put("/auxiliary-data/truths/ground-truth.tar.gz", tarball("truth", "of the ground"))
    ended = run_as_the_client_does(invoke, bucket, narrow, task := bucket.task("42"))
    assert ended.returncode == 0, ended.stderr
    sentence = "Could not set up model: Tarfile does not exist or may not be read"
    assert setup_result(bucket) | {"return_code": 1, "user_safe_error_message": sentence} == setup_result(bucket)
    assert signed_result(bucket, task)["user_safe_error_message"] == sentence


def test_a_list_that_is_missing_may_answer_403(invoke: Invocation, bucket: Bucket, narrow: NarrowS3) -> None:
    invoke.environment = clients_environment(invoke, bucket, narrow)
    ended = invoke.run("does_nothing", "--file", f"s3://{bucket.name}//invocations/none.json", program=LONGSHORE)
    assert ended.returncode == 2
    assert b"The object does not exist or may not be read" in ended.stderr


def test_an_input_that_is_missing_may_answer_403(start: Start, bucket: Bucket, narrow: NarrowS3) -> None:
    rig = start("echoes_input", endpoint=narrow.endpoint)
    result = rig.run(bucket.task(inputs=[bucket.item("scan", "/none")]))
    assert (result["return_code"], result["error"]["code"]) == (1, "input_forbidden")
    assert narrow.refused == []


def test_an_input_without_a_right_is_told_as_that(start: Start, bucket: Bucket, s3_endpoint: str) -> None:
    bucket.put("other/scan", "of somebody else")
    with NarrowS3(s3_endpoint, readable="/in", writable="/out") as s3:
        result = start("echoes_input", endpoint=s3.endpoint).run(
            bucket.task(inputs=[bucket.item("scan", "other/scan")])
        )
    assert (result["return_code"], result["error"]["code"]) == (1, "input_forbidden")
    assert [request.key for request in s3.refused] == ["other/scan"]


def test_a_large_output_is_put_in_parts_with_the_same_right(start: Start, bucket: Bucket, narrow: NarrowS3) -> None:
    rig = start("writes_70_megabytes", endpoint=narrow.endpoint)
    assert rig.run(bucket.task())["output_bytes"] == 70_000_000
    assert narrow.refused == []
    assert kinds(narrow) == {"POST", "PUT"}


def test_an_upload_that_may_not_be_aborted_ends_in_a_result(start: Start, bucket: Bucket, narrow: NarrowS3) -> None:
    rig = start("writes_70_megabytes", endpoint=narrow.endpoint, retry_seconds=0.1)
    narrow.fault("PUT", "/out/task/large", Answer(500, "InternalError"), times=None)
    answer = rig.post(task := bucket.task())
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "storage_unavailable")
    assert signed_result(bucket, task)["error"]["code"] == "storage_unavailable"
    assert {request.method for request in narrow.refused} <= {"DELETE"}
