"""What a task leaves is gone with it: daemons, orphans, zombies, and files in folders that are not its own."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from server import Process, Server, eventually, serving

if TYPE_CHECKING:
    from conftest import Bucket

WRITES_ON = 'trap : PIPE; while :; do echo late >>"$ALGORITHM_OUTPUT_PATH/late"; echo late >&2; sleep 0.01; done'
DAEMON = f"setsid sh -c '{WRITES_ON}' &\n"
ORPHAN_OF_A_DAEMON = f"setsid sh -c \"setsid sh -c '{WRITES_ON}' &\" &\n".replace("$A", "\\$A")
LOOKS = 'ls "$ALGORITHM_OUTPUT_PATH" >&2; sleep 0.2'
LEFT = "The algorithm left {} processes outside its group, which were ended"


@pytest.fixture(scope="module")
def server(s3_endpoint: str) -> Iterator[Server]:
    with serving(s3_endpoint) as running:
        yield running


def assert_nothing_of_it_is_seen(server: Server, bucket: "Bucket") -> None:
    """Run one more task, and check that nothing of another is among its files and lines."""
    answer = server.run(server.task(bucket, "next", LOOKS)).json()
    assert (answer["return_code"], answer["outputs"], answer["user_process_last_stderr_lines"]) == (0, [], [])


@pytest.mark.parametrize("leaves", [DAEMON, DAEMON + DAEMON, ORPHAN_OF_A_DAEMON], ids=["one", "two", "grandchild"])
def test_a_daemon_is_ended_with_its_task(server: Server, bucket: "Bucket", leaves: str) -> None:
    script = leaves + 'until [ -e "$ALGORITHM_OUTPUT_PATH/late" ]; do sleep 0.01; done'
    assert server.run(server.task(bucket, "leaves", script)).json()["return_code"] == 0
    assert server.algorithm == []
    assert_nothing_of_it_is_seen(server, bucket)


def test_the_log_says_what_was_left(server: Server, bucket: "Bucket") -> None:
    daemon = 'setsid sh -c \'touch "$BOARD/{0}"; exec sleep 60\' & until [ -e "$BOARD/{0}" ]; do sleep 0.01; done\n'
    server.run(server.task(bucket, "leaves", daemon.format("one") + daemon.format("two")))
    server.clear_board()
    assert LEFT.format(2) in server.own_lines("stdout")


def test_a_daemon_that_outlives_a_time_limit_is_ended_too(server: Server, bucket: "Bucket") -> None:
    task = server.task(bucket, "late", DAEMON + "sleep 60", timeout="PT1S")
    assert server.run(task).json()["error"]["code"] == "time_limit_exceeded"
    assert server.algorithm == []
    assert_nothing_of_it_is_seen(server, bucket)


def test_orphans_that_end_meanwhile_do_not_pile_up(server: Server, bucket: "Bucket") -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do sh -c 'sleep 0.01 & exit'; done\n"
    posted = server.post_blocking(bucket, "orphans", script)
    eventually(lambda: not any(process.state == "Z" for process in server.tree()), "an end of all zombies")
    server.go()
    assert posted.answer().json()["return_code"] == 0
    server.clear_board()


def test_a_daemon_of_a_worker_that_was_killed_is_ended_too(bucket: "Bucket") -> None:
    with serving(
        bucket.endpoint, warnings="closed connection|reset by peer|was sent SIGKILL|unfinished tasks|worker_lost"
    ) as server:
        posted = server.post_blocking(bucket, "lost", DAEMON)
        os.kill(server.running_worker().pid, signal.SIGKILL)
        assert posted.answer().status == 502
        eventually(lambda: server.algorithm == [], "an end of the daemon")
        assert_nothing_of_it_is_seen(server, bucket)


def test_a_daemon_of_a_worker_that_was_killed_is_ended_though_another_worker_is_the_first_to_know(
    bucket: "Bucket",
) -> None:
    """A worker whose request waits finds the slot without its holder, and ends the group, before PID 1 hears of it."""
    warnings = "closed connection|reset by peer|was sent SIGKILL|unfinished tasks|worker_lost"
    with serving(bucket.endpoint, warnings=warnings, MODEL_SERVER_WORKERS="4") as server:
        posted = server.post_blocking(bucket, "lost", DAEMON)
        lost = server.running_worker().pid
        os.kill(lost, signal.SIGSTOP)  # it takes none of what comes, but for what nginx keeps a connection to it
        waiting = [server.post(server.task(bucket, f"next-{number}", LOOKS)) for number in range(8)]
        others = eventually(
            lambda: [worker.pid for worker in server.workers if worker.pid != lost and has_a_request(worker)],
            "a request in another worker",
        )
        os.kill(server.pid, signal.SIGSTOP)
        try:
            os.kill(lost, signal.SIGKILL)
            eventually(lambda: lost not in {worker.pid for worker in server.workers}, "the end of the worker")
            before = rests(others[0])
            eventually(lambda: rests(others[0]) > before + 30, "some looks of the other worker at the slot")
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert posted.answer().status == 502
        answers = [told.json() for request in waiting if (told := request.answer()).status == 200]
        assert answers
        for answer in answers:
            assert (answer["return_code"], answer["outputs"], answer["user_process_last_stderr_lines"]) == (0, [], [])
        assert server.algorithm == []


def has_a_request(worker: Process) -> bool:
    return "anon_inode:[eventfd]" in worker.descriptors()


def rests(worker: int) -> int:
    """Return how often the threads of a worker have waited: one whose request waits for the slot does all the time."""
    texts = [(thread / "status").read_text() for thread in Path(f"/proc/{worker}/task").iterdir()]
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in texts)


@pytest.mark.parametrize("removed", [False, True])
def test_what_a_task_leaves_in_a_writable_folder_is_told_and_removed_if_that_is_wished(
    bucket: "Bucket", tmp_path: Path, removed: bool
) -> None:
    folder = tmp_path / "scratch"
    settings = {"ALGORITHM_WRITABLE_DIRECTORIES": str(folder), "ALGORITHM_CLEAN_TMP": str(removed)}
    with serving(bucket.endpoint, **settings) as server:
        task = server.task(bucket, "leaves", f'mkdir -p "{folder}/a/b"; touch "{folder}/Doe_John"')
        assert server.run(task).json()["return_code"] == 0
        assert sorted(path.name for path in folder.iterdir()) == ([] if removed else ["Doe_John", "a"])
        server.stop_if_running()
        assert f"The task left 2 entries in {folder}" + (", removed" if removed else "") in server.own_lines("stdout")
