"""The command `invoke`, as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rig import CONTAINER, DEADLINE_SECONDS, KEY, algorithm

if TYPE_CHECKING:
    from tests.conftest import Bucket

INVOKE = [sys.executable, str(CONTAINER / "invoke")]
LONGSHORE = [sys.executable, str(CONTAINER / "longshore"), "invoke"]


class Invocation:
    """Starts `invoke` in a folder of its own; what it leaves running is ended with the test."""

    def __init__(self, root: Path, bucket: Bucket) -> None:
        self.root = root
        self.bucket = bucket
        self.environment = {
            "PATH": os.environ["PATH"],
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret-of-aws",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL_S3": bucket.endpoint,
            "ALGORITHM_INPUT_PATH": str(root / "input"),
            "ALGORITHM_OUTPUT_PATH": str(root / "output"),
            "GRAND_CHALLENGE_COMPONENT_SIGNING_KEY_HEX": KEY.hex(),
        }
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, name: str | None, *arguments: str, program: list[str] = INVOKE, **options: Any) -> Any:
        """Start with one of the tiny programs; further keywords are Popen's, and `env` is added to ours."""
        environment = self.environment | ({"ALGORITHM_ENTRYPOINT": json.dumps([algorithm(name)])} if name else {})
        environment |= options.pop("env", {})
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        process = subprocess.Popen([*program, *arguments], env=environment, **(pipes | options))
        self._started.append(process)
        return process

    def run(self, name: str | None, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        process = self.start(name, *arguments, **options)
        stdout, stderr = process.communicate(timeout=2 * DEADLINE_SECONDS)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def end(self) -> None:
        for process in self._started:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()

    def assert_tidy(self) -> None:
        assert list((self.root / "input").iterdir()) == []
        assert list((self.root / "output").iterdir()) == []
