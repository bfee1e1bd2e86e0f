"""What the runtime of an adapted image opens and executes, as strace sees it from the first process on.

Nothing of the image, until it executes the image's own program: so no image can be one that it does not work in.
Attempts that failed count too: what one image has not, another may have.
"""

from __future__ import annotations

import http.server
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from any_images_rig import SCAN, AnyImage
from docker_rig import PROJECT
from trace_rig import Strace, Trace, read_trace

if TYPE_CHECKING:
    from tests.conftest import Bucket

sys.path.append(str(PROJECT / "image"))
from image_paths import IMAGES_OWN

PROGRAMS = {"static": "/reports", "musl": "/usr/bin/reports"}
IMAGES = pytest.mark.parametrize("image", PROGRAMS, indirect=True)

THE_KERNELS = ("/proc", "/sys", "/dev")
THE_JOBS = ("/input", "/output", "/opt/ml", "/tmp")
"""What the settings name: the folders of tasks, what SageMaker mounts, and the folder for temporary files."""

STEPS = {"/", "/opt", "/srv", "/srv/opt"}
"""Folders that are opened as a step to what is in them, and not read."""

JOBS_KEY = "the-jobs-key"


def is_known(path: str) -> bool:
    """Say whether what is opened is ours, the engine's, or of those files of an image that we say we read."""
    path = path.replace("/srv/opt/", "/opt/")  # /opt is a link in one image
    below = (*THE_KERNELS, *THE_JOBS, "/longshore")
    return path in STEPS or path.encode() in IMAGES_OWN or any(f"{path}/".startswith(f"{place}/") for place in below)


def task(bucket: Bucket) -> dict[str, object]:
    bucket.put("scan.mha", SCAN)
    return bucket.task("1", [bucket.item("scan.mha", "scan.mha")])


def looks_at_nothing_of(image: AnyImage, trace: Trace) -> None:
    assert trace.algorithms == [PROGRAMS[image.name]]
    assert sorted(path for path in trace.executed if not path.startswith("/longshore/")) == []
    unknown = sorted(path for path in trace.opened if not is_known(path))
    assert not unknown, unknown
    # The trace is one: it has what has to be there.
    assert "/longshore/bin/python3" in trace.executed
    assert ("/etc/passwd" in trace.opened) == (image.name == "musl")  # which has a USER


@IMAGES
def test_a_server_opens_and_executes_nothing_of_its_image(
    image: AnyImage, strace: Strace, bucket: Bucket, s3_options: list[str], tmp_path: Path
) -> None:
    options = ["--publish", "127.0.0.1::8080", *s3_options]
    with strace.running(image.adapted, "serve", options=options) as container:
        container.await_ping()
        container.run(task(bucket))
        assert bucket.get("/out/1/copies/scan.mha") == SCAN
        assert container.stop() == 0, container.log()
        trace = read_trace(container, tmp_path)
    assert "/longshore/bin/nginx" in trace.executed
    looks_at_nothing_of(image, trace)


@IMAGES
def test_a_list_of_tasks_is_run_with_the_credentials_of_the_job_and_nothing_of_the_image(
    image: AnyImage, strace: Strace, bucket: Bucket, tmp_path: Path
) -> None:
    """As on SageMaker, where a server on the machine gives them; one image has files and a program that would."""
    with credentials_server() as (url, asked):
        variables = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": url,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": bucket.endpoint,
        }
        options = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
        command = ["invoke", "-t", json.dumps([task(bucket)])]
        options = ["--network", "host", *options]
        with strace.running(image.adapted, *command, options=options, as_child=True) as container:
            assert container.ended() == 0, container.log()
            trace = read_trace(container, tmp_path)
    assert bucket.get("/out/1/copies/scan.mha") == SCAN
    assert asked
    looks_at_nothing_of(image, trace)


@contextmanager
def credentials_server() -> Iterator[tuple[str, list[str]]]:
    """Give credentials as SageMaker does, for the block; yields the URL, and a list of who asked for them."""
    asked: list[str] = []
    credentials = {
        "AccessKeyId": JOBS_KEY,
        "SecretAccessKey": "secret",
        "Token": "token",
        "Expiration": "2099-01-01T00:00:00Z",
    }

    class Credentials(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = json.dumps(credentials).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Credentials) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/credentials", asked
        finally:
            server.shutdown()
            thread.join()
