"""A task, what can be changed of it, and how one is read from the body of a request."""

import io
from typing import Any

from model_server.task import Task
from model_server.task_body import read_tasks

ITEM = {"relative_path": "a/b.txt", "bucket_name": "bucket", "bucket_key": "key"}
TASK = {"pk": "1", "inputs": [ITEM], "output_bucket_name": "bucket", "output_prefix": "out/", "timeout": "PT1M"}
MISSING = object()


def task(**more: Any) -> dict[str, Any]:
    return {name: value for name, value in (TASK | more).items() if value is not MISSING}


def read(body: bytes, lines: bool) -> tuple[list[Task], bool]:
    return read_tasks(io.BytesIO(body), len(body), lines)
