"""How a local run's S3 is copied into a folder in the end."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local_scripts import DEADLINE_SECONDS, PROJECT
from moto_s3 import AWS

if TYPE_CHECKING:
    from tests.conftest import Bucket


@pytest.fixture
def s3_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that has no bucket of other tests: `keep` copies all that there are."""
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(PROJECT / "local-test")
    from s3_server import s3_server

    with s3_server(tmp_path) as server:
        yield server.url


def keep(bucket: "Bucket", target: Path) -> subprocess.CompletedProcess[str]:
    """Copy all objects of the bucket's server into a folder."""
    command = [PROJECT / ".venv/bin/python", PROJECT / "local-test/s3_folder.py", "keep", target]
    environment = os.environ | {"AWS_ENDPOINT_URL_S3": bucket.endpoint}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE_SECONDS)


def test_a_key_chooses_no_place_outside_the_folder_that_is_kept(bucket: "Bucket", tmp_path: Path) -> None:
    bucket.put("fine/a.txt", "fine")
    outside = f"outside-of-{bucket.name}"
    bucket.put(f"up/../../../{outside}", "not fine")
    target = tmp_path / "deep" / "kept"
    ended = keep(bucket, target)
    assert ended.returncode == 0, ended.stderr
    assert (target / bucket.name / "fine/a.txt").read_text() == "fine"
    assert "is not copied" in ended.stderr
    assert not list(tmp_path.rglob(outside))


def test_a_key_that_is_no_name_here_costs_nothing_else(bucket: "Bucket", tmp_path: Path) -> None:
    keys = ["a", "m/" + "n" * 300, "z"]
    for key in keys:
        bucket.put(key, "kept")
    ended = keep(bucket, tmp_path / "kept")
    assert ended.returncode == 1
    assert f"{keys[1]!r} is not copied: File name too long." in ended.stderr
    assert {path.name for path in (tmp_path / "kept" / bucket.name).iterdir() if path.is_file()} == {"a", "z"}
