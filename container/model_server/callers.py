"""Who calls: a connection from this machine has its socket in /proc/net, with the user that it is of.

A program that a stranger wrote must not post tasks of its own, with our rights to S3. It shares our network, but its
user is another.
"""

import ipaddress
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .errors import CallerForbidden, LongshoreError
from .user import look_up

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
ROUTES = Path("/proc/net/fib_trie")
MAPPED = ipaddress.IPv6Address("::ffff:0:0")


class Caller(NamedTuple):
    """The two ends of a connection, as nginx sees them; addresses are IPv4's, which is all that it listens on."""

    address: str
    port: int
    own_address: str
    own_port: int

    @classmethod
    def of(cls, header: str) -> "Caller":
        """Read what nginx passes on: the caller's address and port, and our own."""
        address, port, own_address, own_port = header.split()
        return cls(address, int(port), own_address, int(own_port))


class Doorkeeper:
    """Keeps the algorithm's user out; `uid` is None where that is nobody in particular."""

    def __init__(self, uid: int | None) -> None:
        self._uid = uid

    @classmethod
    def against(cls, user: str) -> "Doorkeeper":
        """Return one that knows the algorithm's user (a Dockerfile's USER), unless it is our own."""
        uid = None
        with suppress(LongshoreError):  # its tasks fail with that
            uid = look_up(user).uid
        return cls(None if uid == os.geteuid() else uid)

    def admit(self, caller: Caller) -> None:
        """Raise CallerForbidden for a connection of the algorithm's user.

        A local one that is closed by now is no longer anybody's in the kernel's tables, and is refused too.
        """
        if self._uid is not None and is_local(caller) and owner_of(caller) in (self._uid, None):
            raise CallerForbidden


def owner_of(caller: Caller) -> int | None:
    """Return the user of the socket at the caller's end, None if there is none on this machine that is open."""
    address = ipaddress.IPv4Address(caller.address)
    mapped = ipaddress.IPv6Address(int(MAPPED) + int(address))
    remote = f"{caller.own_port:04X}"
    for table, end in zip(TABLES, (address.packed, mapped.packed), strict=True):
        local = f"{_in_kernel_order(end)}:{caller.port:04X}"
        row = rf"^ *\d+: {local} [0-9A-F]+:{remote} (?:\S+ ){{4}} *(?P<uid>\d+) +\d+ (?P<inode>\d+) "
        with suppress(OSError):  # a kernel without IPv6
            found = re.search(row, table.read_text(), re.MULTILINE)
            if found and found["inode"] != "0":
                return int(found["uid"])
    return None


def is_local(caller: Caller) -> bool:
    """Say whether a connection comes from this machine; that is nearly never so, and found out cheaply."""
    if ipaddress.IPv4Address(caller.address).is_loopback or caller.address == caller.own_address:
        return True
    routes = ""
    with suppress(OSError):  # a kernel that does not tell: its further addresses are not known
        routes = ROUTES.read_text()
    return bool(re.search(rf"\|-- {re.escape(caller.address)}\n +/32 host LOCAL", routes))


def _in_kernel_order(address: bytes) -> str:
    """Return an address as /proc/net has it: words of four bytes, each a number of this machine's byte order."""
    words = [address[start : start + 4] for start in range(0, len(address), 4)]
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
