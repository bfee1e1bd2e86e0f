"""Records on their way to the log: cut into messages that a channel takes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_server.algorithm_output import READ_BYTES, messages
from model_server.line_encoder import LineEncoder, RecordFormat
from model_server.log_channel import MAX_MESSAGE_BYTES


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 16_000), max_size=60))
def test_records_are_cut_into_messages_of_whole_records(sizes: list[int]) -> None:
    records = b"".join(b"x" * size + b"\n" for size in sizes)
    cut = messages(records)
    assert b"".join(cut) == records
    assert all(0 < len(message) <= MAX_MESSAGE_BYTES and message[-1:] == b"\n" for message in cut)
    assert len(cut) <= 2 * len(records) // MAX_MESSAGE_BYTES + 1


def test_nothing_is_no_message() -> None:
    assert messages(b"") == []


@pytest.mark.parametrize("data", [b"\n" * READ_BYTES, b"\x01" * READ_BYTES, b"x\n" * (READ_BYTES // 2)])
def test_whatever_one_read_gives_can_be_sent(data: bytes) -> None:
    encoder = LineEncoder(RecordFormat("INFO", "stdout", internal=False, task="\x01" * 240))
    records = encoder.feed(data) + encoder.finish()
    assert b"".join(messages(records)) == records
