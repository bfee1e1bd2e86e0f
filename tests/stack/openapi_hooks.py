"""What schemathesis is told of our API beyond tests/openapi.yaml; loaded by it, through SCHEMATHESIS_HOOKS."""

import json
import os
import re
from typing import Any

import schemathesis

LINES = "application/jsonlines"
BUCKET = re.compile(r"[a-zA-Z0-9._-]{1,255}|arn:.*", re.DOTALL)


@schemathesis.serializer(LINES)
def lines_of(context: Any, value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


@schemathesis.deserializer(LINES)
def first_line(context: Any, response: Any) -> Any:
    return json.loads(response.content.splitlines()[0])


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Give every other task a bucket that is there, and all that name an access point: moto has none of those."""
    body = case.body
    name = body.get("output_bucket_name") if isinstance(body, dict) else None
    if isinstance(name, str) and BUCKET.fullmatch(name) and (":" in name or len(json.dumps(body)) % 2):
        body["output_bucket_name"] = os.environ["EXISTING_BUCKET"]
