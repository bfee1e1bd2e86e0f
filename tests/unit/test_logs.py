"""Our own log lines, through real channels."""

import errno
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from model_server.log_channel import LogChannel, LogChannels
from model_server.logs import ChannelHandler, configure, logger, tell_user

DOCKER_CUTS_AT = 16 * 1024


class Reader:
    """What came out at the reading ends of the channels so far."""

    def __init__(self, channels: LogChannels) -> None:
        self.channels = channels

    def raw(self, channel: LogChannel) -> bytes:
        taken = b""
        with suppress(BlockingIOError):
            while message := channel._reader.recv(1 << 20, socket.MSG_DONTWAIT):
                taken += message
        return taken

    @property
    def stdout(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.raw(self.channels.stdout).splitlines()]

    @property
    def stderr(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.raw(self.channels.stderr).splitlines()]


@pytest.fixture
def reader() -> Iterator[Reader]:
    root = logging.getLogger()
    before, level = root.handlers, root.level
    channels = LogChannels()
    configure(channels, "INFO")
    yield Reader(channels)
    logging.captureWarnings(False)
    root.handlers, root.level = before, level
    logger.setLevel(logging.NOTSET)
    for channel in (channels.stdout, channels.stderr):
        channel.close_reader()
        channel.close_writer()


def fill(channel: LogChannel) -> None:
    while channel.try_send(b"x" * 4096 + b"\n"):
        pass


def test_a_line_has_the_keys_of_the_drop_in_in_its_order(reader: Reader) -> None:
    logger.info("Serving on port %d", 8080)
    expected = {"log": "Serving on port 8080", "level": "INFO", "source": "stdout", "internal": True, "task": None}
    assert reader.raw(reader.channels.stdout) == json.dumps(expected).encode() + b"\n"


@pytest.mark.parametrize(
    ("level", "stream"),
    [("DEBUG", "stdout"), ("INFO", "stdout"), ("WARNING", "stderr"), ("ERROR", "stderr"), ("CRITICAL", "stderr")],
)
def test_levels_above_info_go_to_stderr(reader: Reader, level: str, stream: str) -> None:
    logger.setLevel("DEBUG")
    logger.log(logging.getLevelName(level), "x")
    other = "stderr" if stream == "stdout" else "stdout"
    assert [(line["level"], line["source"]) for line in getattr(reader, stream)] == [(level, stream)]
    assert getattr(reader, other) == []


def test_a_message_of_several_lines_becomes_a_record_a_line(reader: Reader) -> None:
    logger.info("one\ntwo\u2028three\r\n\nlast")
    assert [line["log"] for line in reader.stdout] == ["one", "two", "three", "", "last"]


def test_an_empty_message_is_an_empty_record(reader: Reader) -> None:
    logger.info("")
    assert [line["log"] for line in reader.stdout] == [""]


def fail_over_a_file(name: str) -> None:
    try:
        raise OSError(errno.EIO, "Input/output error", name)
    except OSError as error:
        raise ValueError(f"{name}\nis wrong") from error


@pytest.mark.parametrize(
    ("level", "words"), [("INFO", ["ValueError"]), ("DEBUG", ["ValueError: jane-doe", "is wrong"])]
)
def test_a_traceback_is_a_record_a_line_and_tells_no_names_but_at_debug(
    reader: Reader, level: str, words: list[str]
) -> None:
    configure(reader.channels, level)
    try:
        fail_over_a_file("-".join(["jane", "doe"]))  # the lines of the source are shown
    except ValueError:
        logger.exception("It failed")
    logged = [line["log"] for line in reader.stderr]
    assert logged[:2] == ["It failed", "Traceback (most recent call last):"]
    assert logged[-len(words) :] == words
    assert any(line.startswith("OSError: ") and line.count("Input/output error") == 1 for line in logged)
    assert any("jane-doe" in line for line in logged) == (level == "DEBUG")
    assert any("fail_over_a_file" in line for line in logged)


def test_a_long_line_is_several_records_that_lose_nothing(reader: Reader) -> None:
    text = "é" * 10_000
    logger.info("%s", text)
    raw = reader.raw(reader.channels.stdout).splitlines(keepends=True)
    records = [json.loads(line) for line in raw]
    assert max(map(len, raw)) < DOCKER_CUTS_AT
    assert "".join(record["log"] for record in records) == text
    assert [record.get("continued") for record in records] == [True] * (len(records) - 1) + [None]


