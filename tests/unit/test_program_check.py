"""Whether a command would start, without starting it."""

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from model_server.program_check import Unstartable, check_rights, needed_files
from model_server.user import SAME_USER, User

SHELL = Path("/bin/sh")
ELF = Path("/bin/sleep")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the working directory too."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(folder: Path, name: str, text: bytes | str, mode: int = 0o755) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def needed(*argv: str, path: str = "/usr/bin:/bin") -> list[Path]:
    return needed_files(argv, {"PATH": path})


def fault(*argv: str, path: str = "/usr/bin:/bin") -> str:
    with pytest.raises(Unstartable) as raised:
        needed(*argv, path=path)
    return str(raised.value)


def test_a_script_needs_itself_and_its_interpreter(programs: Path) -> None:
    run = script(programs, "run", "#!/bin/sh\n")
    assert needed(str(run), "and", "arguments") == [run, SHELL]


def test_a_command_is_found_as_the_kernel_and_execvp_find_it(programs: Path) -> None:
    script(programs, "run", "#!/bin/sh\n", mode=0o644)
    (programs / "bin").mkdir()
    run = script(programs / "bin", "run", "#!/bin/sh -e\n")
    assert needed("./bin/run") == [Path("bin/run"), SHELL]
    assert needed("run", path=f"{programs}:{programs}/bin") == [run, SHELL]
    assert needed("sleep")[0].name == "sleep"


def test_env_needs_the_program_that_it_is_to_find(programs: Path) -> None:
    (programs / "bin").mkdir()
    tool = script(programs / "bin", "tool", "#!/bin/sh\n")
    run = script(programs, "run", "#!/usr/bin/env -S A=1 tool --fast\n")
    assert needed(str(run), path=f"{programs}/bin:/bin") == [run, Path("/usr/bin/env"), tool, SHELL]
    assert "'tool' is in no folder of PATH" in fault(str(run))


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("#!/bin/sh\n", 0o644, "is not executable: add `RUN chmod 755 "),
        ("#!/bin/sh\r\necho\r\n", 0o755, "has Windows line ends (CRLF)"),
        ("#!/usr/bin/env python3\r\n", 0o755, "has Windows line ends (CRLF)"),
        ("#!/nowhere/python\n", 0o755, "as its first line says `#!/nowhere/python`: /nowhere/python does not exist"),
        ("#!\n", 0o755, "can not be started, as its first line says `#!`"),
        ("print(1)\n", 0o755, "no script either: let its first line begin with `#!`"),
        ("", 0o755, "no script either"),
        (b"#!/\xff\n", 0o755, "does not exist"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(programs: Path, text: bytes | str, mode: int, words: str) -> None:
    assert words in fault(str(script(programs, "run", text, mode)))


def test_a_path_that_leads_to_no_program_is_named(programs: Path) -> None:
    os.mkfifo(programs / "pipe", 0o755)
    (programs / "dangling").symlink_to("nothing")
    assert fault("/nowhere/run") == "/nowhere/run does not exist: copy it into the image, or correct its path"
    assert "does not exist" in fault("./dangling")
    assert fault("./") == ". is a folder: name the program in it"
    assert fault("./pipe") == "pipe is no file that can be executed"
    assert fault("python4").startswith("'python4' is in no folder of PATH: install it")


@pytest.mark.parametrize("line", ["cd / && ./run", "exit 3", "if true; then ./run; fi", "A=1 ./run", "$HOME/run", ""])
def test_a_command_line_is_taken_where_only_the_shell_can_read_it(line: str) -> None:
    assert needed("/bin/sh", "-c", line) == [SHELL]


def test_a_shell_that_can_not_be_started_is_named(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = script(programs, "sh", b"\x7fELF, but of no machine")
    monkeypatch.setattr("model_server.program_check.SHELL_FORM", [str(shell), "-c"])
    said = f"{shell}, which runs the command, can not be started: Exec format error"
    assert fault(str(shell), "-c", "echo") == said


@pytest.mark.parametrize("line", ["./run --fast", "  exec ./run"])
def test_the_first_word_of_a_command_line_is_looked_up(programs: Path, line: str) -> None:
    assert fault("/bin/sh", "-c", line).startswith("./run does not exist")
    script(programs, "run", "#!/bin/sh\n")
    assert needed("/bin/sh", "-c", line) == [SHELL, Path("run"), SHELL]


def test_a_text_that_names_no_interpreter_is_run_by_a_shell_alone(programs: Path) -> None:
    run = script(programs, "run", "echo hello\n")
    binary = script(programs, "binary", b"\xca\xfe\0\n")
    for line in ("./run", "exec ./run"):
        assert needed("/bin/sh", "-c", line) == [SHELL, Path("run")]
        assert subprocess.run(["/bin/sh", "-c", line], stdout=subprocess.PIPE).stdout == b"hello\n"
    for argv in ([str(run)], [str(binary)], ["/bin/sh", "-c", "./binary"]):
        assert "is not a program, and no script either" in fault(*argv)
    script(programs, "env", "#!/usr/bin/env ./run\n")
    assert "no script either" in fault("/bin/sh", "-c", "./env")


def test_nothing_is_run(programs: Path) -> None:
    run = script(programs, "run", "#!/bin/sh\ntouch ran\n")
    needed(str(run))
    needed("/bin/sh", "-c", "./run; touch ran")
    needed("/bin/sh", "-c", "exec ./run")
    assert not (programs / "ran").exists()


def test_a_file_that_its_user_may_not_run_is_named(programs: Path) -> None:
    """As root, whom no mode stops, another user's rights are tried; else our own."""
    run = script(programs, "run", "#!/bin/sh\n", mode=0o100)
    nobody = pwd.getpwnam("nobody")
    user = User(nobody.pw_uid, nobody.pw_gid, (nobody.pw_gid,)) if os.geteuid() == 0 else SAME_USER
    before = (os.geteuid(), os.getegid(), os.getgroups())
    check_rights([SHELL], user, "nobody")
    with pytest.raises(Unstartable, match=r"The user nobody may not read and execute .*/run: give it the mode 755"):
        check_rights([SHELL, run], user, "nobody")
    assert (os.geteuid(), os.getegid(), os.getgroups()) == before
