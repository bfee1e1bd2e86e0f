"""Measure Longshore beside sagemaker-shim, s5cmd, rclone and curl; run.sh starts this with all that it needs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import copy_rows
import growth
import image_rows
import server_rows
import task_rows
from chart import bars, curves
from place import NoRoom, place_in_memory
from report import Report, machine, row_of, store, stored, text_of, verdict
from setting import LeftOut, Row, Setting
from sink import running_sink
from stacks import CHECKOUT, Longshore

ROWS = [*task_rows.ROWS[:3], *copy_rows.ROWS, *task_rows.ROWS[3:], *server_rows.ROWS, *image_rows.ROWS]
GROWTH = "growth"


def main() -> int:
    options = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is made is removed, and what is started is stopped
    if options.list:
        print("\n".join(f"{row.name:16} {row.work}" for row in ROWS))
        return 0
    wanted = chosen(options.rows, options.quick)
    Longshore.checkout = options.checkout.resolve()
    with place_in_memory() as folder, running_sink(folder / "sink") as sink:
        setting = Setting(folder, sink, options.rounds or (1 if options.quick else 5), options.quick)
        if GROWTH in options.rows:
            return measure_growth(setting, options.out)
        return measure(wanted, setting, options.out)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run.sh", description=__doc__.partition(";")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help="or how some begin, such as download; or growth")
    parser.add_argument("--list", action="store_true", help="list the rows and end")
    parser.add_argument(
        "--quick", action="store_true", help="one row of each kind, and less of it, in under three minutes"
    )
    parser.add_argument("--rounds", type=int, help="that are counted; 5, or 1 of --quick")
    parser.add_argument("--checkout", type=Path, default=CHECKOUT, help="whose Longshore is measured; this one")
    parser.add_argument(
        "--out", type=Path, default=CHECKOUT / ".benchmarks", help="the folder of the results; .benchmarks of this one"
    )
    return parser.parse_args()


def chosen(names: Sequence[str], quick: bool = False) -> list[Row]:
    """Return the rows whose names are these, or begin so, in this order; without names all, or the quick ones."""
    if not names:
        return [row for row in ROWS if row.in_quick or not quick]
    found: dict[str, Row] = {}
    for name in names:
        exact = [row for row in ROWS if row.name == name]
        rows = exact or [row for row in ROWS if row.name.startswith(name)]
        if not rows and name != GROWTH:
            sys.exit(f"There is no row {name}: see --list")
        found |= {row.name: row for row in rows}
    return [*found.values()]


def measure(rows: Sequence[Row], setting: Setting, out: Path) -> int:
    """Measure the rows one by one and store each with those of earlier runs; return the exit code."""
    kind = "quick" if setting.quick else "results"
    file = out / f"{kind}.json"
    done: dict[str, Report] = {}
    failed: list[str] = []
    for row in rows:
        print(f"==> {row.name}: {row.work}", file=sys.stderr, flush=True)
        load = os.getloadavg()[0]
        try:
            outcome = row.run(setting)
        except (LeftOut, NoRoom) as reason:
            print(f"LEFT OUT: {row.name} {reason}", file=sys.stderr)
            continue
        except Exception:  # a contender that fails must not cost the other rows
            traceback.print_exc()
            failed.append(row.name)
            continue
        done[row.name] = row_of(row, outcome, setting.rounds, setting.quick, load)
        print(text_of({row.name: done[row.name]}), flush=True)
        together = stored(file) | {row.name: done[row.name]}
        together = {row.name: together[row.name] for row in ROWS if row.name in together}
        store(file, {"rows": together})
        (out / f"{kind}.txt").write_text(f"{text_of(together)}\n{verdict(together)}\n")
        (out / f"{kind}.svg").write_text(bars(together))
    print(f"{verdict(done)}. In {out}: {kind}.json, {kind}.txt and {kind}.svg, with the rows of earlier runs")
    if failed:
        print(f"FAILED: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def measure_growth(setting: Setting, out: Path) -> int:
    kind = "quick-growth" if setting.quick else GROWTH
    found = growth.measure(setting)
    store(out / f"{kind}.json", {"machine": machine(), "quick": setting.quick, "series": found})
    (out / f"{kind}.svg").write_text(curves(found))
    print(growth.text_of(found))
    print(f"\nIn {out}: {kind}.json and {kind}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
