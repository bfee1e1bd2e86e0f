"""The demonstration, as a new user runs it; with the checkout's virtual environment, so nothing is downloaded."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent.parent
DEADLINE_SECONDS = 60.0


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the project in a folder with a space in its path, with the packages that are installed already."""
    copy = tmp_path / "a checkout"
    ignored = shutil.ignore_patterns(".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis", "tests")
    shutil.copytree(PROJECT, copy, ignore=ignored)
    (copy / ".venv").symlink_to(PROJECT / ".venv")
    return copy


def start_demo(checkout: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start the demonstration in a process group of its own, as a terminal does."""
    return subprocess.Popen(
        [str(checkout / "local-test" / "demo.sh"), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


def processes_of(checkout: Path) -> list[str]:
    """Return the command lines of all processes that run something of a checkout."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(checkout) in command:
                found.append(command)
    return found


def wait_until_gone(checkout: Path, demo: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while left := [*processes_of(checkout), *Path("/tmp").glob(f"longshore.{demo.pid}.*")]:
        assert time.monotonic() < deadline, f"left: {left}"
        time.sleep(0.05)


def test_the_demo_runs_a_task_and_leaves_nothing_behind(checkout: Path) -> None:
    before = {path.relative_to(checkout) for path in checkout.rglob("*") if ".venv" not in path.parts}
    demo = start_demo(checkout)
    output, _ = demo.communicate(timeout=DEADLINE_SECONDS)
    assert demo.returncode == 0, output
    assert '"return_code": 0' in output
    assert "s3://demo/outputs/demo-1/.sagemaker_shim/inference_result.json" in output
    assert "its signature is right" in output
    assert output.count("setosa") >= 2
    assert output.count("virginica") >= 2
    wait_until_gone(checkout, demo)
    after = {path.relative_to(checkout) for path in checkout.rglob("*") if ".venv" not in path.parts}
    assert {path for path in after - before if "__pycache__" not in path.parts} == set()


def test_the_demo_shows_a_readable_log(checkout: Path) -> None:
    demo = start_demo(checkout, "--pretty")
    output, _ = demo.communicate(timeout=DEADLINE_SECONDS)
    assert demo.returncode == 0, output
    assert "Serving on port" in output
    assert '"internal"' not in output
    assert "Task demo-1 ended with return code 0" in output


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("word", ["==> Starting a stand-in", "==> Training", "==> Starting the model", "==> Posting"])
def test_a_signal_at_any_stage_leaves_nothing_behind(checkout: Path, word: str, signum: int) -> None:
    demo = start_demo(checkout)
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith(word):
            break
    else:
        pytest.fail(f"the demo never said {word!r}")
    os.killpg(demo.pid, signum)
    rest, _ = demo.communicate(timeout=DEADLINE_SECONDS)
    assert demo.returncode == 128 + signum, rest
    wait_until_gone(checkout, demo)


def test_an_unknown_argument_is_named_and_refused_with_the_usage(checkout: Path) -> None:
    demo = start_demo(checkout, "--pretty", "--prety")
    output, _ = demo.communicate(timeout=DEADLINE_SECONDS)
    assert demo.returncode == 64
    assert output.startswith("demo.sh: There is no option --prety.\n\nUsage: demo.sh [--pretty]")
