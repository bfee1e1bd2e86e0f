"""A file appears under its name only when it is whole, and only where nothing is."""

import errno
import os
import threading
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model_server.archive_limits import ArchiveLimits
from model_server.cancellation import Cancellation
from model_server.errors import (
    ClientLeft,
    InputForbidden,
    InputMissing,
    InputPathForbidden,
    InputPathTaken,
    InputPathUnusable,
    LongshoreError,
)
from model_server.file_crew import BYTES_AT_A_TIME, FIRST_THREADS
from model_server.s3_faults import ObjectForbidden, ObjectMissing
from model_server.stage_in import MANY, Publishing, StagedIn, _naming, stage_in
from model_server.storage import Storage
from model_server.task import Task

from .waiting import DEADLINE_SECONDS


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole"
    path.write_text("whole")
    return path


def test_a_whole_file_appears_with_the_folders_above_it(whole: Path, tmp_path: Path) -> None:
    Publishing(tmp_path).publish(str(whole), str(tmp_path / "a" / "b" / "c"))
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
        Publishing(tmp_path).publish(str(whole), str(place))
    assert place.lstat().st_ino == before
    assert whole.read_text() == "whole"


def test_a_file_is_no_folder_for_another(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises((NotADirectoryError, FileExistsError)):
        Publishing(tmp_path).publish(str(whole), str(tmp_path / "file" / "inner"))


@pytest.mark.parametrize("inner", ["link/file", "link/deep/file", "link/../../file"])
def test_no_link_leads_a_file_out_of_its_folder(whole: Path, tmp_path: Path, inner: str) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "link").symlink_to(elsewhere)
    with pytest.raises(NotADirectoryError):
        Publishing(folder).publish(str(whole), str(folder / inner))
    assert list(elsewhere.iterdir()) == []
    assert whole.read_text() == "whole"


def test_a_folder_that_is_itself_a_link_takes_files(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    Publishing(tmp_path / "link").publish(str(whole), str(tmp_path / "link" / "a" / "b"))
    assert (tmp_path / "real" / "a" / "b").read_text() == "whole"


NO_LIMITS = ArchiveLimits(0, 0, 0)


class HangingStorage(Storage):
    """Gets one object not before it is told to, as an S3 that hangs in the middle of a body."""

    def __init__(self) -> None:
        super().__init__(None, 8)
        self.reached, self.released = threading.Event(), threading.Event()

    def ask_ahead(self, bucket: str, key: str, connects: bool) -> None:
        """Ask for nothing."""

    def get_file(self, bucket: str, key: str, path: str, cancellation: Cancellation, *_: object) -> int:
        if key == "late":
            self.reached.set()
            assert self.released.wait(DEADLINE_SECONDS)
        Path(path).parent.mkdir(exist_ok=True)  # no storage does this: all but the publishing is to succeed
        Path(path).write_text("late")
        return 4


@pytest.mark.parametrize("others", [0, FIRST_THREADS])
def test_a_cancelled_task_does_not_wait_for_a_download_that_hangs_which_then_publishes_nothing(
    tmp_path: Path, others: int
) -> None:
    names = [*map(str, range(others)), "late"]
    items = [{"relative_path": name, "bucket_name": "bucket", "bucket_key": name} for name in names]
    task = Task.model_validate({"pk": "1", "inputs": items, "output_bucket_name": "bucket", "output_prefix": "/io/1"})
    storage, cancellation = HangingStorage(), Cancellation()
    leaving = threading.Thread(target=lambda: storage.reached.wait() and cancellation.cancel(ClientLeft()))
    leaving.start()
    with pytest.raises(ClientLeft):
        stage_in(task, tmp_path, storage, cancellation, NO_LIMITS, StagedIn())
    assert not storage.released.is_set()
    leaving.join()
    cancellation.close()
    storage.released.set()
    storage.pool.shutdown()
    assert not (tmp_path / "late").exists()


class AskedStorage(Storage):
    """Gets what is large by its name, and notes what it was asked for and what of that it got."""

    def __init__(self) -> None:
        super().__init__(None, 1)
        self.asked: list[str] = []
        self.got: list[str] = []

    def ask_ahead(self, bucket: str, key: str, connects: bool) -> Any:
        self.asked.append(key)
        return SimpleNamespace(key=key, close=lambda: None)

    def get_file(
        self, bucket: str, key: str, path: str, cancellation: Cancellation, asked: Any = None, *_: object
    ) -> int:
        Path(path).write_text(key)
        if asked:
            assert asked.key == key
            self.got.append(key)
        return BYTES_AT_A_TIME + 1 if key.startswith("large") else 1


def test_no_input_is_asked_for_twice(tmp_path: Path) -> None:
    """Also not what was asked for behind a large one, and is got later."""
    names = ["0", "1", "2", "large", *map(str, range(4, 30))]
    items = [{"relative_path": name, "bucket_name": "bucket", "bucket_key": name} for name in names]
    task = Task.model_validate({"pk": "1", "inputs": items, "output_bucket_name": "bucket", "output_prefix": "/io/1"})
    storage, cancellation = AskedStorage(), Cancellation()
    stage_in(task, tmp_path, storage, cancellation, NO_LIMITS, StagedIn())
    cancellation.close()
    storage.pool.shutdown()
    assert {"large", "4", "5", "6"} <= set(storage.asked)
    assert len(storage.asked) == len(set(storage.asked))
    assert sorted(storage.got) == sorted(storage.asked)
    assert {path.name for path in tmp_path.iterdir()} == set(names)


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
        (OSError(errno.EACCES, "x"), InputPathForbidden),
        (OSError(errno.EPERM, "x"), InputPathForbidden),
        (OSError(errno.EROFS, "x"), InputPathForbidden),
        (OSError(errno.EXDEV, "x"), InputPathForbidden),
    ],
)
def test_a_fault_names_its_input(raised: Exception, named: type[LongshoreError]) -> None:
    with pytest.raises(named) as caught, _naming(3):
        raise raised
    assert "inputs[3]" in caught.value.hint


def test_any_other_fault_is_left_as_it_is() -> None:
    raised = KeyError("x")
    with pytest.raises(KeyError) as caught, _naming(3):
        raise raised
    assert caught.value is raised


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EMFILE])
def test_a_fault_of_the_machine_names_no_file(number: int) -> None:
    named = OSError(number, os.strerror(number), "/input/patient")
    named.__context__ = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/input/patient")
    with pytest.raises(OSError, match=os.strerror(number)) as caught, _naming(3):
        raise named
    assert caught.value.errno == number
    assert "patient" not in "".join(traceback.format_exception(caught.value))


class CountingStorage(AskedStorage):
    """Notes for each object whether it was one of many when it was got."""

    def __init__(self) -> None:
        super().__init__()
        self.of_many: list[bool] = []

    def get_file(self, *arguments: Any) -> int:
        *others, is_one_of_many = arguments
        self.of_many.append(is_one_of_many())
        return super().get_file(*others)


def test_the_last_inputs_are_not_of_many_any_more(tmp_path: Path) -> None:
    items = [{"relative_path": f"{n}", "bucket_name": "bucket", "bucket_key": f"{n}"} for n in range(MANY + 3)]
    task = Task.model_validate({"pk": "1", "inputs": items, "output_bucket_name": "bucket", "output_prefix": "/io/1"})
    storage, cancellation = CountingStorage(), Cancellation()
    stage_in(task, tmp_path, storage, cancellation, NO_LIMITS, StagedIn())
    cancellation.close()
    storage.pool.shutdown()
    assert storage.of_many == [True] * 3 + [False] * MANY
