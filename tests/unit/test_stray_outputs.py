"""What a program wrote beside the true folder, in real folders."""

import os
from pathlib import Path

import pytest

from model_server import stage_out
from model_server.beneath import open_folder
from model_server.stray_outputs import Copied, StrayOutputs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "output"
    made.mkdir()
    return made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    made = tmp_path / "target"
    made.mkdir()
    return made


@pytest.fixture
def stray(folder: Path, target: Path) -> StrayOutputs:
    (folder / "before").write_text("before")
    return StrayOutputs(folder, target)


def refusing(root: int, parts: tuple[str, ...]) -> int:
    """Open a folder as an ordinary user does, who may not look into one."""
    if parts == ("closed",):
        raise PermissionError(13, "Permission denied")
    return open_folder(root, parts)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_links_within_the_folder_are_files_and_all_else_is_counted(
    stray: StrayOutputs, folder: Path, target: Path
) -> None:
    (folder / "set").mkdir()
    (folder / "set/v1").write_text("data")
    (folder / "latest").symlink_to("set/v1")
    (folder / "absolute").symlink_to(folder / "set/v1")
    for name, leads_to in (("away", target / "secret"), ("nowhere", "gone"), ("folder", "set")):
        (folder / name).symlink_to(leads_to)
    os.mkfifo(folder / "pipe")
    (target / "secret").write_text("of another")
    assert stray.copy() == Copied(files=3, conflicts=0, unreadable=0, others=4)
    assert contents(target) == {"set/v1": "data", "latest": "data", "absolute": "data", "secret": "of another"}


@pytest.mark.parametrize("kind", ["a file", "a link to nothing", "missing"])
def test_what_was_no_folder_before_is_nobodys_fault(tmp_path: Path, target: Path, kind: str) -> None:
    folder = tmp_path / "odd"
    if kind == "a file":
        folder.write_text("before")
    elif kind == "a link to nothing":
        folder.symlink_to("nowhere")
    assert StrayOutputs(folder, target).copy() == Copied(0, 0, 0, 0)


def test_a_folder_that_was_closed_before_is_nobodys_fault(
    folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "closed").mkdir()
    monkeypatch.setattr(stage_out, "open_folder", refusing)
    stray = StrayOutputs(folder, target)
    (folder / "open").write_text("data")
    assert stray.copy() == Copied(files=1, conflicts=0, unreadable=0, others=0)


def test_a_path_may_be_longer_than_a_key(stray: StrayOutputs, folder: Path, target: Path) -> None:
    deep = Path(*["x" * 200] * 6)
    (folder / deep).mkdir(parents=True)
    (folder / deep / "result").write_text("data")
    assert stray.copy() == Copied(files=1, conflicts=0, unreadable=0, others=0)
    assert (target / deep / "result").read_text() == "data"


def test_only_what_is_new_in_the_target_counts(folder: Path, target: Path) -> None:
    (target / "before").write_text("before")
    stray = StrayOutputs(folder, target)
    assert not stray.has_changed_target()
    (target / "new").write_text("data")
    assert stray.has_changed_target()


def test_names_may_be_any_bytes(stray: StrayOutputs, folder: Path, target: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n")
    (folder / name).write_text("data")
    assert stray.copy().files == 1
    assert (target / name).read_text() == "data"


def test_a_folder_that_may_not_be_looked_into_is_counted(
    stray: StrayOutputs, folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "closed").mkdir()
    (folder / "closed/result").write_text("data")
    (folder / "open").write_text("data")
    monkeypatch.setattr(stage_out, "open_folder", refusing)
    assert stray.copy() == Copied(files=1, conflicts=0, unreadable=1, others=0)
    assert contents(target) == {"open": "data"}


@pytest.mark.parametrize("is_link", [False, True])
def test_what_is_no_folder_any_more_is_an_error(stray: StrayOutputs, folder: Path, is_link: bool) -> None:
    (folder / "before").unlink()
    folder.rmdir()
    assert stray.copy() == Copied(0, 0, 0, 0)  # nothing is lost
    if is_link:
        folder.symlink_to("nowhere")
    else:
        folder.write_text("the result")
    with pytest.raises(OSError, match=r"Not a directory|No such file"):
        stray.copy()


def test_a_file_that_can_not_be_copied_leaves_nothing_and_keeps_no_other_back(
    stray: StrayOutputs, folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (folder / name).write_text(name)

    def rename(path: Path, new: Path) -> None:
        if new.name == "b":
            raise OSError(28, "No space left on device")
        os.rename(path, new)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="No space left"):
        stray.copy()
    assert contents(target) == {"a": "a", "c": "c"}
