"""Runs sagemaker-shim's commands as forks of one process: a start of its own takes seconds, most of them for imports.

Only the libraries are loaded beforehand; the shim itself is imported by the fork, in the environment of its run. Each
line on stdin is one run as JSON. It is answered by two lines: the pid, and the exit code once the run has ended.
"""

import json
import os
import sys
from typing import Any

import aioboto3  # noqa: F401
import click  # noqa: F401
import fastapi  # noqa: F401
import httpx  # noqa: F401
import uvicorn  # noqa: F401


def become(run: dict[str, Any]) -> None:
    """Turn this fork into what a start from a shell would be."""
    for descriptor, name, flags in (
        (0, "/dev/null", os.O_RDONLY),
        (1, run["stdout"], os.O_WRONLY | os.O_APPEND | os.O_CREAT),
        (2, run["stderr"], os.O_WRONLY | os.O_APPEND | os.O_CREAT),
    ):
        opened = os.open(str(name), flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(run["environment"])
    sys.argv = ["sagemaker-shim", *run["arguments"]]


for line in sys.stdin:
    child = os.fork()
    if child:
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    else:
        become(json.loads(line))
        from sagemaker_shim.cli import cli

        cli()
