"""How many CPUs a container may use: affinity, and the quota of either kind of cgroup."""

import os
from pathlib import Path

import pytest

from model_server.cpus import usable_cpus


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.parametrize(
    ("cpu_max", "cpus"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("1000 100000", 1),
        ("", 8),
        ("nonsense", 8),
    ],
)
def test_a_cgroup_v2_quota_is_rounded_up(tmp_path: Path, cpu_max: str, cpus: int) -> None:
    (tmp_path / "cpu.max").write_text(cpu_max + "\n")
    assert usable_cpus(tmp_path) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("-1", 8), ("200000", 2), ("250000", 3), ("10000", 1), ("0", 8), ("x", 8)])
def test_a_cgroup_v1_quota_is_rounded_up(tmp_path: Path, quota: str, cpus: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cpus(tmp_path) == cpus


def test_without_a_cgroup_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path / "nothing") == 8
