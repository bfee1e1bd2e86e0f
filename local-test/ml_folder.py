"""What SageMaker puts at /opt/ml for each kind of job, taken from a test-dir."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from running import Failure, say

RESOURCES = "resourceconfig.json"
PROCESSING_MODEL = "processing/model"
"""Where a Processing job may have its model: in a folder of its data, as there is no /opt/ml/model."""


@dataclass(frozen=True)
class Mount:
    """A folder of this machine, and its path below /opt/ml."""

    source: Path
    path: str
    read_only: bool = False
    is_made: bool = False  # what the job makes, not what it is given


def for_serving(test_dir: Path) -> list[Mount]:
    model = test_dir / "model"
    model.mkdir(parents=True, exist_ok=True)
    return [Mount(model, "model", read_only=True)]


def need_training(test_dir: Path) -> None:
    """See that a training can begin, before anything is emptied."""
    need(test_dir, "input/config")
    for name in ("model", "output"):
        need_own(test_dir, name)


def begin_training(test_dir: Path) -> list[Mount]:
    """Begin a training as SageMaker does: without a model and without outputs, but with the checkpoints."""
    put_aside(test_dir, "model")
    begin_empty(test_dir, "output")
    (test_dir / "checkpoints").mkdir(exist_ok=True)
    made = [Mount(test_dir / name, name, is_made=True) for name in ("model", "output", "checkpoints")]
    return [Mount(test_dir / "input", "input"), *made]


def need_processing(test_dir: Path) -> None:
    """See that a Processing job can begin, before anything is emptied."""
    need(test_dir, "config")
    need(test_dir, "processing/input")
    for name in ("processing/output", "output"):
        need_own(test_dir, name)
    read_resources(test_dir)


def begin_processing(test_dir: Path) -> None:
    """Begin a Processing job as SageMaker does: without outputs."""
    begin_empty(test_dir, "processing/output")


def for_processing(test_dir: Path, host: str, hosts: list[str], root: Path) -> list[Mount]:
    """Return one instance's folders; its resourceconfig.json names it among all hosts."""
    config = root / f"config-{host}"
    shutil.copytree(test_dir / "config", config)
    resources = read_resources(test_dir) | {"current_host": host, "hosts": hosts}
    (config / RESOURCES).write_text(json.dumps(resources))
    begin_empty(test_dir, "output")
    (test_dir / "model").mkdir(exist_ok=True)
    data = sorted(path for path in (test_dir / "processing").iterdir() if path.is_dir() and path.name != "model")
    return [
        Mount(config, "config", read_only=True),
        *(Mount(path, f"processing/{path.name}", is_made=path.name == "output") for path in data),
        Mount(test_dir / "model", PROCESSING_MODEL, read_only=True),
        Mount(test_dir / "output", "output", is_made=True),
    ]


def read_resources(test_dir: Path) -> dict[str, Any]:
    """Return what resourceconfig.json says; nothing where it is missing or empty, as `process` reads it."""
    path = test_dir / "config" / RESOURCES
    try:
        text = path.read_bytes() if path.exists() else b""
        resources = json.loads(text) if text.strip() else None
    except OSError as error:
        raise Failure(f"{path} can't be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise Failure(f"{path} is not JSON.") from error
    if not isinstance(resources, dict | None):
        raise Failure(f"{path} is not a JSON object.")
    return resources or {}


def need(test_dir: Path, name: str) -> None:
    """See that a folder is a test-dir indeed, before anything in it is emptied."""
    if not (test_dir / name).is_dir():
        raise Failure(f"{test_dir} can't be used as /opt/ml: it has no folder {name}.")


def need_own(test_dir: Path, name: str) -> None:
    """See that a folder which a job begins without its files is the test-dir's own, and no link to someone's data."""
    path = test_dir / name
    if path.resolve() != test_dir.resolve() / name:
        raise Failure(f"{path} leads to {path.resolve()}, which would be emptied: make it a folder of its own.")
    if path.exists() and not path.is_dir():
        raise Failure(f"{path} is not a folder.")


def begin_empty(test_dir: Path, name: str) -> None:
    folder = test_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        remove(entry)


def put_aside(test_dir: Path, name: str) -> None:
    """Begin without a folder's files as well, but keep them until the next time, in `<name>.before`."""
    folder, before = test_dir / name, test_dir / f"{name}.before"
    folder.mkdir(exist_ok=True)
    if not any(folder.iterdir()):
        return
    remove(before)
    try:
        folder.rename(before)
    except OSError as error:
        raise Failure(f"{folder} can't be moved to {before}: {error.strerror}.") from error
    folder.mkdir()
    say(f"What was in {folder} is in {before} now")


def remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
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
