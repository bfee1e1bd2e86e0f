"""What the programs beside this one share: a session of the SDK's local mode, a request as argument, an answer.

They run in .venv-sdk, where nothing of ours is, and read as a user of the SDK would write them.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import boto3
from sagemaker.local import LocalSession

ROLE = "arn:aws:iam::123456789012:role/nobody-asks"  # a name alone would be looked up
WAIT = False  # local mode is done when a call returns, and the SDK would sleep for up to 30 s before it looks
NO_TELEMETRY = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}


make_private_folder = tempfile.mkdtemp


def make_readable_folder(**arguments: Any) -> str:
    """Make a folder that everyone may read, as those of SageMaker are.

    What the SDK mounts at /opt/ml are temporary folders for the eyes of their owner, and so an image with a USER of its
    own would find neither a model nor inputs.
    """
    folder = make_private_folder(**arguments)
    os.chmod(folder, 0o755)
    return folder


tempfile.mkdtemp = make_readable_folder


def request() -> dict[str, Any]:
    """Return what the test asks for."""
    wanted: dict[str, Any] = json.loads(sys.argv[1])
    return wanted


@contextmanager
def answering() -> Iterator[dict[str, Any]]:
    """Print what is put into this dict, and that alone: the SDK copies the containers' output to stdout."""
    answer: dict[str, Any] = {}
    with redirect_stdout(sys.stderr):
        yield answer
    print(json.dumps(answer))


def local_session() -> LocalSession:
    wanted = request()
    session = LocalSession(
        boto3.Session(),
        default_bucket=wanted["bucket"],
        s3_endpoint_url=os.environ["AWS_ENDPOINT_URL"],
        sagemaker_config=NO_TELEMETRY,
    )
    # The folders that it mounts, and the port of the machine that it serves on.
    session.config = {"local": {"container_root": wanted["folder"], "serving_port": wanted["port"]}}
    return session


def s3_environment() -> dict[str, str]:
    """Return what a container needs for S3 besides credentials, which the SDK passes on.

    SageMaker sets the region, and the endpoint is AWS's own; local mode sets them for training only.
    """
    return {name: os.environ[name] for name in ("AWS_REGION", "AWS_ENDPOINT_URL")}


def error_of(run: Any) -> str | None:
    """Return how this failed, or None."""
    try:
        run()
    except Exception as error:  # the SDK raises different ones, from RuntimeError to UnexpectedStatusException
        return f"{type(error).__name__}: {error}"
    return None
