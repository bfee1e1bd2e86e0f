"""ENTRYPOINT and CMD, in all the combinations that Docker's documentation lists."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from model_server.command import algorithm_command, combine
from model_server.errors import SettingsInvalid
from model_server.settings import Settings

PLATFORM = "GRAND_CHALLENGE_COMPONENT_"


def b64j(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def command(default: Path = Path("/nowhere/run"), **environ: str) -> list[str]:
    return algorithm_command(Settings.from_env(environ), default)


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "argv"),
    [
        (None, None, []),
        (None, ["exec_cmd", "p1_cmd"], ["exec_cmd", "p1_cmd"]),
        (None, "exec_cmd p1_cmd", ["/bin/sh", "-c", "exec_cmd p1_cmd"]),
        ("exec_entry p1_entry", None, ["/bin/sh", "-c", "exec_entry p1_entry"]),
        ("exec_entry p1_entry", ["exec_cmd"], ["/bin/sh", "-c", "exec_entry p1_entry"]),
        ("exec_entry p1_entry", "exec_cmd", ["/bin/sh", "-c", "exec_entry p1_entry"]),
        (["exec_entry", "p1_entry"], None, ["exec_entry", "p1_entry"]),
        (["exec_entry", "p1_entry"], ["exec_cmd", "p1_cmd"], ["exec_entry", "p1_entry", "exec_cmd", "p1_cmd"]),
        (["exec_entry"], "exec_cmd p1_cmd", ["exec_entry", "/bin/sh", "-c", "exec_cmd p1_cmd"]),
        ([], ["exec_cmd"], ["exec_cmd"]),
        (["exec_entry"], [], ["exec_entry"]),
        ([], [], []),
    ],
)
def test_entrypoint_and_cmd_combine_as_docker_combines_them(entrypoint: Any, cmd: Any, argv: list[str]) -> None:
    assert combine(entrypoint, cmd) == argv
    if argv:
        recorded = {PLATFORM + "ENTRYPOINT_B64J": b64j(entrypoint), PLATFORM + "CMD_B64J": b64j(cmd)}
        assert command(**recorded) == argv


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ('["python", "a b.py"]', ["python", "a b.py"]),
        (' ["python"] ', ["python"]),
        ("python a.py", ["/bin/sh", "-c", "python a.py"]),
        ('"python a.py"', ["/bin/sh", "-c", "python a.py"]),
    ],
)
def test_an_author_writes_a_json_list_or_a_command_line(text: str, argv: list[str]) -> None:
    assert command(ALGORITHM_ENTRYPOINT=text) == argv
    assert command(ALGORITHM_CMD=text) == argv


def test_the_platforms_word_goes_before_the_authors_and_is_taken_whole(tmp_path: Path) -> None:
    default = tmp_path / "run"
    default.touch(0o755)
    author = {"ALGORITHM_ENTRYPOINT": '["author"]', "ALGORITHM_CMD": '["more"]'}
    platform = {PLATFORM + "ENTRYPOINT_B64J": b64j(["platform"]), PLATFORM + "CMD_B64J": b64j(None)}
    assert command(default, **author, **platform) == ["platform"]
    assert command(default, **author) == ["author", "more"]
    assert command(default) == [str(default)]


def test_a_platform_that_recorded_null_for_both_leaves_the_word_to_the_author() -> None:
    recorded = {PLATFORM + "ENTRYPOINT_B64J": "bnVsbA==", PLATFORM + "CMD_B64J": "bnVsbA=="}
    assert command(ALGORITHM_CMD='["author"]', **recorded) == ["author"]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.touch(0o644), lambda path: path.mkdir()])
def test_without_any_command_the_start_stops_with_one_line(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "run")
    with pytest.raises(SettingsInvalid) as caught:
        command(tmp_path / "run")
    assert [line.partition(":")[0] for line in caught.value.lines] == ["ALGORITHM_ENTRYPOINT"]
