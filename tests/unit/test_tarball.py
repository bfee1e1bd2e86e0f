"""Tarballs, unpacked by the rules of the standard library's "data" filter."""

import bz2
import errno
import gc
import gzip
import io
import lzma
import os
import random
import stat
import subprocess
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    FlexibleChecksumError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from model_server import archive_limits, retrying, tarball, untar
from model_server.archive_limits import MEGABYTE, ArchiveLimits
from model_server.cancellation import Cancellation
from model_server.errors import (
    ClientLeft,
    LongshoreError,
    TarballBroken,
    TarballForbidden,
    TarballMissing,
    TarballOverLimit,
    TarballTooLarge,
    TarballUnavailable,
)
from model_server.lzma_stream import DictionaryTooLarge
from model_server.read_ahead import BLOCK_BYTES
from model_server.s3_uri import S3Address
from model_server.settings import Settings
from model_server.storage import Storage
from model_server.untar import MAX_HEADER_BYTES, MemberRefused, unpack
from model_server.user import SAME_USER, User

from .waiting import DEADLINE_SECONDS, open_descriptors

MTIME = 1_500_000_000
NO_LIMITS = ArchiveLimits(0, 0, 0)
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "tar": lambda data: data,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
}
Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", content: bytes = b"", **more: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mtime = kind, target, len(content), MTIME
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def file(name: str, content: bytes = b"content", **more: Any) -> Member:
    return member(name, content=content, **more)


def folder(name: str, **more: Any) -> Member:
    return member(name, tarfile.DIRTYPE, **more)


def link(name: str, target: str, **more: Any) -> Member:
    return member(name, tarfile.SYMTYPE, target, **more)


def hard_link(name: str, target: str, **more: Any) -> Member:
    return member(name, tarfile.LNKTYPE, target, **more)


def tarred(*members: Member, form: int = tarfile.PAX_FORMAT, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, **options) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def unpack_into(
    folder: Path,
    data: bytes,
    user: User = SAME_USER,
    check: Callable[[], None] = lambda: None,
    limits: ArchiveLimits = NO_LIMITS,
) -> bool:
    return unpack(io.BufferedReader(io.BytesIO(data)), folder, user, limits, check)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "outer" / "target"
    path.mkdir(parents=True)
    return path


