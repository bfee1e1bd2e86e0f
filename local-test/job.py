"""One job, as SageMaker starts it: a command, an environment, folders at /opt/ml, and how long it may take to stop."""

from dataclasses import dataclass, field
from pathlib import Path

from ml_folder import Mount

SERVING_STOP_SECONDS = 30
JOB_STOP_SECONDS = 120  # training and processing may save what they have


@dataclass(frozen=True)
class Job:
    """What a place, this machine or Docker, is asked to run."""

    command: list[str]
    mounts: list[Mount]
    stop_seconds: int
    environment: dict[str, str] = field(default_factory=dict)
    port: int | None = None
    program: Path | None = None  # edited code, in the place of the image's own
    model: str | None = None  # where below /opt/ml the model is, if not in model
