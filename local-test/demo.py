"""Run the demonstration that demo.sh has prepared: start S3's stand-in and the model server, post a task, end both.

Whatever happens and whichever signal arrives, no process and no folder is left behind. Therefore a signal takes effect
in pause() alone, where nothing is half started.
"""

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO

HERE = Path(__file__).resolve().parent
SAMPLE = HERE / "sample-algorithm"
SERVE = HERE.parent / "container" / "serve"
START_SECONDS = 30
STOP_SECONDS = 30  # the server takes up to 25 where a task runs

received_signal = 0


class Failure(Exception):
    """Why the demonstration ended early: one sentence, and the log that may tell more."""

    def __init__(self, sentence: str, log: Path | None = None) -> None:
        super().__init__(sentence)
        self.log = log


def main() -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    # In /tmp whatever TMPDIR says: the path of a Unix socket has at most 108 bytes.
    with tempfile.TemporaryDirectory(prefix="longshore.", dir="/tmp") as folder:
        try:
            demonstrate(Path(folder), pretty="--pretty" in sys.argv[1:])
        except Failure as failure:
            if failure.log and failure.log.is_file():
                say(f"The last lines of {failure.log.name}")
                lines = failure.log.read_text(errors="replace").splitlines()
                print(*lines[-20:], sep="\n", file=sys.stderr)
            sys.exit(f"demo: {failure}")


def demonstrate(root: Path, pretty: bool) -> None:
    for name in ("home", "tmp", "input", "output", "model"):
        (root / name).mkdir()
    s3_port, server_port = free_ports()
    environment = describe_environment(root, s3_port, server_port)

    say("Starting a stand-in for S3")
    s3_log = root / "s3.log"
    s3_command = ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(s3_port)]
    with s3_log.open("wb") as s3_output, running(s3_command, environment, s3_output) as s3:
        wait_for_answer(s3, s3_port, "/moto-api/", Failure("The stand-in for S3 did not start.", s3_log))

        say("Training the sample algorithm")
        shutil.copy(SAMPLE / "iris.csv", root / "input")
        run([str(SAMPLE / "train")], environment, Failure("The training failed."))
        (root / "input" / "iris.csv").unlink()

        say("Starting the model server")
        server_log = root / "server.log"
        with (
            log_to(server_log, environment, pretty) as server_output,
            running([str(SERVE)], environment, server_output) as server,
        ):
            wait_for_answer(server, server_port, "/ping", Failure("The model server did not start.", server_log))

            say("Posting a task")
            arguments = [f"http://127.0.0.1:{server_port}", str(SAMPLE / "to-predict.csv")]
            run([str(HERE / "demo_task.py"), *arguments], environment, Failure("The task failed.", server_log))


def describe_environment(root: Path, s3_port: int, server_port: int) -> dict[str, str]:
    """Return what every program here is told.

    It is nothing of the user's own environment, so that no AWS account, proxy or forgotten setting plays a part.
    """
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "tmp"),
        "LANG": "C.UTF-8",
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{s3_port}",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "ALGORITHM_ENTRYPOINT": json.dumps([sys.executable, str(SAMPLE / "predict")]),
        "ALGORITHM_INPUT_PATH": str(root / "input"),
        "ALGORITHM_OUTPUT_PATH": str(root / "output"),
        "ALGORITHM_MODEL_PATH": str(root / "model"),
        "MODEL_SERVER_RUN_PATH": str(root / "run"),
        "MODEL_SERVER_SIGNING_KEY_HEX": secrets.token_hex(32),
        "SAGEMAKER_BIND_TO_PORT": str(server_port),
    }


def free_ports() -> tuple[int, int]:
    """Return two ports that nobody listens on; both are held at once, so they differ."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


@contextlib.contextmanager
def running(
    arguments: list[str],
    environment: dict[str, str],
    output: IO[bytes] | None = None,
    stdin: int = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[bytes]]:
    """Keep a Python program running, with its output here or in a file, and end it in the end."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=environment["HOME"],
        env=environment,
        stdin=stdin,
        stdout=output,
        stderr=output and subprocess.STDOUT,
        # A group of its own: Ctrl-C reaches this program alone, which then ends all in order.
        process_group=0,
    )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        # What would not end, or was left behind by what did.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(arguments: list[str], environment: dict[str, str], failure: Failure) -> None:
    with running(arguments, environment) as process:
        while process.poll() is None:
            pause()
    end_if_asked()
    if process.returncode != 0:
        raise failure


@contextlib.contextmanager
def log_to(path: Path, environment: dict[str, str], pretty: bool) -> Iterator[IO[bytes]]:
    """Open what the server's log goes to: a file, or the program that makes it readable."""
    if not pretty:
        with path.open("wb") as file:
            yield file
        return
    environment = {**environment, "NO_COLOR": os.environ.get("NO_COLOR", "")}
    with running([str(HERE / "pretty")], environment, sys.stderr.buffer, stdin=subprocess.PIPE) as reader:
        assert reader.stdin
        try:
            yield reader.stdin
        finally:
            # The last lines matter most: it ends by itself when it has shown them.
            reader.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                reader.wait(STOP_SECONDS)


def wait_for_answer(process: subprocess.Popen[bytes], port: int, path: str, failure: Failure) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not answers(port, path):
        if process.poll() is not None or time.monotonic() > deadline:
            end_if_asked()
            raise failure
        pause()


def answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def on_signal(number: int, _frame: FrameType | None) -> None:
    global received_signal
    received_signal = number


def pause() -> None:
    """Wait a moment, and end the demonstration where a signal asked for it."""
    time.sleep(0.05)
    end_if_asked()


def end_if_asked() -> None:
    """End with a signal's code; the signal may have met a child too, before it was in a group of its own."""
    if received_signal:
        sys.exit(128 + received_signal)


def say(text: str) -> None:
    print(f"==> {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
