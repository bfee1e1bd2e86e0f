"""A task that stops at one stage of its way until the test lets it go on, and signals that come meanwhile."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faulty_s3 import HELD_SECONDS, FaultyS3, HeldAnswer, Hold

if TYPE_CHECKING:
    from conftest import Bucket

STAGING_IN, RUNNING, UPLOADING, STORING = STAGES = (
    "staging in",
    "running",
    "uploading outputs",
    "storing the result",
)

BEFORE_ITS_END, AFTER_ITS_END = (STAGING_IN, RUNNING), (UPLOADING, STORING)
"""Of the program: what it made is not thrown away after it."""

SCRIPT = """trap 'echo saved >"$ALGORITHM_OUTPUT_PATH/checkpoint"; exit 1' TERM
echo half >"$ALGORITHM_OUTPUT_PATH/half"
"""
"""Writes a file, and another one when it is asked to end."""

PARTIAL = {"checkpoint": b"saved\n", "half": b"half\n"}
"""What it has written when it was asked to end."""

RUNS_ON = 'touch "$BOARD/{}"\nwhile [ ! -e "$BOARD/go" ]; do sleep 0.05; done\n'


class HeldTask:
    """The JSON of a task for an algorithm that runs its input `do`, and the hold on it.

    `board` is the folder that the algorithm knows as BOARD. `more` are lines of the script, before it runs on.
    """

    def __init__(self, stage: str, s3: FaultyS3, bucket: "Bucket", board: Path, pk: str, more: str = "") -> None:
        self.pk = pk
        self.stage = stage
        self._board = board
        self._hold: Hold | HeldAnswer = Hold() if stage == STAGING_IN else HeldAnswer()
        bucket.put(f"scripts/{pk}", SCRIPT + more + (RUNS_ON.format(pk) if stage == RUNNING else ""))
        self.json: dict[str, Any] = bucket.task(pk, [bucket.item("do", f"scripts/{pk}")])
        if stage == STAGING_IN:
            s3.fault("GET", f"scripts/{pk}", self._hold)
        elif stage == UPLOADING:
            s3.fault("PUT", f"/out/{pk}/half", self._hold)
        elif stage == STORING:
            s3.fault("PUT", f"/out/{pk}/.sagemaker_shim/inference_result.json", self._hold)

    def is_there(self) -> bool:
        """Say whether the task has come to its stage."""
        return (self._board / self.pk).exists() if self.stage == RUNNING else self._hold.reached.is_set()

    def let_go(self) -> None:
        """Let S3 answer; a program that runs goes on until it is ended."""
        self._hold.released.set()


def signal_times(pid: int, signum: int, times: int) -> None:
    """Send a signal so many times, each as soon as the one before was taken: two that wait are one."""
    for _ in range(times):
        os.kill(pid, signum)
        deadline = time.monotonic() + HELD_SECONDS
        while waits(pid, signum):
            assert time.monotonic() < deadline, f"signal {signum} was not taken"
            time.sleep(0.005)


def waits(pid: int, signum: int) -> bool:
    """Say whether a signal to a process was not taken yet."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (pending,) = (int(line.split()[1], 16) for line in lines if line.startswith("ShdPnd:"))
    return bool(pending >> (signum - 1) & 1)
