"""The linked input of the real `serve`: with workers that are killed, and where the system permits no link."""

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from server import namespace, serving

if TYPE_CHECKING:
    from conftest import Bucket

LOOK = 'readlink -f "$ALGORITHM_INPUT_PATH" > "$ALGORITHM_OUTPUT_PATH/place"\n'
WORKER_LOST = r"was sent SIGKILL|unfinished tasks|exited|worker_lost|interrupted: |closed connection|reset by peer"


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    parent = tmp_path / "data"
    (parent / "ground_truth").mkdir(parents=True)
    return parent


def linking(parent: Path) -> dict[str, str]:
    return {"ALGORITHM_USE_LINKED_INPUT": "true", "ALGORITHM_LINKED_INPUT_PARENT": str(parent)}


def names(parent: Path) -> list[str]:
    return sorted(os.listdir(parent))


def test_the_inputs_of_a_killed_worker_do_not_outlast_the_next_task(
    s3_endpoint: str, bucket: "Bucket", parent: Path
) -> None:
    with serving(s3_endpoint, warnings=WORKER_LOST, **linking(parent)) as server:
        posted = server.post_blocking(bucket, "lost", 'echo secret > "$ALGORITHM_INPUT_PATH/secret"')
        assert names(parent / "lost-input") == ["do", "secret"]
        os.kill(server.running_worker().pid, signal.SIGKILL)
        assert posted.answer().status == 502
        task = server.task(bucket, "next", f'{LOOK} ls "{parent}" > "$ALGORITHM_OUTPUT_PATH/names"')
        answer = server.run(task)
        if answer.status == 502:  # it met the connection of the dead worker
            answer = server.run(task)
        assert answer.json()["return_code"] == 0
        assert bucket.get("/out/next/place").decode() == f"{parent}/next-input\n"
        assert bucket.get("/out/next/names").split() == [b"ground_truth", b"next-input"]
        assert names(parent) == ["ground_truth"]


def test_the_inputs_of_a_worker_that_was_killed_last_go_with_the_server(
    s3_endpoint: str, bucket: "Bucket", parent: Path
) -> None:
    with serving(s3_endpoint, warnings=WORKER_LOST, **linking(parent)) as server:
        posted = server.post_blocking(bucket, "lost")
        os.kill(server.running_worker().pid, signal.SIGKILL)
        assert posted.answer().status == 502
        assert server.stop() == 0
        assert names(parent) == ["ground_truth"]
        assert not (server.folder / "input").is_symlink()
        assert names(server.folder / "input") == []


MOUNTS = {
    "the input is a mount point": 'I="$ALGORITHM_INPUT_PATH" && mkdir "$I" && mount --bind "$I" "$I"',
    "the parent is read-only": 'mount --bind "$PARENT" "$PARENT" && mount -o remount,bind,ro "$PARENT"',
    "the name is a mount point": 'mkdir "$PARENT/pk-input" && mount --bind "$PARENT/pk-input" "$PARENT/pk-input"',
}


@pytest.mark.parametrize("why", MOUNTS)
def test_where_a_mount_is_in_the_way_the_inputs_are_staged_in_place(
    s3_endpoint: str, bucket: "Bucket", parent: Path, why: str
) -> None:
    words = namespace("-mf")
    if words is None:  # `namespace` has seen that it is not permitted
        return
    mounted = [*words, "sh", "-c", f'{MOUNTS[why]} && exec "$@"', "sh"]
    more = linking(parent) | {"LOG_LEVEL": "DEBUG", "PARENT": str(parent)}
    with serving(s3_endpoint, *mounted, warnings=r"^nginx: .*initgroups\(", **more) as server:
        before = names(parent)
        for _ in range(2):
            assert server.run(server.task(bucket, "pk", LOOK)).json()["return_code"] == 0
            assert bucket.get("/out/pk/place").decode() == f"{server.folder}/input\n"
            assert names(parent) == before
        assert any("staged in place" in line for line in server.own_lines("stdout"))
