"""A worker of the model server inside the test's process: Flask's client in front, and all behind it real."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from werkzeug.test import TestResponse

from model_server.freeing import Freeing
from model_server.ledger import Ledger
from model_server.linked_input import claim_task_folders
from model_server.log_channel import LogChannels
from model_server.logs import configure
from model_server.orphans import own_children
from model_server.run_folder import RunFolder
from model_server.runner import Server
from model_server.scoreboard import Scoreboard
from model_server.settings import Settings
from model_server.storage import Storage
from predictor import Predictor, create_app

if TYPE_CHECKING:
    from tests.conftest import Bucket

CONTAINER = Path(__file__).parent.parent.parent / "container"
ALGORITHMS = Path(__file__).parent.parent / "algorithms"

KEY = bytes(range(32))
DEADLINE_SECONDS = 30.0

RESULT_KEYS = [
    "pk",
    "return_code",
    "user_safe_error_message",
    "user_process_last_stderr_lines",
    "exec_duration",
    "invoke_duration",
    "outputs",
    "sagemaker_shim_version",
]
"""Those of sagemaker-shim, in its order; ours follow."""


def algorithm(name: str) -> str:
    """Return the path of one of the tiny programs."""
    return str(ALGORITHMS / name)


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll until a condition holds; fail when it does not in good time."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_SECONDS:g} s"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Say whether a process is there and has not ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def pid_in(file: Path) -> int:
    """Return the pid that a program writes to a file, once it has."""
    wait_until(lambda: file.is_file() and file.read_text().endswith("\n"), f"a pid in {file.name}")
    return int(file.read_text())


def signed_result(bucket: Bucket, task: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's stored result, after checking its signature over the very bytes and its first keys."""
    key = task["output_prefix"].rstrip("/") + "/.sagemaker_shim/inference_result.json"
    stored = bucket.client.get_object(Bucket=bucket.name, Key=key)
    document = stored["Body"].read()
    assert stored["Metadata"] == {"signature_hmac_sha256": hmac.new(KEY, document, hashlib.sha256).hexdigest()}
    result: dict[str, Any] = json.loads(document)
    assert list(result)[: len(RESULT_KEYS)] == RESULT_KEYS
    assert result["pk"] == task["pk"]
    return result


def outputs_of(result: Mapping[str, Any]) -> list[str]:
    return [output["relative_path"] for output in result["outputs"]]


def log_records(text: bytes) -> list[dict[str, Any]]:
    """Return the records of a log; each line must be one, with the drop-in's keys in its order and a bounded size."""
    records = []
    for line in text.splitlines(keepends=True):
        assert line.endswith(b"\n")
        assert len(line) < 16 * 1024
        record = json.loads(line)
        assert list(record)[:5] == ["log", "level", "source", "internal", "task"]
        assert list(record)[5:] in ([], ["continued"])
        assert isinstance(record["internal"], bool)
        records.append(record)
    return records


