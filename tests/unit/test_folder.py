"""The task folders: emptied whatever a program left there, and never of what was there before us."""

import errno
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from model_server.errors import FoldersNotReset, StartFailed
from model_server.folder import TaskFolder, claim

from .exchanging import NOBODY, ExchangedAt, exchanging
from .waiting import open_descriptors, wait_until


@pytest.fixture
def folder(tmp_path: Path) -> TaskFolder:
    return claim(tmp_path / "output", 0o777)


@contextmanager
def ordinary_user() -> Iterator[Path]:
    """Be a user without root's rights for the block, with a folder of one's own."""
    own = Path(tempfile.mkdtemp())
    if os.geteuid() != 0:
        yield own
        shutil.rmtree(own)
        return
    os.chown(own, NOBODY, NOBODY)
    os.setresgid(NOBODY, NOBODY, 0)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield own
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        shutil.rmtree(own)


def test_a_missing_folder_is_made_with_its_mode(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        claimed = claim(tmp_path / "a" / "b", 0o777)
    finally:
        os.umask(before)
    assert stat.S_IMODE(claimed.path.stat().st_mode) == 0o777


def test_a_folder_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir(mode=0o750)
    assert stat.S_IMODE(claim(tmp_path / "x", 0o777).path.stat().st_mode) == 0o750


def test_a_file_in_its_place_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(StartFailed, match="x"):
        claim(tmp_path / "x", 0o777)


def test_a_folder_that_can_not_be_written_to_stops_the_start() -> None:
    with ordinary_user() as own:
        (own / "x").mkdir(mode=0o555)
        with pytest.raises(StartFailed, match="written"):
            claim(own / "x", 0o777)


def test_a_folder_behind_a_link_is_used_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    claimed = claim(tmp_path / "link", 0o777)
    (tmp_path / "real" / "left").touch()
    claimed.reset()
    assert list((tmp_path / "real").iterdir()) == []


def test_files_that_were_there_survive_with_all_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "x"
    (path / "model" / "deep").mkdir(parents=True)
    (path / "model" / "deep" / "weights").write_text("w")
    (path / "empty").mkdir()
    (path / "link").symlink_to("/nowhere")
    claimed = claim(path, 0o777)
    for new in ("new", "model/new", "model/deep/new", "empty/new"):
        (path / new).touch()
    (path / "model" / "more").mkdir()
    claimed.reset()
    left = {str(item.relative_to(path)) for item in path.rglob("*")}
    assert left == {"model", "model/deep", "model/deep/weights", "empty", "link"}
    assert (path / "model" / "deep" / "weights").read_text() == "w"


def test_a_name_that_was_there_stays_and_is_an_output_of_the_task_that_changed_it_only(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.mkdir()
    for name in ("written", "replaced", "folder", "same"):
        (path / name).write_text("before")
    claimed = claim(path, 0o777)
    (path / "written").write_text("after, and longer")
    (path / "other").write_text("before")
    (path / "other").rename(path / "replaced")
    (path / "folder").unlink()
    (path / "folder").mkdir()
    (path / "folder" / "inside").touch()
    assert claimed.was_here(("same",), (path / "same").stat())
    assert not claimed.was_here(("written",), (path / "written").stat())
    assert not claimed.was_here(("new",), (path / "same").stat())
    assert not claimed.was_here(("same", "deeper"), (path / "same").stat())
    claimed.reset()
    assert sorted(item.name for item in path.iterdir()) == ["folder", "replaced", "same", "written"]
    assert claimed.was_here(("written",), (path / "written").stat())
    assert (path / "written").read_text() == "after, and longer"


def test_a_file_of_the_hosts_that_gets_another_link_or_mode_stays(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.mkdir()
    (path / "model").write_text("weights")
    claimed = claim(path, 0o777)
    os.link(path / "model", tmp_path / "backup")
    (path / "model").chmod(0o600)
    claimed.reset()
    assert (path / "model").read_text() == "weights"


def test_a_folder_that_another_server_uses_is_refused_until_that_one_has_ended(tmp_path: Path) -> None:
    first = claim(tmp_path / "x", 0o777)
    with pytest.raises(StartFailed, match="in use by another server"):
        claim(tmp_path / "x", 0o777)
    del first
    assert claim(tmp_path / "x", 0o777).kept == {}


def test_a_folder_that_is_nested_too_deeply_to_note_is_refused_in_words(tmp_path: Path) -> None:
    here = tmp_path / "x"
    here.mkdir()
    descriptor = os.open(here, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    with pytest.raises(StartFailed, match="nested too deeply"):
        claim(here, 0o777)
    TaskFolder(here, 0o777, {}, {}, os.open(tmp_path, os.O_RDONLY), os.open(here, os.O_RDONLY)).reset()
    assert list(here.iterdir()) == []


def test_5000_nested_folders_are_removed(folder: TaskFolder) -> None:
    here = os.open(folder.path, os.O_RDONLY)
    for _ in range(5_000):
        os.mkdir("d", dir_fd=here)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    before = open_descriptors()
    folder.reset()
    assert list(folder.path.iterdir()) == []
    assert open_descriptors() == before


def test_100000_files_are_removed(folder: TaskFolder) -> None:
    here = os.open(folder.path, os.O_RDONLY)
    for number in range(100_000):
        os.close(os.open(f"{number}", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    folder.reset()
    assert os.listdir(folder.path) == []


def test_a_process_that_exchanges_a_folder_for_a_link_meanwhile_leads_no_removal_out(
    folder: TaskFolder, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    for precious in (outside / "secret", outside / "deep/secret"):
        precious.write_text("kept")
    outside.chmod(0o500)
    with exchanging(folder.path, outside):
        for _ in range(500):
            wait_until(lambda: {"one", "two"} <= set(os.listdir(folder.path)))
            with suppress(FoldersNotReset):  # what changes under it may end it, and it is tried again
                folder.reset()
    assert [file.read_text() for file in (outside / "secret", outside / "deep/secret")] == ["kept", "kept"]
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500
    outside.chmod(0o700)
    folder.reset()
    assert os.listdir(folder.path) == []


def test_an_exchange_before_any_step_leads_no_removal_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    for precious in (outside / "secret", outside / "deep/secret"):
        precious.write_text("kept")
    claimed = claim(tmp_path / "output", 0o777)
    at: list[int | None] = [None, *range(100)]
    for step in at:
        (claimed.path / "one/deep").mkdir(parents=True)
        (claimed.path / "one/secret").touch()
        (claimed.path / "one/deep/secret").touch()
        (claimed.path / "two").symlink_to(outside)
        exchanged = ExchangedAt(claimed.path, step)
        with monkeypatch.context() as patch, suppress(FoldersNotReset):
            patch.setattr("model_server.folder.os", exchanged)
            claimed.reset()
        assert [file.read_text() for file in (outside / "secret", outside / "deep/secret")] == ["kept", "kept"]
        claimed.reset()
        assert os.listdir(claimed.path) == []
        if step is not None and exchanged.steps <= step:
            break
    assert 10 < at.index(step) < 100, "the last one was after all steps"


def has_attribute(attribute: str, path: Path) -> bool:
    """Give a file an attribute, and say whether it has it: not every file system and user can."""
    done = subprocess.run(["chattr", f"+{attribute}", path], capture_output=True, text=True)
    assert done.returncode == 0 or re.search("not supported|not permitted|Inappropriate", done.stderr), done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("attribute", ["i", "a"])
def test_what_was_made_immutable_is_removed(folder: TaskFolder, attribute: str) -> None:
    (folder.path / "folder/inner").mkdir(parents=True)
    for name in ("file", "folder/file", "folder/inner/file"):
        (folder.path / name).touch()
    made = [path for path in sorted(folder.path.rglob("*"), reverse=True) if has_attribute(attribute, path)]
    made += [folder.path] * has_attribute(attribute, folder.path)
    if made:
        with pytest.raises(PermissionError):
            (folder.path / "file").unlink()
    folder.reset()
    assert os.listdir(folder.path) == []


def test_all_else_is_removed_where_one_name_can_not_be(folder: TaskFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a mount point, which takes rights to make."""
    for name in ("a", "b", "mount", "x", "y"):
        (folder.path / name).mkdir()
        (folder.path / name / "file").touch()
    rmdir = os.rmdir

    def is_busy(name: str, *, dir_fd: int) -> None:
        if name == "mount":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        rmdir(name, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", is_busy)
        with pytest.raises(FoldersNotReset):
            folder.reset()
    assert os.listdir(folder.path) == ["mount"]
    assert os.listdir(folder.path / "mount") == []
    folder.reset()


def test_many_folders_beside_each_other_are_removed(folder: TaskFolder) -> None:
    for number in range(300):
        (folder.path / str(number) / "a" / "b").mkdir(parents=True)
    folder.reset()
    assert list(folder.path.iterdir()) == []


def test_fifos_sockets_and_strange_names_are_removed(folder: TaskFolder) -> None:
    inner = folder.path / "inner"
    inner.mkdir()
    for place in (folder.path, inner):
        os.mkfifo(place / "fifo")
        os.mknod(place / "socket", stat.S_IFSOCK | 0o600)
        os.close(os.open(os.fsencode(place) + b"/\xff\n *", os.O_CREAT | os.O_WRONLY))
        (place / ("x" * 255)).touch()
        (place / "read-only").touch(0o000)
    folder.reset()
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize("deep", [False, True])
def test_links_are_removed_and_never_followed(folder: TaskFolder, tmp_path: Path, deep: bool) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    outside.chmod(0o500)
    place = folder.path / "inner" if deep else folder.path
    place.mkdir(exist_ok=True)
    (place / "folder").symlink_to(outside)
    (place / "file").symlink_to(outside / "precious")
    (place / "loop").symlink_to("loop")
    (place / "up").symlink_to("..")
    folder.reset()
    assert list(folder.path.iterdir()) == []
    assert (outside / "precious").read_text() == "kept"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500
    outside.chmod(0o700)  # so that an ordinary user's clean-up can remove it


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o300, 0o555])
def test_folders_without_rights_are_removed_by_an_ordinary_user_too(mode: int) -> None:
    with ordinary_user() as own:
        claimed = claim(own / "x", 0o777)
        for name in ("a", "b"):
            (claimed.path / name / "c").mkdir(parents=True)
            (claimed.path / name / "c" / "f").touch()
            (claimed.path / name / "c").chmod(mode)
            (claimed.path / name).chmod(mode)
        claimed.path.chmod(mode)
        claimed.reset()
        assert list(claimed.path.iterdir()) == []


def test_a_folder_that_was_there_and_lost_its_rights_does_not_stop_the_next_task() -> None:
    with ordinary_user() as own:
        (own / "x" / "kept").mkdir(parents=True)
        (own / "x" / "kept" / "f").touch()
        claimed = claim(own / "x", 0o777)
        (own / "x" / "kept" / "new").touch()
        (own / "x" / "kept").chmod(0o000)
        claimed.reset()
        assert [item.name for item in (own / "x" / "kept").iterdir()] == ["f"]


def test_a_folder_that_can_not_be_emptied_is_said_so() -> None:
    with ordinary_user() as own:
        (own / "held").mkdir()
        claimed = claim(own / "held" / "x", 0o777)
        shutil.rmtree(claimed.path)
        (own / "held").chmod(0o500)
        with pytest.raises(FoldersNotReset):
            claimed.reset()
        (own / "held").chmod(0o700)


@pytest.mark.parametrize("instead", ["nothing", "file", "link"])
def test_a_folder_that_a_task_replaced_is_made_again(folder: TaskFolder, tmp_path: Path, instead: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    folder.path.rmdir()
    if instead == "file":
        folder.path.touch()
    if instead == "link":
        folder.path.symlink_to(outside)
    folder.reset()
    assert folder.path.is_dir()
    assert not folder.path.is_symlink()
    assert list(folder.path.iterdir()) == []
    assert (outside / "precious").exists()
