"""A server whose algorithm is a server itself: settings, its process, and what is stored of the set-up."""

import hashlib
import hmac
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server import SIGNING_KEY, Process, Server, eventually, is_signed, launched, process_table, serving

from quiet_port import quiet_port

if TYPE_CHECKING:
    from conftest import Bucket

ALGORITHMS = Path(__file__).parent.parent / "algorithms"
RESTARTED = "^Starting the algorithm's server again$"
REFUSED = "^Invoke endpoint returned status 500, expected 201$"
DIED = "^The algorithm's server (ended with exit code|was ended by)"
LOST = r"was sent SIGKILL|unfinished tasks|exited|worker_lost|interrupted: |closed connection|reset by peer"
STOPPED = r"^(Stopping|Stopped): "
GIVEN_UP = "^Failed to start|didn.t pass the health check|^The algorithm's server can not be brought back$"
SETUP_KEY = "/io/app/pk/.sagemaker_shim/runtime_setup_result.json"

PID = 'echo $PPID >"$ALGORITHM_OUTPUT_PATH/pid"'
"""A line of a script that writes the pid of the program that runs it as an output."""


def program(name: str) -> str:
    """Return one of the tiny programs as a word of a shell's line."""
    return shlex.quote(str(ALGORITHMS / name))


def resident(bucket: "Bucket", name: str = "serves_tasks", **more: Any) -> dict[str, Any]:
    """Return the settings of a server with a resident program, and a place for the result of its set-up."""
    return {
        "ALGORITHM_MODE": "resident",
        "ALGORITHM_PORT": str(quiet_port()),
        "ALGORITHM_ENTRYPOINT": json.dumps([str(ALGORITHMS / name)]),
        "ALGORITHM_GRACE_SECONDS": "2",
        **place(bucket),
    } | more


def place(bucket: "Bucket") -> dict[str, str]:
    return {"MODEL_SERVER_SETUP_RESULT_BUCKET": bucket.name, "MODEL_SERVER_SETUP_RESULT_PREFIX": "/io/app/pk"}


@contextmanager
def serving_resident(bucket: "Bucket", **more: Any) -> Iterator[Server]:
    """Run a server with a resident program for the block, from when tasks can run."""
    with serving(bucket.endpoint, **resident(bucket, **more)) as server:
        yield server


@contextmanager
def starting_resident(bucket: "Bucket", health: str = "", **more: Any) -> Iterator[Server]:
    """Start a server with a resident program whose /health says these words, and do not wait for it."""
    with launched(bucket.endpoint, **resident(bucket, **more)) as server:
        if health:
            say_on_health(server, health)
        yield server


def say_on_health(server: Server, words: str) -> None:
    """Have /health answer these words one after another, and the last of them from then on."""
    new = server.board / "health.new"
    new.write_text(words)
    new.rename(server.board / "health")


def health_calls(server: Server) -> int:
    calls = server.board / "health-calls"
    return len(calls.read_text()) if calls.exists() else 0


def ping(server: Server) -> int:
    """Return the status of /ping; 0 while nobody answers."""
    try:
        return server.ask("GET", "/ping").status
    except OSError:
        return 0


def await_ping(server: Server, status: int, seconds: float = 20.0) -> None:
    eventually(lambda: ping(server) == status, f"a {status} on /ping", seconds)


def programs(server: Server) -> list[Process]:
    """Return the resident program; what it has started is not among them."""
    ours = {process.pid for process in server.children(server.pid)}
    return [process for process in server.algorithm if process.parent in ours and process.name != "sleep"]


def program_pid(server: Server) -> int:
    (found,) = programs(server)
    return found.pid


def keeper_pid(server: Server) -> int:
    return process_table()[program_pid(server)].parent


def await_new_program(server: Server, old: int) -> int:
    """Return the pid of the program once it was started again and tasks can run."""
    eventually(lambda: old not in process_table() and programs(server), "a new program")
    await_ping(server, 200)
    return program_pid(server)


def printed(server: Server, stream: str) -> list[tuple[str, str | None]]:
    """Return the algorithm's lines and the tasks that they name."""
    return [(record["log"], record["task"]) for record in server.records(stream) if not record["internal"]]


def starts(server: Server) -> list[str]:
    """Return the lines that programs printed at their start."""
    return [line for line, _ in printed(server, "stdout") if line.startswith("started ")]


def setup_result(bucket: "Bucket", key: str = SETUP_KEY) -> dict[str, Any]:
    """Return the stored result of the set-up, after checking its signature over the very bytes and its keys."""
    document = bucket.get(key)
    expected = hmac.new(bytes.fromhex(SIGNING_KEY), document, hashlib.sha256).hexdigest()
    assert bucket.metadata(key) == {"signature_hmac_sha256": expected}
    result: dict[str, Any] = json.loads(document)
    assert list(result) == ["return_code", "user_safe_error_message", "sagemaker_shim_version"]
    assert result["sagemaker_shim_version"].startswith("longshore-")
    return result


def is_setup_result_stored(bucket: "Bucket") -> bool:
    return "runtime_setup_result" in " ".join(bucket.keys())


def run(server: Server, bucket: "Bucket", pk: str, script: str = PID, **more: Any) -> dict[str, Any]:
    """Run a task that ends in a 200, and return its result, which is stored and signed."""
    answer = server.run(server.task(bucket, pk, script, **more))
    assert answer.status == 200, answer.body
    result: dict[str, Any] = answer.json()
    assert bucket.result(f"/out/{pk}") == result
    assert is_signed(bucket, pk)
    return result


def pid_of(bucket: "Bucket", pk: str) -> int:
    """Return the pid of the program that ran a task."""
    return int(bucket.get(f"/out/{pk}/pid"))
