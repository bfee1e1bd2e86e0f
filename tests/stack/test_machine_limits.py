"""A machine that is used up: no file, process or thread more. Each task ends in words, and the next one runs."""

import os
import resource
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor, wait
from socket import AF_UNIX
from typing import TYPE_CHECKING

from server import START_SECONDS, Answer, Process, Server, eventually, is_signed, process_table, serving

if TYPE_CHECKING:
    from conftest import Bucket

REFUSED = {
    "algorithm_not_started": "The algorithm could not be started",
    "machine_limit": "The machine refused the server what it needs for the task",
}
ANYTHING = "."
"""What is refused is up to the limit, so are the warnings of it."""

COUNTED_USER = (
    ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
    + ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    if os.geteuid() == 0
    else []
)
"""Be a user whose processes are counted, as root's are not."""

PATIENCE_SECONDS = 1.0


def limit(process: Process, kind: int, most: int | None = None) -> None:
    """Set a limit of a running process, or lift it."""
    _, highest = resource.prlimit(process.pid, kind)
    resource.prlimit(process.pid, kind, (highest if most is None else most, highest))


def leave_files(process: Process, number: int) -> None:
    """Let a process open so many files more than it has open."""
    taken = {int(name) for name in os.listdir(f"/proc/{process.pid}/fd")}
    free = [descriptor for descriptor in range(len(taken) + number + 1) if descriptor not in taken]
    limit(process, resource.RLIMIT_NOFILE, free[number])


def run_limited(server: Server, worker: Process, number: int, task: dict[str, object]) -> Answer:
    """Run a task while a worker may open so many files more, or until it waits for more for a while."""
    with ThreadPoolExecutor(1) as threads:
        leave_files(worker, number)
        answer = threads.submit(server.run, task)
        wait([answer], PATIENCE_SECONDS)
        limit(worker, resource.RLIMIT_NOFILE)
        return answer.result()


def test_a_worker_that_may_open_no_more_files_ends_its_task_in_words_and_runs_the_next(
    s3_endpoint: str, bucket: "Bucket"
) -> None:
    """However many files it may open yet: each of the places that opens one meets the limit."""
    with serving(s3_endpoint, warnings=ANYTHING, MODEL_SERVER_WORKERS="1") as server:
        assert server.run(server.task(bucket, "first", "")).status == 200
        (worker,) = server.workers
        before = worker.descriptors()
        codes = set()
        for number in [*range(12), *range(12, 24, 3)]:
            answer = run_limited(server, worker, number, server.task(bucket, f"limited-{number}", ""))
            if answer.status == 200:
                assert answer.json()["error"] is None
            else:
                error = answer.json()["error"]
                assert (answer.status, error["message"]) == (503, REFUSED[error["code"]])
                stored = bucket.keys()
                if any(key.startswith(f"/out/limited-{number}/") for key in stored):  # else it never began
                    codes.add(error["code"])
                    assert bucket.result(f"/out/limited-{number}")["error"]["code"] == error["code"]
                    assert is_signed(bucket, f"limited-{number}")
            after = server.run(server.task(bucket, f"after-{number}", ""))
            assert (after.status, after.json()["return_code"]) == (200, 0)
        assert codes == set(REFUSED)
        assert [process.pid for process in server.workers] == [worker.pid]
        eventually(lambda: worker.descriptors() == before, "no more open files than before")


def test_a_connection_waits_for_a_file_to_be_free(s3_endpoint: str, bucket: "Bucket") -> None:
    expected = "^A connection waits: Too many open files$"
    with serving(s3_endpoint, warnings=expected, MODEL_SERVER_WORKERS="1") as server, socket.socket(AF_UNIX) as client:
        assert server.run(server.task(bucket, "first", "")).status == 200  # nothing is loaded later
        (worker,) = server.workers
        leave_files(worker, 0)
        client.settimeout(START_SECONDS)
        client.connect(str(server.run_folder / "gunicorn/gunicorn.sock"))
        client.sendall(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: any("A connection waits" in line for line in server.own_lines("stderr")), "a refusal")
        limit(worker, resource.RLIMIT_NOFILE)
        assert client.recv(15) == b"HTTP/1.1 200 OK"
        assert [process.pid for process in server.workers] == [worker.pid]


def limit_processes(process: Process, most: str) -> None:
    """Set how many processes the user of one may have when it starts another."""
    subprocess.run([*COUNTED_USER, "prlimit", f"--pid={process.pid}", f"--nproc={most}:"], check=True)


def test_a_worker_that_may_start_no_process_says_so_and_runs_the_next_task(s3_endpoint: str, bucket: "Bucket") -> None:
    bucket.put("in", "data")
    with serving(s3_endpoint, *COUNTED_USER, MODEL_SERVER_WORKERS="1") as server:
        assert server.run(server.task(bucket, "first", "")).status == 200
        (worker,) = server.workers
        limit_processes(worker, "1")
        tasks = [bucket.task(f"refused-{number}", [bucket.item("file", "in")]) for number in range(4)]
        for answer in [posted.answer() for posted in [server.post(task) for task in tasks]]:
            assert (answer.status, answer.json()["error"]["code"]) == (503, "algorithm_not_started")
        for task in tasks:
            sentence = bucket.result(task["output_prefix"])["user_safe_error_message"]
            assert sentence == REFUSED["algorithm_not_started"]
            assert is_signed(bucket, task["pk"])
        assert server.pings()
        limit_processes(worker, str(resource.getrlimit(resource.RLIMIT_NPROC)[1]))
        assert server.run(server.task(bucket, "next", "")).json()["return_code"] == 0
        assert [process.pid for process in server.workers] == [worker.pid]


def test_a_lost_task_has_its_result_once_there_is_a_process_again_to_tell_it(
    s3_endpoint: str, bucket: "Bucket"
) -> None:
    with serving(s3_endpoint, warnings=ANYTHING, MODEL_SERVER_WORKERS="1") as server:
        posted = server.post_blocking(bucket, "lost")
        pid_1 = process_table()[server.pid]
        leave_files(pid_1, 0)
        os.kill(server.workers[0].pid, signal.SIGKILL)
        eventually(lambda: any("Stopping: " in line for line in server.own_lines("stderr")), "the word to stop")
        limit(pid_1, resource.RLIMIT_NOFILE)
        assert server.ended() == 1
        assert posted.answer().status in (502, 503)
        assert bucket.result("/out/lost")["error"]["code"] in ("interrupted", "worker_lost")


def test_a_stop_that_leaves_a_lost_task_untold_is_a_failure(s3_endpoint: str, bucket: "Bucket") -> None:
    with serving(s3_endpoint, *COUNTED_USER, warnings=ANYTHING, MODEL_SERVER_WORKERS="1") as server:
        posted = server.post_blocking(bucket, "lost")
        (worker,) = server.workers
        os.kill(worker.pid, signal.SIGSTOP)
        os.kill(server.pid, signal.SIGTERM)
        eventually(lambda: any("Received SIGTERM" in line for line in server.own_lines("stdout")), "the word to stop")
        limit_processes(process_table()[server.pid], "1")
        os.kill(worker.pid, signal.SIGKILL)
        assert server.ended() == 1
        assert posted.answer().status in (502, 503)
        assert any("Nobody could tell of 1 lost tasks: " in line for line in server.own_lines("stderr"))
