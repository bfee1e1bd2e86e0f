"""A folder's name that leads elsewhere for the length of a job."""

import os
from pathlib import Path

import pytest

from model_server.folder_links import linked


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def test_a_missing_name_is_a_link_and_then_missing_again(tmp_path: Path, target: Path) -> None:
    path = tmp_path / "new" / "input"
    with linked(path, target) as is_linked:
        assert is_linked
        assert path.resolve() == target
    assert not path.is_symlink()


def test_an_empty_folder_is_the_same_again(tmp_path: Path, target: Path) -> None:
    path = tmp_path / "input"
    path.mkdir(mode=0o711)
    before = path.stat()
    with linked(path, target) as is_linked:
        assert is_linked
        (path / "file").touch()
    after = path.lstat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert os.listdir(path) == []
    assert os.listdir(target) == ["file"]


@pytest.mark.parametrize("kind", ["folder that holds something", "file", "link elsewhere", "link to nothing"])
def test_anything_else_stays(tmp_path: Path, target: Path, kind: str) -> None:
    path = tmp_path / "input"
    if kind.startswith("link"):
        path.symlink_to(tmp_path if kind == "link elsewhere" else tmp_path / "nothing")
    elif kind == "file":
        path.touch()
    else:
        path.mkdir()
        (path / "kept").touch()
    before = path.lstat()
    with linked(path, target) as is_linked:
        assert not is_linked
        assert path.lstat() == before
    assert path.lstat() == before


def test_a_name_that_leads_there_already_stays(tmp_path: Path, target: Path) -> None:
    path = tmp_path / "input"
    path.symlink_to(target)
    for same in (path, target):
        with linked(same, target) as is_linked:
            assert is_linked
    assert path.is_symlink()


def test_what_was_put_in_the_place_of_the_link_stays(tmp_path: Path, target: Path) -> None:
    path = tmp_path / "input"
    path.mkdir()
    with linked(path, target):
        path.unlink()
        path.symlink_to(tmp_path)
    assert path.readlink() == tmp_path
