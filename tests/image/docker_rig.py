"""Images and containers of tests: built and run with the real engine, and all gone at the end."""

import http.client
import json
import os
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from moto_s3 import AWS

PROJECT = Path(__file__).parents[2]
DEBIAN = "debian:bookworm-slim"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
PREFIX = "longshore-test"
"""What every image and container of tests is named with."""

START_SECONDS = 60.0
STOP_SECONDS = 35.0

T = TypeVar("T")


def docker(*words: str | Path) -> str:
    """Run a docker command, and return what it prints; fails with what it says."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"docker {words[0]} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


def eventually(look: Callable[[], T], what: str, seconds: float = 20.0) -> T:
    """Look until what is seen is true, and return it; fail when it is not within some seconds."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return seen


def unique_name() -> str:
    return f"{PREFIX}-{uuid.uuid4().hex[:12]}"


# -- images


def build_arguments(base: str = DEBIAN) -> list[str]:
    """Return what `docker build` needs on every network: packages come from where this machine gets its own.

    A base image that has certificates of its own may need them to reach a package index.
    """
    has_bundle = subprocess.run(
        ["docker", "run", "--rm", "--user", "0", "--entrypoint", "test", base, "-s", CA_BUNDLE], capture_output=True
    )
    certificates = ["--build-arg", f"PIP_CERT={CA_BUNDLE}"] if has_bundle.returncode == 0 else []
    return ["--network", "host", *certificates]


def build(tag: str, folder: Path, *arguments: str | Path) -> None:
    """Build an image; the one that had the tag before is removed."""
    before = docker("images", "--quiet", tag)
    done = tried_build(folder, "--tag", tag, *arguments)
    assert done.returncode == 0, f"{tag} could not be built:\n{done.stdout[-5000:]}"
    if before and before != docker("images", "--quiet", tag):
        remove_image(before)


def tried_build(folder: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Build with the classic builder, which every engine has, and return how it went; a failed one leaves nothing."""
    environ = os.environ | {"DOCKER_BUILDKIT": "0"}
    command = ["docker", "build", "--force-rm", *arguments, folder]
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode and (steps := re.findall(r"^ ---> ([0-9a-f]{12})$", done.stdout, re.MULTILINE)):
        subprocess.run(["docker", "rmi", steps[-1]], capture_output=True)  # fails for what others use
    return done


def build_base(tag: str, *arguments: str, base: str = DEBIAN) -> None:
    """Build the checkout's own image. Its build stage keeps a name, so that the next build finds it in the cache."""
    usual = [*build_arguments(), "--build-arg", f"BASE_IMAGE={base}", *arguments]
    build(f"{PREFIX}-stage", PROJECT, *usual, "--target", "build")
    build(tag, PROJECT, *usual)


@contextmanager
def built(dockerfile: str, folder: Path, *arguments: str) -> Iterator[str]:
    """Build the image of a Dockerfile for the block, and yield its tag."""
    tag = unique_name()
    (folder / "Dockerfile").write_text(dockerfile)
    build(tag, folder, *arguments)
    try:
        yield tag
    finally:
        remove_image(tag)


def remove_image(tag: str) -> None:
    subprocess.run(["docker", "rmi", "--force", tag], capture_output=True)


def inspected(image: str) -> Any:
    """Return what Docker knows of an image."""
    return json.loads(docker("image", "inspect", image))[0]


# -- containers


@dataclass(frozen=True)
class Ended:
    """How a container ended, and what it printed."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Answer:
    """What a request was answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Container:
    """A container that runs."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def state(self) -> Any:
        return json.loads(docker("container", "inspect", "--format", "{{json .State}}", self.name))

    def execute(self, *words: str) -> str:
        """Run a program beside the container's own, and return what it prints."""
        return docker("exec", self.name, *words)

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send a request to its port 8080; raises OSError when nobody answers."""
        host, _, port = docker("port", self.name, "8080/tcp").splitlines()[0].rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            answer = response.read()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, answer)
        finally:
            connection.close()

    def post(self, task: Any) -> Answer:
        return self.request("POST", "/invocations", json.dumps(task).encode(), content_type="application/json")

    def run(self, task: Any) -> Any:
        """Post a task, and return its result, which has to be one of success."""
        answer = self.post(task)
        assert answer.status == 200, (answer.body, self.log())
        result = answer.json()
        assert result["return_code"] == 0, (result, self.log())
        return result

    def pings(self) -> bool:
        try:
            return self.request("GET", "/ping").status == 200
        except (OSError, http.client.HTTPException):
            return False

    def await_ping(self) -> None:
        eventually(lambda: self.pings() or not self.state["Running"], "a 200 on /ping", START_SECONDS)
        assert self.state["Running"], self.log()

    def ended(self) -> int:
        """Return the exit code, once it has ended."""
        return int(docker("wait", self.name))

    def stop(self) -> int:
        """Stop it as `docker stop` does, with SageMaker's patience, and return the exit code."""
        docker("stop", "--time", "30", self.name)
        return self.ended()

    def log(self) -> str:
        done = subprocess.run(
            ["docker", "logs", self.name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return done.stdout[-8000:]


@contextmanager
def running(image: str, *command: str, options: Sequence[str] = ()) -> Iterator[Container]:
    """Run a container for the block; `options` are `docker run`'s."""
    name = unique_name()
    try:
        docker("run", "--detach", "--name", name, *options, image, *command)
        yield Container(name)
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True)


@contextmanager
def serving(image: str, options: Sequence[str] = ()) -> Iterator[Container]:
    """Run `serve` for the block, from when it is ready; its port is published on loopback."""
    with running(image, "serve", options=["--publish", "127.0.0.1::8080", *options]) as container:
        container.await_ping()
        yield container


def run_once(image: str, *command: str, options: Sequence[str] = ()) -> Ended:
    """Run a container to its end."""
    name = unique_name()
    words = ["docker", "run", "--rm", "--name", name, *options, image, *command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True)
    return Ended(done.returncode, done.stdout, done.stderr)


def s3_options_of(endpoint: str) -> list[str]:
    """Return the options of `docker run` that let a container use an S3 server."""
    variables = AWS | {"AWS_ENDPOINT_URL_S3": endpoint}
    return [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
