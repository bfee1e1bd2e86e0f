"""Starts sagemaker-shim's server where only this machine reaches it, on the port that SAGEMAKER_BIND_TO_PORT names.

It binds 0.0.0.0:8080 itself and has no setting for that.
"""

import os

import uvicorn
from sagemaker_shim.cli import cli

run = uvicorn.run


def run_on_loopback(**options: object) -> None:
    run(**(options | {"host": "127.0.0.1", "port": int(os.environ["SAGEMAKER_BIND_TO_PORT"])}))


uvicorn.run = run_on_loopback

cli(["serve"])
