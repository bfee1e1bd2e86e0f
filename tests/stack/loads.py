"""What a server may be busy with, at any size: each load says what it is, and fails if it was not carried."""

import io
import itertools
import os
import random
import socket
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from pinging import Pings, pinging
from server import Server, serving

if TYPE_CHECKING:
    from conftest import Bucket

MEGABYTE = 1024 * 1024
LARGEST_TASKS = 25  # megabytes, of a body
LINE = "x" * 100


@dataclass(frozen=True)
class Load:
    """`carry` does it once, for a size; `full` is the one that /ping is promised to bear, `small` one for every day.

    `prepare` makes what it needs, which would keep the pings waiting here. `log_is_read` says whether the server's
    stdout is.
    """

    name: str
    carry: Callable[[Server, "Bucket", int], None]
    full: int
    small: int
    unit: str
    log_is_read: bool = True
    prepare: Callable[["Bucket", int], None] = lambda bucket, size: None


numbers = itertools.count()


def run(server: Server, bucket: "Bucket", script: str, **more: Any) -> dict[str, Any]:
    """Run one task to its end, and return its result."""
    answer = server.run(server.task(bucket, f"load-{next(numbers)}", script, timeout="PT20M", **more))
    assert answer.status == 200, answer.body
    result: dict[str, Any] = answer.json()
    return result


def rest(server: Server, bucket: "Bucket", seconds: int) -> None:
    time.sleep(seconds)


def unpack_a_zip(server: Server, bucket: "Bucket", megabytes: int) -> None:
    task = server.task(bucket, f"load-{next(numbers)}", "", timeout="PT20M")
    task["inputs"].append(bucket.item("scan/zip", f"zips/{megabytes}", decompress=True))
    result = server.run(task).json()
    assert (result["return_code"], result["error"]) == (0, None)


def put_a_zip(bucket: "Bucket", megabytes: int) -> None:
    """Put a zip of files of up to 16 MiB that hold so much together, of text that is packed to about a tenth."""
    source = random.Random(0)
    letters = "".join(source.choices("ACGT", k=64 * 1024))
    text = "".join(f"{letters[start : start + 900]}\n" for start in source.choices(range(64_000), k=18_000))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for index in range(0, megabytes, 16):
            archive.writestr(f"part-{index}", text[: min(16, megabytes - index) * MEGABYTE])
    bucket.put(f"zips/{megabytes}", file.getvalue())


def clean_up(server: Server, bucket: "Bucket", files: int) -> None:
    """Have a program fail that has written many files, so that all of them are removed and none is uploaded."""
    script = f'cd "$ALGORITHM_OUTPUT_PATH"; mkdir a; cd a; seq {files} | xargs touch; exit 3'
    assert run(server, bucket, script)["return_code"] == 3
    assert server.files() == [name for name in server.files() if name.startswith("run")]


def write_a_log(server: Server, bucket: "Bucket", megabytes: int) -> None:
    assert run(server, bucket, f"yes {LINE} | head -c {megabytes * MEGABYTE}")["return_code"] == 0


def write_a_log_that_nobody_reads(server: Server, bucket: "Bucket", seconds: int) -> None:
    task = server.task(bucket, f"load-{next(numbers)}", f"yes {LINE}", timeout=f"PT{seconds}S")
    assert server.run(task).json()["error"]["code"] == "time_limit_exceeded"


def send_halves(server: Server, bucket: "Bucket", clients: int) -> None:
    """Hold so many requests half sent until the server cuts them off."""
    begun = (b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{", b"GET /ping HTTP/1.1\r\nHost:")
    with ExitStack() as stack:
        held = []
        for number in range(clients):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=90))
            connection.sendall(begun[number % len(begun)])
            held.append(connection)
        for connection in held:
            while connection.recv(65536):  # the end comes after an answer, or without one
                pass


def send_bodies(server: Server, body: bytes, kind: str, expected: set[int]) -> None:
    """Post a body from four clients at once."""
    posted = [server.send("POST", "/invocations", body, {"Content-Type": kind}) for _ in range(4)]
    answers = [request.answer() for request in posted]
    assert {answer.status for answer in answers} == expected, [answer.body for answer in answers]


