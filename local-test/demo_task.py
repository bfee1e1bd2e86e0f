"""Post one task to a model server, as SageMaker would, and show what came of it.

Arguments: the server's URL, and a CSV file for the sample algorithm.
"""

import hashlib
import hmac
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import boto3

BUCKET = "demo"
INPUT_KEY = "inputs/iris.csv"
OUTPUT_PREFIX = "outputs/demo-1/"


def main(server_url: str, csv_file: Path) -> None:
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key=INPUT_KEY, Body=csv_file.read_bytes())

    task = {
        "pk": "demo-1",
        "inputs": [{"relative_path": "iris.csv", "bucket_name": BUCKET, "bucket_key": INPUT_KEY, "decompress": False}],
        "output_bucket_name": BUCKET,
        "output_prefix": OUTPUT_PREFIX,
        "timeout": "PT1M",
    }
    show("The task", json.dumps(task, indent=2))
    answer = post(f"{server_url}/invocations", task)
    show("The answer", json.dumps(answer, indent=2))

    listing = s3.list_objects_v2(Bucket=BUCKET)["Contents"]
    show("In S3", "\n".join(f"{item['Size']:6} bytes  s3://{BUCKET}/{item['Key']}" for item in listing))

    result = s3.get_object(Bucket=BUCKET, Key=f"{OUTPUT_PREFIX}.sagemaker_shim/inference_result.json")
    body = result["Body"].read()
    if json.loads(body) != answer or not is_signed(body, result["Metadata"]):
        sys.exit("The result in S3 is not the answer, or its signature is wrong.")
    show("The result in S3", "The same as the answer, and its signature is right.")

    if answer["return_code"] != 0:
        sys.exit(f"The task ended with return code {answer['return_code']}.")
    predictions = s3.get_object(Bucket=BUCKET, Key=f"{OUTPUT_PREFIX}iris.csv")["Body"].read()
    show("The predictions", predictions.decode().rstrip())


def post(url: str, task: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(task).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        sys.exit(f"The server answered {error.code}: {error.read().decode(errors='replace')}")


def is_signed(body: bytes, metadata: dict[str, str]) -> bool:
    key = bytes.fromhex(os.environ["MODEL_SERVER_SIGNING_KEY_HEX"])
    expected = hmac.new(key, body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, metadata.get("signature_hmac_sha256", ""))


def show(title: str, text: str) -> None:
    print(f"\n{title}:\n{text}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
