"""`train` and `process`, as processes of their own, with what SageMaker mounts in a folder of the test's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rig import CONTAINER, DEADLINE_SECONDS, KEY

TRAIN = "ALGORITHM_TRAIN_ENTRYPOINT"
RUN = "ALGORITHM_ENTRYPOINT"
VARIABLES = {"train": TRAIN, "process": RUN}


class Job:
    """Starts jobs; what they leave running is ended with the test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ml = root / "ml"
        self.input, self.output = root / "input", root / "output"
        self.environment = {
            "PATH": os.environ["PATH"],
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "SAGEMAKER_BASE_DIR": str(self.ml),
            "ALGORITHM_INPUT_PATH": str(self.input),
            "ALGORITHM_OUTPUT_PATH": str(self.output),
            "GRAND_CHALLENGE_COMPONENT_SIGNING_KEY_HEX": KEY.hex(),
        }
        self._started: list[subprocess.Popen[bytes]] = []

    def config(self, name: str, content: Any, kind: str = "input/config") -> None:
        """Write one of SageMaker's files; what is no text is written as JSON."""
        file = self.ml / kind / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))

    def start(self, command: str, script: list[str] | str | None, *arguments: str | bytes, **options: Any) -> Any:
        """Start `train` or `process` with a program, or a text as a shell script whose arguments are the program's.

        Further keywords are Popen's, and `env` is added to ours.
        """
        argv = ["/bin/sh", "-c", script, "sh"] if isinstance(script, str) else script
        environment = self.environment | ({VARIABLES[command]: json.dumps(argv)} if argv else {})
        environment |= options.pop("env", {})
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        words = [sys.executable, str(CONTAINER / command), *arguments]
        process = subprocess.Popen(words, env=environment, start_new_session=True, **(pipes | options))
        self._started.append(process)
        return process

    def run(self, command: str, script: list[str] | str | None, *arguments: str | bytes, **options: Any) -> Any:
        process = self.start(command, script, *arguments, **options)
        stdout, stderr = process.communicate(timeout=2 * DEADLINE_SECONDS)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    @property
    def failure(self) -> Path:
        return self.ml / "output" / "failure"

    @property
    def message(self) -> Path:
        return self.ml / "output" / "message"

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                end_with_all_beneath(process.pid)
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()


def end_with_all_beneath(pid: int) -> None:
    """Kill the process group of a process and those of all beneath it, which would outlive it."""
    groups = set()
    for found in [pid, *beneath(pid)]:
        with suppress(ProcessLookupError):
            groups.add(os.getpgid(found))
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def beneath(pid: int) -> Iterator[int]:
    """Yield the pids of all that a process has started, and of what those have."""
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, file.read_text().split()):
                yield child
                yield from beneath(child)
