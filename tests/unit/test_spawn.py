"""Starting a program as another user: by the program of the image, and by Python where that is not."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from model_server import spawn as spawn_module
from model_server.errors import (
    AlgorithmNotStarted,
    ArgumentsUnusable,
    CommandForbidden,
    CommandMissing,
    CommandNotRunnable,
    LongshoreError,
    UserForbidden,
)
from model_server.orphans import own_children
from model_server.program import Program
from model_server.spawn import spawn
from model_server.user import SAME_USER, User

SOURCE = Path(__file__).parents[2] / "image" / "become.c"
ROOT = os.geteuid() == 0
SOMEBODY = User(54_321, 54_322, (54_322, 54_323), "/") if ROOT else User(os.geteuid(), os.getegid(), (), "/")
LIMIT = 512 * 1024 * 1024
PATH = os.defpath


@pytest.fixture(scope="session")
def become() -> Iterator[Path]:
    """The small program, where every user reaches it."""
    if not shutil.which("cc"):
        pytest.skip("no compiler is there")
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        program = Path(folder, "become")
        warnings = ("-std=c11", "-Wall", "-Wextra", "-Werror")
        subprocess.run(["cc", *warnings, "-static", "-o", str(program), str(SOURCE)], check=True)
        yield program


@pytest.fixture(params=["by our program", "by Python"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = request.getfixturevalue("become") if request.param == "by our program" else Path("/nonexistent")
    monkeypatch.setattr(spawn_module, "BECOME", ours)


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(dir="/tmp") as path:
        Path(path).chmod(0o755)
        yield Path(path)


def said(
    *argv: str, user: User = SOMEBODY, set_groups: bool = ROOT, data_bytes: int = LIMIT, path: str = PATH
) -> list[str]:
    with spawn(argv, {"PATH": path}, user, set_groups, data_bytes, subprocess.PIPE) as process:
        stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (0, b"")
    return str(stdout.decode()).split()


def test_a_program_has_its_users_ids_and_groups_only() -> None:
    status = "/proc/self/status"
    assert said("grep", "Uid", status) == ["Uid:", *[str(SOMEBODY.uid)] * 4]
    assert said("grep", "Gid", status) == ["Gid:", *[str(SOMEBODY.gid)] * 4]
    if ROOT:
        assert said("grep", "Groups", status) == ["Groups:", *map(str, SOMEBODY.groups)]
        assert said("grep", "Groups", status, user=User(uid=SOMEBODY.uid)) == ["Groups:"]
        assert int(said("grep", "CapPrm", status)[1], 16) == 0


@pytest.mark.skipif(not ROOT, reason="only root may change groups")
def test_what_is_not_given_stays_as_it_is() -> None:
    status = "/proc/self/status"
    assert said("grep", "Gid", status, user=User(uid=54_321)) == ["Gid:", *[str(os.getegid())] * 4]
    assert said("grep", "Uid", status, user=User(gid=54_322, groups=(54_322,))) == ["Uid:", "0", "0", "0", "0"]
    ours = Path(status).read_text().partition("Groups:")[2].partition("\n")[0].split()
    assert said("grep", "Groups", status, set_groups=False) == ["Groups:", *ours]
    assert said("grep", "Groups", status, user=SAME_USER) == ["Groups:", *ours]


def test_its_memory_has_the_limit() -> None:
    assert said("sh", "-c", "ulimit -S -d; ulimit -H -d") == [str(LIMIT // 1024)] * 2
    assert said("sh", "-c", "ulimit -S -d", data_bytes=0) != [str(LIMIT // 1024)]


def test_its_memory_has_no_more_than_ours(become: Path) -> None:
    words = [str(become), "9", str(LIMIT), "-", "-", "-", "1", "/bin/sh", "sh", "-c", "ulimit -H -d"]
    script = f'ulimit -d {LIMIT // 2048}; exec 9>/dev/null; exec "$@"'
    told = subprocess.run(["sh", "-c", script, "-", *words], stdout=subprocess.PIPE, check=True).stdout
    assert int(told) == LIMIT // 2048


def test_it_has_no_descriptor_of_ours_a_session_of_its_own_and_its_own_words() -> None:
    with open("/dev/null") as ours:
        os.set_inheritable(ours.fileno(), True)
        assert said("ls", "/proc/self/fd") == ["0", "1", "2", "3"]  # the last is its look at the others
    assert said("sh", "-c", 'set -- $(cat /proc/self/stat); echo "$6"') != [str(os.getsid(0))]
    assert said("sh", "-c", 'echo "$0" "$@"', "-", "a", "", "b") == ["-", "a", "b"]


def test_a_name_is_looked_for_in_the_programs_own_path(folder: Path) -> None:
    for name, mode in (("closed", 0o644), ("open", 0o755)):
        (folder / name).mkdir()
        program = folder / name / "speaks"
        program.write_text("#!/bin/sh\necho here\n")
        program.chmod(mode)
    assert said("speaks", path=f"/nonexistent:{folder}/closed:{folder}/open") == ["here"]
    with pytest.raises(CommandForbidden):
        Program(["speaks"], {"PATH": f"{folder}/closed:/nonexistent"}, SOMEBODY, ROOT, LIMIT).start()


def plain_file(folder: Path, mode: int) -> str:
    path = folder / "file"
    path.write_bytes(b"\0\0 no program")
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["{folder}/missing"], CommandMissing),
        (["missing"], CommandMissing),
        (["{closed}"], CommandForbidden),
        (["{folder}"], CommandForbidden),
        (["{garbage}"], CommandNotRunnable),
        (["{garbage}/below"], CommandNotRunnable),
        (["true", "a\0b"], ArgumentsUnusable),
        (["true", "x" * (1 << 20)], ArgumentsUnusable),
    ],
)
def test_what_can_not_be_started_has_the_same_error_either_way(
    folder: Path, argv: list[str], expected: type[LongshoreError]
) -> None:
    (folder / "open").mkdir()
    (folder / "closed").mkdir()
    names = {
        "folder": str(folder),
        "closed": plain_file(folder / "closed", 0o644),
        "garbage": plain_file(folder / "open", 0o755),
    }
    before, children = set(os.listdir("/proc/self/fd")), own_children()
    argv = [word.format(**names) for word in argv]
    with pytest.raises(expected):
        Program(argv, {"PATH": PATH}, SOMEBODY, ROOT, LIMIT).start()
    assert set(os.listdir("/proc/self/fd")) == before
    assert own_children() == children


@pytest.mark.skipif(not ROOT, reason="only root can take rights away from a user that it becomes")
def test_a_program_behind_a_folder_that_is_closed_to_its_user_is_forbidden(folder: Path) -> None:
    program = Path(shutil.copy("/bin/true", folder / "program"))
    folder.chmod(stat.S_IRWXU)
    with pytest.raises(CommandForbidden):
        Program([str(program)], {}, SOMEBODY, ROOT, LIMIT).start()


@pytest.mark.parametrize(
    ("refused", "expected"),
    [(errno.EPERM, UserForbidden), (errno.EINVAL, CommandNotRunnable), (errno.EAGAIN, AlgorithmNotStarted)],
)
def test_a_user_that_the_kernel_refuses_is_no_fault_of_the_program(
    refused: int, expected: type[LongshoreError], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """As a small program tells it; which user a kernel refuses is not for a test to choose."""
    teller = folder / "teller"
    teller.write_text(f"#!{sys.executable}\nimport os, sys\nos.write(int(sys.argv[1]), b'u{refused}')\n")
    teller.chmod(0o755)
    monkeypatch.setattr(spawn_module, "BECOME", teller)
    with pytest.raises(expected):
        Program(["true"], {"PATH": PATH}, SOMEBODY, True, LIMIT).start()


def test_a_user_that_we_may_not_become_is_forbidden(become: Path, folder: Path) -> None:
    """By a process that has no rights, if we have."""
    report = folder / "report"
    report.touch()
    report.chmod(0o666)
    words = [str(become), "3", "-", "7", "7", "7", "1", "/bin/true", "true"]
    script = 'exec 3>"$0"; exec "$@"'
    subprocess.run(["sh", "-c", script, str(report), *words], user=SOMEBODY.uid, check=False)
    assert report.read_text() == f"u{errno.EPERM}"


def test_the_same_user_without_a_limit_needs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn_module, "BECOME", Path("/bin/false"))
    assert said("echo", "here", user=SAME_USER, data_bytes=0) == ["here"]


def test_what_the_environment_has_loaded_is_not_run_as_the_server(become: Path, folder: Path) -> None:
    source, library, seen = folder / "loaded.c", folder / "loaded.so", folder / "seen"
    source.write_text(
        "#include <stdio.h>\n#include <unistd.h>\n__attribute__((constructor)) static void tell(void) {"
        f' FILE *to = fopen("{seen}", "a"); fprintf(to, "%u\\n", (unsigned)geteuid()); fclose(to); }}'
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    seen.touch()
    seen.chmod(0o666)
    with spawn(["/bin/true"], {"LD_PRELOAD": str(library)}, SOMEBODY, ROOT, 0, subprocess.PIPE) as process:
        process.communicate()
    assert seen.read_text() == f"{SOMEBODY.uid}\n"
