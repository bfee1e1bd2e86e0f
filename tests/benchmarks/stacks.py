"""The two servers on this machine, in folders of their own: sagemaker-shim, and Longshore's `serve`."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

from place import emptied
from process_tree import PeakMemory, cpu_seconds, memory_mib, tree
from readiness import await_ping
from sink import OUTPUTS, Sink, free_port

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
PREFIX = "GRAND_CHALLENGE_COMPONENT_"
TASK_SECONDS = 1800.0
STOP_SECONDS = 60.0
LOG_SECONDS = 30.0
SETTLED_SECONDS = 0.1
"""How long a server that has answered takes no CPU until it counts as quiet; the kernel counts in steps of 10 ms."""

ALGORITHM = "#!/bin/sh\n. {told}\n"
"""The program of all tasks: it does what is in the file `told`. For `nothing` that is no more than to start sh."""


class LineCounter:
    """Reads what a server prints, as a container's log driver does, and counts the lines."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.lines = 0
        self.last = b""
        self._pipe = pipe
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while chunk := os.read(self._pipe.fileno(), 1 << 20):
            self.lines += chunk.count(b"\n")
            self.last = (self.last + chunk)[-4000:]

    def close(self) -> None:
        self._thread.join(5)
        self._pipe.close()


class Stack:
    """One server; the two classes below say how it is started."""

    name: str

    def __init__(self, folder: Path, endpoint: str, authority: Path, more: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.told = folder / "told"
        self.input, self.output = folder / "input", folder / "output"
        self.model = folder / "ml" / "model"
        self.port = 0
        self._endpoint = endpoint
        self._authority = authority
        self._more = more or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._counters: list[LineCounter] = []
        self._tasks = 0
        self.peak_of_start = 0.0

    def command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        ml = self.folder / "ml"
        drop_in = {
            "ENTRYPOINT_B64J": base64.b64encode(json.dumps([str(self.folder / "algorithm")]).encode()).decode(),
            "INPUT_PATH": self.input,
            "OUTPUT_PATH": self.output,
            "LINKED_INPUT_PARENT": ml / "input" / "data",
            "MODEL_DEST": self.model,
            "GROUND_TRUTH_DEST": ml / "input" / "data" / "ground_truth",
            "WRITABLE_DIRECTORIES": f"{ml}/output/data:{self.model}",
            "POST_CLEAN_DIRECTORIES": f"{ml}/output/data:{self.model}",
            "RUNTIME_OUTPUT_BUCKET_NAME": OUTPUTS,
            "RUNTIME_OUTPUT_PREFIX": "/set-up",
            "SIGNING_KEY_HEX": "5a" * 32,
        }
        plain = {
            "PATH": os.environ["PATH"],
            "HOME": "/root",
            "TMPDIR": str(self.folder / "tmp"),
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_S3_ENDPOINT_URL": self._endpoint,
            "AWS_CA_BUNDLE": str(self._authority),
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
        }
        return plain | {PREFIX + name: str(value) for name, value in drop_in.items()} | dict(self._more)

    def start(self, watch_memory: bool = False) -> float:
        """Start the server and return how many seconds it took until /ping answered 200."""
        emptied(self.folder)
        for name in ("input", "output", "tmp", "ml/input/data", "ml/model"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "algorithm").write_text(ALGORITHM.format(told=self.told))
        (self.folder / "algorithm").chmod(0o755)
        self.tell("exit 0")
        self.port = free_port()
        started = time.monotonic()
        process = self._process = subprocess.Popen(
            self.command(),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout
        assert process.stderr
        self._counters = [LineCounter(process.stdout), LineCounter(process.stderr)]
        with PeakMemory(self.pid) if watch_memory else nullcontext() as memory:
            if not await_ping(self.port, is_gone=lambda: process.poll() is not None):
                raise RuntimeError(f"{self.name} does not start:\n{self.last_words}")
            taken = time.monotonic() - started
        self.peak_of_start = memory.peak if memory else 0.0
        return taken

    @property
    def last_words(self) -> str:
        return "\n".join(counter.last.decode(errors="replace") for counter in self._counters)

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def lines(self) -> int:
        """How many lines the server has printed."""
        return sum(counter.lines for counter in self._counters)

    def await_lines(self, number: int) -> None:
        """Wait until so many lines came out, which may be a little after the answer."""
        deadline = time.monotonic() + LOG_SECONDS
        while self.lines < number:
            assert time.monotonic() < deadline, f"{self.name} printed {self.lines} of {number} lines"
            time.sleep(0.002)

    @property
    def cpu(self) -> float:
        return cpu_seconds(self.pid)

    def settle(self) -> None:
        """Wait until nothing goes on any more that was left for after an answer."""
        before, deadline = -1.0, time.monotonic() + TASK_SECONDS
        while self.cpu > before and time.monotonic() < deadline:
            before = self.cpu
            time.sleep(SETTLED_SECONDS)

    @property
    def memory(self) -> float:
        return memory_mib(self.pid)

    def tell(self, script: str) -> None:
        """Say what the algorithm does from now on."""
        self.told.write_text(script + "\n")

    def body(self, inputs: Sequence[tuple[str, str]], decompress: bool = False) -> bytes:
        """Return a task whose inputs are these objects, each a bucket and a key."""
        self._tasks += 1
        items = [
            {"relative_path": key, "bucket_name": bucket, "bucket_key": key, "decompress": decompress}
            for bucket, key in inputs
        ]
        task = {"pk": f"task-{self._tasks}", "inputs": items, "timeout": "PT30M", "output_bucket_name": OUTPUTS}
        return json.dumps(task | {"output_prefix": f"/{self.name}/{self._tasks}"}).encode()

    def run(self, body: bytes) -> None:
        """Post a task and read its answer, which has to say that it went well."""
        headers = {"Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TASK_SECONDS)
        try:
            connection.request("POST", "/invocations", body, headers)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != 200 or json.loads(answer)["return_code"] != 0:
            raise RuntimeError(f"{self.name} answers {response.status}: {answer[:500]!r}\n{self.last_words}")

    def stop(self) -> None:
        if self._process is None:
            return
        ours = tree(self._process.pid)
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in reversed(ours):
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
        for counter in self._counters:
            counter.close()
        self._process = None
        emptied(self.folder)


class Shim(Stack):
    name = "shim"

    def command(self) -> Sequence[str | Path]:
        return CHECKOUT / ".venv-shim" / "bin" / "python", CHECKOUT / "tests" / "compat" / "shim_on_loopback.py"


class Longshore(Stack):
    """The `serve` of a checkout, with the Python of its own environment where there is one."""

    name = "longshore"
    checkout = CHECKOUT

    @classmethod
    def python(cls) -> Path:
        own = cls.checkout / ".venv" / "bin" / "python"
        return own if own.exists() else Path(sys.executable)

    def command(self) -> Sequence[str | Path]:
        return self.python(), self.checkout / "container" / "serve"

    def environment(self) -> dict[str, str]:
        run = self.folder / "run"
        run.mkdir(exist_ok=True)
        return {"MODEL_SERVER_RUN_PATH": str(run), **super().environment()}


SIDES: tuple[type[Stack], ...] = (Shim, Longshore)


@contextmanager
def both(
    folder: Path, sink: Sink, endpoint: str, more: Mapping[str, str] | None = None
) -> Iterator[tuple[Stack, Stack]]:
    """Start both servers, shim first, and stop them at the end."""
    shim, ours = (side(folder / side.name, endpoint, sink.authority, more) for side in SIDES)
    try:
        for stack in (shim, ours):
            stack.start()
        yield shim, ours
    finally:
        for stack in (shim, ours):
            stack.stop()
