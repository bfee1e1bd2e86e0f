"""Writable folders at the start, and folders emptied at the end of no more than what came since."""

import errno
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from model_server import directories
from model_server.directories import Leftovers, PostClean, make_writable
from model_server.folder import remove

from .test_folder import ordinary_user
from .waiting import open_descriptors


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "longshore")


@contextmanager
def one_line(caplog: pytest.LogCaptureFixture, level: int, words: str) -> Iterator[None]:
    """See that one line is logged in the block, and nothing else."""
    caplog.clear()
    yield
    assert [record.levelno for record in caplog.records] == [level]
    assert words in caplog.records[0].getMessage()


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# -- writable


@pytest.mark.parametrize(("before", "after"), [(None, 0o777), (0o700, 0o777), (0o1755, 0o1777), (0o2770, 0o2777)])
def test_a_folder_is_made_and_opened_and_loses_no_bit(tmp_path: Path, before: int | None, after: int) -> None:
    path = tmp_path / "a" / "b"
    if before is not None:
        path.mkdir(parents=True)
        path.chmod(before)
    umask = os.umask(0o077)
    try:
        make_writable([path])
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == after


@pytest.mark.parametrize("target", ["longshore", "longshore/lib", "."])
def test_no_link_of_an_image_opens_our_own_files(tmp_path: Path, caplog: pytest.LogCaptureFixture, target: str) -> None:
    """Also not a folder in which ours could be renamed, and another put in its place."""
    own = tmp_path / "root" / "longshore"
    (own / "lib").mkdir(parents=True)
    led_to = tmp_path / "root" / target
    led_to.chmod(0o755)
    (tmp_path / "tmp").symlink_to(led_to)
    with one_line(caplog, logging.WARNING, "it leads to the server's own files"):
        make_writable([tmp_path / "tmp"], ours=[own])
    assert stat.S_IMODE(led_to.stat().st_mode) == 0o755


