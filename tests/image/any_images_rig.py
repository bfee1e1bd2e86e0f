"""Images of any_images/ as their authors made them and as `adapt` makes them, and what a program finds in both."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from docker_rig import (
    DEBIAN,
    PREFIX,
    PROJECT,
    Ended,
    build,
    docker,
    remove_image,
    run_once,
    unique_name,
)
from registry import Registry

ADAPT = PROJECT / "container/adapt"
SOURCES = Path(__file__).parent / "any_images"
IMAGES = ("static", "busybox", "musl", "debian")
"""Targets of its Dockerfile: a static program alone, a shell script, one among broken files, and an ordinary image."""

HOST_NAME = "box"
SCAN = b"\0scan\xff"
NOT_OF_THE_IMAGE = re.compile(r"^\[|^(/dev/|/memfd:)")


@dataclass(frozen=True)
class AnyImage:
    """An image in the engine as its author made it, and adapted; both were pushed to a registry, and `adapted` pulled.

    `said` is what `adapt` printed.
    """

    name: str
    original: str
    adapted: str
    said: Ended


@dataclass(frozen=True)
class Report:
    """What a program of any_images/ found itself to be."""

    argv: list[bytes]
    environment: dict[bytes, bytes]
    ids: list[str]
    folder: str
    files: set[str]
    """The program and the libraries that are in its memory."""

    scan: bytes

    @classmethod
    def read(cls, get: Callable[[str], bytes]) -> Report:
        """Read a report; `get` returns the content of a file in its output folder."""
        variables = [variable.partition(b"=") for variable in get("environ").split(b"\0")[:-1]]
        status = get("status").decode().splitlines()
        maps = (line.split(maxsplit=5) for line in get("maps").decode().splitlines())
        paths = {fields[5] for fields in maps if len(fields) == 6}
        environment = {name: value for name, _, value in variables}
        assert len(environment) == len(variables), "a variable is there twice"
        return cls(
            get("cmdline").split(b"\0")[:-1],
            environment,
            [" ".join(line.split()) for line in status if line.startswith(("Uid:", "Gid:", "Groups:"))],
            get("cwd").decode(),
            {path for path in paths if not NOT_OF_THE_IMAGE.match(path)},
            get("copies/scan.mha"),
        )


@contextmanager
def any_image(name: str, registry: Registry, layer: Path, folder: Path) -> Iterator[AnyImage]:
    """Build an image, push it, adapt it in the registry, and pull that, all for the block."""
    original = unique_name()
    repository = f"{registry.host}/any/{uuid.uuid4().hex[:12]}"
    source, target = f"{repository}:{name}", f"{repository}:adapted"
    log_in(registry, folder)
    build_target(original, name)
    try:
        docker("tag", original, source)
        docker("--config", folder, "push", "--quiet", source)
        said = adapt(source, target, layer, folder)
        assert said.code == 0, said.stderr
        docker("--config", folder, "pull", "--quiet", target)
        yield AnyImage(name, original, target, said)
    finally:
        for tag in (target, source, original):
            remove_image(tag)


def build_target(tag: str, target: str) -> None:
    """Build a target of the Dockerfile of any_images/. What they are made of keeps a name, to be found in the cache."""
    arguments = ["--network", "host"]
    build(f"{PREFIX}-stage:any-images", SOURCES, *arguments, "--target", "parts")
    build(tag, SOURCES, *arguments, "--target", target)


def log_in(registry: Registry, folder: Path) -> None:
    """Write what `docker login` would, into a folder that is to be DOCKER_CONFIG."""
    credentials = base64.b64encode(f"{registry.user}:{registry.password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": credentials}}}))


def adapt(source: str, target: str, layer: Path, config: Path) -> Ended:
    environ = os.environ | {"DOCKER_CONFIG": str(config)}
    command = [sys.executable, ADAPT, source, target, "--layer", layer]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    return Ended(done.returncode, done.stdout, done.stderr)


def natural_report(image: str, folder: Path) -> Report:
    """Run an image that was not adapted as `docker run` does, and return what its program reports."""
    given, written = folder / "input", folder / "output"
    for place in (given, written):
        place.mkdir()
        place.chmod(0o777)
    (given / "scan.mha").write_bytes(SCAN)
    mounts = ["--volume", f"{given}:/input:ro", "--volume", f"{written}:/output"]
    try:
        ended = run_once(image, options=["--hostname", HOST_NAME, *mounts])
        assert (ended.code, ended.stdout) == (0, "reported\n"), ended.stderr
        return Report.read(lambda name: (written / name).read_bytes())
    finally:
        # What containers wrote is root's, also where we are not.
        docker("run", "--rm", "--volume", f"{written}:/left", DEBIAN, "find", "/left", "-mindepth", "1", "-delete")
