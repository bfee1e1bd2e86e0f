"""What every request to S3 carries when it is set: the account that the buckets are of, and the key to encrypt with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from invocation import Invocation

from faulty_s3 import FaultyS3

if TYPE_CHECKING:
    from tests.conftest import Bucket

OWNER = "123456789012"  # moto's own account
KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def test_every_request_names_the_buckets_owner_where_it_is_set(
    invoke: Invocation, bucket: Bucket, s3: FaultyS3
) -> None:
    bucket.put("in", "data")
    bucket.put("tasks", json.dumps([bucket.task(inputs=[bucket.item("file", "in")])]))
    env = {"EXPECTED_BUCKET_OWNER": OWNER, "AWS_S3_ENDPOINT_URL": s3.endpoint}
    assert invoke.run("writes_70_megabytes", "-f", f"s3://{bucket.name}/tasks", env=env).returncode == 0
    assert bucket.result("/out/task")["return_code"] == 0
    assert {request.method for request in s3.requests} == {"GET", "PUT", "POST"}, "a multipart upload is among them"
    assert {request.headers.get("x-amz-expected-bucket-owner") for request in s3.requests} == {OWNER}


def test_outputs_and_results_are_encrypted_with_the_key_that_is_set(invoke: Invocation, bucket: Bucket) -> None:
    env = {"OUTPUT_KMS_KEY_ID": KEY}
    assert invoke.run("writes_70_megabytes", "-t", json.dumps([bucket.task()]), env=env).returncode == 0
    keys = bucket.keys()
    assert len(keys) == 2
    for key in keys:
        stored = bucket.client.head_object(Bucket=bucket.name, Key=key)
        assert (stored["ServerSideEncryption"], stored["SSEKMSKeyId"]) == ("aws:kms", KEY)


def test_without_these_settings_a_request_carries_neither(invoke: Invocation, bucket: Bucket, s3: FaultyS3) -> None:
    assert (
        invoke.run("says_hello", "-t", json.dumps([bucket.task()]), env={"AWS_S3_ENDPOINT_URL": s3.endpoint}).returncode
        == 0
    )
    names = {name.lower() for request in s3.requests for name in request.headers}
    assert s3.requests
    assert not names & {"x-amz-expected-bucket-owner", "x-amz-server-side-encryption"}
