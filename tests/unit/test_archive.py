"""Zips, unpacked by the drop-in's rules."""

import io
import os
import random
import re
import struct
import threading
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from model_server import archive_limits
from model_server.archive import LITTER, SHARED_FROM_BYTES, unpack
from model_server.archive_limits import ArchiveLimits
from model_server.cancellation import Cancellation
from model_server.errors import (
    ClientLeft,
    ZipBroken,
    ZipEncrypted,
    ZipMethodUnsupported,
    ZipOverLimit,
    ZipPathsInvalid,
    ZipTooLarge,
)
from model_server.stage_in import Publishing
from model_server.zip_member import PIECE_BYTES

NO_LIMITS = ArchiveLimits(0, 0, 0)


def zipped(*names: str, method: int = zipfile.ZIP_DEFLATED, content: bytes = b"content") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename = name  # as it is: ZipInfo would tidy it
            info.compress_type = method
            archive.writestr(info, b"" if name.endswith("/") else content)
            archive.NameToInfo.clear()  # a name may come twice
    return buffer.getvalue()


def unpacked(data: bytes, tmp_path: Path, limits: ArchiveLimits = NO_LIMITS) -> list[str]:
    """Unpack into a fresh folder and return the files in it."""
    number = len(list(tmp_path.iterdir()))
    folder = tmp_path / f"{number}" / "target"
    folder.mkdir(parents=True)
    (folder.parent / "a.zip").write_bytes(data)
    publish = Publishing(folder).publish
    unpack(
        folder.parent / "a.zip",
        "inputs[0]",
        folder,
        publish,
        folder.parent / "scratch",
        Cancellation().raise_if_set,
        limits,
    )
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    assert {path.name for path in folder.parent.iterdir()} == {"a.zip", "target"}
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("names", "files"),
    [
        ((), []),
        (("a.txt",), ["a.txt"]),
        (("a.txt", "b.txt"), ["a.txt", "b.txt"]),
        (("d/a.txt",), ["a.txt"]),
        (("d/e/a.txt",), ["a.txt"]),
        (("d/", "d/a.txt", "d/b.txt"), ["a.txt", "b.txt"]),
        (("d/e/a", "d/e/b"), ["a", "b"]),
        (("d/e/a", "d/f/b"), ["e/a", "f/b"]),
        (("d/a", "e/b"), ["d/a", "e/b"]),
        (("da/x", "db/x"), ["da/x", "db/x"]),
        (("d/a", "__MACOSX/d/._a"), ["a"]),
        (("d/a", "d/.DS_Store", "d/desktop.ini"), ["a"]),
        (("a", "my_desktop_ini.txt"), ["a"]),
        (("__MACOSX/x", "empty/"), []),
        (("ü/ß", "ü/日本"), ["ß", "日本"]),
        (("d/a b+c", "d/'q\""), ["'q\"", "a b+c"]),
        (("./d/a", "./d/b"), ["a", "b"]),
        (("d//e/a", "d//e/b"), ["a", "b"]),
        (("d/..a", "d/b.."), ["..a", "b.."]),
    ],
)
def test_the_folder_that_all_share_is_stripped_and_litter_is_dropped(
    tmp_path: Path, names: tuple[str, ...], files: list[str]
) -> None:
    assert unpacked(zipped(*names), tmp_path) == files


