"""The note that SageMaker reads: at most 1,024 bytes of UTF-8, and never what the program wrote."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_server.exit_note import MAX_BYTES, ExitNote, bounded, with_last_lines


@given(st.text(st.characters(exclude_categories=()), max_size=2000))
def test_a_note_is_as_much_valid_utf_8_as_fits(text: str) -> None:
    note = bounded(text)
    assert len(note) <= MAX_BYTES
    assert text.encode(errors="replace").decode().startswith(note.decode())
    assert len(note) > MAX_BYTES - 4 or note == text.encode(errors="replace")


@given(st.binary(max_size=3000))
def test_a_note_of_any_output_begins_with_the_sentence_and_fits(output: bytes) -> None:
    text = with_last_lines("It failed", output)
    note = bounded(text).decode()
    assert note.splitlines()[0] == "It failed"
    assert all(character.isprintable() or character in "\t\n" for character in note)


def test_lines_are_the_last_ones_and_whole() -> None:
    output = b"".join(b"line %d\n\n" % number for number in range(1000))
    note = bounded(with_last_lines("It failed", output)).decode().splitlines()
    assert note[1:] == [f"line {number}" for number in range(1001 - len(note), 1000)]
    assert len(note) > 90


def test_a_sentence_may_name_what_is_no_utf_8() -> None:
    note = bounded(with_last_lines("caf\udce9 is missing", b"last words")).decode()
    assert note == "caf? is missing\nlast words"


def test_a_last_line_that_is_too_long_is_cut_at_its_end() -> None:
    note = bounded(with_last_lines("It failed", b"before\nValueError: " + b"x" * 5000)).decode()
    assert note.startswith("It failed\nValueError: xxx")
    assert len(note) == MAX_BYTES


def test_a_note_is_readable_by_everyone_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        ExitNote(tmp_path / "ml", "failure").write("It failed")
    finally:
        os.umask(before)
    assert [path.name for path in (tmp_path / "ml" / "output").iterdir()] == ["failure"]
    assert (tmp_path / "ml" / "output" / "failure").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("written", [None, b""])
def test_there_is_nothing_to_repair_where_there_is_no_note(tmp_path: Path, written: bytes | None) -> None:
    note = ExitNote(tmp_path, "message")
    note.repair()
    file = tmp_path / "output" / "message"
    assert not file.exists()
    if written is not None:
        file.write_bytes(written)
        note.repair()
        assert file.read_bytes() == written


def test_a_note_that_is_fine_is_not_touched(tmp_path: Path) -> None:
    note = ExitNote(tmp_path, "message")
    note.write("fine")
    before = os.stat(tmp_path / "output" / "message")
    note.repair()
    note.write("another")
    assert os.stat(tmp_path / "output" / "message") == before
