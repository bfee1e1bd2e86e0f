"""The README's Python: every snippet is run, in order, against an AWS that answers."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
REGION = "eu-west-1"


@pytest.fixture
def aws(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An account with the bucket that the README speaks of."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, REGION)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.chdir(tmp_path)
    boto3.client("s3").create_bucket(Bucket="my-bucket", CreateBucketConfiguration={"LocationConstraint": REGION})
    boto3.client("s3").put_object(Bucket="my-bucket", Key="scans/1.mha", Body=b"a scan")
    (tmp_path / "scan.png").write_bytes(b"an image")
    boto3.setup_default_session()
    yield
    boto3.setup_default_session()


def names(listing: dict[str, Any], kind: str) -> set[str]:
    return {entry[f"{kind}Name"] for entry in listing[f"{kind}Summaries"]}


@pytest.mark.usefixtures("aws")
def test_every_snippet_of_the_readme_runs_and_makes_what_it_says() -> None:
    namespace: dict[str, Any] = {}
    for snippet in SNIPPETS:
        exec(compile(snippet, "README.md", "exec"), namespace)
    sagemaker = boto3.client("sagemaker")
    assert [model["ModelName"] for model in sagemaker.list_models()["Models"]] == ["my-algorithm"]
    endpoints = {endpoint["EndpointName"] for endpoint in sagemaker.list_endpoints()["Endpoints"]}
    assert endpoints == {"my-algorithm", "my-algorithm-async"}
    assert names(sagemaker.list_training_jobs(), "TrainingJob") == {"my-algorithm-1"}
    assert names(sagemaker.list_transform_jobs(), "TransformJob") == {"scans-1", "tables-1"}
    assert names(sagemaker.list_processing_jobs(), "ProcessingJob") == {"scans-1", "tables-1"}
