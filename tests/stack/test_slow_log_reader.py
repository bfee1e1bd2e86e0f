"""Whoever reads our log may be slow, or not read at all: /ping, time limits and results do not wait for it."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from server import FIELDS, median, serving

if TYPE_CHECKING:
    from conftest import Bucket

LINE = "x" * 100


class Reader:
    """The reading end of a server's stdout, read by a thread from when it is told to, at some pace."""

    def __init__(self, descriptor: int, pause: float) -> None:
        self._descriptor = descriptor
        self._pause = pause
        self._received: list[bytes] = []
        self._reads = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def begin(self) -> None:
        self._reads.set()

    def _read(self) -> None:
        self._reads.wait()
        while chunk := os.read(self._descriptor, 64 * 1024):
            self._received.append(chunk)
            time.sleep(self._pause)

    def records(self) -> list[dict[str, Any]]:
        """Return all that came until the server ended; every line has to be a record."""
        self._thread.join(30)
        assert not self._thread.is_alive()
        lines = b"".join(self._received).split(b"\n")
        assert lines.pop() == b""
        records = [json.loads(line) for line in lines]
        assert all(list(record) == FIELDS for record in records)
        return records


@contextmanager
def read_by(pause: float) -> Iterator[tuple[int, Reader]]:
    """Yield the writing end of a pipe, for the server, and its reader."""
    reading, writing = os.pipe()
    reader = Reader(reading, pause)
    try:
        yield writing, reader
    finally:
        reader.begin()
        os.close(writing)
        reader._thread.join(10)
        os.close(reading)


def test_a_log_that_nobody_reads_stops_neither_ping_nor_the_time_limit(s3_endpoint: str, bucket: "Bucket") -> None:
    flood = f"yes {LINE} | head -c 50000000"
    with (
        read_by(pause=0) as (stdout, reader),
        serving(s3_endpoint, warnings="nobody reads the log", stdout=stdout) as server,
    ):
        posted = server.post(server.task(bucket, "flood", flood, timeout="PT2S"))
        pings = [server.ask("GET", "/ping") for _ in range(100)]
        for _ in range(30):  # each would be a line of ours
            assert server.ask("POST", "/invocations", b"{").status == 422
        answer = posted.answer()
        pings += [server.ask("GET", "/ping") for _ in range(100)]

        assert answer.status == 200
        assert answer.json()["error"]["code"] == "time_limit_exceeded"
        assert answer.seconds < 25
        assert bucket.result("/out/flood")["error"]["code"] == "time_limit_exceeded"
        assert {ping.status for ping in pings} == {200}
        assert median([ping.seconds for ping in pings]) < 0.1
        assert max(ping.seconds for ping in pings) < 2
        assert server.run(bucket.task("next")).json()["return_code"] == 0

        reader.begin()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not any(b"were dropped" in chunk for chunk in reader._received):
            assert server.ask("POST", "/invocations", b"{").status == 422
        server.stop_if_running()
    records = reader.records()
    notices = [record["log"] for record in records if "were dropped" in record["log"]]
    assert sum(int(notice.split()[0]) for notice in notices) > 0
    assert {record["log"] for record in records if record["task"] == "flood" and not record["internal"]} == {LINE}


def test_a_slow_reader_gets_every_line_of_the_algorithm_in_order(s3_endpoint: str, bucket: "Bucket") -> None:
    count = 40_000
    with read_by(pause=0.01) as (stdout, reader), serving(s3_endpoint, stdout=stdout) as server:
        reader.begin()
        posted = server.post(server.task(bucket, "slow", f"seq -f '%06.0f {LINE}' {count}"))
        pings = [server.ask("GET", "/ping") for _ in range(100)]
        assert posted.answer().json()["return_code"] == 0
        assert median([ping.seconds for ping in pings]) < 0.1
        server.stop_if_running()
    said = [record["log"] for record in reader.records() if not record["internal"]]
    assert said == [f"{number:06d} {LINE}" for number in range(1, count + 1)]


def test_a_reader_that_goes_away_costs_the_log_only(s3_endpoint: str, bucket: "Bucket") -> None:
    reading, writing = os.pipe()
    try:
        with serving(s3_endpoint, stdout=writing) as server:
            os.close(reading)
            os.close(writing)
            answer = server.run(server.task(bucket, "mute", f"yes {LINE} | head -n 10000"))
            assert answer.json()["return_code"] == 0
            assert server.pings()
    finally:
        for descriptor in (reading, writing):
            with suppress(OSError):
                os.close(descriptor)
