"""The image as a client runs it that no one here wrote: the SageMaker Python SDK's local mode, for all kinds of jobs.

The SDK ignores HTTP statuses, so only bodies, objects and logs count here.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from docker_rig import PROJECT
from sdk_rig import LocalMode, Run, local_mode

if TYPE_CHECKING:
    from tests.conftest import Bucket

IRISES = PROJECT / "local-test/test-dir/input/data/training/iris.csv"

FLOWERS = "sepal_length,sepal_width,petal_length,petal_width\n5.0,3.3,1.4,0.3\n6.9,3.1,5.8,2.2\n"
SPECIES = ["setosa", "virginica"]

CSV = {"content_type": "text/csv", "accept": "text/csv"}
JSON = {"content_type": "application/json", "accept": "application/json"}

PROCESSING = "/opt/ml/processing"

# The SDK stops all instances of a job as soon as one of them ends; SageMaker does not. So each waits for the other, by
# the folder that the SDK gives them in common. docker-compose takes $$ for $.
UNTIL_BOTH_ARE_DONE = """
process "$$@"
code=$$?
touch "/opt/ml/shared/$$(hostname)"
until [ "$$(ls /opt/ml/shared | wc -l)" = 2 ]; do sleep 0.1; done
exit $$code
"""


@pytest.fixture(scope="module")
def sdk(shared_bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMode]:
    with local_mode(shared_bucket, tmp_path_factory.mktemp("sdk")) as sdk:
        yield sdk


# -- train


@pytest.fixture(scope="module")
def training(sdk: LocalMode, shared_bucket: Bucket, sample_image: str) -> Run:
    shared_bucket.put("irises/iris.csv", IRISES.read_bytes())
    return train(sdk, sample_image, "irises")


@pytest.fixture(scope="module")
def model(training: Run) -> str:
    """The URI of the model that the SDK's training job made."""
    uri: str = training.answer["model"]
    return uri


def test_an_estimator_trains_and_the_model_is_in_s3(sdk: LocalMode, shared_bucket: Bucket, training: Run) -> None:
    assert training.answer["error"] is None, training.log
    key = training.answer["model"].removeprefix(sdk.uri(""))
    assert list(unpacked(shared_bucket, key)) == ["decision-tree.joblib"]


def test_a_metric_line_is_in_the_log_as_the_program_wrote_it(training: Run) -> None:
    (accuracy,) = re.findall(r"^accuracy=([0-9.]+);", training.log, re.MULTILINE)
    assert float(accuracy) > 0.8


def test_a_training_that_fails_raises_and_its_failure_file_says_why(
    sdk: LocalMode, shared_bucket: Bucket, sample_image: str
) -> None:
    shared_bucket.put("weeds/weeds.csv", "sepal_length\n5.1\n")
    run = train(sdk, sample_image, "weeds")
    assert re.search(r"RuntimeError: .* exited with code: 1$", run.answer["error"]), run.log
    (key,) = (key for key in keys_under(shared_bucket, "models/weeds/") if key.endswith("/output.tar.gz"))
    failure = unpacked(shared_bucket, key)["failure"].decode()
    assert "There is no iris.csv in /opt/ml/input/data/training" in failure


def train(sdk: LocalMode, image: str, channel: str) -> Run:
    return sdk.run(
        "train.py",
        image=image,
        hyperparameters={"max_depth": 3},
        training=sdk.uri(channel),
        output=sdk.uri("models", channel),
    )


def unpacked(bucket: Bucket, key: str) -> dict[str, bytes]:
    """Return the files of a tarball in S3."""
    with tarfile.open(fileobj=io.BytesIO(bucket.get(key))) as tar:
        files = ((member.name, tar.extractfile(member)) for member in tar if member.isfile())
        return {name: file.read() for name, file in files if file}


# -- serve, as an endpoint and as a batch transform


@pytest.fixture(scope="module")
def bodies(sdk: LocalMode, shared_bucket: Bucket, sample_image: str, model: str) -> list[str]:
    """What an endpoint answers to a CSV file, a task and a CSV file with a word for a length."""
    shared_bucket.put("flowers/bed.csv", FLOWERS)
    requests = [
        {"body": FLOWERS} | CSV,
        {"body": json.dumps(prediction_task(shared_bucket, "one"))} | JSON,
        {"body": FLOWERS.replace("1.4", "short")} | CSV,
    ]
    run = sdk.run("predict.py", image=sample_image, model=model, requests=requests)
    answered: list[str] = run.answer["bodies"]
    return answered


def test_a_predictor_that_sends_csv_gets_csv(bodies: list[str]) -> None:
    assert species_in(bodies[0]) == SPECIES


def test_a_predictor_that_sends_a_task_gets_its_result(shared_bucket: Bucket, bodies: list[str]) -> None:
    result = json.loads(bodies[1])
    assert (result["return_code"], result["error"]) == (0, None)
    assert result == shared_bucket.result("predictions/one")
    assert species_in(shared_bucket.get("predictions/one/bed.csv").decode()) == SPECIES


def test_a_predictor_that_sends_a_bad_payload_gets_the_error(bodies: list[str]) -> None:
    answer = json.loads(bodies[2])
    assert answer["error"]["code"] == "algorithm_failed"
    assert "petal_length is 'short', not a length in centimetres" in bodies[2]


