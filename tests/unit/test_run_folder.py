"""The server's own folders."""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_server.errors import StartFailed
from model_server.run_folder import run_folder


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for that of a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


def test_they_are_there_for_the_block_and_gone_after_it(short_path: Path) -> None:
    with run_folder(short_path / "shared") as folder:
        assert folder.locks.is_dir()
        assert folder.nginx.is_dir()
        assert folder.bodies.is_dir()
        assert folder.socket.parent.is_dir()
        (folder.locks / "slot-0.lock").touch()
    assert list((short_path / "shared").iterdir()) == []


def test_they_are_gone_after_a_fault_too(short_path: Path) -> None:
    with pytest.raises(ValueError, match="x"), run_folder(short_path):
        raise ValueError("x")
    assert list(short_path.iterdir()) == []


def test_the_folder_of_bodies_is_made_again_as_it_was(short_path: Path) -> None:
    with run_folder(short_path) as folder:
        before = folder.bodies.stat()
        folder.restore_bodies()
        folder.bodies.rmdir()
        folder.restore_bodies()
        after = folder.bodies.stat()
        assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert list(short_path.iterdir()) == []


def test_what_is_in_the_place_of_the_folder_of_bodies_is_left_alone(short_path: Path) -> None:
    with run_folder(short_path) as folder:
        folder.bodies.rmdir()
        folder.bodies.symlink_to("/nowhere")
        folder.restore_bodies()
        assert folder.bodies.is_symlink()


def test_what_else_is_in_a_shared_folder_is_left_alone(short_path: Path) -> None:
    (short_path / "someone-elses").touch()
    with run_folder(short_path) as one, run_folder(short_path) as other:
        assert one.path != other.path
    assert [path.name for path in short_path.iterdir()] == ["someone-elses"]


def test_locks_are_for_us_alone(short_path: Path) -> None:
    with run_folder(short_path) as folder:
        assert stat.S_IMODE(folder.locks.stat().st_mode) == 0o700
        assert folder.locks.stat().st_uid == os.geteuid()
        assert stat.S_IMODE(folder.socket.parent.stat().st_mode) == 0o710


def test_a_path_that_is_too_long_for_a_socket_stops_the_start(short_path: Path) -> None:
    with pytest.raises(StartFailed, match="MODEL_SERVER_RUN_PATH"), run_folder(short_path / ("x" * 100)):
        pass


def test_a_folder_for_temporary_files_that_is_too_long_for_a_socket_is_named(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = short_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("model_server.run_folder._shared_memory", lambda: long)
    with pytest.raises(StartFailed, match=f"MODEL_SERVER_RUN_PATH: {long} is too long"), run_folder(None):
        pass


def test_a_folder_that_can_not_be_made_stops_the_start(short_path: Path) -> None:
    (short_path / "file").touch()
    with pytest.raises(StartFailed), run_folder(short_path / "file" / "inner"):
        pass