def tree(folder: Path) -> dict[str, Any]:
    """Return all that is beneath a folder by its path: what it is, its rights, and what it holds."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        name = str(path.relative_to(folder))
        if stat.S_ISLNK(mode):
            found[name] = ("link", os.path.normpath(os.readlink(path)))
        elif stat.S_ISDIR(mode):
            found[name] = ("folder", oct(stat.S_IMODE(mode)))
        else:
            found[name] = ("file", oct(stat.S_IMODE(mode)), path.read_bytes(), path.stat().st_mtime)
    return found


# --- what is unpacked


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_compression_and_format_is_recognised(target: Path, compression: str, form: int) -> None:
    large = os.urandom(2 * BLOCK_BYTES + 1)
    data = tarred(folder("d"), file("d/large", large), file("ü/" + "n" * 90, b"x"), form=form)
    assert unpack_into(target, COMPRESSIONS[compression](data)) is False
    assert (target / "d" / "large").read_bytes() == large
    assert (target / "ü" / ("n" * 90)).read_bytes() == b"x"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_kept(target: Path, form: int) -> None:
    name = "/".join("n" * 200 for _ in range(5))
    unpack_into(target, tarred(file(name), link("l", name), form=form))
    assert (target / "l").read_bytes() == b"content"


def test_a_plain_tarball_whose_first_name_looks_like_a_compression_is_one(target: Path) -> None:
    unpack_into(target, tarred(file("BZh9/x"), form=tarfile.USTAR_FORMAT))
    assert (target / "BZh9" / "x").exists()


def test_several_compressed_streams_in_a_row_are_one(target: Path) -> None:
    data = tarred(file("a", b"x" * 5000))
    for compress in (gzip.compress, bz2.compress, lzma.compress):
        unpack_into(target, compress(data[:700]) + compress(data[700:]))
        assert (target / "a").read_bytes() == b"x" * 5000


def test_an_empty_tarball_is_one(target: Path) -> None:
    unpack_into(target, tarred())
    assert tree(target) == {}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (0o644, 0o644),
        (0o755, 0o755),
        (0o7777, 0o755),
        (0o666, 0o644),
        (0o000, 0o600),
        (0o444, 0o644),
        (0o077, 0o640 | 0o004),
        (0o611, 0o600),
        (0o100, 0o700),
    ],
)
def test_a_file_has_the_rights_that_the_filter_leaves_it(target: Path, mode: int, expected: int) -> None:
    unpack_into(target, tarred(file("f", mode=mode)))
    assert stat.S_IMODE((target / "f").stat().st_mode) == expected


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("mode", [0o000, 0o700, 0o7777])
def test_every_folder_has_0755(target: Path, mode: int) -> None:
    unpack_into(target, tarred(folder("d", mode=mode), file("d/f"), file("implicit/inner/f", mode=0o755)))
    rights = {name: found[1] for name, found in tree(target).items()}
    assert rights == {
        "d": "0o755",
        "d/f": "0o644",
        "implicit": "0o755",
        "implicit/inner": "0o755",
        "implicit/inner/f": "0o755",
    }


def test_the_times_of_change_are_kept_of_folders_too(target: Path) -> None:
    unpack_into(
        target,
        tarred(
            folder("d", mtime=1),
            file("d/f", mtime=2.5),
            file("d/implicit/f", mtime=3),
            link("d/l", "f", mtime=4),
            hard_link("d/h", "d/f", mtime=2.5),
            folder("d/e", mtime=5),
        ),
    )
    times = {path.name: path.lstat().st_mtime for path in [target / "d", *(target / "d").iterdir()]}
    del times["implicit"]
    assert times == {"d": 1, "f": 2.5, "l": 4, "h": 2.5, "e": 5}


@pytest.mark.parametrize("mtime", ["nan", "inf", "-1", "1e30"])
def test_a_time_that_can_not_be_is_no_fault(target: Path, mtime: str) -> None:
    unpack_into(target, tarred(file("f", pax_headers={"mtime": mtime})))
    assert (target / "f").read_bytes() == b"content"


def test_links_are_made_and_hard_links_share_their_file(target: Path) -> None:
    unpack_into(
        target,
        tarred(
            file("d/f"),
            link("d/up", "../d/./f"),
            link("dangling", "nothing/here"),
            link("root", "."),
            hard_link("h", "d/f"),
            hard_link("e/h", "./d/f"),
        ),
    )
    assert os.readlink(target / "d" / "up") == "../d/f"
    assert os.readlink(target / "dangling") == "nothing/here"
    assert (target / "d" / "up").read_bytes() == b"content"
    assert {(target / name).stat().st_ino for name in ("h", "e/h", "d/f")} == {(target / "h").stat().st_ino}


def test_a_hard_link_to_itself_changes_nothing(target: Path) -> None:
    unpack_into(target, tarred(file("f"), hard_link("f", "./f")))
    assert (target / "f").read_bytes() == b"content"


def test_a_second_name_of_a_link_is_a_link(target: Path) -> None:
    unpack_into(target, tarred(file("d/f"), link("d/l", "f"), hard_link("d/h", "d/l"), hard_link("h", "d/l")))
    assert (os.readlink(target / "d" / "h"), os.readlink(target / "h")) == ("f", "f")
    assert (target / "d" / "h").read_bytes() == b"content"


def test_a_member_may_lie_beneath_a_link_that_stays_in_the_folder(target: Path) -> None:
    unpack_into(target, tarred(folder("v1"), link("current", "v1"), file("current/f"), file("v1/../v1/g")))
    assert sorted(os.listdir(target / "v1")) == ["f", "g"]


@pytest.mark.parametrize("name", ["/etc/x", "//etc/x", "./etc//x", "etc/./x"])
def test_an_absolute_name_becomes_a_relative_one(target: Path, name: str) -> None:
    unpack_into(target, tarred(file(name)))
    assert (target / "etc" / "x").read_bytes() == b"content"


@pytest.mark.parametrize("name", [".", "./", "/", ""])
def test_the_folder_itself_may_be_a_member(target: Path, name: str) -> None:
    inode = target.stat().st_ino
    assert unpack_into(target, tarred(file("./a"), folder(name, mode=0o700), file("./b"))) is True
    assert (sorted(os.listdir(target)), target.stat().st_ino) == (["a", "b"], inode)


@pytest.mark.parametrize("first", [file("x", b"first"), link("x", "other"), link("x", "d"), hard_link("x", "other")])
@pytest.mark.parametrize("later", [file("x", b"later"), link("x", "elsewhere"), hard_link("x", "more"), folder("x")])
def test_of_two_members_of_one_name_the_later_one_stays(target: Path, first: Member, later: Member) -> None:
    unpack_into(target, tarred(folder("d"), file("other", b"other"), file("more", b"more"), first, later))
    assert (target / "other").read_bytes() == b"other"  # nothing was written through a link
    found = tree(target)["x"]
    assert found[0] == {b"0": "file", b"2": "link", b"1": "file", b"5": "folder"}[later[0].type]
    assert found[0] != "file" or found[2] in (b"later", b"more")


def test_a_folder_that_comes_twice_keeps_what_is_in_it(target: Path) -> None:
    unpack_into(target, tarred(folder("d"), file("d/f"), folder("d", mtime=7)))
    assert os.listdir(target / "d") == ["f"]
    assert (target / "d").stat().st_mtime == 7


SPARSE_BYTES = 3_000_000


def sparse_tarball(tmp_path: Path, *options: str) -> bytes:
    """Return what GNU tar makes of a file that is almost all holes."""
    with (tmp_path / "sparse").open("wb") as holes:
        holes.seek(1_000_000)
        holes.write(b"in the middle")
        holes.truncate(SPARSE_BYTES)
    subprocess.run(["tar", "-C", tmp_path, "-cSf", tmp_path / "s.tar", *options, "sparse"], check=True)
    return (tmp_path / "s.tar").read_bytes()


@pytest.mark.parametrize(
    "options",
    [("--format=gnu",), *(("--format=posix", f"--sparse-version={version}") for version in ("0.0", "0.1", "1.0"))],
    ids=" ".join,
)
def test_a_file_with_holes_keeps_them(target: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    data = sparse_tarball(tmp_path, *options)
    assert len(data) < 100_000
    unpack_into(target, data)
    unpacked = (target / "sparse").read_bytes()
    assert unpacked == (tmp_path / "sparse").read_bytes()
    assert (target / "sparse").stat().st_blocks * 512 < SPARSE_BYTES


# --- what is refused


@pytest.mark.parametrize(
    "members",
    [
        [file("../x")],
        [file("a/../../x")],
        [file("/../x")],
        [folder("..")],
        [folder("d/..")],
        [link("../x", "y")],
        [hard_link("../x", "y")],
        [file("f"), hard_link("x", "../secret")],
        [hard_link("x", "/etc/passwd")],
        [hard_link("x", "a/../../secret")],
        [link("x", "/etc/passwd")],
        [link("x", "//etc")],
        [link("x", "..")],
        [link("x", "../secret")],
        [link("d/x", "../../secret")],
        [link("d/x", "e/../../../secret")],
        [link("x", "../target/y")],
        [link("d/x", ".."), hard_link("y", "d/x")],
        [folder("d"), link("d/up", ".."), file("d/up/../x")],
        [folder("d/e"), link("s", "d/e"), link("s/x", "../../../secret")],
        [link("f", "."), link("f/x", "../secret")],
        [file(".")],
        [link(".", "x")],
        [hard_link(".", "x")],
        [member("fifo", tarfile.FIFOTYPE)],
        [member("null", tarfile.CHRTYPE, devmajor=1, devminor=3)],
        [member("disk", tarfile.BLKTYPE, devmajor=8)],
        [member("unknown", b"Z")],
    ],
    ids=lambda members: " ".join(f"{info.type.decode()}:{info.name}>{info.linkname}" for info, _ in members),
)
def test_what_leads_out_of_the_folder_or_is_no_data_is_refused(target: Path, members: list[Member]) -> None:
    (target.parent / "secret").write_text("secret")
    with pytest.raises(MemberRefused):
        unpack_into(target, tarred(*members))
    assert sorted(os.listdir(target.parent)) == ["secret", "target"]
    assert (target.parent / "secret").stat().st_nlink == 1


places = st.lists(st.sampled_from(["a", "b", "c", ".", "..", "secret", ""]), min_size=1, max_size=4).map("/".join)
members_of_any_kind = st.builds(
    lambda make, name, target: make(name, target) if make in (link, hard_link) else make(name),
    st.sampled_from([file, folder, link, hard_link]),
    places,
    places,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(members_of_any_kind, max_size=7))
def test_no_order_of_members_and_links_leads_out_of_the_folder(
    tmp_path_factory: pytest.TempPathFactory, members: list[Member]
) -> None:
    outer = tmp_path_factory.mktemp("outer")
    (outer / "target").mkdir()
    (outer / "secret").write_bytes(b"secret")
    with suppress(OSError, ValueError, MemberRefused, tarfile.TarError):
        unpack_into(outer / "target", tarred(*members))
    assert ((outer / "secret").read_bytes(), (outer / "secret").stat().st_nlink) == (b"secret", 1)
    assert sorted(os.listdir(outer)) == ["secret", "target"]
    for path in (outer / "target").rglob("*"):
        assert Path(os.path.realpath(path)).is_relative_to(outer / "target")


@pytest.mark.parametrize(
    "members",
    [
        [file("f"), file("f/x")],
        [file("d/x"), file("d")],
        [file("d/x"), link("d", "x")],
        [hard_link("x", "nothing")],
        [folder("d"), hard_link("x", "d")],
        [link("a", "b"), link("b", "a"), file("a/x")],
        [file("n" * 256)],
        [file("x\0y", pax_headers={"path": "x\0y"})],
        [file("x", pax_headers={"size": "-1000"})],
        [file("x", pax_headers={"size": "many"})],
    ],
)
def test_what_can_not_be_made_is_a_fault(target: Path, members: list[Member]) -> None:
    with pytest.raises((OSError, ValueError, tarfile.TarError)):
        unpack_into(target, tarred(*members))


def whole(compression: str) -> bytes:
    gzip_without_time = COMPRESSIONS | {"gz": lambda data: gzip.compress(data, mtime=0)}
    return gzip_without_time[compression](tarred(file("a", random.Random(0).randbytes(50_000)), file("b", b"b" * 3000)))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_tarball_that_is_cut_off_anywhere_is_a_fault(
    tmp_path_factory: pytest.TempPathFactory, compression: str, data: st.DataObject
) -> None:
    archive = whole(compression)
    # a plain one ends with two blocks of zeros, the first of which says that it is the end, and more zeros
    needed = len(archive) if compression != "tar" else len(archive.rstrip(b"\0")) // 512 * 512 + 512
    length = data.draw(st.integers(0, needed - 1))
    with pytest.raises((tarfile.TarError, EOFError, OSError)):
        unpack_into(tmp_path_factory.mktemp("cut"), archive[:length])


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_one_wrong_bit_of_a_compressed_tarball_is_a_fault_wherever_it_is(
    tmp_path_factory: pytest.TempPathFactory, compression: str
) -> None:
    archive = whole(compression)
    end = len(archive) - (compression == "bz2")  # whose last byte is filled up with bits that mean nothing
    for place in [*range(20, end, len(archive) // 40), *range(end - 8, end)]:  # gzip ends with checksum and length
        wrong = bytearray(archive)
        wrong[place] ^= 1
        with pytest.raises((tarfile.TarError, EOFError, OSError, lzma.LZMAError, isal_zlib.error)):
            unpack_into(tmp_path_factory.mktemp("wrong"), bytes(wrong))


def test_a_broken_header_is_not_the_end_of_the_archive(target: Path) -> None:
    data = bytearray(tarred(file("a"), file("b"), form=tarfile.USTAR_FORMAT))
    data[1024] ^= 1
    with pytest.raises(tarfile.ReadError):
        unpack_into(target, bytes(data))


@pytest.mark.parametrize("data", [b"", b"x", b"this is no tarball", b"\x1f\x8b", b"PK\3\4" * 300, b"\1" * 10240])
def test_what_is_no_tarball_is_a_fault(target: Path, data: bytes) -> None:
    for archive in (data, gzip.compress(data)):
        with pytest.raises((tarfile.TarError, EOFError, OSError)):
            unpack_into(target, archive)
    assert tree(target) == {}


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


# --- the rules, for whatever comes

STEPS = st.sampled_from(["..", ".", "", "a", "b", "c", "secret", "target"])
PATHS = st.builds(lambda top, steps: top + "/".join(steps), st.sampled_from(["", "", "", "/"]), st.lists(STEPS))
MEMBERS = st.one_of(
    st.builds(file, PATHS, st.just(b"evil")),
    st.builds(folder, PATHS),
    st.builds(link, PATHS, PATHS),
    st.builds(hard_link, PATHS, PATHS),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(MEMBERS, max_size=12))
def test_no_archive_makes_or_changes_anything_outside_or_leads_there(
    tmp_path_factory: pytest.TempPathFactory, members: list[Member]
) -> None:
    outer = tmp_path_factory.mktemp("outer")
    target = outer / "x" / "target"
    target.mkdir(parents=True)
    for secret in (outer / "secret", outer / "x" / "secret"):
        secret.write_text("secret")
    before = {path: path.lstat() for path in [outer, *outer.rglob("*")] if path != target}
    for one in members:  # each by itself, so that one that is refused does not hide what the others do
        with suppress(MemberRefused, OSError):
            unpack_into(target, tarred(one))
    for path, was in before.items():
        now = path.lstat()
        assert (now.st_mode, now.st_nlink, now.st_size, now.st_mtime_ns, now.st_ctime_ns) == (
            was.st_mode,
            was.st_nlink,
            was.st_size,
            was.st_mtime_ns,
            was.st_ctime_ns,
        )
    for found in target.rglob("*"):
        assert Path(os.path.realpath(found)).is_relative_to(target)


NAMES = [f"{top}{number}" for top in ("", "d0/", "d1/", "d0/d2/") for number in range(3)]
TARGETS = st.one_of(
    st.sampled_from(NAMES),
    st.lists(st.sampled_from(["..", ".", "d0", "d1", "d2", "0"]), min_size=1, max_size=5).map("/".join),
)


@st.composite
def sound_members(draw: st.DrawFn) -> list[Member]:
    """Return members of different names, of which no one stands in another's way."""
    folders = [folder(name, mode=draw(st.integers(0, 0o7777))) for name in ("d0", "d1", "d0/d2")]
    members = draw(st.lists(st.sampled_from(folders), unique_by=id))
    files = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        kind = draw(st.sampled_from(["file", "file", "link", "hard link"]))
        mode, mtime = draw(st.integers(0, 0o7777)), draw(st.integers(0, 2**33))
        if kind == "link":
            members.append(link(draw(st.sampled_from(["", "/"])) + name, draw(TARGETS)))
        elif kind == "file" or not files:
            files.append(file(draw(st.sampled_from(["", "/", "./"])) + name, name.encode(), mode=mode, mtime=mtime))
            members.append(files[-1])
        else:
            first = draw(st.sampled_from(files))[0]
            members.append(hard_link(name, first.name.lstrip("/"), mode=first.mode, mtime=first.mtime))
    return members