class Rig:
    """A predictor over real folders, processes, log channels and S3."""

    def __init__(
        self,
        root: Path,
        bucket: Bucket,
        command: list[str],
        env: Mapping[str, str] | None = None,
        endpoint: str | None = None,
        retry_seconds: float = 60.0,
        ready: bool = True,
    ) -> None:
        self.bucket = bucket
        self.settings = Settings.from_env(
            {
                "PATH": os.environ["PATH"],
                "ALGORITHM_INPUT_PATH": str(root / "input"),
                "ALGORITHM_OUTPUT_PATH": str(root / "output"),
                "ALGORITHM_GRACE_SECONDS": "1",
                "MODEL_SERVER_SIGNING_KEY_HEX": KEY.hex(),
            }
            | dict(env or {})
        )
        self.input, self.output = self.settings.input_path, self.settings.output_path
        self._closing = ExitStack()
        self._logs = {name: root / f"{name}.log" for name in ("stdout", "stderr")}
        self._ledger = Ledger()
        self._log_to(LogChannels())
        self.storage = Storage(endpoint or bucket.endpoint, self.settings.transfers, retry_seconds)
        self.scoreboard = Scoreboard(self.settings.slots, self.settings.queue_limit)
        state = self.scoreboard.state
        state.listening = state.set_up = state.healthy = ready
        folder = RunFolder(root, root / "bodies", None)
        for inner in (folder.locks, folder.bodies):
            inner.mkdir()
        input_folder, output_folder = claim_task_folders(self.settings)
        server = Server(
            settings=self.settings,
            command=command,
            input=input_folder,
            output=output_folder,
            freeing=Freeing(),
            storage=self.storage,
            channels=self.channels,
            default_timeout=self.settings.timeout,
            others=frozenset(own_children()),  # of other tests, in this process
        )
        self.predictor = Predictor(server, self.scoreboard, folder, self._ledger)
        self.app = create_app(self.predictor)

    def _log_to(self, channels: LogChannels) -> None:
        self.channels = channels
        root = logging.getLogger()
        before = root.handlers, root.level
        self._closing.callback(self._restore_logging, *before)
        files = {name: self._closing.enter_context(path.open("wb")) for name, path in self._logs.items()}
        self._closing.callback(channels.close_readers)
        self._closing.enter_context(channels.relayed(files["stdout"].fileno(), files["stderr"].fileno()))
        configure(channels, self.settings.log_level)

    @staticmethod
    def _restore_logging(handlers: list[logging.Handler], level: int) -> None:
        logging.captureWarnings(False)
        logging.getLogger().handlers = handlers
        logging.getLogger().setLevel(level)

    def post(self, body: Any, content_type: str | None = "application/json") -> TestResponse:
        """POST to /invocations; what is not bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.app.test_client().post("/invocations", data=data, content_type=content_type)

    def post_in_thread(self, body: Any) -> Posted:
        return Posted(self, body)

    def run(self, task: dict[str, Any]) -> dict[str, Any]:
        """Run a task that ends in a 200, and return its result after checking what holds for all of them."""
        response = self.post(task)
        assert response.status_code == 200, response.text
        result = signed_result(self.bucket, task)
        assert response.json == result
        self.check_at_rest()
        return result

    def check_at_rest(self) -> None:
        """Check that nothing is left of any task: no file, no slot that is taken, no task that is not finished."""
        assert list(self.input.iterdir()) == []
        assert list(self.output.iterdir()) == []
        assert [(slot.worker, slot.group) for slot in self.scoreboard.slots] == [(0, 0)]
        self._ledger.receive()
        assert [self._ledger.unfinished(worker) for worker in self._ledger.workers()] in ([], [[]])

    def waiting(self) -> int:
        """Return how many requests wait for the slot."""
        return sum(1 for place in self.scoreboard.queue if place.ticket)

    def log(self) -> list[dict[str, Any]]:
        """Return all records, those of stdout first; the server can't be used after this."""
        self.close()
        return [record for path in self._logs.values() for record in log_records(path.read_bytes())]

    def lines(self, source: str, internal: bool = False) -> list[str]:
        """Return the lines of one stream; the server can't be used after this."""
        return [r["log"] for r in self.log() if r["source"] == source and r["internal"] is internal]

    def log_text(self) -> str:
        """Return the log as it is so far."""
        return "".join(path.read_text() for path in self._logs.values())

    def close(self) -> None:
        self._closing.close()

    def discard(self) -> None:
        """Close all that a worker's end would."""
        self.close()
        for end in vars(self._ledger).values():
            if hasattr(end, "close"):
                end.close()
        if "_pool" in vars(self.storage):
            self.storage.pool.shutdown()
        if "client" in vars(self.storage):
            self.storage.client.close()


class Posted:
    """A request that is on its way in a thread."""

    def __init__(self, rig: Rig, body: Any) -> None:
        self._answers: list[TestResponse] = []
        self._thread = threading.Thread(target=lambda: self._answers.append(rig.post(body)))
        self._thread.start()

    @property
    def answered(self) -> bool:
        return bool(self._answers)

    def answer(self) -> TestResponse:
        self._thread.join(DEADLINE_SECONDS)
        assert self._answers, "no answer in good time"
        return self._answers[0]
