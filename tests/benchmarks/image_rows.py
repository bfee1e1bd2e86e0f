"""The image: how long its container takes until it serves."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from measures import OURS, Outcome, Sample, take_turns
from readiness import await_ping
from setting import LeftOut, Row, Setting
from sink import free_port
from stacks import Longshore

MOST_SECONDS = 0.35


def start_in_container(setting: Setting) -> Outcome:
    """Measure from when the engine has started the container's first process until /ping answers 200."""
    with built_image() as image:

        def turn(_: bool) -> Sample:
            return Sample(seconds_to_ping(image))

        outcome = Outcome(samples=take_turns({OURS: turn}, setting.rounds))
    outcome.notes.append("from what the engine calls StartedAt; a container with an algorithm, and no other variables")
    return outcome.at_most("s", MOST_SECONDS, [sample.value for sample in outcome.samples[OURS]])


@contextmanager
def built_image() -> Iterator[str]:
    """Build the checkout's image for the block, and yield its name."""
    name = unique_name()
    if (reason := _why_no_engine()) is not None:
        raise LeftOut(f"needs a Docker engine: {reason}")
    try:
        build = [Longshore.checkout / "build_local.sh", name]
        done = subprocess.run(build, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"the image could not be built:\n{done.stdout[-3000:]}")
        yield name
    finally:
        subprocess.run(["docker", "rmi", "--force", name], capture_output=True)


def _why_no_engine() -> str | None:
    try:
        done = subprocess.run(["docker", "version"], capture_output=True, text=True)
    except OSError as error:
        return f"docker: {error.strerror}"
    return None if done.returncode == 0 else done.stderr.strip()


def seconds_to_ping(image: str) -> float:
    """Start a container and return the seconds; it has the host's network, so that no proxy of the engine's counts."""
    port, name = free_port(), unique_name()
    variables = {"ALGORITHM_ENTRYPOINT": json.dumps(["true"]), "SAGEMAKER_BIND_TO_PORT": str(port)}
    options = ["--rm", f"--name={name}", "--network=host", *(f"--env={key}={variables[key]}" for key in variables)]
    command = ["docker", "run", *options, image, "serve"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        if not await_ping(port, is_gone=lambda: process.poll() is not None):
            raise RuntimeError(f"the container does not start:\n{process.communicate()[0][-3000:]}")
        answered = time.time()
        started = datetime.fromisoformat(_docker("inspect", "--format={{.State.StartedAt}}", name))
        return answered - started.timestamp()
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True)
        process.communicate()


def unique_name() -> str:
    return f"longshore-benchmark-{uuid.uuid4().hex[:12]}"


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"docker {words[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


ROWS = [Row("container", "from the start of a container to /ping 200", start_in_container, in_quick=False)]
