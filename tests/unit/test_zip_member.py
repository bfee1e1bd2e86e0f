"""One member of a zip: the same bytes as the standard library unpacks, or a fault where it finds one."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from model_server.lzma_stream import PACKED_BYTES
from model_server.zip_member import PIECE_BYTES, pieces

FAULTS = (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError, ValueError, struct.error, OSError)
BOUNDS = [0, 1, 1_000, PACKED_BYTES - 1, PACKED_BYTES, PACKED_BYTES + 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1]
NOISE = os.urandom(3 * PIECE_BYTES)

noises, runs = st.sampled_from(BOUNDS), st.sampled_from([*BOUNDS, 9_000_000])
names = st.sampled_from(["name", "ü/日本", "n" * 255])
methods = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])


def zipped(content: bytes, method: int, name: str = "name", extra: bytes = b"", stream: bool = False) -> bytes:
    buffer = io.BytesIO()
    target = _NoSeeking(buffer) if stream else buffer
    with zipfile.ZipFile(target, "w", method, compresslevel=1) as archive:
        info = zipfile.ZipInfo(name)
        info.compress_type, info.extra = method, extra
        archive.writestr(info, content)
    return buffer.getvalue()


class _NoSeeking(io.RawIOBase):
    """What a zip with data descriptors is written to."""

    def __init__(self, target: io.BytesIO) -> None:
        self._target = target

    def write(self, data: bytes) -> int:  # type: ignore[override]
        return self._target.write(data)

    def writable(self) -> bool:
        return True


def both(data: bytes, folder: Path) -> tuple[bytes | None, bytes | None]:
    """Return what the standard library and we read of the first member; None stands for a fault."""
    path = folder / "a.zip"
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert archive.fp
        info = archive.infolist()[0]
        try:
            theirs = archive.read(info)
        except FAULTS:
            theirs = None
        return theirs, read(pieces(archive, archive.fp.fileno(), info))


def read(of_a_member: Iterable[bytes]) -> bytes | None:
    try:
        got = list(of_a_member)
    except FAULTS:
        return None
    assert all(0 < len(piece) <= PIECE_BYTES for piece in got)
    return b"".join(got)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noises, runs, methods, names, st.booleans(), st.sampled_from([0, 60, 9_000]))
@example(1, PIECE_BYTES, zipfile.ZIP_DEFLATED, "name", False, 0)  # all is taken in before the last byte comes out
def test_a_member_is_what_the_standard_library_unpacks(
    tmp_path: Path, noise: int, zeros: int, method: int, name: str, stream: bool, extra: int
) -> None:
    content = NOISE[:noise] + bytes(zeros)
    more = struct.pack("<HH", 0x7777, extra) + bytes(extra) if extra else b""
    assert both(zipped(content, method, name, more, stream), tmp_path) == (content, content)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([b"content", NOISE[:200], bytes(5_000)]),
    methods,
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), min_size=1, max_size=3),
)
@example(b"content", zipfile.ZIP_DEFLATED, [(42, 209)])  # after the last byte of its content
def test_a_damaged_member_is_broken_where_the_standard_library_finds_it_so(
    tmp_path: Path, content: bytes, method: int, damages: list[tuple[int, int]]
) -> None:
    data = bytearray(zipped(content, method))
    for place, byte in damages:  # within the local header, and what is packed
        data[min(place, data.index(b"PK\x01\x02") - 1)] = byte
    theirs, ours = both(bytes(data), tmp_path)
    assert ours == theirs


def test_a_member_whose_end_alone_is_damaged_is_broken(tmp_path: Path) -> None:
    data = bytearray(zipped(b"content", zipfile.ZIP_DEFLATED))
    data[data.index(b"PK\x01\x02") - 1] = 209
    assert both(bytes(data), tmp_path) == (None, None)


@pytest.mark.parametrize("field", [20, 24])
@pytest.mark.parametrize("size", [0, 1, 6, 8, 1_000, 2**31])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_wrong_sizes_in_the_index_are_read_as_the_standard_library_does(
    tmp_path: Path, field: int, size: int, method: int
) -> None:
    data = bytearray(zipped(b"content", method))
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + field, size)
    theirs, ours = both(bytes(data), tmp_path)
    assert ours == theirs


@pytest.mark.parametrize("more", range(0, 600, 20))
def test_what_is_left_when_all_packed_bytes_are_taken_is_not_lost(tmp_path: Path, more: int) -> None:
    """The last packed byte may stand for more than what a piece has room for."""
    content = bytes(PIECE_BYTES + more)
    assert both(zipped(content, zipfile.ZIP_DEFLATED), tmp_path) == (content, content)


@pytest.mark.parametrize("place", [2**62, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_member_whose_place_no_file_reaches_is_broken(tmp_path: Path, place: int) -> None:
    data = zipped(b"content", zipfile.ZIP_STORED)
    index, end = data.index(b"PK\x01\x02"), bytearray(data[data.index(b"PK\x05\x06") :])
    entry = bytearray(data[index : -len(end)])
    extra = struct.pack("<HHQ", 1, 8, place)
    struct.pack_into("<H", entry, 30, len(extra))
    struct.pack_into("<I", entry, 42, 2**32 - 1)
    struct.pack_into("<I", end, 12, len(entry) + len(extra))
    assert both(data[:index] + entry + extra + end, tmp_path) == (None, None)
