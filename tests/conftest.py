"""What all kinds of tests share: a real S3 server on loopback, and a bucket of one's own."""

import json
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from faulty_s3 import FaultyS3
from moto_s3 import moto_s3

PROJECT = Path(__file__).parent.parent
CONTAINER = PROJECT / "container"
ALGORITHMS = Path(__file__).parent / "algorithms"

sys.path.insert(0, str(CONTAINER))

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("longshore")
    group.addoption("--tasks", type=int, default=1000, help="how many tasks tests/chaos runs")
    group.addoption("--seed", type=int, default=1, help="what they, and their faults, are drawn from")


@dataclass(frozen=True)
class Bucket:
    """An S3 bucket of one test."""

    name: str
    endpoint: str
    client: "S3Client"

    def put(self, key: str, data: bytes | str) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def metadata(self, key: str) -> dict[str, str]:
        return self.client.head_object(Bucket=self.name, Key=key)["Metadata"]

    def keys(self) -> list[str]:
        return sorted(item["Key"] for item in self.client.list_objects_v2(Bucket=self.name).get("Contents", []))

    def result(self, prefix: str) -> dict[str, Any]:
        """Return the result object of the task with this output prefix."""
        return json.loads(self.get(prefix.rstrip("/") + "/.sagemaker_shim/inference_result.json"))

    def item(self, relative_path: str, key: str, **more: Any) -> dict[str, Any]:
        """Return one entry of a task's inputs."""
        return {"relative_path": relative_path, "bucket_name": self.name, "bucket_key": key, **more}

    def task(self, pk: str = "task", inputs: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
        """Return a task JSON whose outputs go to `/out/<pk>` of this bucket."""
        task = {"pk": pk, "inputs": inputs or [], "output_bucket_name": self.name, "output_prefix": f"/out/{pk}"}
        return task | {"timeout": "PT30S"} | more


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of moto's S3 server, which runs for the whole session."""
    with moto_s3("127.0.0.1") as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str) -> Bucket:
    return new_bucket(s3_endpoint)


@pytest.fixture
def new_buckets(s3_endpoint: str) -> Callable[[], Bucket]:
    """Makes buckets for a test that needs more of them."""
    return partial(new_bucket, s3_endpoint)


@pytest.fixture(scope="module")
def shared_bucket(s3_endpoint: str) -> Bucket:
    """A bucket of all tests of one module."""
    return new_bucket(s3_endpoint)


def new_bucket(endpoint: str) -> Bucket:
    client = boto3.client("s3", endpoint_url=endpoint)
    name = f"bucket-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=name)
    return Bucket(name, endpoint, client)


@pytest.fixture
def s3(s3_endpoint: str) -> Iterator[FaultyS3]:
    """An S3 server that fails when told to."""
    with FaultyS3(s3_endpoint) as proxy:
        yield proxy
