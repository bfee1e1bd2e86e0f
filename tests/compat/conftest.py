"""What the comparison with sagemaker-shim shares: both sides in folders of their own."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from both import INPUTS, SHIM_PYTHON, Both, Forks, both_sides

sys.path.append(str(Path(__file__).parent.parent / "functional"))  # for its faulty_s3

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
