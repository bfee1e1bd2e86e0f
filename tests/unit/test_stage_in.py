"""A file appears under its name only when it is whole, and only where nothing is."""

import errno
import os
from pathlib import Path

import pytest

from model_server.errors import InputForbidden, InputMissing, InputPathTaken, InputPathUnusable, LongshoreError
from model_server.stage_in import _naming, _publish
from model_server.storage import ObjectForbidden, ObjectMissing


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole"
    path.write_text("whole")
    return path


def test_a_whole_file_appears_with_the_folders_above_it(whole: Path, tmp_path: Path) -> None:
    _publish(whole, tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").read_text() == "whole"
    assert not whole.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link to nothing", "fifo"])
def test_nothing_is_replaced(whole: Path, tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    {
        "file": lambda: place.write_text("before"),
        "folder": place.mkdir,
        "link to nothing": lambda: place.symlink_to("nothing"),
        "fifo": lambda: os.mkfifo(place),
    }[kind]()
    before = place.lstat().st_ino
    with pytest.raises(FileExistsError):
        _publish(whole, place)
    assert place.lstat().st_ino == before
    assert whole.read_text() == "whole"


def test_a_file_is_no_folder_for_another(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises((NotADirectoryError, FileExistsError)):
        _publish(whole, tmp_path / "file" / "inner")


@pytest.mark.parametrize(
    ("raised", "named"),
    [
        (ObjectMissing(), InputMissing),
        (ObjectForbidden(), InputForbidden),
        (FileExistsError(), InputPathTaken),
        (IsADirectoryError(), InputPathTaken),
        (NotADirectoryError(), InputPathTaken),
        (OSError(errno.ENAMETOOLONG, "x"), InputPathUnusable),
        (OSError(errno.EILSEQ, "x"), InputPathUnusable),
    ],
)
def test_a_fault_names_its_input(raised: Exception, named: type[LongshoreError]) -> None:
    with pytest.raises(named) as caught, _naming(3):
        raise raised
    assert "inputs[3]" in caught.value.hint


@pytest.mark.parametrize("raised", [OSError(errno.ENOSPC, "x"), OSError(errno.EIO, "x"), KeyError("x")])
def test_any_other_fault_is_left_as_it_is(raised: Exception) -> None:
    with pytest.raises(type(raised)) as caught, _naming(3):
        raise raised
    assert caught.value is raised
