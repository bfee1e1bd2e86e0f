"""What SageMaker puts at /opt/ml for each kind of job, taken from a test-dir."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from running import Failure, say

PROCESSING_MODEL = "processing/model"
"""Where a Processing job may have its model: in a folder of its data, as there is no /opt/ml/model."""


@dataclass(frozen=True)
class Mount:
    """A folder of this machine, and its path below /opt/ml."""

    source: Path
    path: str
    read_only: bool = False


def for_serving(test_dir: Path) -> list[Mount]:
    model = test_dir / "model"
    model.mkdir(parents=True, exist_ok=True)
    return [Mount(model, "model", read_only=True)]


def for_training(test_dir: Path) -> list[Mount]:
    """Begin a training as SageMaker does: without a model and without outputs, but with the checkpoints."""
    need(test_dir, "input/config")
    begin_empty(test_dir, "model")
    begin_empty(test_dir, "output")
    (test_dir / "checkpoints").mkdir(exist_ok=True)
    return [Mount(test_dir / name, name) for name in ("input", "model", "output", "checkpoints")]


def for_processing(test_dir: Path, host: str, hosts: list[str], root: Path) -> list[Mount]:
    """Return one instance's folders; its resourceconfig.json names it among all hosts."""
    config = root / f"config-{host}"
    shutil.copytree(test_dir / "config", config)
    described = config / "resourceconfig.json"
    resources = json.loads(described.read_text()) if described.is_file() else {}
    described.write_text(json.dumps({**resources, "current_host": host, "hosts": hosts}))
    begin_empty(test_dir, "output")
    (test_dir / "model").mkdir(exist_ok=True)
    data = sorted(path for path in (test_dir / "processing").iterdir() if path.is_dir() and path.name != "model")
    return [
        Mount(config, "config", read_only=True),
        *(Mount(path, f"processing/{path.name}") for path in data),
        Mount(test_dir / "model", PROCESSING_MODEL, read_only=True),
        Mount(test_dir / "output", "output"),
    ]


def begin_processing(test_dir: Path) -> None:
    """Begin a Processing job as SageMaker does: without outputs."""
    need(test_dir, "config")
    need(test_dir, "processing/input")
    begin_empty(test_dir, "processing/output")


def need(test_dir: Path, name: str) -> None:
    """See that a folder is a test-dir indeed, before anything in it is emptied."""
    if not (test_dir / name).is_dir():
        raise Failure(f"{test_dir} can't be used as /opt/ml: it has no folder {name}.")


def begin_empty(test_dir: Path, name: str) -> None:
    folder = test_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    except PermissionError as error:
        raise Failure(f"{error.filename} can't be removed: it belongs to somebody else.") from error


def show(test_dir: Path, name: str) -> None:
    """Show what a job says of its end, if it says anything; without what could command the terminal."""
    path = test_dir / name
    if path.is_file():
        text = path.read_text(errors="replace").rstrip()
        say(f"{name}: " + "".join(c if c.isprintable() or c == "\n" else "?" for c in text))


def list_files(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        say(f"{path.stat().st_size:9} bytes  {path}")
    if not files:
        say(f"There is no file in {folder}")
