"""Other programs that copy the same objects: s5cmd, rclone and curl, each a process of its own."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sink import OUTPUTS
from stacks import CHECKOUT

COPY_SECONDS = 600.0
"""Some try again and again for very long when the server is gone."""

ENVIRONMENT = CHECKOUT / ".venv-benchmarks"


@dataclass(frozen=True)
class Copier:
    """One program at one address of the S3 server."""

    name: str
    endpoint: str
    authority: Path

    def down(self, bucket: str, names: Sequence[str], to: Path) -> tuple[float, float]:
        """Copy a whole bucket to an empty folder, and return the wall and the CPU seconds."""
        words: dict[str, list[str | Path]] = {
            "s5cmd": ["cp", f"s3://{bucket}/*", f"{to}/"],
            "rclone": ["copy", *RCLONE, f":s3:{bucket}", to],
            "curl": [*CURL, "-o", to / names[0], f"{self.endpoint}/{bucket}/{names[0]}"],
        }
        return self._run(words[self.name])

    def up(self, folder: Path, names: Sequence[str], prefix: str) -> tuple[float, float]:
        """Copy a folder's files to the server."""
        words: dict[str, list[str | Path]] = {
            "s5cmd": ["cp", f"{folder}/", f"s3://{OUTPUTS}/{prefix}/"],
            "rclone": ["copy", *RCLONE, *RCLONE_UP, folder, f":s3:{OUTPUTS}/{prefix}"],
            "curl": [*CURL, "-T", folder / names[0], f"{self.endpoint}/{OUTPUTS}/{prefix}/{names[0]}"],
        }
        return self._run(words[self.name])

    def _run(self, words: Sequence[str | Path]) -> tuple[float, float]:
        start: list[str | Path] = [program(self.name)]
        if self.name == "s5cmd":
            start += ["--log", "error", "--endpoint-url", self.endpoint]
        started = time.monotonic()
        process = subprocess.Popen([*start, *words], env=self._environment(), stdout=subprocess.DEVNULL)
        watch = threading.Timer(COPY_SECONDS, process.kill)
        watch.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            watch.cancel()
        taken = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{self.name} ended with {process.returncode}")
        return taken, usage.ru_utime + usage.ru_stime

    def _environment(self) -> dict[str, str]:
        rclone = {"PROVIDER": "Other", "ENV_AUTH": "true", "ENDPOINT": self.endpoint, "REGION": "us-east-1"}
        return {
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "SSL_CERT_FILE": str(self.authority),
            "CURL_CA_BUNDLE": str(self.authority),
            "RCLONE_CONFIG": "/dev/null",
            **{f"RCLONE_S3_{name}": value for name, value in rclone.items()},
        }


# It looks at each object before and after otherwise, and the server keeps none that could be looked at.
RCLONE = [
    *("--transfers", "16", "--log-level", "ERROR", "--ignore-checksum", "--no-check-dest"),
    *("--s3-no-check-bucket", "--s3-no-head", "--s3-disable-checksum", "--low-level-retries", "1", "--retries", "1"),
]
# With several streams a file it looks at the object in the end all the same; its parts go at the same time anyway.
RCLONE_UP = ["--multi-thread-streams", "0", "--s3-upload-concurrency", "8"]
CURL = ["--silent", "--show-error", "--fail"]


def program(name: str) -> Path | str:
    """Return where a program is; the package of s5cmd has a Python script around it, which would be measured."""
    if name == "s5cmd":
        return next(ENVIRONMENT.glob("lib/python*/site-packages/s5cmd/bin/s5cmd"))
    return ENVIRONMENT / "bin" / "rclone" if name == "rclone" else name
