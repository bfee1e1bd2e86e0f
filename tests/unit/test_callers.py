"""Whose a connection is, by the kernel's own tables."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from model_server import callers
from model_server.callers import Caller, Doorkeeper, is_local, owner_of
from model_server.errors import CallerForbidden

from .waiting import wait_until

ELSEWHERE = "192.0.2.1"  # RFC 5737: no machine has it


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with closing(socket.create_server(("0.0.0.0", 0))) as made:
        yield made


def connected(listener: socket.socket, address: str) -> tuple[socket.socket, Caller]:
    """Connect to the listener, and return our end and how the other end sees us."""
    own = socket.create_connection((address, listener.getsockname()[1]))
    accepted, (seen, port, *_) = listener.accept()
    with accepted:
        own_address, own_port = accepted.getsockname()
    return own, Caller(seen, port, own_address, own_port)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::ffff:127.0.0.1"])
def test_the_owner_of_a_connection_is_the_user_who_made_it(listener: socket.socket, address: str) -> None:
    own, caller = connected(listener, address)
    with own:
        assert owner_of(caller) == os.geteuid()
        with pytest.raises(CallerForbidden):
            Doorkeeper(os.geteuid()).admit(caller)
        Doorkeeper(os.geteuid() + 1).admit(caller)
        Doorkeeper(None).admit(caller)


def test_a_connection_that_is_closed_by_now_is_refused(listener: socket.socket) -> None:
    own, caller = connected(listener, "127.0.0.1")
    own.close()
    wait_until(lambda: owner_of(caller) is None)
    with pytest.raises(CallerForbidden):
        Doorkeeper(12345).admit(caller)


def test_whoever_comes_from_another_machine_is_admitted(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    caller = Caller(ELSEWHERE, 40000, "172.17.0.2", port)
    assert not is_local(caller)
    Doorkeeper(12345).admit(caller)


def test_all_addresses_of_this_machine_are_local() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((ELSEWHERE, 9))  # sends nothing
        own = probe.getsockname()[0]
    for address in ("127.0.0.1", "127.9.9.9", own):
        assert is_local(Caller(address, 40000, "10.0.0.1", 8080))
    assert is_local(Caller("10.0.0.1", 40000, "10.0.0.1", 8080)), "whatever the tables say"


def test_where_the_kernel_does_not_tell_its_addresses_a_caller_from_outside_is_admitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(callers, "ROUTES", Path("/proc/net/no-such-table"))
    Doorkeeper(12345).admit(Caller(ELSEWHERE, 40000, "172.17.0.2", 8080))
    with pytest.raises(CallerForbidden):
        Doorkeeper(12345).admit(Caller("172.17.0.2", 40000, "172.17.0.2", 8080))


def test_the_servers_own_user_is_nobody_in_particular() -> None:
    for user in ("", str(os.geteuid()), "no-such-user"):
        assert Doorkeeper.against(user)._uid is None
    assert Doorkeeper.against(str(os.geteuid() + 1))._uid == os.geteuid() + 1


def test_nginx_says_who_calls() -> None:
    assert Caller.of("127.0.0.1 40000 127.0.0.1 8080") == Caller("127.0.0.1", 40000, "127.0.0.1", 8080)
