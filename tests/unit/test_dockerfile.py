"""The Dockerfile that completes an author's image, and what becomes of each instruction."""

import base64
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from model_server.adaptation import ConfigUnusable, adapted_config, get_new_env_vars
from model_server.dockerfile import completing_dockerfile, inspected_config, quoted

LONGSHORE = Path(__file__).parents[2] / "container/longshore"
ADAPTED = {"Entrypoint": ["/longshore/bin/longshore"], "Cmd": ["usage"], "User": "0"}
RESTORED = "The image's ENTRYPOINT is Longshore's now, so that SageMaker can call serve and train"


def env(text: str) -> dict[str, str]:
    """Return the variables of a Dockerfile whose values have no quotes."""
    return dict(re.findall(r"(\w+)='([^']*)'", next(line for line in text.splitlines() if line.startswith("ENV "))))


def b64j(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def stored(entrypoint: Any, cmd: Any) -> list[str]:
    prefix = "GRAND_CHALLENGE_COMPONENT_"
    return [f"{prefix}ENTRYPOINT_B64J={b64j(entrypoint)}", f"{prefix}CMD_B64J={b64j(cmd)}", f"{prefix}USER=app"]


def test_the_dockerfile_makes_what_adapted_config_makes() -> None:
    existing = {"config": {"Entrypoint": ["a"], "Cmd": ["it's"], "User": "app", "Env": ["PYTHONUNBUFFERED=0"]}}
    variables = get_new_env_vars(existing, is_own=True)
    config = adapted_config(existing, variables, diff_id="sha256:0", is_own=True)["config"]
    first, env_line, label_line, *rest = completing_dockerfile(existing, "some:tag").text.splitlines()
    assert first == "FROM some:tag"
    assert env(env_line) == dict(entry.split("=", 1) for entry in config["Env"] if not entry.startswith("PYTHON"))
    labels = dict(re.findall(r"(\S+)='([^']*)'", label_line))
    assert labels == {name: value for name, value in config["Labels"].items() if name != "longshore.layer"}
    assert rest == [
        f"ENTRYPOINT {json.dumps(config['Entrypoint'])}",
        f"CMD {json.dumps(config['Cmd'])}",
        f"USER {config['User']}",
        f"STOPSIGNAL {config['StopSignal']}",
    ]


SAYS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing": ({}, []),
    "commands": (
        {"Entrypoint": ["./a", "☃"], "Cmd": ['"b"']},
        ['What the algorithm runs, recorded: ENTRYPOINT ["./a","☃"], CMD ["\\"b\\""]', RESTORED],
    ),
    "a new CMD of an adapted image": (
        ADAPTED | {"Cmd": ["b"], "Env": stored(["a"], None)},
        ['What the algorithm runs, recorded: CMD ["b"]', RESTORED],
    ),
    "an adapted image": (ADAPTED | {"Env": stored(["a"], None)}, []),
    "a variable of the author's": (
        {"Entrypoint": ["a"], "Env": ["ALGORITHM_CMD=x"]},
        ['Left out, as the variables ALGORITHM_ENTRYPOINT and ALGORITHM_CMD are set: ENTRYPOINT ["a"]'],
    ),
    "a user": ({"User": "app"}, ["Who the algorithm runs as, recorded: USER app; the server runs as root"]),
    "root": ({"User": "root"}, []),
    "a user and a variable": (
        {"User": "app", "Env": ["ALGORITHM_USER=x"]},
        ["Left out, as the variable ALGORITHM_USER is set: USER app"],
    ),
    "a signal": ({"StopSignal": "SIGINT"}, ["Left out, as SageMaker stops the server by SIGTERM: STOPSIGNAL SIGINT"]),
    "our signal": ({"StopSignal": "15"}, []),
}


@pytest.mark.parametrize(("fields", "log"), SAYS.values(), ids=SAYS)
def test_what_becomes_of_an_instruction_is_said(fields: dict[str, Any], log: list[str]) -> None:
    assert completing_dockerfile({"config": fields}, "x").log == log


