"""How many CPUs this container may use."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cpus(cgroup: Path = CGROUP) -> int:
    """Return the CPUs of the affinity mask, bounded by the cgroup's quota rounded up; at least 1.

    os.cpu_count() counts the host's and knows neither `--cpus` nor `--cpuset-cpus`.
    """
    affinity = len(os.sched_getaffinity(0))
    quota = _quota_v2(cgroup / "cpu.max") or _quota_v1(cgroup / "cpu")
    return max(1, min(affinity, math.ceil(quota)) if quota else affinity)


def _quota_v2(cpu_max: Path) -> float | None:
    try:
        quota, period = cpu_max.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # not cgroup v2, or "max": no limit
        return None


def _quota_v1(cpu: Path) -> float | None:
    try:
        quota = int((cpu / "cpu.cfs_quota_us").read_text())
        period = int((cpu / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
