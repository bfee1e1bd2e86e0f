"""What the comparison with sagemaker-shim shares: both sides in folders of their own."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import boto3
import pytest
from both import INPUTS, SHIM_PYTHON, Both, Forks, both_sides

logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the S3 server's, which runs in this process too


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    assert SHIM_PYTHON.exists(), f"There is no {SHIM_PYTHON}: ./tests/run.sh makes it"
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture
def both(s3_endpoint: str, forks: Forks) -> Iterator[Both]:
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket=INPUTS)
    with both_sides(s3_endpoint, client, forks) as sides:
        yield sides
    client.close()
