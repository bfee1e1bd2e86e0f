"""Containers that lack what others have, or have it otherwise: `serve` starts there, and a task runs as ever."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from server import Server, namespace, serving

if TYPE_CHECKING:
    from conftest import Bucket

INITGROUPS = r"^nginx: .*initgroups\("
"""Where we are not root the namespace maps one id only, and nginx says so."""

NO_RESOLVER = """
hostname nowhere-4f1c
for file in /etc/resolv.conf /etc/hosts; do test ! -e $file || mount --bind /dev/null $file; done
"""
READ_ONLY_SHM = "mount -t tmpfs -o ro none /dev/shm"
NO_SHM = """
mount -t tmpfs none /mnt
for node in null zero full random urandom tty; do touch /mnt/$node; mount --bind /dev/$node /mnt/$node; done
ln -s /proc/self/fd /mnt/fd
mount --move /mnt /dev
"""
EMPTY_PASSWD = "mount --bind /dev/null /etc/passwd; mount --bind /dev/null /etc/group"
NO_PASSWD = """
mount -t tmpfs none /mnt
test ! -e /etc/ld.so.cache || cp /etc/ld.so.cache /mnt
mount --move /mnt /etc
"""

PLACES = {
    "a hostname that does not resolve": (NO_RESOLVER, "cat /proc/sys/kernel/hostname", "nowhere-4f1c"),
    "a read-only /dev/shm": (READ_ONLY_SHM, "touch /dev/shm/x 2>/dev/null || echo none", "none"),
    "no /dev/shm": (NO_SHM, "ls -d /dev/shm 2>/dev/null || echo none", "none"),
    "an empty /etc/passwd": (EMPTY_PASSWD, "wc -c </etc/passwd", "0"),
    "no /etc/passwd": (NO_PASSWD, "ls /etc/passwd 2>/dev/null || echo none", "none"),
}
"""What makes each, what the algorithm says of it to show that it is there, and in which words."""

RUBBISH = "\udcff\x01 rubbish/../é"
LOCALES = [
    {"LC_ALL": "C", "LANG": "C", "TZ": ""},
    {"LC_ALL": "tr_TR.UTF-8", "LANG": "de_DE@euro", "TZ": "Pacific/Kiritimati"},
    {"LC_ALL": "no_SUCH.ISO-8859-15", "LANGUAGE": "::", "TZ": "Nowhere/Nothing"},
    {"LC_ALL": RUBBISH, "LANG": RUBBISH, "TZ": RUBBISH},
    {"LC_ALL": "x" * 5000, "TZ": ":/dev/null"},
    {"LC_ALL": "POSIX", "TZ": "XXX-167:59:59YYY-167:59:58,J1/-167,J365/167"},
]


def assert_a_task_runs(server: Server, bucket: "Bucket", says: str, words: str) -> None:
    """Run a task that speaks and writes beyond ASCII, and check that what it says and how long it took is true."""
    script = (
        f'{says} >&2; printf "caf\\303\\251\\n" >&2; echo x >"$ALGORITHM_OUTPUT_PATH/$(printf "\\303\\251")"; sleep 0.5'
    )
    answer = server.run(server.task(bucket, "one", script))
    result = answer.json()
    assert (result["return_code"], result["error"]) == (0, None), result
    assert [line.strip() for line in result["user_process_last_stderr_lines"]] == [words, "café"]
    assert [output["relative_path"] for output in result["outputs"]] == ["é"]
    assert bucket.get("/out/one/é") == b"x\n"
    assert 0.5 <= result["run_seconds"] <= answer.seconds
    assert server.ask("GET", "/ping").status == 200


@pytest.mark.parametrize("place", PLACES)
def test_a_task_runs_in_a_container_with(s3_endpoint: str, bucket: "Bucket", place: str) -> None:
    words = namespace("-muf")
    if words is None:  # `namespace` has seen that it is not permitted
        return
    make, says, expected = PLACES[place]
    prefix = [*words, "sh", "-ec", f'{make}\nexec "$@"', "sh"]
    with serving(s3_endpoint, *prefix, warnings=INITGROUPS) as server:
        assert_a_task_runs(server, bucket, says, expected)


@pytest.mark.parametrize("variables", LOCALES, ids=["C", "real", "unknown", "rubbish", "long", "far"])
def test_a_task_runs_in_any_locale_and_time_zone(s3_endpoint: str, bucket: "Bucket", variables: dict[str, str]) -> None:
    with serving(s3_endpoint, **variables) as server:
        assert_a_task_runs(server, bucket, 'test -z "$LC_ALL" || echo set', "set")


JUMPING = """
import os, time

def jumping(read, unit):
    def now():
        try:
            with open({folder!r} + "/clock") as file:
                ahead = int(file.read())
        except OSError:
            return read()
        open({folder!r} + f"/asked-{{os.getpid()}}", "w").close()
        return read() + type(read())(ahead * unit)
    return now

time.time, time.time_ns = jumping(time.time, 1), jumping(time.time_ns, 10**9)
"""
"""A sitecustomize: every Python of the server has a clock that the test sets, in seconds ahead of the true one."""


@pytest.mark.parametrize("seconds", [3600 * 24 * 400, -3600 * 24], ids=["forward", "back"])
def test_a_clock_that_jumps_ends_nothing_early_and_nothing_late(
    s3_endpoint: str, bucket: "Bucket", tmp_path: Path, seconds: int
) -> None:
    (tmp_path / "sitecustomize.py").write_text(JUMPING.format(folder=str(tmp_path)))
    with serving(s3_endpoint, PYTHONPATH=str(tmp_path)) as server:
        posted = server.post_blocking(bucket, "jumps", timeout="PT30S")
        waiting = server.post(bucket.task("waits"))
        server.await_requests(2)
        (tmp_path / "clock.new").write_text(str(seconds))
        (tmp_path / "clock.new").rename(tmp_path / "clock")
        pids = {worker.pid for worker in server.workers}
        assert {server.ask("GET", "/ping").status for _ in range(20)} == {200}
        server.go()
        result = posted.answer().json()
        assert (result["return_code"], result["error"]) == (0, None)
        assert 0 < result["run_seconds"] < 30
        assert waiting.answer().json()["queue_seconds"] < 30
        late = server.run(server.task(bucket, "late", "sleep 60", timeout="PT1S")).json()
        assert late["error"]["code"] == "time_limit_exceeded"
        assert 1 <= late["run_seconds"] < 30
        assert {worker.pid for worker in server.workers} == pids
        assert any((tmp_path / f"asked-{pid}").exists() for pid in pids), "the clock has not jumped"
