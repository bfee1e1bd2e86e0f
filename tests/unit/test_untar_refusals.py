"""Tarballs that are refused: what would lead out of the folder, and what is broken."""

import gzip
import io
import lzma
import os
import random
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from model_server.untar import MemberRefused

from .tarballs import COMPRESSIONS, Member, file, folder, hard_link, link, member, tarred, tree, unpack_into


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


# --- whatever comes

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
def test_no_order_of_members_and_links_changes_anything_outside_or_leads_there(
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
