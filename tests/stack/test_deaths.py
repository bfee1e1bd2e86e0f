"""The table of deaths, row by row: kill -9 at each process, at each stage of a task."""

import http.client
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from server import Answer, Process, Server, eventually, is_signed, serving

from death_table import DEATHS, GUNICORN, ITS_CHILD, NGINX, NGINX_WORKER, PROGRAM, WORKER, Death
from faulty_s3 import FaultyS3
from stages import AFTER_ITS_END, HeldTask

if TYPE_CHECKING:
    from conftest import Bucket

EXPECTED = {
    WORKER: r"was sent SIGKILL|unfinished tasks|^Task .*worker_lost|^nginx: .*(closed connection|reset by peer)",
    NGINX_WORKER: r"^nginx: .* exited on signal 9",
    GUNICORN: r"^(Stopping|Stopped): ",
    NGINX: r"^(Stopping|Stopped): ",
}
"""The warnings that a death brings."""

CHILD = """sleep 300 &
echo $! >"$BOARD/child"
touch "$BOARD/{}"
wait $!
exit 0
"""
"""Lines of a program that makes nothing of its child's death."""


@dataclass
class Place:
    """Where a row is tried: a server whose S3 can be held."""

    server: Server
    s3: FaultyS3
    bucket: "Bucket"

    def try_row(self, death: Death) -> Answer | None:
        """Kill who is to be killed once a task is there, and return what its client sees, None for no answer."""
        task = HeldTask(death.stage, self.s3, self.bucket, self.server.board, pk_of(death), more_of(death))
        posted = self.server.post(task.json)
        eventually(task.is_there, f"a task that is {death.stage}")
        victim = self.victim(death.killed)
        os.kill(victim.pid, signal.SIGKILL)
        eventually(lambda: not victim.is_there(), "the end of who was killed")
        if death.stage in AFTER_ITS_END:  # what is uploaded then is waited for; before, a late input could come first
            task.let_go()
        try:
            return posted.answer()
        except (http.client.RemoteDisconnected, ConnectionResetError):
            return None
        finally:
            task.let_go()

    def victim(self, killed: str) -> Process:
        server = self.server
        if killed == PROGRAM:
            return next(p for p in server.algorithm if p.pid == p.group)
        if killed == ITS_CHILD:
            return next(p for p in server.algorithm if p.pid == int((server.board / "child").read_text()))
        if killed == WORKER:
            return next(worker for worker in server.workers if "anon_inode:[eventfd]" in worker.descriptors())
        if killed == NGINX_WORKER:
            return server.children(server.nginx.pid)[0]
        return server.gunicorn if killed == GUNICORN else server.nginx


def pk_of(death: Death) -> str:
    return f"{death.killed} {death.stage}".replace("'", "").replace(" ", "-")


def more_of(death: Death) -> str:
    return CHILD.format(pk_of(death)) if death.killed == ITS_CHILD else ""


def assert_as_in_the_table(death: Death, answer: Answer | None, bucket: "Bucket") -> None:
    pk = pk_of(death)
    assert (answer and answer.status) == death.status
    if answer and death.error:
        assert answer.json()["error"]["code"] == death.error
    said = eventually(lambda: result_if(bucket, pk, death.error), f"a result that says {death.error}")
    assert said["return_code"] == death.return_code
    assert is_signed(bucket, pk)
    if answer and answer.status == 200:
        assert answer.json() == said


def result_if(bucket: "Bucket", pk: str, error: str | None) -> dict[str, Any] | None:
    """Return the result of a task if it is the one with this error: that of a lost task comes after the answer."""
    keys = bucket.keys()
    if f"/out/{pk}/.sagemaker_shim/inference_result.json" not in keys:
        return None
    result = bucket.result(f"/out/{pk}")
    return result if (result["error"] or {}).get("code") == error else None


@pytest.fixture(scope="module")
def lasting(s3_endpoint: str, shared_bucket: "Bucket") -> Iterator[Place]:
    """A server for all rows that it survives."""
    with (
        FaultyS3(s3_endpoint) as s3,
        serving(s3.endpoint, warnings=f"{EXPECTED[WORKER]}|{EXPECTED[NGINX_WORKER]}") as server,
    ):
        yield Place(server, s3, shared_bucket)


@pytest.mark.parametrize("death", [death for death in DEATHS if not death.exit], ids=pk_of)
def test_a_death_that_the_container_survives_is_seen_as_the_table_says(lasting: Place, death: Death) -> None:
    server = lasting.server
    server.clear_board()
    answer = lasting.try_row(death)
    assert_as_in_the_table(death, answer, lasting.bucket)
    eventually(lambda: len(server.workers) == 2 and server.pings(), "a whole server")
    script = 'ls -A "$ALGORITHM_INPUT_PATH" >&2; ls -A "$ALGORITHM_OUTPUT_PATH" >&2'
    after = server.run(server.task(lasting.bucket, f"after-{pk_of(death)}", script)).json()
    assert (after["return_code"], after["outputs"]) == (0, [])
    assert after["user_process_last_stderr_lines"] == ["do\n"]


@pytest.mark.parametrize("death", [death for death in DEATHS if death.exit], ids=pk_of)
def test_a_death_that_ends_the_container_is_seen_as_the_table_says(
    s3: FaultyS3, bucket: "Bucket", death: Death
) -> None:
    with serving(s3.endpoint, warnings=EXPECTED[death.killed]) as server:
        answer = Place(server, s3, bucket).try_row(death)
        assert server.ended() == 1
        assert server.own_lines("stderr")[-1] == f"Stopped: {death.exit}"
        assert_as_in_the_table(death, answer, bucket)
