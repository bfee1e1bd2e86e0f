"""What is said of the rows: as text, and as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from measures import OURS, SHIM, Outcome, Spread
from setting import Row
from stacks import Longshore

CONTENDERS = (SHIM, OURS, "s5cmd", "rclone", "curl")
Report = dict[str, Any]


def machine() -> dict[str, Any]:
    """Describe what is measured, and where."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(": ")[2] for line in cpuinfo.splitlines() if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    commit = subprocess.run(
        ["git", "-C", Longshore.checkout, "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": model,
        "memory_gib": round(memory, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or None,
    }


def row_of(row: Row, outcome: Outcome, rounds: int, quick: bool, load: float) -> Report:
    """Return all that is known of a row; `load` is the machine's when the row began."""
    figures = {}
    for name, samples in outcome.samples.items():
        spread = Spread.of([sample.value for sample in samples])
        cpus = [sample.cpu for sample in samples if sample.cpu is not None]
        figures[name] = {
            **asdict(spread),
            "cpu_seconds": Spread.of(cpus).median if cpus else None,
            "peak_mib_over_idle": outcome.peaks.get(name),
            "samples": [asdict(sample) for sample in samples],
        }
    ratio, cpu_ratio = outcome.ratio(OURS, SHIM), outcome.ratio(OURS, SHIM, "cpu")
    return {
        "work": row.work,
        "unit": outcome.unit,
        "quick": quick,
        "rounds": min(rounds, max(map(len, outcome.samples.values()))),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_before": round(load, 2),
        "machine": machine(),
        "figures": figures,
        "ratio_to_shim": asdict(ratio) if ratio else None,
        "cpu_ratio_to_shim": asdict(cpu_ratio) if cpu_ratio else None,
        "goals": [asdict(goal) | {"is_met": goal.is_met} for goal in outcome.goals],
        "notes": outcome.notes,
    }


def text_of(rows: Mapping[str, Report]) -> str:
    """Return the table: figures are medians, and ratios the medians of each round's, with the least and the most."""
    lines = []
    for name, row in rows.items():
        quick = ", QUICK: smaller than that" if row["quick"] else ""
        rounds = "1 round" if row["rounds"] == 1 else f"{row['rounds']} rounds"
        lines.append(f"{name}: {row['work']}  ({rounds}, load {row['load_before']:g}{quick})")
        lines.append(
            f"    {'':10} {'median':>10} {'least':>10} {'most':>10}  {row['unit']:4} {'CPU s':>8} {'peak MiB':>9}"
        )
        for contender in CONTENDERS:
            if figures := row["figures"].get(contender):
                shown = " ".join(f"{figures[key]:10.3f}" for key in ("median", "least", "most"))
                cpu, peak = figures["cpu_seconds"], figures["peak_mib_over_idle"]
                cpu_shown = "" if cpu is None else f"{cpu:.3f}"
                lines.append(
                    f"    {contender:10} {shown}  {'':4} {cpu_shown:>8} {'' if peak is None else f'+{peak:.0f}':>9}"
                )
        for goal in row["goals"]:
            lines.append(f"    {goal_line(goal)}")
        if (ratio := row["cpu_ratio_to_shim"]) and not any("CPU" in goal["what"] for goal in row["goals"]):
            lines.append(
                f"              {ratio['median']:8.3f} of the shim's CPU ({ratio['least']:.3f} to {ratio['most']:.3f})"
            )
        lines += [f"    {note}" for note in row["notes"]]
        lines.append("")
    return "\n".join(lines)


def verdict(rows: Mapping[str, Report]) -> str:
    goals = [goal for row in rows.values() for goal in row["goals"]]
    return f"{sum(goal['is_met'] for goal in goals)} of {len(goals)} targets are met, in {len(rows)} rows"


def goal_line(goal: Mapping[str, Any]) -> str:
    found = goal["found"]
    spread = "" if found["least"] == found["most"] else f" ({found['least']:.3f} to {found['most']:.3f})"
    verdict = "met   " if goal["is_met"] else "MISSED"
    return f"{verdict}    {found['median']:8.3f} {goal['what']}{spread}, target {goal['limit']:.3g}"


def stored(path: Path) -> dict[str, Report]:
    """Return the rows of earlier runs."""
    return dict(json.loads(path.read_text())["rows"]) if path.exists() else {}


def store(path: Path, results: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
