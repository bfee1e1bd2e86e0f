"""Run the demonstration that demo.sh has prepared: start S3's stand-in and the model server, post a task, end both."""

import contextlib
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from host import SAMPLE, algorithm_environment
from running import Failure, free_port, own_environment, readable, run, run_script, running, say, wait_for_answer
from s3_server import s3_server

HERE = Path(__file__).resolve().parent
SERVE = HERE.parent / "container" / "serve"
TRAINING_DATA = HERE / "test-dir" / "input" / "data" / "training"


def demonstrate(root: Path) -> int:
    say("Starting a stand-in for S3")
    with s3_server(root) as s3:
        port = free_port()
        environment = {
            **s3.environment,
            **algorithm_environment(root, model=root / "model"),
            "MODEL_SERVER_SIGNING_KEY_HEX": secrets.token_hex(32),
            "SAGEMAKER_BIND_TO_PORT": str(port),
        }

        say("Training the sample algorithm")
        training = {"SM_CHANNEL_TRAINING": str(TRAINING_DATA), "SM_MODEL_DIR": str(root / "model")}
        command = [sys.executable, str(SAMPLE / "train")]
        run(command, own_environment(root) | training, Failure("The training failed."))

        say("Starting the model server")
        log = root / "server.log"
        with (
            log_to(log, environment) as output,
            running([sys.executable, str(SERVE)], environment, output) as server,
        ):
            url = f"http://127.0.0.1:{port}"
            wait_for_answer(server, f"{url}/ping", Failure("The model server did not start.", log))

            say("Posting a task")
            command = [sys.executable, str(HERE / "demo_task.py"), url, str(HERE / "payload.csv")]
            run(command, environment, Failure("The task failed.", log))
    return 0


@contextlib.contextmanager
def log_to(path: Path, environment: dict[str, str]) -> Iterator[IO[bytes]]:
    """Open what the server's log goes to: a file, or the program that makes it readable."""
    if "--pretty" in sys.argv[1:]:
        with readable(environment, sys.stderr.buffer) as reader:
            yield reader
    else:
        with path.open("wb") as file:
            yield file


if __name__ == "__main__":
    run_script("demo", demonstrate)