def test_no_link_of_an_image_opens_a_folder_in_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As /etc is, where the users are that we look up; one that is empty is a place that an image has for it."""
    etc, empty = tmp_path / "etc", tmp_path / "empty"
    for folder, link in ((etc, "tmp"), (empty, "model")):
        folder.mkdir(0o755)
        (tmp_path / link).symlink_to(folder)
    (etc / "passwd").touch()
    with one_line(caplog, logging.WARNING, "it is a link to a folder that is in use"):
        make_writable([tmp_path / "tmp", tmp_path / "model"])
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (etc, empty)] == [0o755, 0o777]


def test_a_folder_that_is_open_is_not_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o1777)
    before = tmp_path.stat().st_ctime_ns
    make_writable([tmp_path])
    assert tmp_path.stat().st_ctime_ns == before
    assert not caplog.records


def test_what_can_not_be_made_or_opened_is_a_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "in", Path("/proc/nowhere")):
        with one_line(caplog, logging.INFO, str(path)):
            make_writable([path, tmp_path / "good"])
    assert stat.S_IMODE((tmp_path / "good").stat().st_mode) == 0o777
    with ordinary_user(), one_line(caplog, logging.INFO, "Operation not permitted"):
        make_writable([Path("/proc/self/fd")])


# -- cleaned


def test_what_was_missing_or_empty_is_emptied_and_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    cleaning = PostClean([tmp_path / "empty", tmp_path / "missing" / "deep", tmp_path / "never"])
    for name in ("empty/a/b", "missing/deep/a/b", "missing/other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "empty" / "file").touch()
    (tmp_path / "empty" / "a").chmod(0)
    cleaning.clean()
    assert tree(tmp_path) == ["empty", "missing", "missing/deep", "missing/other"]
    assert not caplog.records


def test_what_held_something_keeps_it_and_what_came_with_tasks_but_not_what_was_fetched(tmp_path: Path) -> None:
    (tmp_path / "mounted").mkdir()
    (tmp_path / "held").mkdir()
    cleaning = PostClean([tmp_path])
    (tmp_path / "fetched" / "deep").mkdir(parents=True)
    (tmp_path / "held" / "fetched").touch()
    cleaning.note_fetched([tmp_path / "fetched", tmp_path / "held" / "fetched"])
    (tmp_path / "of a task").touch()
    (tmp_path / "of the program at its start").touch()
    cleaning.clean()
    assert tree(tmp_path) == ["held", "mounted", "of a task", "of the program at its start"]


def test_a_folder_that_held_something_is_not_touched_at_all(tmp_path: Path) -> None:
    (tmp_path / "held").touch()
    tmp_path.chmod(0o500)
    cleaning = PostClean([tmp_path])
    before = tmp_path.stat().st_ctime_ns
    cleaning.clean()
    assert tmp_path.stat().st_ctime_ns == before
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("noted", [True, False])
def test_folders_within_each_other_are_no_problem(tmp_path: Path, noted: bool) -> None:
    paths = [tmp_path / "a" / "b", tmp_path / "a", tmp_path / "a", tmp_path / "a" / "b" / "c"]
    cleaning = PostClean(paths)
    (tmp_path / "a" / "b" / "c" / "d").mkdir(parents=True)
    if noted:
        cleaning.note_fetched(paths)
    cleaning.clean()
    assert tree(tmp_path) == ["a"]


def test_a_file_in_the_place_of_a_folder_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    cleaning = PostClean([tmp_path / "file", tmp_path / "file" / "in"])
    cleaning.clean()
    assert tree(tmp_path) == ["file"]
    assert not caplog.records


def test_a_folder_behind_a_link_is_cleaned_where_it_was_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("real")
    cleaning = PostClean([tmp_path / "link"])
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("other")
    for name in ("real", "other"):
        (tmp_path / name / "file").touch()
    cleaning.clean()
    assert tree(tmp_path) == ["link", "other", "other/file", "real"]


@pytest.mark.parametrize("fetched", [True, False])
@pytest.mark.parametrize("place", ["a", "a/b", "a/b/c"])
def test_a_link_that_came_later_is_never_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str, fetched: bool
) -> None:
    """`outside` looks like each of the folders, so that a clean-up that is led there finds what it looks for."""
    outside = tmp_path / "outside"
    for inner in (".", "b/c", "c"):
        (outside / inner / "fetched").mkdir(parents=True)
    path = tmp_path / "a" / "b" / "c"
    path.mkdir(parents=True)
    if fetched:
        (path / "held").touch()
    cleaning = PostClean([path])
    (path / "fetched").touch()
    cleaning.note_fetched([path / "fetched"])
    before = tree(outside)
    (tmp_path / place).rename(tmp_path / "moved")
    (tmp_path / place).symlink_to(outside)
    with one_line(caplog, logging.WARNING, str(path)):
        cleaning.clean()
    assert tree(outside) == before


def test_links_within_are_removed_and_never_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").touch()
    cleaning = PostClean([tmp_path / "a"])
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "a" / "deep" / "link").symlink_to(tmp_path / "outside")
    cleaning.clean()
    assert tree(tmp_path) == ["a", "outside", "outside/precious"]


def test_what_can_not_be_removed_is_one_warning_and_the_rest_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(folder: int, names: list[str]) -> None:
        if names[0].startswith("busy"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        remove(folder, names)

    monkeypatch.setattr(directories, "remove", refusing)
    cleaning = PostClean([tmp_path / "a", tmp_path / "b"])
    for name in ("a/busy", "a/busy too", "a/idle", "a/other", "b/idle"):
        (tmp_path / name).mkdir(parents=True)
    with one_line(caplog, logging.WARNING, str(tmp_path / "a")):
        cleaning.clean()
    assert tree(tmp_path) == ["a", "a/busy", "a/busy too", "b"]


def left_by_a_task(tmp_path: Path) -> Leftovers:
    """Return what a task left: a file, a deep folder and a link, beside what was there before."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    scratch.chmod(0o1777)
    (scratch / "before").mkdir()
    (tmp_path / "precious").mkdir()
    leftovers = Leftovers([scratch, tmp_path / "never", tmp_path / "made"])
    (scratch / "file").touch()
    (scratch / "deep" / "er").mkdir(parents=True)
    (scratch / "link").symlink_to(tmp_path / "precious")
    return leftovers


def test_what_a_task_leaves_is_told_and_stays_unless_its_removal_is_wished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leftovers = left_by_a_task(tmp_path)
    with one_line(caplog, logging.INFO, f"The task left 3 entries in {tmp_path / 'tmp'}"):
        leftovers.tell(remove_all=False)
    assert sorted(path.name for path in (tmp_path / "tmp").iterdir()) == ["before", "deep", "file", "link"]


def test_what_a_task_leaves_is_removed_if_that_is_wished_and_the_folder_stays_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leftovers = left_by_a_task(tmp_path)
    with one_line(caplog, logging.INFO, f"The task left 3 entries in {tmp_path / 'tmp'}, removed"):
        leftovers.tell(remove_all=True)
    assert tree(tmp_path) == ["precious", "tmp", "tmp/before"]
    assert stat.S_IMODE((tmp_path / "tmp").stat().st_mode) == 0o1777


def test_a_folder_that_was_missing_is_emptied_if_that_is_wished(tmp_path: Path) -> None:
    leftovers = Leftovers([tmp_path / "made"])
    (tmp_path / "made" / "inner").mkdir(parents=True)
    leftovers.tell(remove_all=True)
    assert tree(tmp_path) == ["made"]


def test_nothing_stays_open(tmp_path: Path) -> None:
    before = open_descriptors()
    cleaning = PostClean([tmp_path / "a", tmp_path / "a" / "b"])
    (tmp_path / "a" / "b").mkdir(parents=True)
    cleaning.note_fetched([tmp_path / "a" / "b"])
    cleaning.clean()
    assert open_descriptors() == before
