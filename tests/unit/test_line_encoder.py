"""The algorithm's lines as log records: byte-equal to python-json-logger's, and nothing lost."""

import json
import logging
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pythonjsonlogger.json import JsonFormatter

from model_server.line_encoder import MAX_KEPT_CHARACTERS, LineEncoder, RecordFormat
from model_server.logs import FIELDS, _pieces

SEPARATORS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
DOCKER_CUTS_AT = 16 * 1024
LONGEST_PK = "\U0001f9ea" * 60

texts = st.text(
    alphabet=st.one_of(
        st.characters(codec="utf-8"),
        st.sampled_from([*SEPARATORS, "\0", '"', "\\", "\U0001f600", "\ufeff", "\x7f"]),
    ),
    max_size=60,
)
streams = st.lists(
    st.one_of(texts.map(str.encode), st.binary(max_size=12), st.sampled_from([b"\xff", b"\xf0\x9f", b"\xc3", b"\0"])),
    max_size=8,
).map(b"".join)
chunks_of_lines = st.lists(
    st.one_of(
        st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=80),
        st.text(alphabet=st.sampled_from(["a", "n", '"', "\\", "\t", "\x1b", "\x7f", "\b", "\r", "\v", "é", "\u2028"])),
        st.builds(str.__mul__, st.sampled_from(["x", '"', "\x1b", "é"]), st.integers(2_600, 17_000)),
    ),
    min_size=1,
    max_size=12,
)
long_streams = st.builds(
    lambda character, length, tail: (character * length + tail).encode(),
    st.sampled_from(["x", '"', "é", "\u2028", "\U0001f600", "\x01", "a\r", "ab\u2029"]),
    st.integers(1_000, 50_000),
    texts,
)


def encode(data: bytes, cuts: Iterable[int] = (), keep: int = 100, task: str | None = "t") -> tuple[bytes, list[str]]:
    encoder = LineEncoder(RecordFormat("INFO", "stdout", internal=False, task=task), keep)
    out = b""
    start = 0
    for cut in sorted({*cuts, len(data)}):
        out += encoder.feed(data[start:cut])
        start = cut
    return out + encoder.finish(), encoder.last_lines


def lines_of(data: bytes) -> list[str]:
    """Say in the simplest way what the lines of a stream are."""
    lines = data.replace(b"\0", b"").decode(errors="replace").split("\n")
    ended, rest = lines[:-1], lines[-1]
    pieces = [piece for line in ended for piece in f"{line}\n".splitlines()]  # "a\v\n" is two, as the drop-in has it
    return pieces + rest.splitlines()


def joined(records: bytes) -> list[str]:
    """Put the records of one line together again."""
    lines: list[str] = []
    goes_on = False
    for record in map(json.loads, records.splitlines()):
        if goes_on:
            lines[-1] += record["log"]
        else:
            lines.append(record["log"])
        goes_on = record.pop("continued", False)
    assert not goes_on
    return lines


def formatted_by_the_library(text: str, internal: bool, task: str | None) -> bytes:
    record = logging.makeLogRecord(
        {"msg": "%s", "args": (text,), "levelno": 20, "levelname": "INFO", "internal": internal, "task": task}
    )
    formatter = JsonFormatter(list(FIELDS), rename_fields=FIELDS)
    return b"".join(formatter.format(piece).encode() + b"\n" for piece in _pieces(record))


@settings(max_examples=200, deadline=None)
@given(texts)
@example(SEPARATORS)
@example("")
@example("x" * 40_000)
@example("\U0001f600" * 5_000)
@example('"\\' * 9_000)
def test_a_record_is_byte_for_byte_what_python_json_logger_writes(text: str) -> None:
    text = text.replace("\0", "").replace("\n", "")
    records = b"".join(
        RecordFormat("INFO", "stdout", internal=False, task="t").encode_line(piece)
        for piece in text.splitlines() or [""]
    )
    assert records == formatted_by_the_library(text, internal=False, task="t")


