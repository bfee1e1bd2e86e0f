"""The processes of a running server: who starts whom and when, as which user, and what they open to others."""

import os
import re
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from server import Server, copy_of_the_program, eventually, launched, serving

SLOW_WSGI = """
import os, time
from predictor import create_app

def create_application(predictor):
    while not os.path.exists(os.environ["BOARD"] + "/go"):
        time.sleep(0.02)
    return create_app(predictor)
"""


@pytest.fixture(scope="module")
def server(s3_endpoint: str) -> Iterator[Server]:
    with serving(s3_endpoint, MODEL_SERVER_WORKERS="3") as running:
        yield running


def socket_inodes(server: Server) -> set[str]:
    inodes = set()
    for process in server.tree():
        for name in os.listdir(f"/proc/{process.pid}/fd"):
            if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{process.pid}/fd/{name}")):
                inodes.add(found[1])
    return inodes


def test_serve_starts_gunicorn_with_its_workers_and_nginx_with_its_worker(server: Server) -> None:
    assert [child.name for child in server.children(server.pid)] == [server.gunicorn.name, "nginx"]
    assert len(server.workers) == 3
    assert [child.name for child in server.children(server.nginx.pid)] == ["nginx"]
    assert len(server.tree()) == 1 + 1 + 3 + 2


def test_nginx_starts_only_after_gunicorn_answers(s3_endpoint: str, tmp_path: Path) -> None:
    program = copy_of_the_program(tmp_path / "container", wsgi=SLOW_WSGI)
    with launched(s3_endpoint, program=program) as server:
        eventually(lambda: len(server.children(server.pid)) == 1 and len(server.workers) == 2, "gunicorn's workers")
        for _ in range(20):  # gunicorn's socket takes connections by now, but nothing answers
            assert len(server.children(server.pid)) == 1
            with pytest.raises(ConnectionRefusedError):
                server.ask("GET", "/ping")
        server.go()
        statuses = []

        def answers_200() -> bool:
            try:
                statuses.append(server.ask("GET", "/ping").status)
            except ConnectionRefusedError:
                return False
            return statuses[-1] == 200

        eventually(answers_200, "a 200 on /ping")
        assert set(statuses) <= {200, 503}


@pytest.mark.parametrize("step", range(8))
def test_a_stop_during_the_start_leaves_nothing(s3_endpoint: str, step: int) -> None:
    with launched(s3_endpoint) as server:
        eventually((server.folder / "input").exists, "the task folders")
        time.sleep(0.02 * step)  # from before gunicorn's start to after nginx's
        assert server.stop() == 0


def test_nginx_does_not_run_as_root(server: Server) -> None:
    masters_and_workers = [server.nginx, *server.children(server.nginx.pid)]
    for process in masters_and_workers:
        ids = set(process.status("Uid") + process.status("Gid") + process.status("Groups"))
        if os.geteuid() == 0:
            assert ids == {"65533"}
            assert int(process.status("CapEff")[0], 16) == 0
        else:
            assert set(process.status("Uid")) == {str(os.geteuid())}


def test_nothing_listens_but_nginxs_port_and_gunicorns_socket(server: Server) -> None:
    inodes = socket_inodes(server)
    ports = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = row.split()
            if words[9] in inodes and (table.startswith("udp") or words[3] == "0A"):
                ports.append((table, int(words[1].rpartition(":")[2], 16)))
    assert ports == [("tcp", server.port)]

    sockets = []
    for row in Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = row.split(maxsplit=7)
        if words[6] in inodes and int(words[3], 16) & 0x10000:  # it accepts connections
            sockets.append(words[7])
    assert sockets == [str(server.run_folder / "gunicorn" / "gunicorn.sock")]


def test_the_sockets_folder_lets_nobody_but_nginx_through(server: Server) -> None:
    run = server.run_folder
    for name in ("gunicorn", "locks", "nginx"):
        assert stat.S_IMODE((run / name).stat().st_mode) & 0o007 == 0, name
    if os.geteuid() == 0:
        may_enter = ["/bin/sh", "-c", 'test -x "$1"', "sh", str(run / "gunicorn")]
        assert subprocess.run(may_enter, user=65533, group=65533, extra_groups=[]).returncode == 0
        assert subprocess.run(may_enter, user=12345, group=12345, extra_groups=[]).returncode == 1


def test_the_servers_port_is_taken_on_all_interfaces(server: Server) -> None:
    with socket.create_connection(("127.0.0.2", server.port), timeout=5) as connection:
        connection.sendall(b"GET /ping HTTP/1.0\r\n\r\n")
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
