"""The parts of the benchmarks that need no server: what is counted, compared and drawn."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from benchmark import ROWS, chosen
from chart import bars, curves
from contents import LINE, MIB, Shape, put_files, put_tar, put_zip
from measures import OURS, SHIM, Outcome, Sample, take_turns
from sink import counted

from .readme_tables import table, table_of_the_readme


def outcome(**values: list[float]) -> Outcome:
    return Outcome(samples={name: [Sample(value) for value in found] for name, found in values.items()})


def test_a_quick_run_has_some_rows_but_for_those_that_are_named() -> None:
    assert chosen([]) == ROWS
    assert (
        {"no-input", "download-many", "ping"}
        < {row.name for row in chosen([], quick=True)}
        < {row.name for row in ROWS}
    )
    assert [row.name for row in chosen(["upload-large", "tls"], quick=True)] == ["upload-large", "tls-one", "tls-many"]


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    found = outcome(longshore=[1, 9, 2], shim=[10, 10, 40]).ratio(OURS, SHIM)
    assert found
    assert (found.median, found.least, found.most) == (0.1, 0.05, 0.9)


def test_a_target_is_missed_by_a_little_more() -> None:
    goals = [outcome(longshore=[value], shim=[10]).against_shim(0.5).goals[0] for value in (5, 5.1)]
    assert [goal.is_met for goal in goals] == [True, False]


def test_the_faster_of_two_copiers_is_what_counts() -> None:
    goals = outcome(longshore=[2], s5cmd=[4], rclone=[1], curl=[2]).against_copiers().goals
    assert [(goal.what, goal.is_met) for goal in goals] == [("of rclone's", False), ("of curl's", True)]


def test_the_first_round_is_not_counted_and_each_begins_once() -> None:
    order: list[tuple[str, bool]] = []

    def turn(name: str, warming_up: bool) -> Sample:
        order.append((name, warming_up))
        return Sample(len(order))

    samples = take_turns({name: partial(turn, name) for name in "abc"}, 3)
    assert order[:3] == [("a", True), ("b", True), ("c", True)]
    assert [name for name, _ in order[3:]] == [*"abc", *"bca", *"cab"]
    assert all(len(found) == 3 for found in samples.values())


def test_results_lists_and_refused_requests_are_no_copies() -> None:
    lines = [
        "PUT 200 0 10 /outputs/k?partNumber=1&uploadId=u",
        "PUT 200 0 5 /outputs/k?partNumber=2&uploadId=u",
        "PUT 503 0 5 /outputs/k?partNumber=3&uploadId=u",
        "PUT 200 0 900 /outputs/.sagemaker_shim/inference_result.json",
        "POST 200 99 20 /outputs/k?uploads",
        "GET 200 700 - /source?list-type=2",
        "GET 206 30 - /source/x",
        "HEAD 200 0 - /source/x",
    ]
    traffic = counted(lines)
    assert (traffic.put, traffic.got, traffic.objects) == (15, 30, 1)


@pytest.mark.parametrize("packed", [True, False])
def test_a_made_up_model_is_a_whole_tarball(tmp_path: Path, packed: bool) -> None:
    put_tar(tmp_path / "model", Shape(3, MIB), packed)
    with tarfile.open(tmp_path / "model", "r:gz" if packed else "r:") as tar:
        assert [(member.name, member.size) for member in tar] == [(f"weights-{n:02}.bin", MIB) for n in range(3)]


def test_made_up_files_are_as_many_and_as_large_as_said(tmp_path: Path) -> None:
    put_files(tmp_path / "files", Shape(7, 4097))
    assert [path.stat().st_size for path in (tmp_path / "files").iterdir()] == [4097] * 7
    put_zip(tmp_path / "zip", Shape(5, 8192))
    with zipfile.ZipFile(tmp_path / "zip") as archive:
        assert [member.file_size for member in archive.infolist()] == [8192] * 5
        assert archive.testzip() is None
    assert len(LINE % 1) == 100


def test_charts_are_whole_whatever_was_measured() -> None:
    figures = {SHIM: {"median": 2.0}, OURS: {"median": 0.1}, "curl": {"median": 0.05}}
    row = {
        "work": "more < less & so on",
        "unit": "s",
        "quick": True,
        "figures": figures,
        "ratio_to_shim": {"median": 0.05, "least": 0.001, "most": 7.0},
        "goals": [],
    }
    point = {"x": 1, "seconds": 0.0, "peak_mib": -1.0}
    series = {"one": {"what": "One", "unit": "B", "sides": {SHIM: [point], OURS: [point, point | {"x": 2**33}]}}}
    for drawn in (bars({"a": row, "b": row | {"ratio_to_shim": None}}), bars({}), curves(series)):
        assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize("name", ["machine", "speed"])
def test_the_readme_says_of_speed_what_was_measured(name: str) -> None:
    assert table_of_the_readme(name) == table(name), "python tests/unit/readme_tables.py writes it"
