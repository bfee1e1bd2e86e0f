"""A payload on its way to its file."""

from __future__ import annotations

import io
import os
import resource
import stat
from pathlib import Path

import pytest

from model_server.cancellation import Cancellation
from model_server.errors import ClientLeft, DiskFull, Interrupted, PayloadPathTaken
from model_server.payload import Payload, receive


def test_it_is_written_as_it_comes_and_everyone_may_read_it(tmp_path: Path) -> None:
    data = os.urandom(3 * 1024 * 1024 + 1)
    before = os.umask(0o077)
    try:
        assert receive(Payload(io.BytesIO(data), len(data), "csv"), tmp_path, Cancellation()) == len(data)
    finally:
        os.umask(before)
    assert os.listdir(tmp_path) == ["payload.csv"]
    assert (tmp_path / "payload.csv").read_bytes() == data
    assert stat.S_IMODE((tmp_path / "payload.csv").stat().st_mode) == 0o644


@pytest.mark.parametrize("announced", [0, None])
def test_an_empty_one_is_an_empty_file(tmp_path: Path, announced: int | None) -> None:
    assert receive(Payload(io.BytesIO(), announced, "bin"), tmp_path, Cancellation()) == 0
    assert (tmp_path / "payload.bin").read_bytes() == b""


def test_one_that_ends_early_never_has_its_name(tmp_path: Path) -> None:
    with pytest.raises(ClientLeft):
        receive(Payload(io.BytesIO(b"half"), 8, "csv"), tmp_path, Cancellation())
    assert not (tmp_path / "payload.csv").exists()


def test_a_cancellation_ends_it(tmp_path: Path) -> None:
    cancellation = Cancellation()
    cancellation.cancel(Interrupted())
    with pytest.raises(Interrupted):
        receive(Payload(io.BytesIO(b"whole"), 5, "csv"), tmp_path, cancellation)


@pytest.mark.parametrize("make", ["file", "link", "folder"])
def test_what_has_its_name_already_stays(tmp_path: Path, make: str) -> None:
    taken = tmp_path / "payload.csv"
    if make == "file":
        taken.write_text("before")
    elif make == "link":
        taken.symlink_to("nowhere")
    else:
        taken.mkdir()
    with pytest.raises(PayloadPathTaken):
        receive(Payload(io.BytesIO(b"whole"), 5, "csv"), tmp_path, Cancellation())
    assert (taken.is_file(), taken.is_symlink(), taken.is_dir()) == (make == "file", make == "link", make == "folder")


def test_a_name_like_that_of_our_own_files_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".payload").write_text("mounted")
    assert receive(Payload(io.BytesIO(b"whole"), 5, "csv"), tmp_path, Cancellation()) == 5
    assert sorted(os.listdir(tmp_path)) == [".payload", "payload.csv"]


def test_a_full_disk_has_its_own_error(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # which the kernel says like a full disk
    try:
        with pytest.raises(DiskFull):
            receive(Payload(io.BytesIO(bytes(200_000)), 200_000, "csv"), tmp_path, Cancellation())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
