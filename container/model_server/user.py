"""Who the algorithm runs as: a Dockerfile's USER, looked up in the image's own passwd and group files.

The rules are sagemaker-shim's (drop-in, 2.12): a name or a number, a group if one is given, else the user's own, and
the groups that it is a member of. They are Docker's too, but that Docker leaves the latter out where a group is given.
"""

import grp
import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import GroupMissing, UserInvalid, UserMissing

USER = re.compile(r"(?P<user>[A-Za-z][A-Za-z0-9._-]*|[0-9]+)?(:(?P<group>[A-Za-z][A-Za-z0-9._-]*|[0-9]+))?")
MAX_ID = 2**32 - 2
"""The highest id; the one above it means "leave it as it is" to the kernel."""


@dataclass(frozen=True)
class User:
    """Ids to change to before the program is executed, None for those that stay; `groups` begin with the gid."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()
    home: str | None = None


SAME_USER = User()


def look_up(spec: str) -> User:
    """Return who `user`, `uid`, `user:group` or `:group` is; raises UserInvalid, UserMissing and GroupMissing."""
    found = USER.fullmatch(spec)
    if not found:
        raise UserInvalid
    user = _user(found["user"]) if found["user"] else User()
    gid = _gid(found["group"]) if found["group"] else user.gid
    others = sorted(set(user.groups) - {gid})
    return User(user.uid, gid, (*others,) if gid is None else (gid, *others), user.home)


def home_of(user: User, environment: Mapping[str, str]) -> str | None:
    """Return the HOME of a user's program, None for none: what the image sets, else the user's own.

    Docker adds the HOME of whom the container starts as, the server's user, where the image sets none.
    """
    home = environment.get("HOME")
    return home if user.home is None or (home and home not in _homes_of_docker()) else user.home


def _homes_of_docker() -> set[str]:
    uid = os.getuid()
    entry = _passwd_entry(str(uid))
    return {entry.pw_dir if entry else "/", *(["/root"] if uid == 0 else [])}


def _user(name: str) -> User:
    entry = _passwd_entry(name)
    if entry is None:
        return User(uid=_number(name, UserMissing), home="/")  # as Docker has it for a number without an entry
    memberships = {group.gr_gid for group in grp.getgrall() if entry.pw_name in group.gr_mem}
    return User(entry.pw_uid, entry.pw_gid, (entry.pw_gid, *memberships), entry.pw_dir)


def _passwd_entry(name: str) -> pwd.struct_passwd | None:
    """Find a user by name, then by number: a name may be all digits."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        pass
    try:
        return pwd.getpwuid(_number(name, UserMissing))
    except KeyError:
        return None


def _gid(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return _number(name, GroupMissing)


def _number(text: str, missing: type[UserMissing] | type[GroupMissing]) -> int:
    if not text.isdecimal() or len(text) > 10 or int(text) > MAX_ID:
        raise missing
    return int(text)
