"""ENTRYPOINT and CMD, in all the combinations that Docker's documentation lists."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from model_server.command import algorithm_command, combine, takes_arguments, train_command
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


def test_arguments_take_the_place_of_cmd_also_behind_the_default_program(tmp_path: Path) -> None:
    default = tmp_path / "run"
    default.touch(0o755)

    def given(**environ: str) -> list[str]:
        return algorithm_command(Settings.from_env(environ), default, ["a", "b"])

    assert given(ALGORITHM_ENTRYPOINT='["entry"]', ALGORITHM_CMD='["cmd"]') == ["entry", "a", "b"]
    assert given(ALGORITHM_ENTRYPOINT='["entry"]', ALGORITHM_CMD="cmd") == ["entry", "a", "b"]
    assert given(ALGORITHM_CMD='["cmd"]') == ["a", "b"]
    assert given(ALGORITHM_ENTRYPOINT="entry") == ["/bin/sh", "-c", "entry"]
    assert given() == [str(default), "a", "b"]


SHELL = ["/bin/sh", "-c"]


@pytest.mark.parametrize(
    ("entrypoint", "takes"),
    [
        ("entry", False),
        ([*SHELL, 'exec run "$A" >/b'], False),
        ([*SHELL, 'exec run $0 "$@"'], True),
        ([*SHELL, 'exec run "${1}"'], True),
        ([*SHELL, "run", "x"], True),
        (["/bin/bash", "-c", "run"], True),
        (["entry"], True),
        (None, True),
    ],
)
def test_an_entrypoint_in_shell_form_takes_no_arguments(entrypoint: Any, takes: bool) -> None:
    """Docker makes a list of it; one that looks for arguments is a list that an author wrote."""
    assert takes_arguments(Settings.from_env({PLATFORM + "ENTRYPOINT_B64J": b64j(entrypoint)})) == takes
    author = {"ALGORITHM_ENTRYPOINT": json.dumps(entrypoint) if entrypoint else "", "ALGORITHM_CMD": "cmd"}
    assert takes_arguments(Settings.from_env(author)) == takes


def test_the_training_program_is_the_authors_or_the_default(tmp_path: Path) -> None:
    default = tmp_path / "train"

    def trained(**environ: str) -> list[str]:
        return train_command(Settings.from_env(environ), ["--a", "1"], default)

    with pytest.raises(SettingsInvalid, match="ALGORITHM_TRAIN_ENTRYPOINT: names no command"):
        trained()
    default.touch(0o755)
    assert trained(ALGORITHM_ENTRYPOINT='["not this"]') == [str(default), "--a", "1"]
    assert trained(ALGORITHM_TRAIN_ENTRYPOINT='["python", "t.py"]') == ["python", "t.py", "--a", "1"]
    assert trained(ALGORITHM_TRAIN_ENTRYPOINT='t.py "$@"') == ["/bin/sh", "-c", 't.py "$@"', "train", "--a", "1"]


def test_a_platform_that_recorded_null_for_both_leaves_the_word_to_the_author() -> None:
    recorded = {PLATFORM + "ENTRYPOINT_B64J": "bnVsbA==", PLATFORM + "CMD_B64J": "bnVsbA=="}
    assert command(ALGORITHM_CMD='["author"]', **recorded) == ["author"]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.touch(0o644), lambda path: path.mkdir()])
def test_without_any_command_the_start_stops_with_one_line(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "run")
    with pytest.raises(SettingsInvalid) as caught:
        command(tmp_path / "run")
    assert [line.partition(":")[0] for line in caught.value.lines] == ["ALGORITHM_ENTRYPOINT"]
