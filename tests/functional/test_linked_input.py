"""The input folder as a link to a folder of the task's own: what the algorithm sees, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rig import CONTAINER, DEADLINE_SECONDS, KEY, Rig, log_records, signed_result

if TYPE_CHECKING:
    from conftest import Start
    from tests.conftest import Bucket

LOOKS = """
import json, os, pathlib, sys
folder, output = (pathlib.Path(os.environ[f"ALGORITHM_{name}_PATH"]) for name in ("INPUT", "OUTPUT"))
seen = {
    "linked": folder.is_symlink(),
    "place": os.path.realpath(folder),
    "mode": oct(folder.stat().st_mode)[-4:],
    "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*")),
    "parent": sorted(os.listdir(sys.argv[1])),
}
(output / "seen.json").write_text(json.dumps(seen))
"""
"""A program that notes what it sees of its input folder, and of the parent of such folders."""


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def linked(start: Start, parent: Path) -> Callable[..., Rig]:
    """Start a predictor that links, with a program and its arguments; by default the one that looks."""

    def starting(*command: str, **env: str) -> Rig:
        name, *arguments = command or (sys.executable, "-c", LOOKS, str(parent))
        env = {
            "ALGORITHM_USE_LINKED_INPUT": "true",
            "ALGORITHM_LINKED_INPUT_PARENT": str(parent),
            "LOG_LEVEL": "DEBUG",
        } | env
        return start(name, *arguments, env=env)

    return starting


def task_with_inputs(bucket: Bucket, pk: str = "task") -> dict[str, Any]:
    bucket.put("in", "data")
    return bucket.task(pk, inputs=[bucket.item("file", "in"), bucket.item("deep/file", "in")])


def seen(bucket: Bucket, pk: str = "task") -> dict[str, Any]:
    noted: dict[str, Any] = json.loads(bucket.get(f"/out/{pk}/seen.json"))
    assert noted.pop("files") == ["deep", "deep/file", "file"]
    assert noted.pop("mode") == "0755"
    return noted


def in_place(rig: Rig) -> bool:
    return "staged in place" in rig.log_text()


# -- the link


def test_the_algorithm_finds_its_input_in_a_folder_of_the_tasks_own(
    linked: Callable[..., Rig], bucket: Bucket, parent: Path
) -> None:
    rig = linked()
    for pk in ("first", "second", "first", "x" * 240):
        assert rig.run(task_with_inputs(bucket, pk))["return_code"] == 0
        assert seen(bucket, pk) == {
            "linked": True,
            "place": str(parent / f"{pk}-input"),
            "parent": [f"{pk}-input"],
        }
        assert not rig.input.is_symlink()
        assert list(parent.iterdir()) == []
    assert not in_place(rig)


def test_invoke_links_too(bucket: Bucket, tmp_path: Path, parent: Path) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": bucket.endpoint,
        "ALGORITHM_ENTRYPOINT": json.dumps([sys.executable, "-c", LOOKS, str(parent)]),
        "ALGORITHM_INPUT_PATH": str(tmp_path / "input"),
        "ALGORITHM_OUTPUT_PATH": str(tmp_path / "output"),
        "GRAND_CHALLENGE_COMPONENT_SIGNING_KEY_HEX": KEY.hex(),
        "GRAND_CHALLENGE_COMPONENT_USE_LINKED_INPUT": "True",
        "GRAND_CHALLENGE_COMPONENT_LINKED_INPUT_PARENT": f"{parent}/",
    }
    tasks = [task_with_inputs(bucket, pk) for pk in ("one", "two")]
    command = [sys.executable, str(CONTAINER / "invoke"), "-t", json.dumps(tasks)]
    ended = subprocess.run(command, env=env, capture_output=True, timeout=2 * DEADLINE_SECONDS)
    assert (ended.returncode, log_records(ended.stderr)) == (0, [])
    for task in tasks:
        assert signed_result(bucket, task)["return_code"] == 0
        place = str(parent / f"{task['pk']}-input")
        assert seen(bucket, task["pk"]) == {"linked": True, "place": place, "parent": [f"{task['pk']}-input"]}
    assert list(parent.iterdir()) == list((tmp_path / "output").iterdir()) == []
    assert list((tmp_path / "input").iterdir()) == []
    assert not (tmp_path / "input").is_symlink()


def test_where_the_task_folders_are_moved_nothing_is_linked_that_nobody_asked_for(
    linked: Callable[..., Rig], bucket: Bucket, parent: Path
) -> None:
    rig = linked(ALGORITHM_USE_LINKED_INPUT="", ALGORITHM_LINKED_INPUT_PARENT=str(parent.with_name("never")))
    parent.mkdir()
    assert rig.run(task_with_inputs(bucket))["return_code"] == 0
    assert not seen(bucket)["linked"]
    assert not parent.with_name("never").exists()


# -- in place


def hold_something(input_path: Path, parent: Path) -> None:
    input_path.mkdir()
    (input_path / "deep").mkdir()


def hold_the_name(input_path: Path, parent: Path) -> None:
    (parent / "task-input").mkdir()
    (parent / "task-input" / "theirs").write_text("theirs")


def be_a_link(input_path: Path, parent: Path) -> None:
    input_path.with_name("real").mkdir(0o755)
    input_path.symlink_to("real")


@pytest.mark.parametrize("prepare", [hold_something, hold_the_name, be_a_link])
def test_where_no_link_can_be_made_the_task_runs_all_the_same(
    linked: Callable[..., Rig], bucket: Bucket, tmp_path: Path, parent: Path, prepare: Callable[[Path, Path], None]
) -> None:
    parent.mkdir()
    prepare(tmp_path / "input", parent)
    before = sorted(tmp_path.glob("*/**/*"))
    rig = linked()
    real = str((tmp_path / "input").resolve())
    for _ in range(2):
        task = task_with_inputs(bucket)
        assert rig.post(task).json["return_code"] == 0
        assert seen(bucket)["place"] == real
    assert in_place(rig)
    left = [path for path in sorted(tmp_path.glob("*/**/*")) if path.parts[-2] != "locks"]
    assert left == before


# -- a program that means ill, or well


HOSTILE = {
    "the link": 'rm "$I" && ln -s "$OUTSIDE" "$I"',
    "the link by a folder": 'rm "$I" && mkdir "$I" && ln -s "$OUTSIDE" "$I/link" && touch "$I/file"',
    "the link by what is outside": 'rm "$I" && ln -s "$OUTSIDE/precious" "$I"',
    "the folder": 'rm -r "$DATA/task-input" && ln -s "$OUTSIDE" "$DATA/task-input"',
    "the folder by a file": 'rm -r "$DATA/task-input" && touch "$DATA/task-input"',
    "what is in the folder": 'rm -r "$I/deep" && ln -s "$OUTSIDE" "$I/deep" && chmod 0 "$I"',
    "nothing, but adds": 'mkdir "$DATA/other-input" && ln -s "$OUTSIDE" "$DATA/other-input/x" && touch "$DATA/x-input"',
    "the link and the folder by nothing": 'rm -r "$DATA/task-input" "$I"',
}


@pytest.mark.parametrize("replaces", HOSTILE)
def test_a_program_that_replaces_what_is_ours_costs_nobody_anything(
    linked: Callable[..., Rig], bucket: Bucket, tmp_path: Path, parent: Path, replaces: str
) -> None:
    outside = tmp_path / "outside"
    (outside / "task-input").mkdir(parents=True)
    (outside / "task-input" / "precious").touch()
    (outside / "precious").touch()
    hostile = f'I="$ALGORITHM_INPUT_PATH"; {HOSTILE[replaces]}'
    rig = linked("/bin/sh", "-c", hostile, DATA=str(parent), OUTSIDE=str(outside))
    for _ in range(2):
        assert rig.run(task_with_inputs(bucket))["return_code"] == 0
        assert sorted(str(path.relative_to(outside)) for path in outside.rglob("*")) == [
            "precious",
            "task-input",
            "task-input/precious",
        ]
        assert list(parent.iterdir()) == []
        assert not rig.input.is_symlink()
    assert not in_place(rig)


def test_a_program_that_replaces_the_parent_has_the_next_task_staged_in_place(
    linked: Callable[..., Rig], bucket: Bucket, tmp_path: Path, parent: Path
) -> None:
    outside = tmp_path / "outside"
    (outside / "task-input").mkdir(parents=True)
    (outside / "task-input" / "precious").touch()
    swap = f'mv "{parent}" "{parent}-moved" && ln -s "{outside}" "{parent}"'
    rig = linked("/bin/sh", "-c", f"test -h '{parent}' || {{ {swap}; }}")
    for _ in range(2):
        assert rig.run(task_with_inputs(bucket))["return_code"] == 0
        assert [str(path.relative_to(outside)) for path in outside.rglob("*")] == ["task-input", "task-input/precious"]
        assert list(Path(f"{parent}-moved").iterdir()) == []
    assert in_place(rig)


# -- a worker that died


def test_the_inputs_of_a_task_whose_worker_died_are_gone_with_the_next_one(
    linked: Callable[..., Rig], bucket: Bucket, parent: Path
) -> None:
    rig = linked()
    (rig.predictor.server.input.link("dead") / "secret").touch()  # as a worker does, and then it is killed
    assert rig.input.is_symlink()
    assert [path.name for path in rig.input.iterdir()] == ["secret"]
    assert rig.run(task_with_inputs(bucket))["return_code"] == 0
    assert seen(bucket)["parent"] == ["task-input"]
    assert list(parent.iterdir()) == []
