"""What a body that is no task costs: little memory and a short answer, however large it is and whatever it holds."""

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from server import Answer, Server, eventually, serving

if TYPE_CHECKING:
    from conftest import Bucket

MB = 1000 * 1000
LARGEST_ANSWER = 64 * 1024
LARGEST_GROWTH = 100 * MB
VALUES = 190_000
"""About as many as one body of tasks may have."""

JSON, LINES = "application/json", "application/jsonlines"


@dataclass(frozen=True)
class Body:
    """A body that is made while it is sent: a beginning, something that is repeated, and an end."""

    head: bytes
    unit: bytes
    tail: bytes
    times: int
    kind: str = JSON

    @classmethod
    def of_size(cls, size: int, head: bytes, unit: bytes, tail: bytes, kind: str = JSON) -> "Body":
        return cls(head, unit, tail, -(-size // len(unit)), kind)

    def __len__(self) -> int:
        return len(self.head) + self.times * len(self.unit) + len(self.tail)

    def __iter__(self) -> Iterator[bytes]:
        at_once = max(1, MB // len(self.unit))
        yield self.head
        for done in range(0, self.times, at_once):
            yield self.unit * min(at_once, self.times - done)
        yield self.tail


def input_of(path: str) -> bytes:
    return json.dumps({"relative_path": path, "bucket_name": "bucket", "bucket_key": "key"}).encode() + b","


VAST = {
    "no json": Body.of_size(200 * MB, b"", b"x", b""),
    "one string": Body.of_size(200 * MB, b'"', b"x", b'"'),
    "brackets": Body.of_size(200 * MB, b"", b"[", b""),
    "lines": Body.of_size(200 * MB, b"", b"{}\n", b"", LINES),
    "lines by another name": Body.of_size(200 * MB, b"", b"{}\n", b""),
    "wrong field": Body.of_size(100 * MB, b'{"pk":"1","inputs":[', input_of("a/b.txt"), b'7],"output_prefix":1}'),
    "nothing but newlines": Body.of_size(200 * MB, b"", b"\n", b"", LINES),
}
LARGE = {
    "no json": Body.of_size(24 * MB, b"", b"x", b""),
    "one string": Body.of_size(24 * MB, b'"', b"x", b'"'),
    "wide string": Body.of_size(24 * MB, b'"', "\U0001f600".encode(), b'"'),
    "brackets": Body(b"", b"[", b"", VALUES),
    "lists": Body(b'{"a":[', b"[[]],", b"0]}", VALUES // 3),
    "objects": Body(b'{"a":[', b'{"":{"":{}}},', b"0]}", VALUES // 6),
    "empty inputs": Body(b'{"inputs":[', b"{},", b"0]}", VALUES // 2),
    "inputs on one path": Body(b'{"inputs":[', input_of("a/" * 60 + "b"), b"0]}", VALUES // 7),
    "long inputs": Body(b'{"inputs":[', input_of("/".join("x" * 230 for _ in range(3))), b"0]}", VALUES // 7),
    "lines": Body(b"", b"{}\n", b"", VALUES, LINES),
    "lines of no json": Body(b"", b"x\n", b"", VALUES, LINES),
}


class Watched:
    """A server of one worker, and how its memory was when it was idle."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._idle = self._sum("VmRSS")

    def _sum(self, field: str) -> int:
        return sum(int(process.status(field)[0]) * 1024 for process in self.server.tree() if process.runs)

    def kept(self) -> int:
        """Return how much more memory is in use now."""
        return self._sum("VmRSS") - self._idle

    def growth(self) -> int:
        """Return how much more memory was in use than when it was idle, at most, since the peaks were forgotten."""
        return self._sum("VmHWM") - self._idle

    def forget_peaks(self) -> None:
        for process in self.server.tree():
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")

    def send(self, body: Body, chunked: bool) -> Answer:
        headers = {"Content-Type": body.kind} | ({} if chunked else {"Content-Length": str(len(body))})
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            connection.request("POST", "/invocations", iter(body), headers, encode_chunked=chunked)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read(), 0)
        finally:
            connection.close()


@pytest.fixture(scope="module")
def watched(s3_endpoint: str, shared_bucket: "Bucket") -> Iterator[Watched]:
    with serving(s3_endpoint, MODEL_SERVER_MAX_PAYLOAD_MB="0", MODEL_SERVER_WORKERS="1") as server:
        assert server.run(shared_bucket.task("first")).json()["return_code"] == 0
        yield Watched(server)
        assert server.run(shared_bucket.task("last")).json()["return_code"] == 0


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
@pytest.mark.parametrize("body", VAST.values(), ids=VAST)
def test_a_vast_body_costs_little_memory_and_a_short_answer(watched: Watched, body: Body, chunked: bool) -> None:
    watched.forget_peaks()
    answer = watched.send(body, chunked)
    assert (answer.status, answer.json()["error"]["code"]) == (413, "tasks_too_large")
    assert len(answer.body) <= LARGEST_ANSWER
    assert watched.growth() < LARGEST_GROWTH


def test_what_a_large_body_took_is_given_back(watched: Watched) -> None:
    assert watched.send(LARGE["one string"], chunked=False).status == 422
    eventually(lambda: watched.kept() < len(LARGE["one string"]), "an end of what the body took")


@pytest.mark.parametrize("body", LARGE.values(), ids=LARGE)
def test_so_does_one_that_is_just_not_too_large(watched: Watched, body: Body) -> None:
    watched.forget_peaks()
    answer = watched.send(body, chunked=False)
    assert (answer.status, answer.json()["error"]["code"]) == (422, "task_invalid")
    assert len(answer.body) <= LARGEST_ANSWER
    assert watched.growth() < LARGEST_GROWTH
