"""What becomes of a tarball's members, by the rules of the standard library's "data" filter."""

import bz2
import gzip
import lzma
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from model_server.read_ahead import BLOCK_BYTES
from model_server.user import User

from .tarballs import COMPRESSIONS, Member, Owned, file, folder, hard_link, link, tarred, tree, unpack_into

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


# --- whose it is


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
