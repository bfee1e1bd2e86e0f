"""Run other programs, and end all of them when this one ends.

Whatever happens and whichever signal arrives, no process and no folder is left behind. Therefore a signal takes effect
in pause() and wait_for_end() alone, where nothing is half started.
"""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

START_SECONDS = 30
STOP_SECONDS = 30  # the server takes up to 25 where a task runs

received_signal = 0


class Failure(Exception):
    """Why a script ended early: a sentence, and the log that may tell more."""

    def __init__(self, sentence: str, log: Path | None = None) -> None:
        super().__init__(sentence)
        self.log = log


def run_script(name: str, script: Callable[[Path], int]) -> NoReturn:
    """Run a script in a temporary folder, and end with the code that it returns."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    # In /tmp whatever TMPDIR says: the path of a Unix socket has at most 108 bytes.
    with tempfile.TemporaryDirectory(prefix=f"longshore.{os.getpid()}.", dir="/tmp") as folder:
        try:
            code = script(Path(folder))
        except Failure as failure:
            if failure.log and failure.log.is_file():
                say(f"The last lines of {failure.log.name}")
                lines = failure.log.read_text(errors="replace").splitlines()
                print(*lines[-20:], sep="\n", file=sys.stderr)
            sys.exit(f"{name}: {failure}")
    sys.exit(code)


def own_environment(root: Path) -> dict[str, str]:
    """Return what a program is told that is to know nothing of the user's AWS account, proxy or forgotten settings."""
    for name in ("home", "tmp"):
        (root / name).mkdir(exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "tmp"),
        "LANG": "C.UTF-8",
    }


@contextlib.contextmanager
def running(
    command: list[str],
    environment: dict[str, str],
    output: IO[bytes] | None = None,
    *,
    cwd: str | None = None,
    stdin: int = subprocess.DEVNULL,
    stop_seconds: int = STOP_SECONDS,
) -> Iterator[subprocess.Popen[bytes]]:
    """Keep a program running, with its output here or in a file; SIGTERM ends it in the end, then SIGKILL its group."""
    process = subprocess.Popen(
        command,
        cwd=cwd or environment["HOME"],
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
            process.wait(stop_seconds)
        # What would not end, or was left behind by what did.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(command: list[str], environment: dict[str, str], failure: Failure) -> None:
    """Run a program to its end; raises the failure when it fails."""
    with running(command, environment) as process:
        while process.poll() is None:
            pause()
    end_if_asked()
    if process.returncode != 0:
        raise failure


@contextlib.contextmanager
def readable(environment: dict[str, str], target: IO[bytes]) -> Iterator[IO[bytes]]:
    """Open the program that makes a server's log readable; what is written to it appears in the target."""
    pretty = str(Path(__file__).resolve().parent / "pretty")
    environment = {**environment, "NO_COLOR": os.environ.get("NO_COLOR", "")}
    with running([sys.executable, pretty], environment, target, stdin=subprocess.PIPE) as reader:
        assert reader.stdin
        try:
            yield reader.stdin
        finally:
            # The last lines matter most: it ends by itself when it has shown them.
            reader.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                reader.wait(STOP_SECONDS)


def wait_for_end(process: subprocess.Popen[bytes]) -> int:
    """Wait until a program ends, or a signal asks us to end it; returns which one, 0 for none, and forgets it."""
    global received_signal
    while process.poll() is None and not received_signal:
        time.sleep(0.05)
    number, received_signal = received_signal, 0
    return number


def wait_for_answer(
    process: subprocess.Popen[bytes], url: str, failure: Failure, seconds: float | None = START_SECONDS
) -> None:
    """Wait until a program answers a GET with 200; raises the failure when it ends or the time is over."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while not answers(url):
        if process.poll() is not None or (deadline and time.monotonic() > deadline):
            end_if_asked()
            raise failure
        pause()


def answers(url: str) -> bool:
    address, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(address, timeout=1)
    try:
        connection.request("GET", f"/{path}")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on now; take it before asking for another."""
    with socket.create_server((address, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def exit_code(process: subprocess.Popen[bytes]) -> int:
    """Return the code that a shell would give for how a program ended."""
    code: int = process.returncode
    return code if code >= 0 else 128 - code


def on_signal(number: int, _frame: FrameType | None) -> None:
    global received_signal
    received_signal = number


def pause() -> None:
    """Wait a moment, and end the script where a signal asked for it."""
    time.sleep(0.05)
    end_if_asked()


def end_if_asked() -> None:
    """End with a signal's code; the signal may have met a child too, before it was in a group of its own."""
    if received_signal:
        sys.exit(128 + received_signal)


def say(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone
        print(f"==> {text}", file=sys.stderr, flush=True)