def test_a_transformer_makes_an_object_of_predictions_of_each_object(
    sdk: LocalMode, shared_bucket: Bucket, sample_image: str, model: str
) -> None:
    """One job over plain CSV objects, and one over tasks: the two ways to say what is to be done."""
    shared_bucket.put("gardens/front.csv", FLOWERS)
    shared_bucket.put("gardens/back.csv", FLOWERS.replace("6.9,3.1,5.8,2.2\n", ""))
    for pk in ("two", "three"):
        shared_bucket.put(f"tasks/{pk}.json", json.dumps(prediction_task(shared_bucket, pk)))
    jobs = [
        {"name": "csv", "input": sdk.uri("gardens"), "output": sdk.uri("transformed")} | CSV,
        {"name": "tasks", "input": sdk.uri("tasks"), "output": sdk.uri("transformed")} | JSON,
    ]
    sdk.run("transform.py", image=sample_image, model=model, jobs=jobs)

    assert keys_under(shared_bucket, "transformed/") == [
        "transformed/csv/back.csv.out",
        "transformed/csv/front.csv.out",
        "transformed/tasks/three.json.out",
        "transformed/tasks/two.json.out",
    ]
    assert species_in(shared_bucket.get("transformed/csv/front.csv.out").decode()) == SPECIES
    assert species_in(shared_bucket.get("transformed/csv/back.csv.out").decode()) == SPECIES[:1]
    for pk in ("two", "three"):
        result = json.loads(shared_bucket.get(f"transformed/tasks/{pk}.json.out"))
        assert (result["pk"], result["return_code"]) == (pk, 0)
        assert species_in(shared_bucket.get(f"predictions/{pk}/bed.csv").decode()) == SPECIES


def keys_under(bucket: Bucket, prefix: str) -> list[str]:
    listed = bucket.keys()
    return [key for key in listed if key.startswith(prefix)]


def prediction_task(bucket: Bucket, pk: str) -> dict[str, Any]:
    bucket.put("flowers/bed.csv", FLOWERS)
    return bucket.task(pk, [bucket.item("bed.csv", "flowers/bed.csv", decompress=False)]) | {
        "output_prefix": f"predictions/{pk}"
    }


def species_in(predictions: str) -> list[str]:
    return [row["species"] for row in csv.DictReader(io.StringIO(predictions))]


# -- process


def test_a_processor_runs_the_program_over_its_input_with_its_arguments(
    sdk: LocalMode, shared_bucket: Bucket, segmentation_image: str, phantoms: Path
) -> None:
    shared_bucket.put("scans/phantom.mha", (phantoms / "phantom.mha").read_bytes())
    run = process(sdk, segmentation_image, "scans", entrypoint=["process"], arguments=["--threshold", "123.5"])
    assert run.answer["error"] is None, run.log
    assert shared_bucket.get("processed/scans/mask.mha").startswith(b"ObjectType = Image")
    results = json.loads(shared_bucket.get("processed/scans/results.json"))
    assert (results["number_of_components"], results["threshold"]) == (2, 123.5)


def test_a_processor_without_an_entrypoint_runs_the_program_and_raises_when_it_fails(
    sdk: LocalMode, shared_bucket: Bucket, segmentation_image: str
) -> None:
    shared_bucket.put("letters/letter.mha", "Dear colleague,\n")
    run = process(sdk, segmentation_image, "letters")
    assert re.search(r"RuntimeError: .* exited with code: 1$", run.answer["error"]), run.log
    assert "letter.mha is not an image of a format that SimpleITK reads." in run.log


def test_two_instances_share_a_list_of_tasks_and_run_each_once(
    sdk: LocalMode, shared_bucket: Bucket, segmentation_image: str, phantoms: Path
) -> None:
    shared_bucket.put("scans/phantom.mha", (phantoms / "phantom.mha").read_bytes())
    item = shared_bucket.item("phantom.mha", "scans/phantom.mha", decompress=False)
    names = ["a", "b", "c", "d"]
    shared_bucket.put("lists/tasks.json", json.dumps([shared_bucket.task(pk, [item]) for pk in names]))
    run = sdk.run(
        "process.py",
        image=segmentation_image,
        instances=2,
        entrypoint=["sh", "-c", UNTIL_BOTH_ARE_DONE, "process"],
        arguments=["--tasks", sdk.uri("lists/tasks.json")],
        inputs={},
        outputs={},
    )
    assert run.answer["error"] is None, run.log
    for pk in names:
        assert shared_bucket.result(f"/out/{pk}")["return_code"] == 0
        assert json.loads(shared_bucket.get(f"/out/{pk}/results.json"))["number_of_components"] == 2
    assert len(set(re.findall(r"2 of 4 tasks are for (algo-[12]-\w+)", run.log))) == 2
    assert run.log.count("Components: 2") == len(names)


def process(sdk: LocalMode, image: str, prefix: str, **command: list[str]) -> Run:
    return sdk.run(
        "process.py",
        image=image,
        instances=1,
        inputs={f"{PROCESSING}/input": sdk.uri(prefix)},
        outputs={f"{PROCESSING}/output": sdk.uri("processed", prefix)},
        **command,
    )