@pytest.mark.parametrize("level", ["INFO", "WARNING", "ERROR", "CRITICAL"])
def test_log_level_hides_our_lines_and_never_what_the_user_is_told(reader: Reader, level: str) -> None:
    configure(reader.channels, level)
    logger.log(logging.getLevelName(level) - 10, "ours")
    tell_user(logging.INFO, "for the user", "pk")
    tell_user(logging.ERROR, "Time limit exceeded", "pk")
    assert [(line["log"], line["internal"], line["task"]) for line in reader.stdout + reader.stderr] == [
        ("for the user", False, "pk"),
        ("Time limit exceeded", False, "pk"),
    ]


def test_what_the_user_is_told_is_no_format_string(reader: Reader) -> None:
    tell_user(logging.ERROR, "100 %s", None)
    assert [line["log"] for line in reader.stderr] == ["100 %s"]


def test_a_library_is_heard_from_warnings_on_only(reader: Reader) -> None:
    logging.getLogger("botocore").info("signature, keys and names")
    logging.getLogger("botocore").warning("it matters")
    assert [line["log"] for line in reader.stdout + reader.stderr] == ["it matters"]


def test_a_python_warning_is_a_log_record(reader: Reader) -> None:
    logging.getLogger("py.warnings").warning("%s", "DeprecationWarning: old")
    assert [line["log"] for line in reader.stderr] == ["DeprecationWarning: old"]


def test_a_full_channel_drops_our_lines_and_says_how_many_once_there_is_room(reader: Reader) -> None:
    fill(reader.channels.stdout)
    for number in range(5):
        logger.info("lost %d", number)
    reader.raw(reader.channels.stdout)
    logger.info("back")
    logger.info("and on")
    assert [line["log"] for line in reader.stdout] == [
        "5 lines of ours were dropped: the log is slow",
        "back",
        "and on",
    ]


def test_a_full_channel_does_not_hold_up_the_other(reader: Reader) -> None:
    fill(reader.channels.stdout)
    logger.info("lost")
    logger.error("heard")
    assert [line["log"] for line in reader.stderr] == ["heard"]


def test_a_slow_reader_of_the_log_never_blocks_for_long(reader: Reader) -> None:
    fill(reader.channels.stdout)
    started = time.monotonic()
    for number in range(1_000):
        logger.info("line %d", number)
    assert time.monotonic() - started < 2
    assert reader.channels.stdout._dropped == 1_000


def test_logging_goes_on_when_nobody_reads_any_more(reader: Reader) -> None:
    reader.channels.close_readers()
    logger.info("to nobody")
    assert reader.channels.stdout._dropped == 0


def test_a_bad_format_string_stops_nothing(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    handler = ChannelHandler(reader.channels)
    handler.handle(logging.makeLogRecord({"msg": "%d", "args": ("no number",), "levelno": 20, "levelname": "INFO"}))
    logger.info("on")
    assert [line["log"] for line in reader.stdout] == ["on"]
    assert "Logging error" in capsys.readouterr().err


def test_a_line_does_not_wait_for_another_that_waits_for_room(reader: Reader) -> None:
    (handler,) = (h for h in logging.getLogger().handlers if isinstance(h, ChannelHandler))
    handler.acquire()  # as logging does for as long as a line is written
    try:
        thread = threading.Thread(target=logger.info, args=("on",))
        thread.start()
        thread.join(10)
        assert [line["log"] for line in reader.stdout] == ["on"]
    finally:
        handler.release()


def test_everything_sent_in_the_block_is_relayed_by_its_end(tmp_path: Any) -> None:
    channels = LogChannels()
    with (
        (tmp_path / "out").open("wb") as out,
        (tmp_path / "err").open("wb") as err,
        channels.relayed(out.fileno(), err.fileno()),
    ):
        channels.stdout.send_or_drop(b"one\n")
        channels.stderr.send_or_drop(b"two\n")
        channels.stdout.send_or_drop(b"three\n")
    channels.close_readers()
    assert (tmp_path / "out").read_bytes() == b"one\nthree\n"
    assert (tmp_path / "err").read_bytes() == b"two\n"