@pytest.mark.parametrize(
    ("fields", "is_inherited", "has_program", "recorded", "words"),
    [
        ({"Cmd": ["bash"]}, True, True, (None, None), "Left out, as the base image says it and /opt/algorithm/run is"),
        ({"Cmd": ["bash"]}, True, False, (None, ["bash"]), "no ENTRYPOINT and no CMD; those of its base image are"),
        ({"Cmd": ["bash"]}, False, True, (None, ["bash"]), "What the algorithm runs, recorded"),
        (ADAPTED | {"Env": stored(["a"], ["b"])}, True, True, (["a"], ["b"]), ""),
        (ADAPTED | {"Cmd": ["x"], "Env": stored(["a"], ["b"])}, True, True, (["a"], ["b"]), "Left out"),
    ],
)
def test_what_a_base_image_runs_gives_way_to_a_program_in_its_place(
    fields: dict[str, Any], is_inherited: bool, has_program: bool, recorded: tuple[Any, Any], words: str
) -> None:
    made = completing_dockerfile({"config": fields}, "x", is_inherited=is_inherited, has_program=has_program)
    variables = env(made.text)
    assert (
        tuple(
            json.loads(base64.b64decode(variables[f"GRAND_CHALLENGE_COMPONENT_{name}_B64J"]))
            for name in ("ENTRYPOINT", "CMD")
        )
        == recorded
    )
    assert words in "\n".join(made.log)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("", "''"),
        ("a b", "'a b'"),
        ("it's", "'it'\"'\"'s'"),
        ('"$HOME" `x` \\', "'\"$HOME\" `x` \\'"),
        ("☃ # no", "'☃ # no'"),
    ],
)
def test_every_value_that_a_line_can_hold_is_quoted(value: str, written: str) -> None:
    assert quoted(value) == written
    assert subprocess.run(["sh", "-c", f"printf %s {written}"], capture_output=True, text=True).stdout == value


@pytest.mark.parametrize("user", ["app\nRUN evil", "app\r", "a\0"])
def test_a_user_with_a_line_break_is_no_instruction(user: str) -> None:
    with pytest.raises(ConfigUnusable, match="has a line break"):
        completing_dockerfile({"config": {"Cmd": ["a"], "User": user}}, "x")


def test_the_command_reads_what_docker_says_of_an_image() -> None:
    inspected = json.dumps([{"Id": "sha256:0", "Config": {"Cmd": ["snow ☃"], "User": "app"}}], ensure_ascii=False)
    command = [sys.executable, "-E", LONGSHORE, "dockerfile", "some:tag"]
    done = subprocess.run(command, input=inspected.encode(), capture_output=True, env={"LC_ALL": "C.UTF-8"})
    assert done.returncode == 0, done.stderr
    made = completing_dockerfile({"config": {"Cmd": ["snow ☃"], "User": "app"}}, "some:tag")
    assert done.stdout.decode() == made.text
    assert done.stderr.decode() == "".join(f"==> {line}\n" for line in made.log)


@pytest.mark.parametrize("text", ["", "[]", "[{}]", "[{}, {}]", "null", '{"Config": {}}', "[5]", "[" * 99999], ids=repr)
def test_anything_else_on_stdin_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ConfigUnusable, match="stdin has not what `docker image inspect` prints"):
        inspected_config(text)


def test_the_command_says_why_an_image_can_not_be_completed() -> None:
    command = [sys.executable, "-E", LONGSHORE, "dockerfile", "some:tag"]
    done = subprocess.run(command, input='[{"Config": {"Cmd": "x"}}]', capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == "The image's Cmd is no list of strings\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command(signum: signal.Signals) -> None:
    """Although signals are held back until somebody listens, for the commands that serve."""
    command = [sys.executable, "-E", LONGSHORE, "dockerfile", "some:tag"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        while not catches(process.pid, signal.SIGHUP):  # the last of them
            assert time.monotonic() < deadline
        process.send_signal(signum)
        assert process.wait(30) == 128 + signum


def catches(pid: int, signum: int) -> bool:
    (caught,) = re.findall(r"^SigCgt:\s+(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    (blocked,) = re.findall(r"^SigBlk:\s+(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool((int(caught, 16) & ~int(blocked, 16)) >> (signum - 1) & 1)
