"""The SageMaker Python SDK's local mode as tests use it: programs of sdk/, run by the Python of .venv-sdk."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker_rig import DEBIAN, PROJECT, docker

from moto_s3 import AWS

if TYPE_CHECKING:
    from tests.conftest import Bucket

SDK_PYTHON = PROJECT / ".venv-sdk/bin/python"
PROGRAMS = Path(__file__).parent / "sdk"
RUN_SECONDS = 300.0

NETWORK = "sagemaker-local"
"""What the SDK names its network, always."""

PROJECT_FOLDER = "com.docker.compose.project.working_dir"
"""The label of a container that says in which folder its compose file is."""


@dataclass(frozen=True)
class Run:
    """What a program answered, and what its containers printed: all of it, where the SDK loses the last lines."""

    answer: dict[str, Any]
    log: str


@dataclass(frozen=True)
class LocalMode:
    """The SDK with a bucket, and a folder of its own for what it mounts."""

    bucket: Bucket
    folder: Path

    def uri(self, *parts: str) -> str:
        return "/".join(["s3:/", self.bucket.name, *parts])

    def run(self, program: str, **request: Any) -> Run:
        """Run one program of sdk/ with a request, and return its answer; the containers that it leaves are removed."""
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        scope = {"bucket": self.bucket.name, "folder": str(folder), "port": free_port()}
        command = [SDK_PYTHON, PROGRAMS / program, json.dumps(scope | request)]
        try:
            done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, timeout=RUN_SECONDS)
            assert done.returncode == 0, f"{program} failed:\n{done.stdout[-3000:]}\n{done.stderr[-8000:]}"
            # The SDK's own log goes to stdout too, before the answer.
            answer = json.loads(done.stdout.splitlines()[-1])
            return Run(answer, "\n".join(docker("logs", container) for container in containers_of(folder)))
        finally:
            for container in containers_of(folder):
                docker("rm", "--force", "--volumes", container)

    def _environment(self) -> dict[str, str]:
        """Return no more than what is needed: neither a proxy nor the SDK's settings of whoever runs this."""
        here = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("DOCKER_")}
        own = {
            "AWS_ENDPOINT_URL": self.bucket.endpoint,
            "DOCKER_CONFIG": os.environ.get("DOCKER_CONFIG") or str(Path.home() / ".docker"),
            "HOME": str(self.folder),
            "SAGEMAKER_SUPPRESS_V2_WARNING": "1",
        }
        return AWS | here | own


@contextmanager
def local_mode(bucket: Bucket, folder: Path) -> Iterator[LocalMode]:
    """Have the SDK at hand for the block; the network and the files that it leaves are removed."""
    assert SDK_PYTHON.exists(), f"There is no {SDK_PYTHON}: ./tests/run.sh makes it"
    assert shutil.which("docker-compose"), "There is no docker-compose: ./tests/run.sh installs it where it may"
    had_network = NETWORK in docker("network", "ls", "--format", "{{.Name}}").splitlines()
    try:
        yield LocalMode(bucket, folder)
    finally:
        if not had_network:  # it may be another's by now, and then it stays
            subprocess.run(["docker", "network", "rm", NETWORK], capture_output=True)
        # What containers wrote is root's, also where we are not.
        docker("run", "--rm", "--volume", f"{folder}:/left", DEBIAN, "find", "/left", "-mindepth", "1", "-delete")


def containers_of(folder: Path) -> list[str]:
    """Return the containers whose compose file is below a folder: the SDK only stops them."""
    columns = f'{{{{.ID}}}} {{{{.Label "{PROJECT_FOLDER}"}}}}'
    listed = docker("ps", "--all", "--filter", f"label={PROJECT_FOLDER}", "--format", columns)
    places = (line.partition(" ") for line in listed.splitlines())
    return [container for container, _, place in places if folder in Path(place).parents]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
