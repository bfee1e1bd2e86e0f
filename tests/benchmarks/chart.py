"""Charts as SVG: the rows as bars of how much less they take, and curves on two logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from measures import OURS, SHIM

WIDTH = 980
INK, PALE, LINES = "#1f2933", "#616e7c", "#e4e7eb"
MET, MISSED = "#12805c", "#c2570c"
COLOURS = {SHIM: "#8492a6", OURS: "#2563eb", "s5cmd": "#7c3aed", "rclone": "#0891b2", "curl": "#be185d"}
NAMES = {SHIM: "sagemaker-shim", OURS: "Longshore"}
OTHERS = ("s5cmd", "rclone", "curl")

NAME_END, PLOT_START, PLOT_END, FIGURES_END = 318, 334, 764, WIDTH - 20
ROW_HEIGHT, TOP = 26, 92
LEAST_RATIO = 0.01


def bars(rows: Mapping[str, Any]) -> str:
    """Return a chart of all rows that have a ratio to the shim; a bar goes from its 1 down to ours."""
    shown = [row for row in rows.values() if row["ratio_to_shim"]]
    most = max([1.5, *(row["ratio_to_shim"]["most"] * 1.15 for row in shown)])
    axis = Axis(LEAST_RATIO, most, PLOT_START, PLOT_END)
    bottom = TOP + ROW_HEIGHT * len(shown)
    parts = [
        text(24, 34, "Longshore beside sagemaker-shim", size=18, weight=600),
        text(24, 56, "Each as a part of what sagemaker-shim takes on the same machine, in turns. Less is better."),
        text(PLOT_END + 16, 78, "ratio", colour=PALE),
        text(FIGURES_END, 78, "shim → Longshore", anchor="end", colour=PALE),
        *legend(shown),
    ]
    for ratio in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5):
        if ratio <= most:
            x = axis.at(ratio)
            parts.append(line(x, TOP - 4, x, bottom, PALE if ratio == 1 else LINES, 1.5 if ratio == 1 else 1))
            parts.append(text(x, bottom + 18, f"{ratio:g}", anchor="middle", colour=PALE))
    for number, row in enumerate(shown):
        parts += bar(row, axis, TOP + ROW_HEIGHT * number + ROW_HEIGHT / 2)
    if any(row["quick"] for row in shown):
        parts.append(text(24, bottom + 40, "Of --quick: less work than the names say, and few rounds.", colour=MISSED))
    return document(bottom + 52, parts, "Longshore's ratios to sagemaker-shim, row by row")


def bar(row: Mapping[str, Any], axis: Axis, y: float) -> list[str]:
    ratio = row["ratio_to_shim"]
    goal = next((goal for goal in row["goals"] if goal["what"] == "of the shim's"), None)
    colour = MISSED if goal and not goal["is_met"] else MET
    start, end = sorted((axis.at(ratio["median"]), axis.at(1)))
    parts = [
        text(NAME_END, y + 4, row["work"], anchor="end"),
        f'<rect x="{start:.1f}" y="{y - 6:.1f}" width="{end - start:.1f}" height="12" rx="2" fill="{colour}" '
        'fill-opacity="0.85"/>',
        line(axis.at(ratio["least"]), y, axis.at(ratio["most"]), y, INK, 1.5),
    ]
    if goal:
        x = axis.at(goal["limit"])
        parts.append(line(x, y - 10, x, y + 10, INK, 2))
    shim = row["figures"][SHIM]["median"]
    for name in OTHERS:
        if figures := row["figures"].get(name):
            parts.append(dot(axis.at(figures["median"] / shim), y, COLOURS[name]))
    ours = row["figures"][OURS]["median"]
    figures = f"{shown_number(shim)} → {shown_number(ours)} {row['unit']}"
    parts.append(text(PLOT_END + 16, y + 4, f"{ratio['median']:.2f}", weight=600, colour=colour))
    return [*parts, text(FIGURES_END, y + 4, figures, anchor="end", colour=PALE)]


def legend(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Yield what the marks mean."""
    x = float(PLOT_START)
    there = [name for name in OTHERS if any(name in row["figures"] for row in rows)]
    yield f'<rect x="{x}" y="69" width="14" height="9" rx="2" fill="{MET}"/>'
    yield text(x + 20, 78, "target met", colour=PALE)
    yield f'<rect x="{x + 96}" y="69" width="14" height="9" rx="2" fill="{MISSED}"/>'
    yield text(x + 116, 78, "not met", colour=PALE)
    yield line(x + 182, 66, x + 182, 81, INK, 2)
    yield text(x + 190, 78, "target", colour=PALE)
    for number, name in enumerate(there):
        yield dot(x + 250 + 66 * number, 74, COLOURS[name])
        yield text(x + 258 + 66 * number, 78, name, colour=PALE)


PANEL_WIDTH, PANEL_HEIGHT = 268, 190
LEFT, ABOVE = 56, 84


