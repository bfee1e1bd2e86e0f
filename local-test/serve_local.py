"""Serve on this machine as a SageMaker endpoint, or a batch transform, does: see `serve-local.sh --help`."""

import contextlib
import functools
import os
import socket
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import ml_folder
from job import SERVING_STOP_SECONDS, Job
from options import Parser, place, port
from running import (
    Failure,
    exit_code,
    own_environment,
    readable,
    run_script,
    say,
    wait_for_answer,
    wait_for_end,
)
from s3_server import credentials, s3_server

DESCRIPTION = """\
Start an image as a SageMaker endpoint does, `docker run IMAGE serve`, with an S3 server beside it, and serve until
Ctrl-C. The model is test-dir/model, read-only. In another terminal:

  ./local-test/predict.sh local-test/payload.json
  ./local-test/predict.sh local-test/payload.csv"""

AFTER = """\
Stopping is as on SageMaker: SIGTERM, and SIGKILL 30 seconds later. The exit code is the server's."""

BATCH = {
    "SAGEMAKER_BATCH": "true",
    "SAGEMAKER_BATCH_STRATEGY": "SINGLE_RECORD",
    "SAGEMAKER_MAX_PAYLOAD_IN_MB": "6",
    "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "1",
}


def parse() -> Namespace:
    parser = Parser("serve-local.sh", DESCRIPTION, AFTER)
    parser.add_job_options()
    parser.add_argument("--port", type=port, default=8080, help="where to serve on 127.0.0.1; 8080 by default")
    parser.add_argument("--batch", action="store_true", help="with the variables of a batch transform")
    parser.add_argument("--pretty", action="store_true", help="show the log as lines for people")
    return parser.parse_args()


def serve(options: Namespace, root: Path) -> int:
    where = place(options)
    need_port(options.port)
    mounts = ml_folder.for_serving(options.test_dir)
    if not any(mounts[0].source.iterdir()):
        say(f"There is no model in {mounts[0].source}: train-local.sh makes one")
    say("Starting a stand-in for S3")
    with s3_server(root, where.s3_bind) as s3:
        s3.fill(options.s3)
        environment = credentials(where.s3_url(s3.url)) | (BATCH if options.batch else {}) | dict(options.env)
        job = Job(["serve"], mounts, SERVING_STOP_SECONDS, environment, options.port, options.mount)
        say("Starting the model server")
        with log_to(root, options.pretty) as output, where.started(job, root, output) as server:
            url = f"http://127.0.0.1:{options.port}"
            # As long as it takes: there may be a large model.
            wait_for_answer(server, f"{url}/ping", Failure("The model server did not start."), seconds=None)
            say(f"Serving on {url}, with S3 on {s3.url}; Ctrl-C ends both")
            wait_for_end(server)
            say("Stopping")
        kept = s3.keep(options.keep, options.s3)
    return exit_code(server) or kept


def need_port(number: int) -> None:
    try:
        socket.create_server(("127.0.0.1", number)).close()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise Failure(f"Port {number} can't be used ({why}): --port chooses another.") from error


@contextlib.contextmanager
def log_to(root: Path, pretty: bool) -> Iterator[IO[bytes]]:
    if pretty:
        with readable(own_environment(root), sys.stdout.buffer) as reader:
            yield reader
    else:
        yield sys.stdout.buffer


if __name__ == "__main__":
    run_script("serve-local", functools.partial(serve, parse()))
