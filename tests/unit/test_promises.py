"""The table of promises in tests/README.md: every row has an id of its own and a test that exists."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROW = re.compile(r"\| (?P<id>[a-z][a-z0-9]*-\d+) \| (?P<promise>[^|]+) \| `(?P<file>[^`:]+)::(?P<test>\w+)` \|")
TABLE = (TESTS / "README.md").read_text().partition("## Promises")[2]
ROWS = [found for line in TABLE.splitlines() if (found := ROW.fullmatch(line))]


def test_every_row_of_the_table_is_read() -> None:
    assert len(ROWS) == sum(line.startswith("| ") for line in TABLE.splitlines()) - 1  # its head
    assert len({row["id"] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_every_promise_has_its_test(row: re.Match[str]) -> None:
    tree = ast.parse((TESTS / row["file"]).read_text())
    assert row["test"] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_what_is_said_to_be_defended_against_has_its_rows() -> None:
    defended = (TESTS.parent / "SECURITY.md").read_text().partition("## What is defended")[2].partition("\n## ")[0]
    cells = [line.removesuffix(" |").rpartition(" | ")[2] for line in defended.splitlines() if line.startswith("| ")]
    named = {row for cell in cells[1:] for row in cell.split(", ")}  # the first is the head
    assert len(named) > 30
    assert named <= {row["id"] for row in ROWS}