@pytest.mark.parametrize(
    "names",
    [
        ("/a", "b"),
        ("/etc/passwd",),
        ("/a", "/b"),
        ("a", "../b"),
        ("a/../../b", "c"),
        ("d/a", "d/../../b"),
        ("a", "a"),
        ("d/a", "d/a"),
        ("a", "./a"),
        ("a", "a/b"),
        ("", "a"),
        ("",),
        ("a", "x" * 300),
        ("a", ".."),
    ],
)
def test_a_path_that_can_not_be_its_own_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises((ZipPathsInvalid, FileExistsError, NotADirectoryError)):
        unpacked(zipped(*names), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"0"}
    assert {path.name for path in (tmp_path / "0").iterdir()} <= {"a.zip", "target", "scratch"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_the_methods_of_compression_that_zips_have(tmp_path: Path, method: int) -> None:
    assert unpacked(zipped("a", "b", method=method, content=os.urandom(100_000)), tmp_path) == ["a", "b"]


def changed(data: bytes, offset: int, form: str, value: int) -> bytes:
    """Write a number at an offset of the first local header and of the first central one, which has 2 bytes more."""
    changed = bytearray(data)
    struct.pack_into(form, changed, offset, value)
    struct.pack_into(form, changed, data.index(b"PK\x01\x02") + offset + 2, value)
    return bytes(changed)


def test_an_unknown_method_is_said_in_the_drop_ins_words(tmp_path: Path) -> None:
    with pytest.raises(ZipMethodUnsupported, match="Zip file contains an unsupported compression method"):
        unpacked(changed(zipped("a"), 8, "<H", 97), tmp_path)


@pytest.mark.parametrize("flags", [0x1, 0x41])
def test_an_encrypted_zip_is_called_encrypted(tmp_path: Path, flags: int) -> None:
    with pytest.raises(ZipEncrypted):
        unpacked(changed(zipped("a"), 6, "<H", flags), tmp_path)


FAULTS_OF_A_ZIP = (
    ZipBroken,
    ZipEncrypted,
    ZipMethodUnsupported,
    ZipPathsInvalid,
    ZipTooLarge,
    FileExistsError,
    NotADirectoryError,
)
WHOLE = zipped("d/a", "d/b", content=bytes(range(256)) * 40)


@pytest.mark.parametrize("data", [b"", b"no zip", WHOLE[:-10], WHOLE[:100], b"PK\x05\x06" + b"\0" * 17, b"\x1f\x8b"])
def test_what_is_no_whole_zip_is_broken(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ZipBroken, match="Input zip file could not be extracted"):
        unpacked(data, tmp_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_content_is_broken(tmp_path: Path, method: int) -> None:
    data = bytearray(zipped("a", method=method, content=random.Random(1).randbytes(5_000)))
    data[1_000:1_100] = b"\xff" * 100
    with pytest.raises(ZipBroken):
        unpacked(bytes(data), tmp_path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6), st.sampled_from([0, 8, 12, 14]))
def test_whatever_is_damaged_it_is_the_zips_fault(tmp_path: Path, damages: list[tuple[int, int]], method: int) -> None:
    data = bytearray(zipped("d/a", "d/b", "e", method=method))
    for place, value in damages:
        data[place % len(data)] = value
    with suppress(*FAULTS_OF_A_ZIP):  # any other exception fails the test
        unpacked(bytes(data), tmp_path)


@pytest.mark.parametrize("mode", [0o4777, 0o120777, 0o010666])
def test_modes_and_links_of_the_archive_are_not_restored(tmp_path: Path, mode: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("x")
        info.create_system, info.external_attr = 3, mode << 16
        archive.writestr(info, "/etc/passwd")
    assert unpacked(buffer.getvalue(), tmp_path) == ["x"]
    found = tmp_path / "0" / "target" / "x"
    assert found.read_text() == "/etc/passwd"
    assert not found.stat().st_mode & 0o6111


def test_the_bytes_of_a_zip_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped("a", "b", content=b"12345"))
    to = tmp_path / "to"
    to.mkdir()
    publish, check = Publishing(to).publish, Cancellation().raise_if_set
    assert unpack(tmp_path / "a.zip", "inputs[0]", to, publish, tmp_path / "scratch", check, NO_LIMITS) == 10


def test_a_large_zip_can_be_cancelled_while_it_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped("a", content=b"0" * (20 * PIECE_BYTES)))
    to, scratch = tmp_path / "to", tmp_path / "scratch"
    to.mkdir()
    cancellation = Cancellation()

    def check() -> None:
        if scratch.exists() and scratch.stat().st_size > PIECE_BYTES:
            cancellation.cancel(ClientLeft())
        cancellation.raise_if_set()

    with pytest.raises(ClientLeft):
        unpack(tmp_path / "a.zip", "inputs[0]", to, Publishing(to).publish, scratch, check, NO_LIMITS)
    assert scratch.stat().st_size < 5 * PIECE_BYTES
    assert list(to.iterdir()) == []
    cancellation.close()


def large_zip(members: int) -> bytes:
    return zipped(*(f"d/{number:02}" for number in range(members)), content=os.urandom(SHARED_FROM_BYTES))


def test_large_members_are_unpacked_by_two_threads_and_come_whole(tmp_path: Path) -> None:
    content = os.urandom(SHARED_FROM_BYTES)
    data = zipped(*map(str, range(20)), content=content)
    assert len(unpacked(data, tmp_path)) == 20
    assert {path.read_bytes() for path in (tmp_path / "0" / "target").iterdir()} == {content}


@pytest.mark.parametrize("broken", [0, 1, 7, 19])
def test_one_broken_member_among_large_ones_ends_both_threads(tmp_path: Path, broken: int) -> None:
    data = bytearray(large_zip(20))
    starts = [match.start() for match in re.finditer(rb"PK\x03\x04", data)]
    data[starts[broken] + 500] ^= 0xFF
    with pytest.raises(ZipBroken):
        unpacked(bytes(data), tmp_path)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("unzip")]


def test_a_cancellation_ends_both_threads(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(large_zip(20))
    to = tmp_path / "to"
    to.mkdir()
    cancellation = Cancellation()

    def publish(whole: str, destination: str) -> None:
        Publishing(to).publish(whole, destination)
        cancellation.cancel(ClientLeft())

    with pytest.raises(ClientLeft):
        unpack(tmp_path / "a.zip", "inputs[0]", to, publish, tmp_path / "scratch", cancellation.raise_if_set, NO_LIMITS)
    assert len(list(to.iterdir())) <= 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("unzip")]
    cancellation.close()


LARGE = 3 * 1024 * 1024


