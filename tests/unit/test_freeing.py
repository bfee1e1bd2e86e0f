"""The space of large files: freed beside the answer, and before the next task."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from held_files import held, process_that_frees
from model_server import freeing
from model_server.cancellation import Cancellation
from model_server.errors import ClientLeft
from model_server.freeing import LARGE_BYTES, MOST_DEPTH, MOST_HELD, Freeing

from .waiting import open_descriptors


@pytest.fixture
def ours() -> Freeing:
    return Freeing()


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    cancellation = Cancellation()
    yield cancellation
    cancellation.close()


def large(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(LARGE_BYTES)
    return path


def test_large_files_keep_their_space_while_they_are_removed_and_not_after_it(
    ours: Freeing, cancellation: Cancellation, tmp_path: Path
) -> None:
    files = [large(tmp_path / name) for name in ("one", "inner/two")]
    (tmp_path / "small").write_bytes(b"x" * 1000)
    with ours.freed_later([tmp_path]):
        for file in files:
            file.unlink()
        assert held(tmp_path) == {"one", "inner/two"}
    ours.wait(cancellation)
    assert held(tmp_path) == set()


def test_no_more_is_open_afterwards(ours: Freeing, cancellation: Cancellation, tmp_path: Path) -> None:
    large(tmp_path / "one")
    before = open_descriptors()
    for _ in range(3):
        with ours.freed_later([tmp_path, tmp_path / "missing"]):
            pass
        ours.wait(cancellation)
    with pytest.raises(ZeroDivisionError), ours.freed_later([tmp_path]):
        raise ZeroDivisionError
    ours.wait(cancellation)
    assert open_descriptors() == before


def test_who_comes_next_waits_for_another_process_until_that_one_has_ended(
    ours: Freeing, cancellation: Cancellation, tmp_path: Path
) -> None:
    large(tmp_path / "one")
    waiter = threading.Thread(target=ours.wait, args=(cancellation,))
    with process_that_frees(ours, tmp_path):
        waiter.start()
        waiter.join(20 * freeing.POLL_SECONDS)
        assert waiter.is_alive()
    waiter.join(5)
    assert not waiter.is_alive()


def test_nobody_waits_whose_client_has_left(ours: Freeing, cancellation: Cancellation, tmp_path: Path) -> None:
    large(tmp_path / "one")
    with process_that_frees(ours, tmp_path):
        cancellation.cancel(ClientLeft())
        with pytest.raises(ClientLeft):
            ours.wait(cancellation)


def test_links_and_other_things_are_not_held_nor_followed(ours: Freeing, tmp_path: Path) -> None:
    outside, folder = large(tmp_path / "outside" / "large"), tmp_path / "folder"
    folder.mkdir()
    (folder / "file").symlink_to(outside)
    (folder / "folder").symlink_to(outside.parent)
    os.mkfifo(folder / "pipe")
    (tmp_path / "link").symlink_to(outside.parent)
    with ours.freed_later([folder, tmp_path / "link"]):
        assert held(tmp_path) == set()


def test_a_folder_of_a_network_s_file_system_is_left_alone(
    ours: Freeing, cancellation: Cancellation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large(tmp_path / "one")
    with ours.freed_later([tmp_path]):
        assert held(tmp_path) == {"one"}
    ours.wait(cancellation)
    monkeypatch.setattr(freeing, "NAMELESS", {0x6969: "nfs"})
    with ours.freed_later([tmp_path]):
        assert held(tmp_path) == set()


def test_however_many_there_are_few_are_held(ours: Freeing, tmp_path: Path) -> None:
    for number in range(MOST_HELD + 10):
        large(tmp_path / f"{number}")
    before = open_descriptors()
    with ours.freed_later([tmp_path]):
        assert len(held(tmp_path)) <= MOST_HELD
        assert open_descriptors() <= before + MOST_HELD


def test_what_lies_deep_is_left_alone(ours: Freeing, tmp_path: Path) -> None:
    deepest = large(tmp_path / "/".join(["d"] * MOST_DEPTH) / "deep").parent
    large(deepest / "d" / "deeper")
    with ours.freed_later([tmp_path]):
        assert [Path(name).name for name in held(tmp_path)] == ["deep"]


def test_where_no_thread_can_be_had_it_is_freed_at_once(
    ours: Freeing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    large(tmp_path / "one")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with ours.freed_later([tmp_path]):
        assert held(tmp_path) == {"one"}
    assert held(tmp_path) == set()
    before = open_descriptors()
    ours.wait(Cancellation())
    assert open_descriptors() == before
