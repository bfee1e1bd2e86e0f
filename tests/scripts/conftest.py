"""A checkout in which the scripts of local-test/ run, and a model that was trained there."""

import shutil
from pathlib import Path

import pytest

from local_scripts import MADE, Script, copy_checkout, run_script


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("local-test"))


@pytest.fixture(scope="session")
def trained(checkout: Path) -> Script:
    """A training that has ended, and left its model in the checkout's test-dir."""
    return run_script(checkout, "train-local.sh", "--host")


@pytest.fixture
def test_dir(checkout: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "a test-dir"
    shutil.copytree(checkout / "local-test" / "test-dir", copy, ignore=MADE)
    return copy
