"""What a payload is answered with: which file or a zip, and what is never taken."""

from __future__ import annotations

import os
import resource
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_server.errors import Interrupted, NoOutput, NotAcceptable, OutputDiskFull, OutputFolderGone, OutputsRefused
from model_server.folder import TaskFolder, claim
from model_server.media_types import UNKNOWN
from model_server.payload_answer import ZIP, Answer, _choose, pack

CSV, JSON, PNG = "text/csv", "application/json", "image/png"


def liked(**qualities: float) -> dict[str, float]:
    return {{"csv": CSV, "json": JSON, "png": PNG, "zip": ZIP, "unknown": UNKNOWN}[k]: q for k, q in qualities.items()}


@pytest.mark.parametrize(
    ("types", "accept", "chosen"),
    [
        ([CSV], {}, 0),
        ([CSV], liked(csv=1), 0),
        ([CSV], liked(zip=1), None),
        ([CSV], liked(json=1), NotAcceptable),
        ([ZIP], liked(zip=1), 0),
        ([UNKNOWN], liked(json=1), 0),
        ([UNKNOWN], liked(unknown=1), 0),
        ([CSV, JSON], {}, None),
        ([CSV, JSON], liked(zip=1, csv=1), None),
        ([CSV, JSON], liked(zip=0.5, json=1), 1),
        ([CSV, JSON], liked(csv=1), 0),
        ([CSV, JSON], liked(csv=0.5, json=0.9), 1),
        ([CSV, JSON], liked(png=1), NotAcceptable),
        ([CSV, CSV, JSON], liked(csv=1), NotAcceptable),
        ([CSV, CSV, JSON], liked(json=1), 2),
        ([CSV, UNKNOWN], liked(csv=1), 0),
        ([CSV, UNKNOWN], liked(png=1), 1),
        ([UNKNOWN, UNKNOWN], liked(png=1), NotAcceptable),
    ],
)
def test_the_client_gets_what_it_likes_best(
    types: list[str], accept: dict[str, float], chosen: int | type[NotAcceptable] | None
) -> None:
    def quality(kind: str) -> float:
        return accept.get(kind, 0.0) if accept else 1.0

    if chosen is NotAcceptable:
        with pytest.raises(NotAcceptable) as raised:
            _choose(types, quality)
        for kind in types:
            assert kind in raised.value.hint
    else:
        assert _choose(types, quality) == chosen


@pytest.fixture
def folder(tmp_path: Path) -> TaskFolder:
    return claim(tmp_path / "output", 0o777)


@pytest.fixture
def answers() -> Iterator[list[Answer]]:
    kept: list[Answer] = []
    yield kept
    for answer in kept:
        answer.file.close()


def packed(folder: TaskFolder, answers: list[Answer]) -> Answer:
    answers.append(pack(folder, lambda kind: 1, lambda: None))
    return answers[-1]


