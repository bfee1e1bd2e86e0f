"""Whether anything of a process group runs."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from model_server.processes import end_group, group_runs

FIRST_THREAD_ENDS = """
import ctypes, os, threading, time
threading.Thread(target=lambda: (os.write(1, b"."), time.sleep(600))).start()
ctypes.CDLL(None).pthread_exit(None)
"""
LEAVES_A_ZOMBIE = """
import os, sys, time
if pid := os.fork():
    os.setpgid(pid, pid)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    print(pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def program(request: pytest.FixtureRequest) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(
        [sys.executable, "-c", request.param], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        yield process
        end_group(process.pid)


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("program", [LEAVES_A_ZOMBIE], indirect=True)
def test_what_has_ended_and_is_not_reaped_does_not_run(program: "subprocess.Popen[bytes]") -> None:
    assert program.stdout
    group = int(program.stdout.readline())
    assert state_of(group) == "Z"
    os.killpg(group, 0)  # the group is there
    assert not group_runs(group)
    assert group_runs(program.pid)


@pytest.mark.parametrize("program", [FIRST_THREAD_ENDS], indirect=True)
def test_what_goes_on_in_another_thread_runs(program: "subprocess.Popen[bytes]") -> None:
    assert program.stdout
    program.stdout.read(1)
    while state_of(program.pid) != "Z":
        assert program.poll() is None
    assert group_runs(program.pid)


@pytest.mark.parametrize("program", ["input()"], indirect=True)
def test_a_group_that_can_not_be_looked_at_runs(
    program: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: object) -> list[str]:
        raise OSError(24, "Too many open files")

    for listing in (refused, lambda _: ["1"]):  # no descriptor is free, or /proc hides all but the first process
        monkeypatch.setattr(os, "listdir", listing)
        assert group_runs(program.pid)


def test_a_group_that_is_not_there_does_not_run() -> None:
    with subprocess.Popen(["/bin/true"], start_new_session=True) as process:
        process.wait()
        assert not group_runs(process.pid)
