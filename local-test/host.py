"""Jobs on this machine, without Docker: the sample algorithm behind this checkout's own programs."""

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import IO

from job import Job
from running import own_environment, running

HERE = Path(__file__).resolve().parent
SAMPLE = HERE / "sample-algorithm"
PROGRAM = HERE.parent / "container"
OUTPUT = "output"
"""What train and process write to /opt/ml/output they write to no link, so it is copied in the end."""


class Host:
    """Runs jobs in a temporary folder that stands for the container's file system."""

    s3_bind = "127.0.0.1"

    def s3_url(self, url: str) -> str:
        return url

    @contextlib.contextmanager
    def started(self, job: Job, root: Path, output: IO[bytes] | None) -> Iterator["Popen[bytes]"]:
        """Keep a job running; in the end it is told to stop, as SageMaker does."""
        # A job of several instances is several here, one after another.
        ml = Path(tempfile.mkdtemp(prefix="ml.", dir=root))
        for mount in job.mounts:
            (ml / mount.path).parent.mkdir(exist_ok=True)
            if mount.path == OUTPUT:
                (ml / OUTPUT).mkdir()
            else:
                (ml / mount.path).symlink_to(mount.source)
        environment = {
            **own_environment(root),
            "SAGEMAKER_BASE_DIR": str(ml),
            **algorithm_environment(root, ml / (job.model or "model")),
            **({"SAGEMAKER_BIND_TO_PORT": str(job.port)} if job.port else {}),
            **job.environment,
        }
        name, *arguments = job.command
        command = [sys.executable, str((job.program or PROGRAM) / name), *arguments]
        with running(command, environment, output, stop_seconds=job.stop_seconds) as process:
            yield process
        for mount in job.mounts:
            if mount.path == OUTPUT:
                shutil.copytree(ml / OUTPUT, mount.source, symlinks=True, dirs_exist_ok=True)


def algorithm_environment(root: Path, model: Path) -> dict[str, str]:
    """Return what tells the model server to run the sample algorithm, and to keep to this folder."""
    for name in ("input", "output"):
        (root / name).mkdir(exist_ok=True)
    return {
        "ALGORITHM_ENTRYPOINT": json.dumps([sys.executable, str(SAMPLE / "predict")]),
        "ALGORITHM_TRAIN_ENTRYPOINT": json.dumps([sys.executable, str(SAMPLE / "train")]),
        "ALGORITHM_PAYLOADS": "true",
        "ALGORITHM_INPUT_PATH": str(root / "input"),
        "ALGORITHM_OUTPUT_PATH": str(root / "output"),
        "ALGORITHM_MODEL_PATH": str(model),
        "MODEL_SERVER_RUN_PATH": str(root / "run"),
    }
