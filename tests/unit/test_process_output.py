"""What nginx, gunicorn and crashing processes print, as lines of ours."""

import os
from collections.abc import Iterator

import pytest

from model_server.process_output import MAX_LINE_BYTES, ProcessOutput


class Printing:
    """A pipe, and what is logged of it."""

    def __init__(self) -> None:
        reader, self.writer = os.pipe2(os.O_NONBLOCK)
        self.output = ProcessOutput("nginx", reader)

    def says(self, text: bytes) -> bool:
        os.write(self.writer, text)
        return self.output.read()


@pytest.fixture
def printing() -> Iterator[Printing]:
    made = Printing()
    yield made
    made.output.close()


@pytest.mark.parametrize(
    ("line", "level"),
    [
        (b"2026/01/01 00:00:00 [warn] 7#7: x", "WARNING"),
        (b"2026/01/01 00:00:00 [error] 7#7: x", "ERROR"),
        (b"[emerg] x", "ERROR"),
        (b"Traceback (most recent call last):", "ERROR"),
        (b"\xff\xfe", "ERROR"),
    ],
)
def test_a_line_is_logged_with_its_level(
    printing: Printing, caplog: pytest.LogCaptureFixture, line: bytes, level: str
) -> None:
    assert printing.says(line + b"\n")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        (level, "nginx: " + line.decode(errors="replace"))
    ]


def test_what_a_client_put_behind_the_path_is_not_repeated(
    printing: Printing, caplog: pytest.LogCaptureFixture
) -> None:
    said = (
        b'[error] 7#7: too large, request: "POST /invocations?token="secret"&a=b HTTP/1.1", '
        b'upstream: "http://unix:x:/invocations?token="secret"&a=b", referrer: "http://a/?c=secret"'
    )
    printing.says(said + b"\nIs it a?b\n")
    assert [record.getMessage() for record in caplog.records] == [
        'nginx: [error] 7#7: too large, request: "POST /invocations?... HTTP/1.1", '
        'upstream: "http://unix:x:/invocations?...", referrer: "http://a/?..."',
        "nginx: Is it a?b",
    ]


def test_a_line_that_comes_in_pieces_is_one_line(printing: Printing, caplog: pytest.LogCaptureFixture) -> None:
    printing.says(b"one")
    assert printing.output.read()  # nothing there yet
    printing.says(b" line\nand")
    os.close(printing.writer)
    assert not printing.output.read()
    assert [record.getMessage() for record in caplog.records] == ["nginx: one line", "nginx: and"]


def test_a_line_without_an_end_is_not_kept_for_ever(printing: Printing, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(40):
        printing.says(b"x" * 4096)
    logged = sum(len(record.getMessage()) for record in caplog.records)
    assert logged > 40 * 4096 - MAX_LINE_BYTES - 4096
    os.close(printing.writer)
