"""A Dockerfile's USER."""

import grp
import os
import pwd

import pytest

from model_server.errors import GroupMissing, LongshoreError, UserInvalid, UserMissing
from model_server.user import SAME_USER, User, home_of, look_up

ROOT = pwd.getpwuid(0)
FREE = next(number for number in range(54_321, 60_000) if number not in {entry.pw_uid for entry in pwd.getpwall()})


def test_a_user_is_found_by_name_and_by_number() -> None:
    found = look_up(ROOT.pw_name)
    assert (found.uid, found.gid, found.home) == (0, ROOT.pw_gid, ROOT.pw_dir)
    assert look_up("0") == found


def test_a_users_groups_begin_with_its_own_and_the_others_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    memberships = [grp.struct_group((f"g{n}", "x", n, [ROOT.pw_name])) for n in (9, 5, 7, ROOT.pw_gid)]
    monkeypatch.setattr(grp, "getgrall", lambda: [*memberships, grp.struct_group(("other", "x", 6, ["someone"]))])
    assert look_up(ROOT.pw_name).groups == (ROOT.pw_gid, 5, 7, 9)
    assert look_up(f"{ROOT.pw_name}:7").groups == (7, ROOT.pw_gid, 5, 9) or look_up("root:7").groups[0] == 7


def test_a_number_without_an_entry_has_dockers_home_and_no_groups() -> None:
    assert look_up(str(FREE)) == User(uid=FREE, gid=None, groups=(), home="/")


@pytest.mark.parametrize("spec", [f"{FREE}:{FREE}", f":{FREE}"])
def test_a_group_goes_by_name_or_number(spec: str) -> None:
    found = look_up(spec)
    assert (found.gid, found.groups) == (FREE, (FREE,))
    assert look_up(f":{grp.getgrgid(0).gr_name}").gid == 0


@pytest.mark.parametrize("spec", ["", ":"])
def test_nothing_changes_without_a_user(spec: str) -> None:
    expected = User() if not spec else None
    if expected:
        assert look_up(spec) == expected
    else:
        with pytest.raises(UserInvalid):
            look_up(spec)


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("no-such-user", UserMissing),
        ("4294967295", UserMissing),
        ("4294967296", UserMissing),
        ("9" * 30, UserMissing),
        ("0:no-such-group", GroupMissing),
        (":4294967296", GroupMissing),
        ("-1", UserInvalid),
        ("a b", UserInvalid),
        ("root\n", UserInvalid),
        ("_apt", UserInvalid),
        ("a:b:c", UserInvalid),
        ("١", UserInvalid),
    ],
)
def test_who_is_not_there_is_said_in_the_drop_ins_words(spec: str, error: type[LongshoreError]) -> None:
    with pytest.raises(error):
        look_up(spec)


@pytest.mark.parametrize("entry", [None, "/home/of-server"])
def test_home_is_the_environments_unless_docker_made_it_for_the_server(
    entry: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: FREE)
    if entry:
        found = pwd.struct_passwd(("server", "x", FREE, FREE, "", entry, "/bin/sh"))
        monkeypatch.setattr(pwd, "getpwuid", lambda _: found)
    author = User(uid=1234, home="/home/author")
    for made_by_docker in ({}, {"HOME": ""}, {"HOME": entry or "/"}):
        assert home_of(author, made_by_docker) == "/home/author"
    for home in ("/data", "/root", "/" if entry else "/home/of-server"):
        assert home_of(author, {"HOME": home}) == home
        assert home_of(SAME_USER, {"HOME": home}) == home
    assert home_of(SAME_USER, {}) is None


def test_home_of_root_is_dockers_also_where_no_file_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: ROOT)
    assert home_of(User(uid=1234, home="/home/author"), {"HOME": "/root"}) == "/home/author"