@pytest.mark.parametrize("task", ["t", None, 'é"\\'])
@pytest.mark.parametrize("internal", [True, False])
def test_keys_are_in_the_drop_in_order(internal: bool, task: str | None) -> None:
    record = RecordFormat("INFO", "stdout", internal, task).encode("hello")
    expected = {"log": "hello", "level": "INFO", "source": "stdout", "internal": internal, "task": task}
    assert record == json.dumps(expected).encode() + b"\n"


@settings(max_examples=300, deadline=None)
@given(streams)
@example(b"a\r\nb\rc\x0bd\x0ce\x1cf\x1dg\x1eh\xc2\x85i\xe2\x80\xa8j\xe2\x80\xa9k")
@example(b"\n\n")
@example(b"a\x0b\n")
@example(b"\r")
@example(b"caf\xe9 latin-1\nnext")
@example(b"\xf0\x9f")
@example(b"nul\0nul\n")
def test_nothing_is_lost_whatever_the_bytes_are(data: bytes) -> None:
    assert joined(encode(data)[0]) == lines_of(data)


@settings(max_examples=30, deadline=None)
@given(long_streams)
def test_a_long_line_becomes_several_records_and_loses_nothing(data: bytes) -> None:
    records, _ = encode(data)
    assert joined(records) == lines_of(data)
    assert all(len(record) < DOCKER_CUTS_AT for record in records.splitlines(keepends=True))


@settings(max_examples=300, deadline=None)
@given(streams, st.lists(st.integers(0, 500), max_size=20))
def test_the_records_do_not_depend_on_how_the_bytes_were_cut(data: bytes, cuts: list[int]) -> None:
    whole = encode(data)
    assert encode(data, [cut for cut in cuts if cut < len(data)]) == whole
    assert encode(data, range(len(data))) == whole


@settings(max_examples=200, deadline=None)
@given(chunks_of_lines, st.sampled_from([None, "t", "\x01" * 240]))
@example(["\\n", "\\\\n", '\\"n', "\\u001b", "\\\x1b", "\tn"], "t")
@example(["short", "\x1b" * 2_700, "short"], "t")
@example(["short", "x" * 16_200, "short"], "t")
@example(["", "", ""], "t")
@example([""], "t")
def test_lines_that_come_together_are_the_records_of_each_alone(lines: list[str], task: str | None) -> None:
    record = RecordFormat("INFO", "stdout", internal=False, task=task)
    alone = [record.encode_line(piece) for line in lines for piece in f"{line}\n".splitlines()]
    assert record.encode_lines("\n".join(lines).encode()) == b"".join(alone)


@settings(max_examples=30, deadline=None)
@given(long_streams, st.lists(st.integers(0, 200_000), max_size=10))
def test_the_records_of_long_lines_do_not_depend_on_how_the_bytes_were_cut(data: bytes, cuts: list[int]) -> None:
    whole = encode(data)
    assert encode(data, [cut for cut in cuts if cut < len(data)]) == whole
    assert encode(data, range(0, len(data), 4096)) == whole


@pytest.mark.parametrize("character", ["x", '"', "\x01", "é", "\u4e00", "\U0001f600"])
@pytest.mark.parametrize("task", [None, "t", LONGEST_PK, "\x01" * 240])
def test_a_record_stays_under_what_docker_cuts_at(character: str, task: str | None) -> None:
    records, _ = encode(character.encode() * 60_000, task=task)
    sizes = [len(record) for record in records.splitlines(keepends=True)]
    assert len(sizes) > 1
    assert max(sizes) < DOCKER_CUTS_AT
    assert min(sizes[:-1]) > DOCKER_CUTS_AT - 64  # and is as full as it can be