@pytest.mark.parametrize(
    ("limits", "setting"),
    [
        (ArchiveLimits(2, 0, 0), "MODEL_SERVER_MAX_ARCHIVE_MB"),
        (ArchiveLimits(0, 2, 0), "MODEL_SERVER_MAX_ARCHIVE_FILES"),
        (ArchiveLimits(0, 0, 100), "MODEL_SERVER_MAX_ARCHIVE_RATIO"),
    ],
)
def test_what_is_over_a_limit_is_refused_before_anything_is_written(
    tmp_path: Path,
    limits: ArchiveLimits,
    setting: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(archive_limits, "RATIO_FROM_BYTES", LARGE // 2)
    data = zipped("a", "b", "c", content=b"0" * (LARGE // 3))
    with pytest.raises(ZipOverLimit) as caught:
        unpacked(data, tmp_path, limits)
    assert str(caught.value) == "Contents of zip file too large"
    assert re.fullmatch(rf"inputs\[0\] is over {setting}=\d+", caplog.messages[-1])
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.zip"]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_small_file_of_zeros_is_unpacked_whatever_its_ratio(tmp_path: Path, method: int) -> None:
    data = zipped("mask.raw", method=method, content=bytes(LARGE))
    assert unpacked(data, tmp_path, ArchiveLimits(0, 0, 10)) == ["mask.raw"]


def test_what_is_just_within_the_limits_is_unpacked(tmp_path: Path) -> None:
    data = zipped("a", "b", "c", content=b"0" * (LARGE // 3))
    limits = ArchiveLimits(3, 3, LARGE // len(data) + 1)
    assert unpacked(data, tmp_path, limits) == ["a", "b", "c"]


def test_no_more_of_an_index_is_kept_in_memory_than_the_limit(tmp_path: Path) -> None:
    small, large = (zipped(*map(str, range(number)), method=zipfile.ZIP_STORED, content=b"") for number in (10, 30_000))
    limits = ArchiveLimits(0, 5, 0)
    peaks = []
    for data in (small, large):
        tracemalloc.start()
        with pytest.raises(ZipOverLimit):
            unpacked(data, tmp_path, limits)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2 * len(large), "the index as it is, but no objects for its members"


def test_what_the_disk_has_no_room_for_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    vast = bytearray(zipped(*map(str, range(10_000)), content=b"0"))
    for entry in re.finditer(b"PK\x01\x02", bytes(vast)):
        struct.pack_into("<I", vast, entry.start() + 24, 0xFFFFFFF0)  # its size, as the index has it: 40 TB in all
    with pytest.raises(ZipTooLarge):
        unpacked(bytes(vast), tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.zip"]


VAST = 64 * 1024 * 1024


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_is_packed_to_next_to_nothing_is_unpacked_in_little_memory(tmp_path: Path, method: int) -> None:
    data = zipped("mask.raw", method=method, content=bytes(VAST))
    assert len(data) < VAST / 900
    tracemalloc.start()
    assert unpacked(data, tmp_path) == ["mask.raw"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * PIECE_BYTES
    assert (tmp_path / "0" / "target" / "mask.raw").read_bytes() == bytes(VAST)


@pytest.mark.parametrize(("dictionary", "fits"), [(128 * 2**20, True), (128 * 2**20 + 1, False), (2**32 - 1, False)])
def test_lzma_that_wants_a_vast_dictionary_is_refused(tmp_path: Path, dictionary: int, fits: bool) -> None:
    data = bytearray(zipped("a", method=zipfile.ZIP_LZMA))
    struct.pack_into("<I", data, 30 + len("a") + 4 + 1, dictionary)
    if fits:
        assert unpacked(bytes(data), tmp_path) == ["a"]
    else:
        with pytest.raises(ZipMethodUnsupported):
            unpacked(bytes(data), tmp_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize(("size", "whole"), [(0, False), (1, False), (7, True), (8, True), (1_000, True)])
def test_the_size_in_the_index_bounds_a_member_and_its_checksum_decides(
    tmp_path: Path, method: int, size: int, whole: bool
) -> None:
    data = changed(zipped("a", method=method, content=b"content"), 22, "<I", size)
    if whole:
        assert unpacked(data, tmp_path) == ["a"]
        assert (tmp_path / "0" / "target" / "a").read_bytes() == b"content"
    else:
        with pytest.raises(ZipBroken):
            unpacked(data, tmp_path)


# -- whatever the names are

pieces = st.sampled_from(["a", "b", ".", "..", "", "ü", "x" * 256, "__MACOSX", ".DS_Store", "a\\b", "C:", "~", "\n"])
names = st.one_of(st.lists(pieces, min_size=1, max_size=5).map("/".join), st.text(max_size=20)).map(
    lambda name: name.encode(errors="replace").decode().replace("\0", "0")
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(names, max_size=5))
@example(["/etc/passwd"])
@example(["a/../../secret", "b"])
@example(["../secret"])
def test_whatever_the_members_are_called_they_stay_in_the_folder(tmp_path: Path, members: list[str]) -> None:
    """`unpacked` sees that nothing is beside the folder; in it is each member that is no litter, once."""
    data = zipped(*members)
    with suppress(ZipPathsInvalid, FileExistsError, NotADirectoryError):
        kept = [name for name in members if not name.endswith("/") and not LITTER.search(name)]
        assert len(unpacked(data, tmp_path)) == len(kept)