def test_a_disk_that_fills_while_outputs_are_packed_has_its_own_error(folder: TaskFolder) -> None:
    for name in ("a.bin", "b.bin"):
        (folder.path / name).write_bytes(os.urandom(200_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # which the kernel says like a full disk
    try:
        with pytest.raises(OutputDiskFull):
            pack(folder, lambda kind: 1, lambda: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_answer_outlasts_its_folder(folder: TaskFolder, answers: list[Answer]) -> None:
    (folder.path / "a.csv").write_text("1,2\n")
    one = packed(folder, answers)
    (folder.path / "b.csv").write_text("3,4\n")
    both = packed(folder, answers)
    folder.reset()
    assert os.listdir(folder.path) == []
    assert (one.file.read(), one.size, one.media_type, one.outputs) == (b"1,2\n", 4, CSV, 1)
    with zipfile.ZipFile(both.file) as archive:
        assert [archive.read(name) for name in archive.namelist()] == [b"1,2\n", b"3,4\n"]
    assert both.size == both.file.seek(0, os.SEEK_END)


def test_a_zip_is_sorted_keeps_folders_and_is_the_same_for_the_same_files(
    folder: TaskFolder, answers: list[Answer]
) -> None:
    contents = {"z.csv": b"z", "empty.txt": b"", "Bär/ü.bin": b"u" * 100_000, "a/b/c.json": b"{}"}
    zips = []
    for names in (list(contents), sorted(contents)):
        for name in names:
            (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
            (folder.path / name).write_bytes(contents[name])
        answer = packed(folder, answers)
        zips.append(answer.file.read())
        folder.reset()
    assert zips[0] == zips[1]
    with zipfile.ZipFile(answer.file) as archive:
        assert archive.namelist() == sorted(contents)
        assert {name: archive.read(name) for name in archive.namelist()} == contents
        assert archive.testzip() is None


def test_a_folder_that_the_program_closed_is_read_all_the_same(folder: TaskFolder, answers: list[Answer]) -> None:
    for name in ("a.csv", "b.csv"):
        (folder.path / name).write_text(name)
    folder.path.chmod(0)
    assert packed(folder, answers).outputs == 2


def test_a_cancellation_ends_the_packing(folder: TaskFolder) -> None:
    for name in ("a.bin", "b.bin"):
        with (folder.path / name).open("wb") as file:
            file.truncate(10 * 2**20)
    checks = iter(range(15))

    def check() -> None:
        if next(checks, None) is None:
            raise Interrupted

    with pytest.raises(Interrupted):
        pack(folder, lambda kind: 1, check)
    assert next(checks, None) is None


def test_what_does_not_compress_is_stored_as_it_is(folder: TaskFolder, answers: list[Answer]) -> None:
    (folder.path / "a.csv").write_bytes(bytes(3 * 2**20))
    (folder.path / "b.bin").write_bytes(os.urandom(3 * 2**20))
    with zipfile.ZipFile(packed(folder, answers).file) as archive:
        methods = {member.filename: member.compress_type for member in archive.infolist()}
        assert archive.testzip() is None
    assert methods == {"a.csv": zipfile.ZIP_DEFLATED, "b.bin": zipfile.ZIP_STORED}


def test_no_output_is_an_error(folder: TaskFolder) -> None:
    (folder.path / "empty").mkdir()
    with pytest.raises(NoOutput):
        pack(folder, lambda kind: 1, lambda: None)


def test_what_was_there_before_and_is_unchanged_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "mounted.csv").write_text("before")
    folder = claim(tmp_path / "output", 0o777)
    with pytest.raises(NoOutput):
        pack(folder, lambda kind: 1, lambda: None)


def test_what_is_no_file_of_the_folder_is_never_opened(folder: TaskFolder, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder.path / "link.csv").symlink_to(tmp_path / "secret")
    os.mkfifo(folder.path / "fifo.csv")
    with pytest.raises(OutputsRefused) as raised:
        pack(folder, lambda kind: 1, lambda: None)
    assert raised.value.hint == (
        "Of one it is said that it is a link that leaves the output folder; of another that it is no regular file."
    )


def test_what_can_be_taken_is_though_other_entries_are_refused(folder: TaskFolder, answers: list[Answer]) -> None:
    os.mkfifo(folder.path / "fifo")
    (folder.path / "link").symlink_to("/etc/passwd")
    (folder.path / "good.csv").write_text("good")
    (folder.path / ".sagemaker_shim").mkdir()
    (folder.path / ".sagemaker_shim" / "inference_result.json").write_text("{}")
    answer = packed(folder, answers)
    assert (answer.file.read(), answer.outputs) == (b"good", 1)


def test_a_folder_that_is_gone_or_a_link_is_an_error(folder: TaskFolder, tmp_path: Path) -> None:
    folder.path.rmdir()
    with pytest.raises(OutputFolderGone):
        pack(folder, lambda kind: 1, lambda: None)
    folder.path.symlink_to("/etc")
    with pytest.raises(OutputFolderGone):
        pack(folder, lambda kind: 1, lambda: None)