def curves(series: Mapping[str, Any]) -> str:
    """Return a chart with two panels for each series: seconds, and memory over idle."""
    parts = [
        text(24, 34, "How time and memory grow", size=18, weight=600),
        text(24, 56, "One task on a server that just started; both axes are logarithmic."),
    ]
    for number, name in enumerate((OURS, SHIM)):
        parts += [dot(WIDTH - 260 + 110 * number, 30, COLOURS[name])]
        parts += [text(WIDTH - 250 + 110 * number, 34, NAMES[name], colour=PALE)]
    for column, one in enumerate(series.values()):
        x = LEFT + column * (PANEL_WIDTH + 44)
        for place, (key, unit) in enumerate((("seconds", "s"), ("peak_mib", "MiB over idle"))):
            y = ABOVE + place * (PANEL_HEIGHT + 64)
            parts += panel(one, key, unit, x, y)
    return document(ABOVE + 2 * (PANEL_HEIGHT + 64), parts, "Time and peak memory against the size of a task")


def panel(one: Mapping[str, Any], key: str, unit: str, x: float, y: float) -> list[str]:
    points = {
        side: [(point["x"], max(point[key], 0.001 if key == "seconds" else 1)) for point in found]
        for side, found in one["sides"].items()
    }
    xs = [px for side in points.values() for px, _ in side]
    ys = [py for side in points.values() for _, py in side]
    across = Axis(min(xs), max([*xs, min(xs) * 10]), x, x + PANEL_WIDTH)
    up = Axis(decade_below(min(ys)), decade_above(max(ys)), y + PANEL_HEIGHT, y + 16)
    parts = [text(x, y + 4, f"{one['what']}: {unit}", weight=600)]
    for value in decades(up.least, up.most):
        parts.append(line(x, up.at(value), x + PANEL_WIDTH, up.at(value), LINES, 1))
        parts.append(text(x - 6, up.at(value) + 4, shown_size(value, ""), anchor="end", colour=PALE, size=11))
    for value in labelled([px for side in points.values() for px, _ in side]):
        shown = shown_size(value, one["unit"])
        parts.append(line(across.at(value), y + PANEL_HEIGHT, across.at(value), y + PANEL_HEIGHT + 4, PALE, 1))
        parts.append(text(across.at(value), y + PANEL_HEIGHT + 18, shown, anchor="middle", colour=PALE, size=11))
    for side, there in points.items():
        path = " ".join(f"{across.at(px):.1f},{up.at(py):.1f}" for px, py in there)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[side]}" stroke-width="2"/>')
        parts += [dot(across.at(px), up.at(py), COLOURS[side], 3) for px, py in there]
    return parts


class Axis:
    """A logarithmic axis from one coordinate to another."""

    def __init__(self, least: float, most: float, start: float, end: float) -> None:
        self.least, self.most = least, most
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        part = math.log(max(value, self.least) / self.least) / math.log(self.most / self.least)
        return self._start + min(part, 1) * (self._end - self._start)


def decade_below(value: float) -> float:
    return 10.0 ** math.floor(math.log10(value))


def decade_above(value: float) -> float:
    return 10.0 ** math.ceil(math.log10(value * 1.001))


def decades(least: float, most: float) -> list[float]:
    first = round(math.log10(least))
    return [10.0**power for power in range(first, round(math.log10(most)) + 1)]


def labelled(values: Iterable[float]) -> list[float]:
    """Return the values that are far enough from each other to have a label."""
    kept: list[float] = []
    there = sorted(set(values))
    gap = (math.log(there[-1]) - math.log(there[0])) / 7
    for value in there:
        if not kept or math.log(value / kept[-1]) >= gap:
            kept.append(value)
    return kept


def shown_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def shown_size(value: float, unit: str) -> str:
    """Return a number as short as can be; bytes in powers of 1024."""
    base, names = (1024, ("", "Ki", "Mi", "Gi")) if unit == "B" else (1000, ("", "k", "M", "G"))
    power = min(3, int(math.log(value, base) + 1e-9)) if value >= base else 0
    space = " " if unit else ""
    return f"{value / base**power:g}{space}{names[power]}{unit}"


def text(
    x: float, y: float, words: str, *, size: int = 12, weight: int = 400, anchor: str = "start", colour: str = INK
) -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {where} font-size="{size}" font-weight="{weight}" fill="{colour}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    where = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {where} stroke="{colour}" stroke-width="{width}"/>'


def dot(x: float, y: float, colour: str, radius: float = 4) -> str:
    where = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius}"'
    return f'<circle {where} fill="{colour}" stroke="#ffffff" stroke-width="1"/>'


def document(height: float, parts: Iterable[str], title: str) -> str:
    """Return the whole file, on a ground of its own, so that it can be read on dark pages too."""
    box = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="system-ui, sans-serif" role="img">'
    ground = f'<rect width="{WIDTH}" height="{height:.0f}" rx="8" fill="#ffffff"/>'
    return "\n".join([start, f"<title>{escape(title)}</title>", ground, *parts, "</svg>", ""])