@cache
def tasks(megabytes: int) -> bytes:
    """Return a body that says much, and is a task no more than the bounds let it be."""
    value = b'{"key":"' + b"x" * 1000 + b'"}'
    return b'{"inputs": [' + b",".join([value] * (megabytes * MEGABYTE // (len(value) + 1))) + b"]}"


@cache
def spaces(megabytes: int) -> bytes:
    """Return a body that says nothing, which takes longest to be read."""
    return b"{}" + b" " * (megabytes * MEGABYTE - 2)


def send_tasks(server: Server, bucket: "Bucket", megabytes: int) -> None:
    expected = {422} if megabytes <= LARGEST_TASKS else {413}
    send_bodies(server, tasks(megabytes), "application/json", expected)


def send_spaces(server: Server, bucket: "Bucket", megabytes: int) -> None:
    send_bodies(server, spaces(megabytes), "application/json", {422})


def send_payloads(server: Server, bucket: "Bucket", megabytes: int) -> None:
    """Post files for the program, which makes nothing of them: that is a 422."""
    send_bodies(server, spaces(megabytes), "application/octet-stream", {422})


def make_tasks(bucket: "Bucket", megabytes: int) -> None:
    tasks(megabytes)


def make_spaces(bucket: "Bucket", megabytes: int) -> None:
    spaces(megabytes)


LOADS = [
    Load("nothing", rest, 20, 1, "s"),
    Load("a zip is unpacked", unpack_a_zip, 2048, 64, "MiB", prepare=put_a_zip),
    Load("files are cleaned", clean_up, 100_000, 5_000, "files"),
    Load("a log is written", write_a_log, 1024, 16, "MiB"),
    Load("a log is not read", write_a_log_that_nobody_reads, 20, 2, "s", log_is_read=False),
    Load("requests are half sent", send_halves, 64, 64, "clients"),
    Load("tasks are too large", send_tasks, 100, 32, "MiB", prepare=make_tasks),
    Load("large tasks are read", send_tasks, 24, 8, "MiB", prepare=make_tasks),
    Load("spaces are read", send_spaces, 25, 16, "MiB", prepare=make_spaces),
    Load("payloads arrive", send_payloads, 100, 16, "MiB", prepare=make_spaces),
]


SETTINGS = {"LOG_LEVEL": "INFO", "ALGORITHM_PAYLOADS": "true"}
WARNINGS = "nobody reads the log|lines of ours were dropped"


def measure(load: Load, bucket: "Bucket", size: int, seconds: float, **more: Any) -> tuple[Pings, int]:
    """Return the pings under a load, and how often it was carried meanwhile; further keywords are `serving`'s."""
    with (
        log(load.log_is_read) as stdout,
        serving(
            bucket.endpoint, stdout=stdout, warnings=WARNINGS, LOG_LEVEL="INFO", ALGORITHM_PAYLOADS="true", **more
        ) as server,
    ):
        load.prepare(bucket, size)
        assert server.run(bucket.task("first")).status == 200  # what is slow the first time is not what is asked for
        with pinging(server) as pings:
            times = sum(1 for _ in carried(load, server, bucket, size, seconds))
    return pings, times


@contextmanager
def log(is_read: bool) -> Iterator[int]:
    """Give the server a stdout that is read and thrown away, or one that is read only when it ends."""
    reading, writing = os.pipe()
    reader = None
    try:
        if is_read:
            reader = subprocess.Popen(["cat"], stdin=reading, stdout=subprocess.DEVNULL)
        yield writing
    finally:
        os.close(writing)
        os.close(reading)
        if reader:
            reader.wait(10)


def carried(load: Load, server: Server, bucket: "Bucket", size: int, seconds: float) -> Iterator[float]:
    """Carry a load again and again until some seconds are over, and yield the seconds that each time took."""
    until = time.monotonic() + seconds
    while True:
        started = time.monotonic()
        load.carry(server, bucket, size)
        yield time.monotonic() - started
        if time.monotonic() > until:
            return
