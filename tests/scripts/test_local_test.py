"""What the scripts of local-test/ have in common, without Docker (tests/image has them with Docker)."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from local_scripts import DEADLINE_SECONDS, PROJECT, Script, copy_checkout, run_script
from quiet_port import quiet_port

SCRIPTS = ["train-local.sh", "serve-local.sh", "process-local.sh", "predict.sh"]


def checkout_without_packages(folder: Path) -> Path:
    copy = copy_checkout(folder)
    (copy / ".venv").unlink()
    return copy


def test_a_run_leaves_nothing_that_git_would_add(checkout: Path, trained: Script) -> None:
    assert run_script(checkout, "train-local.sh", "--host").process.returncode == 0
    assert (checkout / "local-test/test-dir/model.before/decision-tree.joblib").is_file()
    run_script(checkout, "process-local.sh", "--host")
    git = ["git", "-C", str(checkout)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    status = [*git, "status", "--porcelain", "--untracked-files=all", "--ignored=no", "local-test/test-dir"]
    seen = subprocess.run(status, stdout=subprocess.PIPE, text=True, check=True).stdout
    shutil.rmtree(checkout / ".git")
    listed = [*["git", "-C", str(PROJECT)], "ls-files", "--cached", "--others", "--exclude-standard"]
    known = subprocess.run([*listed, "local-test/test-dir"], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert {line[3:].strip('"') for line in seen.splitlines()} == set(known.splitlines())


def test_the_samples_image_has_the_packages_of_this_machine() -> None:
    # A model that was trained in one of them is served in the other.
    pinned = (PROJECT / "local-test/sample-algorithm/requirements.txt").read_text().split()
    assert set(pinned) <= set((PROJECT / "local-test/requirements.txt").read_text().split())


def test_a_venv_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    checkout = checkout_without_packages(tmp_path)
    (checkout / ".venv").mkdir()
    (checkout / ".venv/pyvenv.cfg").write_text("mine")
    job = run_script(checkout, "train-local.sh", "--host")
    assert job.process.returncode == 1
    assert f"{checkout}/.venv is there already, and is not made by these scripts" in job.said
    assert [path.name for path in (checkout / ".venv").iterdir()] == ["pyvenv.cfg"]


def test_a_venv_that_was_left_half_made_is_made_anew(tmp_path: Path) -> None:
    checkout = checkout_without_packages(tmp_path)
    (checkout / ".venv").mkdir()
    for name in ("lock", "pyvenv.cfg", "rest"):
        (checkout / ".venv" / name).touch()
    # Such a file is an installation without any download.
    (checkout / "nothing.txt").write_text("# no package\n")
    install = 'set -euo pipefail; source "$0/local-test/setup.sh"; find_python; need_packages nothing.txt; is_whole'
    ended = subprocess.run(["bash", "-c", install, checkout], capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert ended.returncode == 0, ended.stderr
    assert not (checkout / ".venv/rest").exists()


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_needs_nothing_installed(tmp_path: Path, name: str) -> None:
    shutil.copytree(PROJECT / "local-test", tmp_path / "local-test")
    script = run_script(tmp_path, name, "--help")
    assert script.process.returncode == 0, script.said
    assert script.stdout[0].startswith(f"usage: {name} ")
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_unknown_option_is_refused_with_the_usage(checkout: Path, name: str) -> None:
    script = run_script(checkout, name, "--hots")
    assert script.process.returncode == 64, script.said
    assert f"usage: {name}" in script.said


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("serve-local.sh", "==> Starting a stand-in"),
        ("serve-local.sh", "==> Starting the model"),
        ("serve-local.sh", "==> Serving"),
        ("train-local.sh", "==> Starting a stand-in"),
        ("train-local.sh", "==> Training"),
        ("process-local.sh", "==> Processing"),
    ],
)
def test_a_signal_at_any_stage_leaves_nothing_behind(
    checkout: Path, test_dir: Path, name: str, word: str, signum: int
) -> None:
    port = ["--port", str(quiet_port())] if name == "serve-local.sh" else []
    script = Script(checkout, name, "--host", "--test-dir", test_dir, *port)
    script.await_word(word)
    code = script.end(signum)
    assert code == 0 if word == "==> Serving" else code in (128 + signum, 128 + signal.SIGTERM), script.said
    script.await_nothing_left()


def test_a_second_signal_does_not_hurry_the_clean_up(checkout: Path, test_dir: Path) -> None:
    script = Script(checkout, "train-local.sh", "--host", "--test-dir", test_dir)
    script.await_word("==> Training")
    for _ in range(3):
        os.killpg(script.process.pid, signal.SIGINT)
        time.sleep(0.01)
    script.end()
    script.await_nothing_left()