@pytest.mark.parametrize("over", [-1, 0, 1, 2])
@pytest.mark.parametrize("end", ["", "\n", "\r", "\r\n", "\u2028", "\r\rx"])
def test_a_line_around_the_size_of_a_record_is_the_same_in_one_chunk_and_in_many(over: int, end: str) -> None:
    room = RecordFormat("INFO", "stdout", internal=False, task="t").room
    data = ("x" * (room + over) + end).encode()
    whole, _ = encode(data)
    assert [encode(data, [cut])[0] for cut in range(room - 2, len(data))] == [whole] * (len(data) - room + 2)
    assert joined(whole) == lines_of(data)
    assert whole.count(b'"continued": true') == (1 if over > 0 else 0)


def test_all_but_the_last_record_of_a_line_say_that_it_goes_on() -> None:
    records = [json.loads(record) for record in encode(b"x" * 50_000 + b"\nshort\n")[0].splitlines()]
    assert [record.get("continued", False) for record in records] == [True, True, True, False, False]
    assert list(records[0]) == ["log", "level", "source", "internal", "task", "continued"]


def test_a_latin1_line_does_not_stall_the_algorithm() -> None:
    assert joined(encode("größe\nweiter\n".encode("latin-1"))[0]) == ["gr\ufffd\ufffde", "weiter"]


def test_a_line_is_there_as_soon_as_it_has_ended() -> None:
    encoder = LineEncoder(RecordFormat("INFO", "stdout", internal=False, task="t"))
    assert encoder.feed(b"one\ntw").count(b"\n") == 1
    assert encoder.feed(b"o\n").count(b"\n") == 1
    assert encoder.finish() == b""


def test_progress_without_newlines_comes_out_piece_by_piece() -> None:
    encoder = LineEncoder(RecordFormat("INFO", "stdout", internal=False, task="t"))
    assert joined(encoder.feed(b"\r 10 %\r 20 %")) == ["", " 10 %"]
    assert joined(encoder.finish()) == [" 20 %"]


def test_a_line_that_never_ends_is_not_kept_in_memory() -> None:
    encoder = LineEncoder(RecordFormat("INFO", "stdout", internal=False, task="t"), 100)
    for _ in range(200):
        encoder.feed(b"x" * 65_536)
    assert len(encoder._open) <= DOCKER_CUTS_AT
    assert len(encoder._line) <= MAX_KEPT_CHARACTERS + 1


@settings(max_examples=200, deadline=None)
@given(streams, st.lists(st.integers(0, 500), max_size=10))
def test_the_last_lines_are_raw_and_end_in_their_newline(data: bytes, cuts: list[int]) -> None:
    text = data.replace(b"\0", b"").decode(errors="replace")
    expected = [line + "\n" for line in text.split("\n")]
    expected[-1] = expected[-1][:-1]
    kept = encode(data, [cut for cut in cuts if cut < len(data)], keep=3)[1]
    assert kept == [line for line in expected if line][-3:]


def test_only_the_last_hundred_lines_are_kept() -> None:
    data = b"".join(b"line %d\n" % number for number in range(1_000))
    assert encode(data)[1] == [f"line {number}\n" for number in range(900, 1_000)]
    assert encode(data, range(0, len(data), 7))[1] == encode(data)[1]


@pytest.mark.parametrize("cuts", [[], [5], [16_384], [16_385, 16_386, 20_000]])
def test_a_kept_line_is_cut_where_it_is_too_long(cuts: list[int]) -> None:
    kept = encode(b"x" * 30_000 + b"\nend", cuts)[1]
    assert kept == ["x" * MAX_KEPT_CHARACTERS + "…\n", "end"]


def test_a_kept_line_of_just_the_longest_length_is_whole() -> None:
    line = "x" * MAX_KEPT_CHARACTERS
    assert encode(f"{line}\n{line}".encode())[1] == [line + "\n", line]


def test_no_lines_are_kept_unless_asked_for() -> None:
    assert encode(b"one\ntwo\n", keep=0)[1] == []