if hasattr(tarfile, "data_filter"):  # Debian 12's Python has none to compare with: the reason for ours

    @settings(max_examples=400, deadline=None)
    @given(sound_members())
    def test_the_standard_librarys_filter_does_the_same(
        tmp_path_factory: pytest.TempPathFactory, members: list[Member]
    ) -> None:
        base = tmp_path_factory.mktemp("filter")
        ours, theirs = base / "ours", base / "theirs"
        ours.mkdir()
        theirs.mkdir()
        data = tarred(*members)
        refused = []
        for path, extract in (
            (ours, lambda: unpack_into(ours, data)),
            (theirs, lambda: extract_by_filter(theirs, data)),
        ):
            try:
                extract()
            except (MemberRefused, tarfile.FilterError):
                refused.append(path)
        assert refused in ([], [ours, theirs])
        if not refused:
            assert tree(ours) == tree(theirs)


def extract_by_filter(folder: Path, data: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(folder, filter="data")


# --- whose it is


@dataclass
class Owned:
    """Notes who is to own what, by name, instead of changing it: only root may."""

    root: Path
    given: dict[str, tuple[int, int]] = field(default_factory=dict)

    def chown(self, path: Path, uid: int, gid: int, *, follow_symlinks: bool) -> None:
        assert follow_symlinks is False
        self.given[str(path.relative_to(self.root))] = (uid, gid)


@pytest.fixture
def owned(target: Path, monkeypatch: pytest.MonkeyPatch) -> Owned:
    owned = Owned(target)
    monkeypatch.setattr(untar.os, "chown", owned.chown)
    return owned


ALL_KINDS = [folder("d"), file("d/f"), link("l", "d/f"), hard_link("h", "d/f"), file("implicit/f")]


@pytest.mark.parametrize(
    ("user", "expected"),
    [(User(uid=7, gid=8), (7, 8)), (User(uid=7), (7, -1)), (User(gid=8), (-1, 8)), (User(uid=0, gid=0), (0, 0))],
)
def test_every_member_is_the_users_and_what_was_not_named_stays_ours(
    target: Path, owned: Owned, user: User, expected: tuple[int, int]
) -> None:
    unpack_into(target, tarred(*ALL_KINDS), user)
    assert owned.given == dict.fromkeys(["d", "d/f", "l", "implicit/f"], expected)  # h is d/f by another name


def test_without_a_user_nothing_is_given_away(target: Path, owned: Owned) -> None:
    unpack_into(target, tarred(*ALL_KINDS), User(home="/"))
    assert owned.given == {}


# --- from S3 into the folder


class Body:
    """Stands in for an answer of S3's: bytes, or an object that is read, or an error after it."""

    status = 200

    def __init__(self, data: Any) -> None:
        self.size = len(data) if isinstance(data, bytes) else None
        self._data = io.BytesIO(data) if isinstance(data, bytes) else data

    def header(self, name: str) -> None:
        """State nothing: what has no ETag is fetched anew from its beginning."""

    def read_into(self, buffer: Any) -> int:
        data = self._data.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Be as an answer that is let go."""


class Objects:
    """Stands in for the S3 client: each key has the answers to one request after another, bodies or errors."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}

    def request(self, operation: str, method: str, bucket: str, key: str, **_: Any) -> Body:
        answer = self.answers[key].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Body(answer)

    def credentials(self) -> None:
        """Have none."""

    def forget_credentials(self, used: None) -> None:
        """Be as a client that finds others."""


@pytest.fixture
def objects() -> Objects:
    return Objects()


@pytest.fixture
def store(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(retrying, "FIRST_PAUSE_SECONDS", 0.001)
    made = Storage(None, 1)
    made.__dict__["client"] = objects
    return made


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    cancellation = Cancellation()
    yield cancellation
    cancellation.close()


def fetch_tarball(
    address: S3Address, folder: Path, which: str, user: User, store: Storage, cancellation: Cancellation
) -> list[Path]:
    """Return what is noted as new."""
    fetched: list[Path] = []
    tarball.fetch_tarball(address, folder, which, user, NO_LIMITS, store, cancellation, fetched)
    return fetched


def fetch_all(settings: Settings, user: User, store: Storage, cancellation: Cancellation) -> list[Path]:
    fetched: list[Path] = []
    tarball.fetch_all(settings, user, store, cancellation, fetched)
    return sorted(fetched)


@pytest.fixture
def fetch(objects: Objects, store: Storage, cancellation: Cancellation, target: Path) -> Callable[..., list[Path]]:
    """Fetch a tarball whose answers are these into the target."""

    def fetching(*answers: Any, folder: Path = target) -> list[Path]:
        objects.answers["key"] = [*answers]
        return fetch_tarball(S3Address("bucket", "key"), folder, "model", SAME_USER, store, cancellation)

    return fetching


Fetch = Callable[..., list[Path]]


def test_what_is_new_is_told_and_nothing_else_is_left(fetch: Fetch, target: Path) -> None:
    (target / "before").write_text("before")
    (target / "both").mkdir()
    (target / "both" / "before").write_text("before")
    new = fetch(tarred(file("f"), file("d/e/f"), file("both/f"), file("before")))
    assert new == [target / "both" / "f", target / "d", target / "f"]
    assert sorted(os.listdir(target)) == ["before", "both", "d", "f"]
    assert (target / "both" / "before").read_text() == "before"
    assert (target / "both" / "f").read_text() == "content"
    assert (target / "before").read_text() == "content"


def test_nothing_is_unpacked_where_a_link_leads_to_our_own_files(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(Path(tarball.__file__).parent)
    before = sorted(os.listdir(tmp_path / "model"))
    with pytest.raises(TarballBroken):
        fetch(tarred(file("f")), folder=tmp_path / "model")
    assert sorted(os.listdir(tmp_path / "model")) == before


@pytest.mark.usefixtures("umask")
def test_a_folder_that_is_missing_is_made(fetch: Fetch, tmp_path: Path) -> None:
    made = tmp_path / "a" / "b"
    assert fetch(tarred(file("f")), folder=made) == [made / "f"]
    assert stat.S_IMODE(made.stat().st_mode) == 0o755


def test_a_folder_that_is_a_link_is_filled(fetch: Fetch, target: Path) -> None:
    through = target.parent / "through"
    through.symlink_to("target")
    assert fetch(tarred(file("f")), folder=through) == [through / "f"]
    assert os.listdir(target) == ["f"]


def test_links_that_were_there_are_replaced_and_never_followed(fetch: Fetch, target: Path) -> None:
    elsewhere = target.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "f").write_text("elsewhere")
    (target / "d").symlink_to(elsewhere)
    (target / "f").symlink_to(elsewhere / "f")
    assert fetch(tarred(file("d/f"), file("f"))) == []
    assert (elsewhere / "f").read_text() == "elsewhere"
    assert tree(target).keys() == {"d", "d/f", "f"}
    assert not (target / "d").is_symlink()


def test_a_folder_replaces_a_file_but_a_file_no_folder(fetch: Fetch, target: Path) -> None:
    (target / "f").write_text("before")
    (target / "d" / "inner").mkdir(parents=True)
    assert fetch(tarred(file("f/x"))) == []
    assert (target / "f" / "x").exists()
    with pytest.raises(TarballBroken):
        fetch(tarred(file("d")))
    assert sorted(os.listdir(target)) == ["d", "f"]
    assert (target / "d" / "inner").is_dir()


def test_a_folder_that_is_there_keeps_its_rights_and_its_time(fetch: Fetch, target: Path) -> None:
    (target / "d").mkdir(mode=0o700)
    fetch(tarred(folder("d"), folder("d/e"), folder("n")))
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o700
    assert (target / "d" / "e").stat().st_mtime == (target / "n").stat().st_mtime == MTIME


def test_an_archive_over_a_limit_is_told_as_that_and_the_log_names_the_setting(
    objects: Objects, store: Storage, cancellation: Cancellation, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    objects.answers["key"] = [tarred(file("f"), file("g"))]
    with pytest.raises(TarballOverLimit):
        tarball.fetch_tarball(
            S3Address("bucket", "key"), target, "model", SAME_USER, ArchiveLimits(0, 1, 0), store, cancellation, []
        )
    assert "it is over MODEL_SERVER_MAX_ARCHIVE_FILES=1" in caplog.text
    assert os.listdir(target) == []


def test_the_folder_is_the_users_only_where_the_archive_names_it(
    objects: Objects, store: Storage, cancellation: Cancellation, owned: Owned, target: Path
) -> None:
    for members, expected in (([link("l", "x")], {}), ([folder("./")], {".": (7, 8)})):
        objects.answers["key"] = [tarred(*members)]
        owned.given = {}
        fetch_tarball(S3Address("bucket", "key"), target, "model", User(uid=7, gid=8), store, cancellation)
        assert {path: ids for path, ids in owned.given.items() if not path.startswith(".staging-")} == expected


class Interrupted:
    """A body that breaks off after some bytes with an error of the connection's."""

    def __init__(self, data: bytes, error: Exception) -> None:
        self.data = io.BytesIO(data)
        self.error: Exception | None = error

    def read(self, size: int) -> bytes:
        if data := self.data.read(size):
            return data
        assert self.error
        raise self.error

    def close(self) -> None:
        pass


LARGE = tarred(file("f", b"x" * 3_000_000), file("g"))


@pytest.mark.parametrize(
    "broken",
    [
        Interrupted(LARGE[:2_000_000], ResponseStreamingError(error="broken")),
        Interrupted(LARGE[:2_000_000], ResponseStreamingError(error="TLS")),
        Interrupted(LARGE, ResponseStreamingError(error="after all of it")),
        Interrupted(b"", ReadTimeoutError(endpoint_url="late")),
    ],
)
def test_a_body_that_breaks_off_is_fetched_anew(fetch: Fetch, target: Path, broken: Interrupted) -> None:
    assert fetch(broken, LARGE) == [target / "f", target / "g"]


class InterruptedOnce(Interrupted):
    """One that seems to be at its end when it is read on, as a connection that is closed does."""

    def read(self, size: int) -> bytes:
        if data := self.data.read(size):
            return data
        error, self.error = self.error, None
        if error:
            raise error
        return b""


def test_a_body_that_seems_to_end_after_it_broke_off_is_fetched_anew(fetch: Fetch, target: Path) -> None:
    assert fetch(InterruptedOnce(LARGE[:2_000_000], ResponseStreamingError(error="broken")), LARGE) == [
        target / "f",
        target / "g",
    ]


def test_a_stream_ends_with_the_cancellation(objects: Objects, store: Storage, cancellation: Cancellation) -> None:
    reason = ClientLeft()
    objects.answers["key"] = [LARGE]
    read = []

    def consume(body: io.BufferedReader) -> None:
        read.append(body.read(1))
        cancellation.cancel(reason)
        read.append(body.read())

    with pytest.raises(ClientLeft) as caught:
        store.get_stream("bucket", "key", consume, cancellation)
    assert (caught.value, len(read)) == (reason, 1)


def test_what_a_broken_attempt_made_is_gone(fetch: Fetch, target: Path) -> None:
    other = Interrupted(tarred(file("stale"), file("d/stale")), ResponseStreamingError(error="broken"))
    assert fetch(other, tarred(file("d/f"))) == [target / "d"]
    assert tree(target).keys() == {"d", "d/f"}


class Mistaken:
    """A body whose checksum is wrong, which is told at its end."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        if data := self._data.read(size):
            return data
        raise FlexibleChecksumError(error_msg="wrong")


@pytest.mark.parametrize("wrong", [LARGE, b"\1" + LARGE[1:], gzip.compress(LARGE)[:-1], b""])
def test_a_body_with_a_wrong_checksum_is_fetched_anew_whatever_is_in_it(
    fetch: Fetch, target: Path, wrong: bytes
) -> None:
    fetch(Mistaken(wrong), tarred(file("right")))
    assert os.listdir(target) == ["right"]


def test_a_whole_body_that_is_no_tarball_is_not_fetched_again(fetch: Fetch, objects: Objects, target: Path) -> None:
    with pytest.raises(TarballBroken, match="Could not set up model: Tarfile could not be extracted"):
        fetch(b"no tarball", LARGE)
    assert len(objects.answers["key"]) == 1
    assert os.listdir(target) == []


def answer(status: int, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")  # type: ignore[typeddict-item]


FAULTS = [
    ([answer(404, "NoSuchKey")], TarballMissing),
    ([answer(403, "AccessDenied")], TarballForbidden),
    ([answer(403, "InvalidAccessKeyId")], TarballUnavailable),
    ([answer(503, "SlowDown")] * 100, TarballUnavailable),
    ([tarred(file("../jane-doe"))], TarballBroken),
    ([tarred(file("jane-doe"), file("jane-doe/x"))], TarballBroken),
    ([tarred(file("jane-doe", pax_headers={"size": "jane-doe"}))], TarballBroken),
    ([LARGE[:2_000_000]], TarballBroken),
    ([gzip.compress(LARGE)[:-4]], TarballBroken),
    ([bz2.compress(LARGE)[:-4]], TarballBroken),
    ([gzip.compress(LARGE) + b"garbage"], TarballBroken),
]


@pytest.mark.parametrize(("answers", "expected"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_every_fault_has_its_error_and_one_line_in_the_log_without_names(
    fetch: Fetch,
    target: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[Any],
    expected: type[LongshoreError],
) -> None:
    monkeypatch.setattr(retrying, "MAX_ATTEMPTS", 3)
    caplog.set_level("INFO")
    with pytest.raises(expected, match="Could not set up model: ") as caught:
        fetch(*answers)
    assert type(caught.value) is expected
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    assert "jane-doe" not in caplog.text
    assert "key" not in caplog.text.replace("NoSuchKey", "").replace("InvalidAccessKeyId", "")
    assert os.listdir(target) == []


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, TarballTooLarge),
        (errno.EDQUOT, TarballTooLarge),
        (errno.EFBIG, TarballTooLarge),
        (errno.EROFS, TarballBroken),
        (errno.EIO, TarballBroken),
    ],
)
def test_a_disk_that_can_not_take_it_is_told(
    fetch: Fetch,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    expected: type[LongshoreError],
) -> None:
    def failing(*_: Any) -> None:
        raise OSError(number, os.strerror(number), "jane-doe")

    monkeypatch.setattr(untar, "_copy", failing)
    caplog.set_level("INFO")
    with pytest.raises(expected):
        fetch(LARGE)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert os.strerror(number) in caplog.text
    assert "jane-doe" not in caplog.text
    assert os.listdir(target) == []


def test_a_folder_that_can_not_be_made_is_told(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TarballBroken):
        fetch(LARGE, folder=tmp_path / "file" / "model")


@pytest.mark.parametrize("data", [LARGE, gzip.compress(LARGE), gzip.compress(tarred() + bytes(20_000_000))])
def test_a_cancellation_ends_it_and_passes_through(
    fetch: Fetch, target: Path, cancellation: Cancellation, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    reason = ClientLeft()
    start, reads = untar._Source.read, 0

    def cancelling(self: untar._Source, size: int) -> bytes:
        nonlocal reads
        reads += 1
        cancellation.cancel(reason)
        return start(self, size)

    monkeypatch.setattr(untar._Source, "read", cancelling)
    with pytest.raises(ClientLeft) as caught:
        fetch(data)
    assert (caught.value, reads) == (reason, 1)
    assert os.listdir(target) == []


# --- both at the same time


def both(tmp_path: Path, **more: str) -> Settings:
    return Settings.from_env(
        {
            "ALGORITHM_MODEL": "s3://bucket/model",
            "ALGORITHM_MODEL_PATH": str(tmp_path / "model"),
            "ALGORITHM_GROUND_TRUTH": "s3://bucket/truth",
            "ALGORITHM_GROUND_TRUTH_PATH": str(tmp_path / "truth"),
        }
        | more
    )


def test_each_goes_into_its_folder(
    tmp_path: Path, objects: Objects, store: Storage, cancellation: Cancellation
) -> None:
    objects.answers = {"model": [tarred(file("m"))], "truth": [tarred(file("t"))]}
    new = fetch_all(both(tmp_path), SAME_USER, store, cancellation)
    assert new == [tmp_path / "model" / "m", tmp_path / "truth" / "t"]


@pytest.mark.parametrize(("unset", "left"), [("MODEL", "truth"), ("GROUND_TRUTH", "model")])
def test_what_is_not_set_is_not_fetched(
    tmp_path: Path, objects: Objects, store: Storage, cancellation: Cancellation, unset: str, left: str
) -> None:
    objects.answers = {left: [tarred(file("f"))]}
    new = fetch_all(both(tmp_path, **{f"ALGORITHM_{unset}": ""}), SAME_USER, store, cancellation)
    assert new == [tmp_path / left / "f"]
    assert os.listdir(tmp_path) == [left]


def test_the_models_fault_is_told_if_both_fail(
    tmp_path: Path, objects: Objects, store: Storage, cancellation: Cancellation, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Barrier(2)  # both fail before one of them can end the other
    fetching = tarball.fetch_tarball

    def failing_together(*arguments: Any) -> Any:
        try:
            return fetching(*arguments)
        except LongshoreError:
            failed.wait(DEADLINE_SECONDS)
            raise

    monkeypatch.setattr(tarball, "fetch_tarball", failing_together)
    for model, truth in ((answer(404, "NoSuchKey"), b"none"), (b"none", answer(404, "NoSuchKey"))):
        objects.answers = {"model": [model], "truth": [truth]}
        with pytest.raises(TarballBroken if model == b"none" else TarballMissing) as caught:
            fetch_all(both(tmp_path), SAME_USER, store, cancellation)
        assert caught.value.message.startswith("Could not set up model: ")
    assert cancellation.reason is None


class Endless:
    """A body that does not end before the test does."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.deadline = time.monotonic() + DEADLINE_SECONDS

    def read(self, size: int) -> bytes:
        assert time.monotonic() < self.deadline, "nobody ended it in time"
        data, self.data = self.data or bytes(size), b""
        return data

    def close(self) -> None:
        pass


def test_a_model_that_fails_ends_the_other(
    tmp_path: Path, objects: Objects, store: Storage, cancellation: Cancellation
) -> None:
    objects.answers = {"model": [answer(404, "NoSuchKey")], "truth": [Endless(tarred(file("f")))]}
    with pytest.raises(TarballMissing, match="Could not set up model: "):
        fetch_all(both(tmp_path), SAME_USER, store, cancellation)
    assert [list(path.iterdir()) for path in tmp_path.iterdir()] == [[], []]
    assert cancellation.reason is None


def test_a_ground_truth_that_fails_waits_for_the_model_whose_fault_goes_first(
    tmp_path: Path, objects: Objects, store: Storage, cancellation: Cancellation
) -> None:
    objects.answers = {"truth": [answer(404, "NoSuchKey")], "model": [gzip.compress(LARGE)]}
    with pytest.raises(TarballMissing, match="Could not set up ground truth: "):
        fetch_all(both(tmp_path), SAME_USER, store, cancellation)
    objects.answers = {"truth": [answer(404, "NoSuchKey")], "model": [gzip.compress(LARGE)[:-1]]}
    with pytest.raises(TarballBroken, match="Could not set up model: "):
        fetch_all(both(tmp_path), SAME_USER, store, cancellation)


def test_a_cancellation_ends_both(tmp_path: Path, objects: Objects, store: Storage, cancellation: Cancellation) -> None:
    reason = ClientLeft()
    cancellation.cancel(reason)
    objects.answers = {key: [Endless(tarred(file("f")))] for key in ("model", "truth")}
    with pytest.raises(ClientLeft) as caught:
        fetch_all(both(tmp_path), SAME_USER, store, cancellation)
    assert caught.value is reason


def test_nothing_stays_open(tmp_path: Path, objects: Objects, store: Storage, cancellation: Cancellation) -> None:
    before = open_descriptors()
    for _ in range(3):
        objects.answers = {"model": [gzip.compress(LARGE)], "truth": [b"no tarball"]}
        with pytest.raises(TarballBroken):
            fetch_all(both(tmp_path), SAME_USER, store, cancellation)
    assert open_descriptors() == before
    assert not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]
