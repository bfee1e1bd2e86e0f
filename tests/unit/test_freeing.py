"""The space of large files: freed beside the answer, and before the next task."""

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from held_files import held, process_that_frees
from model_server import freeing
from model_server.cancellation import Cancellation
from model_server.errors import ClientLeft
from model_server.freeing import LARGE_BYTES, MOST_DEPTH, MOST_HELD, MOST_LOOKS, Freeing, opened

from .waiting import open_descriptors


@pytest.fixture
def ours() -> Freeing:
    return Freeing()


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    cancellation = Cancellation()
    yield cancellation
    cancellation.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    folder.mkdir()
    return folder


def large(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(LARGE_BYTES)
    return path


@contextmanager
def removed(ours: Freeing, *folders: Path) -> Iterator[None]:
    """Remove folders with all that is in them, and have the block before what was large is freed."""
    with opened(folders) as descriptors, ours.freed_later(descriptors):
        for folder in folders:
            shutil.rmtree(folder)
        yield


def test_large_files_keep_their_space_while_they_are_removed_and_not_after_it(
    ours: Freeing, cancellation: Cancellation, folder: Path, tmp_path: Path
) -> None:
    for path in (folder / "one", folder / "inner" / "two", tmp_path / "input" / "three"):
        large(path)
    (folder / "small").write_bytes(b"x" * (LARGE_BYTES - 1))
    with removed(ours, folder, tmp_path / "input"):
        assert held(tmp_path) == {"output/one", "output/inner/two", "input/three"}
    ours.wait(cancellation)
    assert held(tmp_path) == set()


def test_a_folder_that_is_replaced_meanwhile_is_not_mistaken_for_another(
    ours: Freeing, cancellation: Cancellation, folder: Path, tmp_path: Path
) -> None:
    large(folder / "ours")
    large(tmp_path / "other" / "theirs")
    with opened([folder]) as descriptors:
        folder.rename(tmp_path / "moved")
        folder.symlink_to(tmp_path / "other")
        with ours.freed_later(descriptors):
            shutil.rmtree(tmp_path / "other")
            shutil.rmtree(tmp_path / "moved")
            assert held(tmp_path) == {"moved/ours"}
    ours.wait(cancellation)


def test_no_more_is_open_afterwards(ours: Freeing, cancellation: Cancellation, folder: Path, tmp_path: Path) -> None:
    before = open_descriptors()
    for _ in range(3):
        large(folder / "one")
        with removed(ours, folder):
            pass
        ours.wait(cancellation)
        with opened([folder, tmp_path]) as descriptors:
            assert [os.path.samestat(os.fstat(one), tmp_path.stat()) for one in descriptors] == [True]
    large(folder / "one")
    with pytest.raises(ZeroDivisionError), removed(ours, folder):
        raise ZeroDivisionError
    ours.wait(cancellation)
    assert open_descriptors() == before


def test_who_comes_next_waits_for_another_process_until_that_one_has_ended(
    ours: Freeing, cancellation: Cancellation, folder: Path
) -> None:
    waiter = threading.Thread(target=ours.wait, args=(cancellation,))
    with process_that_frees(ours, large(folder / "one").parent):
        waiter.start()
        waiter.join(20 * freeing.POLL_SECONDS)
        assert waiter.is_alive()
    waiter.join(5)
    assert not waiter.is_alive()


def test_nobody_waits_whose_client_has_left(ours: Freeing, cancellation: Cancellation, folder: Path) -> None:
    with process_that_frees(ours, folder):
        cancellation.cancel(ClientLeft())
        with pytest.raises(ClientLeft):
            ours.wait(cancellation)


def test_links_and_other_things_are_neither_held_nor_followed(ours: Freeing, folder: Path, tmp_path: Path) -> None:
    outside = large(tmp_path / "outside" / "large")
    (folder / "file").symlink_to(outside)
    (folder / "folder").symlink_to(outside.parent)
    os.mkfifo(folder / "pipe")
    with removed(ours, folder):
        outside.unlink()
        assert held(tmp_path) == set()
    (tmp_path / "link").symlink_to(outside.parent)
    with opened([tmp_path / "link"]) as descriptors:
        assert descriptors == []


def test_a_folder_of_a_network_s_file_system_is_left_alone(
    ours: Freeing, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freeing, "NAMELESS", {0x6969: "nfs"})
    large(folder / "one")
    with removed(ours, folder):
        assert held(folder) == set()


def test_of_many_large_files_some_are_held(ours: Freeing, folder: Path) -> None:
    for number in range(MOST_HELD + 10):
        large(folder / f"{number}")
    before = open_descriptors()
    with removed(ours, folder):
        assert len(held(folder)) == MOST_HELD
        assert open_descriptors() <= before + MOST_HELD + 2  # the folder and the lock


def test_few_of_many_files_are_looked_at(ours: Freeing, folder: Path) -> None:
    for number in range(2 * MOST_LOOKS):
        (folder / f"{number}").touch()
    looks = [entry.name for entry in os.scandir(folder)]
    for name in (looks[0], looks[-1]):
        os.truncate(folder / name, LARGE_BYTES)
    with removed(ours, folder):
        assert held(folder) == {looks[0]}


def test_what_lies_deep_is_left_alone(ours: Freeing, folder: Path) -> None:
    deepest = large(folder / "/".join(["d"] * MOST_DEPTH) / "deep").parent
    large(deepest / "d" / "deeper")
    with removed(ours, folder):
        assert [Path(name).name for name in held(folder)] == ["deep"]


def test_where_descriptors_are_refused_none_is_held(
    ours: Freeing, cancellation: Cancellation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    for number in range(10):
        large(folder / f"{number}")
    large(folder / "inner" / "one")
    before = open_descriptors()
    with monkeypatch.context() as refusing:
        refusing.setattr(freeing, "_hold_beneath", refuse)
        with removed(ours, folder):
            assert held(folder) == set()
    ours.wait(cancellation)
    assert open_descriptors() == before


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_where_no_thread_can_be_had_it_is_freed_at_once(
    ours: Freeing, cancellation: Cancellation, folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise error

    large(folder / "one")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    before = open_descriptors()
    with removed(ours, folder):
        assert held(folder) == {"one"}
    assert held(folder) == set()
    ours.wait(cancellation)
    assert open_descriptors() == before
