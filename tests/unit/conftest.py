"""What tests of several modules are given."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_server import untar

from .tarballs import Owned


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return an empty folder to unpack into, alone in another one, of which nothing may be changed."""
    path = tmp_path / "outer" / "target"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def owned(target: Path, monkeypatch: pytest.MonkeyPatch) -> Owned:
    """Have nothing in the target change its owner, and return whom it would belong to."""
    owned = Owned(target)
    monkeypatch.setattr(untar.os, "chown", owned.chown)
    return owned


@pytest.fixture
def umask() -> Iterator[None]:
    """Be a process whose files are its own alone, unless it says otherwise."""
    before = os.umask(0o077)
    yield
    os.umask(before)
