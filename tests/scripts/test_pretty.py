"""local-test/pretty: a log for people."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

PRETTY = Path(__file__).parent.parent.parent / "local-test" / "pretty"


def pretty(*lines: bytes) -> bytes:
    return subprocess.run([str(PRETTY)], input=b"".join(lines), stdout=subprocess.PIPE, check=True, timeout=30).stdout


def record(log: str, level: str = "INFO", internal: bool = False, task: str | None = "t", **more: Any) -> bytes:
    source = "stdout" if level == "INFO" else "stderr"
    keys = {"log": log, "level": level, "source": source, "internal": internal, "task": task}
    return json.dumps(keys | more).encode() + b"\n"


def test_a_record_becomes_a_line_with_its_speaker_and_task() -> None:
    shown = pretty(record("hello"), record("bad", "ERROR", internal=True, task=None)).decode().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d   algorithm \[t\] hello", shown[0])
    assert re.fullmatch(r"\d\d:\d\d:\d\d E server    bad", shown[1])


def test_the_records_of_a_long_line_become_one_line_again() -> None:
    shown = pretty(record("one ", continued=True), record("other", task="u"), record("two")).decode()
    assert "[t] one two\n" in shown
    assert "[u] other\n" in shown


def test_what_is_no_record_is_passed_on_unchanged() -> None:
    lines = (b"plain \xff bytes\n", b'{"log": 3}\n', b"[]\n", b"\n", b"no newline")
    assert pretty(*lines) == b"".join(lines)


def test_a_log_can_not_command_the_terminal() -> None:
    assert b"\x1b" not in pretty(record("\x1b]0;owned\x07"))


def test_a_reader_that_stops_reading_ends_it_quietly() -> None:
    command = f"yes '{record('x').decode().strip()}' | head -100000 | '{PRETTY}' | head -1"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, timeout=30)
    assert ended.stderr == b""
    assert ended.stdout.endswith(b"[t] x\n")
