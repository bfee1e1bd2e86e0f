"""What a tarball may hold, and what of it may be held in memory."""

import bz2
import gc
import gzip
import lzma
import os
import random
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_server import archive_limits, untar
from model_server.archive_limits import MEGABYTE, ArchiveLimits
from model_server.lzma_stream import DictionaryTooLarge
from model_server.untar import MAX_HEADER_BYTES, MemberRefused

from .tarballs import COMPRESSIONS, Member, file, folder, link, tarred, tree, unpack_into

# --- what may be held in memory


def test_a_header_may_not_be_large(target: Path) -> None:
    for large in (
        tarred(file("f", pax_headers={"comment": "x" * MAX_HEADER_BYTES})),
        tarred(file("n" * MAX_HEADER_BYTES), form=tarfile.GNU_FORMAT),
        tarred(link("l", "n" * MAX_HEADER_BYTES), form=tarfile.GNU_FORMAT),
    ):
        with pytest.raises(MemberRefused, match="a header is too large"):
            unpack_into(target, large)
        assert tree(target) == {}


def test_headers_for_all_members_may_not_grow_without_end(target: Path) -> None:
    def blocks(number: int) -> bytes:
        data = tarred(file(f"f{number}"), pax_headers={f"key{number}": "x" * (MAX_HEADER_BYTES // 3)})
        return data[: len(data.rstrip(b"\0")) // 512 * 512 + 512]

    unpack_into(target, blocks(1) + blocks(2) + bytes(1024))
    assert sorted(os.listdir(target)) == ["f1", "f2"]
    with pytest.raises(MemberRefused, match="the headers for all members are too large"):
        unpack_into(target, blocks(1) + blocks(2) + blocks(3) + blocks(4) + bytes(1024))


def test_a_map_of_holes_may_not_be_endless(target: Path) -> None:
    data = b"1000000000\n" + b"0\n" * MAX_HEADER_BYTES
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1", "GNU.sparse.name": "x"}
    with pytest.raises(MemberRefused, match="a header is too large"):
        unpack_into(target, tarred(file("x", data, pax_headers=headers)))


def test_members_are_not_kept(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    add = untar._Members.add

    def noting(self: untar._Members, info: tarfile.TarInfo, source: Any) -> None:
        gc.collect()
        kept.append(sum(isinstance(thing, tarfile.TarInfo) for thing in gc.get_objects()))
        add(self, info, source)

    monkeypatch.setattr(untar._Members, "add", noting)
    data = tarred(*(file(f"f{number}") for number in range(20)))
    unpack_into(target, data)
    assert kept[-1] - kept[0] <= 1


# --- how much an archive may hold

PACKED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize(
    ("limits", "within", "over"),
    [
        (ArchiveLimits(1, 0, 0), [file("f", bytes(MEGABYTE // 2))], [file("f", bytes(MEGABYTE)), file("g", b"x")]),
        (ArchiveLimits(0, 3, 0), [file("f"), folder("d"), file("d/g")], [file(name) for name in "abcd"]),
    ],
    ids=["bytes", "files"],
)
@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS)
def test_a_tarball_over_a_limit_is_refused_with_the_settings_name(
    target: Path, compress: Callable[[bytes], bytes], limits: ArchiveLimits, within: list[Member], over: list[Member]
) -> None:
    unpack_into(target, compress(tarred(*within)), limits=limits)
    name = "MB=1" if limits.megabytes else "FILES=3"
    with pytest.raises(MemberRefused, match=f"it is over MODEL_SERVER_MAX_ARCHIVE_{name}$"):
        unpack_into(target, compress(tarred(*over)), limits=limits)


@pytest.mark.parametrize("compress", PACKED.values(), ids=PACKED)
def test_what_follows_the_last_member_counts_too(target: Path, compress: Callable[[bytes], bytes]) -> None:
    data = tarred(file("f")) + bytes(2 * MEGABYTE)
    unpack_into(target, compress(data), limits=ArchiveLimits(3, 0, 0))
    with pytest.raises(MemberRefused, match="it is over MODEL_SERVER_MAX_ARCHIVE_MB=1"):
        unpack_into(target, compress(data), limits=ArchiveLimits(1, 0, 0))


def xz(data: bytes, dictionary: int) -> bytes:
    """Return what `xz` makes of data, with a header that asks for a dictionary of 2 to some power."""
    packed = bytearray(lzma.compress(data, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**20}]))
    place = packed.index(b"\x21\x01", 12) + 2  # in the header of the first block: the filter, the size of its options
    assert packed[place] == 2 * (20 - 12)
    packed[place] = 2 * (dictionary - 12)
    header = 4 * (packed[12] + 1)
    packed[12 + header - 4 : 12 + header] = zlib.crc32(packed[12 : 12 + header - 4]).to_bytes(4, "little")
    return bytes(packed)


@pytest.mark.parametrize("dictionary", [20, 26, 27])
def test_a_tarball_may_have_the_dictionaries_that_are_usual(target: Path, dictionary: int) -> None:
    unpack_into(target, xz(tarred(file("f")), dictionary))
    assert (target / "f").read_bytes() == b"content"


@pytest.mark.parametrize("dictionary", [28, 31])
def test_a_tarball_that_wants_a_vast_dictionary_is_refused(target: Path, dictionary: int) -> None:
    for stream in (xz(tarred(file("f")), dictionary), lzma.compress(b"") + xz(tarred(file("f")), dictionary)):
        with pytest.raises(DictionaryTooLarge, match="it needs a dictionary of more than 128 MiB"):
            unpack_into(target, stream)
        assert tree(target) == {}


def test_what_is_no_stream_after_the_last_one_is_ignored(target: Path) -> None:
    unpack_into(target, lzma.compress(tarred(file("f"))) + b"and so on")
    assert (target / "f").read_bytes() == b"content"


def test_a_file_that_says_it_is_too_large_is_not_begun(target: Path) -> None:
    with pytest.raises(MemberRefused, match="it is over MODEL_SERVER_MAX_ARCHIVE_MB=1"):
        unpack_into(target, tarred(file("f", bytes(MEGABYTE + 1))), limits=ArchiveLimits(1, 0, 0))
    assert tree(target) == {}


@pytest.mark.parametrize("compress", PACKED.values(), ids=PACKED)
def test_a_ratio_is_of_what_was_read_so_far(
    target: Path, compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_limits, "RATIO_FROM_BYTES", MEGABYTE)
    limits = ArchiveLimits(0, 0, 20)
    noise = random.Random(1).randbytes(4 * MEGABYTE)  # its header comes long before most of its bytes
    unpack_into(target, compress(tarred(file("noise", noise))), limits=limits)
    with pytest.raises(MemberRefused, match="it is over MODEL_SERVER_MAX_ARCHIVE_RATIO=20"):
        unpack_into(target, compress(tarred(file("bomb", bytes(64 * MEGABYTE)))), limits=limits)
