"""Running the algorithm: what is run, with what environment, how it ends, and what becomes of its output."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rig import Rig, algorithm, is_running, pid_in, wait_until

from model_server.command import algorithm_command
from model_server.errors import SettingsInvalid
from model_server.settings import Settings

if TYPE_CHECKING:
    from conftest import Start
    from tests.conftest import Bucket

ARGUMENTS = algorithm("writes_its_arguments")
MISSING = "The command defined by the containers ENTRYPOINT and CMD instructions does not exist"
FORBIDDEN = (
    "The user defined in the containers USER instruction does not have permission to execute the command defined by "
    "the containers ENTRYPOINT and CMD instructions"
)
NOT_RUNNABLE = "The command defined by the containers ENTRYPOINT and CMD instructions can not be executed"


def b64j(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


@contextmanager
def ended_afterwards(*files: Path) -> Iterator[None]:
    """Kill the processes whose pids are in files, should a failed test leave them."""
    try:
        yield
    finally:
        for file in files:
            with suppress(FileNotFoundError, ProcessLookupError, ValueError):
                os.kill(int(file.read_text()), signal.SIGKILL)


# -- how it ends


@pytest.mark.parametrize("code", [0, 1, 2, 42, 126, 127, 255])
def test_the_return_code_is_the_algorithms_exit_code(start: Start, bucket: Bucket, code: int) -> None:
    bucket.put("code", str(code))
    result = start("exits_as_told").run(bucket.task(inputs=[bucket.item("code", "code")]))
    assert result["return_code"] == code
    assert (result["error"] is None) == (code == 0)


def test_a_failed_run_uploads_no_outputs_and_leaves_the_last_word_to_the_algorithm(
    start: Start, bucket: Bucket
) -> None:
    result = start("exits_3").run(bucket.task())
    assert result["return_code"] == 3
    assert result["user_safe_error_message"] == ""
    assert result["user_process_last_stderr_lines"] == ["the scan has no slices\n"]
    assert result["error"]["code"] == "algorithm_failed"
    assert result["error"]["message"] == "The algorithm ended with exit code 3"
    assert result["outputs"] == []
    assert bucket.keys() == ["/out/task/.sagemaker_shim/inference_result.json"]


@pytest.mark.parametrize("name", ["TERM", "KILL", "INT", "ABRT", "USR1"])
def test_a_signal_is_the_return_code_of_a_shell(start: Start, bucket: Bucket, name: str) -> None:
    result = start("dies_of_a_signal", name).run(bucket.task())
    assert result["return_code"] == 128 + signal.Signals[f"SIG{name}"]
    memory = "The algorithm was killed; it may have used more memory than there is"
    ended = memory if name == "KILL" else f"The algorithm was ended by SIG{name}"
    assert result["error"]["message"] == ended


def test_a_crash_is_139(start: Start, bucket: Bucket) -> None:
    result = start("dies_of_sigsegv").run(bucket.task())
    assert (result["return_code"], result["error"]["message"]) == (139, "The algorithm was ended by SIGSEGV")


# -- what is run


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "expected"),
    [
        ([ARGUMENTS, "a b"], None, ["a b"]),
        ([ARGUMENTS], ["c", "$HOME"], ["c", "$HOME"]),
        (None, [ARGUMENTS, "c"], ["c"]),
        ([], [ARGUMENTS, "c"], ["c"]),
        ([ARGUMENTS], [], []),
        (f"exec '{ARGUMENTS}' \"$WORDS\"", None, ["two words"]),
        (f"exec '{ARGUMENTS}' shell", ["ignored"], ["shell"]),
        (None, f"exec '{ARGUMENTS}' $WORDS", ["two", "words"]),
        ([ARGUMENTS], "a shell form", ["/bin/sh", "-c", "a shell form"]),
    ],
    ids=[
        "entrypoint alone",
        "entrypoint and cmd",
        "cmd alone",
        "empty entrypoint",
        "empty cmd",
        "shell entrypoint",
        "shell entrypoint ignores cmd",
        "shell cmd",
        "entrypoint and shell cmd",
    ],
)
@pytest.mark.parametrize("recorded_by", ["platform", "author"])
def test_entrypoint_and_cmd_are_combined_as_docker_does(
    start: Start, bucket: Bucket, entrypoint: Any, cmd: Any, expected: list[str], recorded_by: str
) -> None:
    if recorded_by == "platform":
        env = {
            "GRAND_CHALLENGE_COMPONENT_ENTRYPOINT_B64J": b64j(entrypoint),
            "GRAND_CHALLENGE_COMPONENT_CMD_B64J": b64j(cmd),
        }
    else:
        env = {
            "ALGORITHM_ENTRYPOINT": "" if entrypoint is None else json.dumps(entrypoint),
            "ALGORITHM_CMD": "" if cmd is None else json.dumps(cmd),
        }
    command = algorithm_command(Settings.from_env(env), Path("/nowhere"))
    rig = start(command[0], *command[1:], env={"WORDS": "two words"})
    assert rig.run(bucket.task())["return_code"] == 0
    assert bucket.get("/out/task/arguments").decode().splitlines() == expected


def test_an_author_may_write_the_shell_form_as_it_is(start: Start, bucket: Bucket) -> None:
    env = {"ALGORITHM_ENTRYPOINT": f"exec '{ARGUMENTS}' plain words"}
    command = algorithm_command(Settings.from_env(env), Path("/nowhere"))
    start(command[0], *command[1:]).run(bucket.task())
    assert bucket.get("/out/task/arguments") == b"plain\nwords\n"


def test_what_a_platform_recorded_goes_before_what_the_author_set() -> None:
    env = {"ALGORITHM_ENTRYPOINT": '["author"]', "GRAND_CHALLENGE_COMPONENT_CMD_B64J": b64j(["platform"])}
    assert algorithm_command(Settings.from_env(env), Path("/nowhere")) == ["platform"]


def test_the_default_program_is_run_when_nothing_is_said(tmp_path: Path) -> None:
    program = tmp_path / "run"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    nothing = {"GRAND_CHALLENGE_COMPONENT_ENTRYPOINT_B64J": "bnVsbA==", "GRAND_CHALLENGE_COMPONENT_CMD_B64J": ""}
    assert algorithm_command(Settings.from_env(nothing), program) == [str(program)]
    program.chmod(0o644)
    with pytest.raises(SettingsInvalid, match="ALGORITHM_ENTRYPOINT: names no command"):
        algorithm_command(Settings.from_env(nothing), program)


@pytest.mark.parametrize(
    ("content", "mode", "code", "sentence"),
    [
        (None, 0, "command_missing", MISSING),
        ("#!/nowhere/interpreter\n", 0o755, "command_missing", MISSING),
        ("#!/bin/sh\n", 0o644, "command_forbidden", FORBIDDEN),
        ("no first line that says how\n", 0o755, "command_not_runnable", NOT_RUNNABLE),
        ("\x7fELF of another machine", 0o755, "command_not_runnable", NOT_RUNNABLE),
        ("", 0o755, "command_not_runnable", NOT_RUNNABLE),
    ],
    ids=["missing", "interpreter missing", "not executable", "no first line", "other machine", "empty"],
)
def test_a_command_that_cannot_be_started_ends_in_a_result_that_says_why(
    start: Start, bucket: Bucket, tmp_path: Path, content: str | None, mode: int, code: str, sentence: str
) -> None:
    program = tmp_path / "program"
    if content is not None:
        program.write_text(content)
        program.chmod(mode)
    rig = start(str(program))
    result = rig.run(bucket.task())
    assert (result["return_code"], result["exec_duration"]) == (1, None)
    assert result["user_safe_error_message"] == sentence
    assert result["error"]["code"] == code
    assert result["error"]["hint"]
    assert rig.lines("stderr") == [sentence]


@pytest.mark.parametrize("name", ["no-such-program", "folder", "file/in-a-file"])
def test_a_name_that_is_no_program_ends_in_a_result(start: Start, bucket: Bucket, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    rig = Rig(tmp_path, bucket, [name if name == "no-such-program" else str(tmp_path / name)])
    try:
        result = rig.run(bucket.task())
    finally:
        rig.discard()
    assert result["user_safe_error_message"] in (MISSING, FORBIDDEN, NOT_RUNNABLE)


# -- its time


def test_a_time_limit_is_the_tasks_own_or_the_servers_and_the_hint_names_both(start: Start, bucket: Bucket) -> None:
    rig = start("sleeps", env={"MODEL_SERVER_TIMEOUT": "0.7"})
    for timeout, shown in (("PT0.4S", "0.4 s"), (None, "0.7 s")):
        result = rig.run(bucket.task(timeout=timeout))
        assert (result["return_code"], result["outputs"]) == (1, [])
        assert result["user_safe_error_message"] == "Time limit exceeded"
        assert result["error"]["code"] == "time_limit_exceeded"
        assert f"The limit was {shown}." in result["error"]["hint"]
        assert "`timeout`" in result["error"]["hint"]
        assert "MODEL_SERVER_TIMEOUT" in result["error"]["hint"]
        assert float(shown[:3]) <= result["run_seconds"] < 10
    assert rig.lines("stderr") == ["Time limit exceeded"] * 2


def test_a_group_that_ignores_sigterm_is_killed_whole(start: Start, bucket: Bucket, tmp_path: Path) -> None:
    files = tmp_path / "pid", tmp_path / "child pid"
    env = {"PID_FILE": str(files[0]), "CHILD_PID_FILE": str(files[1]), "ALGORITHM_GRACE_SECONDS": "0.3"}
    with ended_afterwards(*files):
        rig = start("ignores_sigterm", env=env)
        result = rig.run(bucket.task(timeout=0.7))
        assert result["error"]["code"] == "time_limit_exceeded"
        assert result["run_seconds"] >= 1.0
        assert not any(is_running(pid_in(file)) for file in files)
        assert "The algorithm did not end within 0.3 s of SIGTERM; killing it" in rig.lines("stderr", internal=True)


def test_a_zombie_of_the_group_that_nobody_reaps_holds_up_no_end(start: Start, bucket: Bucket, tmp_path: Path) -> None:
    """Its parent has left the group, and lives."""
    parent = tmp_path / "parent"
    script = f"""(sleep 60 & exec setsid sh -c 'echo $$ >{parent}; exec sleep 60') &
    trap "" TERM; while :; do sleep 0.1; done"""
    with ended_afterwards(parent):
        rig = start("/bin/sh", "-c", script, env={"ALGORITHM_GRACE_SECONDS": "0.3"})
        result = rig.run(bucket.task(timeout=1))
        assert result["error"]["code"] == "time_limit_exceeded"
        assert result["run_seconds"] < 10


@pytest.mark.parametrize(
    ("name", "last_word"),
    [("tidies_up_on_sigterm", "tidied up"), ("has_a_child_that_tidies_up", "the child tidied up")],
)
def test_a_program_has_its_grace_to_tidy_up(start: Start, bucket: Bucket, name: str, last_word: str) -> None:
    rig = start(name, env={"ALGORITHM_GRACE_SECONDS": "20"})
    result = rig.run(bucket.task(timeout=1))
    assert result["error"]["code"] == "time_limit_exceeded", "a program that ends with 0 by then is late all the same"
    assert result["return_code"] == 1
    assert result["run_seconds"] < 15, "nobody waits longer than the program needs"
    assert rig.lines("stdout") == ["running", last_word]


def test_a_program_that_ends_in_time_is_not_late(start: Start, bucket: Bucket) -> None:
    assert start("says_hello").run(bucket.task(timeout="PT20S"))["return_code"] == 0


# -- what it leaves running


def test_a_grandchild_is_ended_and_does_not_hold_up_the_task(start: Start, bucket: Bucket, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with ended_afterwards(file):
        rig = start("leaves_a_grandchild", env={"PID_FILE": str(file)})
        result = rig.run(bucket.task())
        assert (result["return_code"], result["error"]) == (0, None)
        assert not is_running(pid_in(file))
        assert rig.lines("stdout") == ["done"]


def test_a_daemon_that_holds_the_pipes_does_not_hold_up_the_task(start: Start, bucket: Bucket, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with ended_afterwards(file):
        rig = start("spawns_a_daemon_that_holds_the_pipe", env={"PID_FILE": str(file)})
        result = rig.run(bucket.task())
        assert (result["return_code"], result["error"]) == (0, None)
        assert is_running(pid_in(file)), "the daemon held the pipes all the while"
        assert rig.lines("stdout") == ["done"]


# -- what it says


def test_both_streams_are_logged_in_the_format_that_platforms_read(start: Start, bucket: Bucket) -> None:
    rig = start("says_hello")
    rig.run(bucket.task("a-pk"))
    assert [record for record in rig.log() if not record["internal"]] == [
        {"log": "hello stdout", "level": "INFO", "source": "stdout", "internal": False, "task": "a-pk"},
        {"log": "hello stderr", "level": "WARNING", "source": "stderr", "internal": False, "task": "a-pk"},
    ]


def test_a_latin1_line_does_not_stall_the_algorithm(start: Start, bucket: Bucket) -> None:
    rig = start("writes_latin1")
    result = rig.run(bucket.task())
    assert result["return_code"] == 0
    assert result["user_process_last_stderr_lines"] == ["\ufffdbergr\ufffd\ufffde\n"]
    assert (rig.lines("stdout"), rig.lines("stderr")) == (["Gr\ufffd\ufffde: 3 mm"], ["\ufffdbergr\ufffd\ufffde"])


def test_any_bytes_become_records_and_nothing_is_lost(start: Start, bucket: Bucket) -> None:
    rig = start("writes_any_bytes")
    assert rig.run(bucket.task())["return_code"] == 0
    written = bytes(range(256)) * 3
    written += b"".join(bytes([value]) + b"\n" + bytes([value]) for value in range(256)) + b"no newline"
    text = written.replace(b"\0", b"").decode(errors="replace")
    *ended, last = text.split("\n")
    expected = [piece for line in (*(line + "\n" for line in ended), last) for piece in line.splitlines()]
    assert rig.lines("stdout") == expected
    assert rig.lines("stderr") == expected


def test_a_program_that_fills_both_pipes_without_a_newline_is_read_to_the_end(start: Start, bucket: Bucket) -> None:
    rig = start("fills_its_pipes")
    assert rig.run(bucket.task())["return_code"] == 0
    for source, letter in (("stdout", "o"), ("stderr", "e")):
        rows = [record for record in rig.log() if record["source"] == source and not record["internal"]]
        assert "".join(row["log"] for row in rows) == letter * 1_000_000
        assert all(row["continued"] for row in rows[:-1])
        assert "continued" not in rows[-1]


def test_200000_lines_on_two_streams_come_whole_and_in_order(start: Start, bucket: Bucket) -> None:
    rig = start("writes_200000_lines")
    result = rig.run(bucket.task())
    expected = [f"{number} of a line with some words in it" for number in range(100_000)]
    assert result["user_process_last_stderr_lines"] == [f"{line}\n" for line in expected[-100:]]
    assert rig.lines("stdout") == expected
    assert rig.lines("stderr") == expected


def test_the_result_has_the_last_100_lines_of_stderr_with_their_newlines(start: Start, bucket: Bucket) -> None:
    rig = start("fails_after_250_lines_on_stderr")
    lines = rig.run(bucket.task())["user_process_last_stderr_lines"]
    assert lines == [f"line {number}\n" for number in range(151, 251)]
    assert len(rig.lines("stderr")) == 250


def test_the_stderr_of_a_task_before_is_not_in_a_result(start: Start, bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("code", "0")
    rig = start("exits_as_told")
    first = rig.run(bucket.task("fails"))
    assert "code" in first["user_process_last_stderr_lines"][0]
    second = rig.run(bucket.task("works", inputs=[bucket.item("code", "code")]))
    assert second["user_process_last_stderr_lines"] == []


def test_log_level_hides_our_lines_and_never_the_algorithms(start: Start, bucket: Bucket) -> None:
    rig = start("says_hello", env={"LOG_LEVEL": "ERROR"})
    rig.run(bucket.task())
    assert [record["log"] for record in rig.log()] == ["hello stdout", "hello stderr"]


def test_a_task_is_summed_up_in_one_line_of_ours(start: Start, bucket: Bucket) -> None:
    bucket.put("in", "12345")
    rig = start("echoes_input")
    rig.run(bucket.task("a-pk", inputs=[bucket.item("file", "in")]))
    (line,) = rig.lines("stdout", internal=True)
    assert line.startswith("Task a-pk ended with return code 0: queued ")
    assert "downloaded 5 bytes" in line
    assert "uploaded 1 files of 5 bytes" in line


# -- what it is given


def environment_of(bucket: Bucket) -> dict[bytes, bytes]:
    entries = bucket.get("/out/task/environ").split(b"\0")[:-1]
    return dict(entry.split(b"=", 1) for entry in entries)


WITHHELD = {
    "AWS_ACCESS_KEY_ID": "AKIA",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_SESSION_TOKEN": "token",
    "AWS_PROFILE": "profile",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/credentials",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.2/credentials",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN": "token",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "/token",
}
OURS = {
    "MODEL_SERVER_WORKERS": "2",
    "ALGORITHM_ENTRYPOINT": "x",
    "GRAND_CHALLENGE_COMPONENT_CMD_B64J": b64j(["x"]),
    "grand_challenge_component_other": "x",
}
PASSED = {
    "PATH": os.environ["PATH"],
    "AWS_REGION": "eu-central-1",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "LD_LIBRARY_PATH": "/usr/local/cuda/lib64",
    "PYTHONUNBUFFERED": "1",
    "no_proxy": "amazonaws.com",
    "SM_CHANNEL": "x",
    "EMPTY": "",
    "WITH SPACE": " x ",
    "LINES": "one\ntwo\n",
    "BYTES": os.fsdecode(b"\xff\xfe latin1 \xe9"),
    "EQUALS": "a=b=c",
    "BASH_FUNC_hello%%": "() { echo hello; }",
    "LOG_LEVEL": "INFO",
}


@pytest.mark.parametrize("passed_on", [False, True], ids=["withheld", "passed on"])
def test_the_environment_is_the_images_without_ours_and_the_credentials(
    start: Start, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, passed_on: bool
) -> None:
    own = OURS | ({"ALGORITHM_AWS_CREDENTIALS": "true"} if passed_on else {})
    rig = start("prints_environment", env=PASSED | WITHHELD | own)
    monkeypatch.setenv("SERVER_SOFTWARE", "gunicorn sets this in its own environment")
    rig.run(bucket.task())
    expected = PASSED | (WITHHELD if passed_on else {})
    expected |= {"ALGORITHM_INPUT_PATH": str(rig.input), "ALGORITHM_OUTPUT_PATH": str(rig.output)}
    assert environment_of(bucket) == {os.fsencode(name): os.fsencode(value) for name, value in expected.items()}


def test_stdin_is_empty(start: Start, bucket: Bucket) -> None:
    assert start("reads_stdin").run(bucket.task())["return_code"] == 0
    assert bucket.get("/out/task/stdin") == b""


def test_an_algorithm_inherits_no_descriptor_of_ours(start: Start, bucket: Bucket) -> None:
    listing = 'ls "/proc/$$/fd" >"$ALGORITHM_OUTPUT_PATH/descriptors"'
    start("/bin/sh", "-c", listing).run(bucket.task())
    shells_own = {b"10"}
    assert set(bucket.get("/out/task/descriptors").split()) - shells_own == {b"0", b"1", b"2"}


def test_running_tasks_leaves_no_descriptor_and_no_process_behind(start: Start, bucket: Bucket) -> None:
    bucket.put("in", "data")
    rig = start("echoes_input")
    task = bucket.task(inputs=[bucket.item("file", "in")])
    rig.run(task)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        rig.run(task)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before + 2, "as few descriptors as before")
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "echoes_input"]
