"""The README's tables that follow from the code, and from what was measured.

`python tests/unit/readme_tables.py` writes them into the README.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
README = Path(__file__).parents[2] / "README.md"
CONTAINER = Path(__file__).parents[2] / "container"

HEADS = {
    "settings": ["| Variable | Other names | Default | |", "|---|---|---|---|"],
    "errors": ["| Code | Status | Sentence |", "|---|---|---|"],
    "deaths": ["| Killed | While | The client sees | The result says | The next task |", "|---|---|---|---|---|"],
    "machine": [],
    "speed": ["| | Longshore | sagemaker-shim | others | target |", "|---|---:|---:|---:|---|"],
}
FAR_AWAY = 2**32
MEASURED = TESTS / "benchmarks" / "results" / "results.json"


def table(name: str) -> list[str]:
    """Return the lines of a table as the code has it."""
    rows = {
        "settings": settings_rows,
        "errors": error_rows,
        "deaths": death_rows,
        "machine": machine_rows,
        "speed": speed_rows,
    }
    return HEADS[name] + rows[name]()


def settings_rows() -> list[str]:
    """Return one row for each setting: canonical name, the other names, default, sentence."""
    from model_server.settings import Settings

    rows = []
    for field in Settings.model_fields.values():
        names = [f"`{name}`" for name in field.validation_alias.choices]  # type: ignore[union-attr]
        default = "CPUs" if field.default_factory else shown(field.default)
        described = f"{field.description} {bounds(field.metadata)}"
        rows.append(f"| {names[0]} | {', '.join(names[1:])} | {default} | {described} |")
    return [" ".join(row.split()) for row in rows]


def bounds(metadata: Sequence[Any]) -> str:
    """Return the sentence that says what a number may be, where there is a most that anybody could come near."""
    least = next((rule.ge for rule in metadata if hasattr(rule, "ge")), None)
    most = next((rule.le for rule in metadata if hasattr(rule, "le")), None)
    return f"{least} to {most:,}." if most and most < FAR_AWAY else ""


def shown(default: Any) -> str:
    if default in (None, ""):
        return ""
    if isinstance(default, tuple):
        return f"`{':'.join(map(str, default))}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def error_rows() -> list[str]:
    """Return one row for each error that an answer or a result may show, in the order of the tree."""
    from model_server.errors import LongshoreError

    return [f"| `{error.code}` | {error.http_status} | {sentence(error)} |" for error in with_codes(LongshoreError)]


def with_codes(error: type) -> Iterator[Any]:
    """Yield the errors of a tree that have a code of their own, in its order."""
    if "code" in vars(error):
        yield error
    for kind in error.__subclasses__():
        yield from with_codes(kind)


OWN_SENTENCES = {
    "algorithm_failed": "The algorithm ended with exit code 3 (was ended by SIGSEGV; was killed …)",
    "server_not_healthy": "The algorithm container's inference server didn’t pass the health check …",
}
"""Those of errors that depend on what happened."""


def sentence(error: Any) -> str:
    from model_server.errors import OfTarball

    start = "Could not set up model: " if issubclass(error, OfTarball) else ""
    return OWN_SENTENCES.get(error.code) or start + error.sentence


def death_rows() -> list[str]:
    """Return the rows of the table that tests/stack/test_deaths.py walks; stages that end alike are in one."""
    import death_table

    return death_table.rows()


def machine_rows() -> list[str]:
    """Return the line that says where the benchmark ran, how often, and what else the machine did."""
    rows = measured_rows()
    machine = {key: value for key, value in rows[0]["machine"].items() if key != "commit"}
    assert all(machine.items() <= row["machine"].items() for row in rows), "one machine for all rows"
    loads = [row["load_before"] for row in rows]
    where = "{cpus} CPUs ({cpu}), {memory_gib} GiB, Linux {kernel}, Python {python}".format(**machine)
    rounds = min(row["rounds"] for row in rows)
    return [f"{where}; at least {rounds} rounds a row; load before a row {min(loads):.1f} to {max(loads):.1f}."]


def speed_rows() -> list[str]:
    """Return one row for each of the benchmark's: medians, and for each target whether it is met."""
    return [speed_row(row) for row in measured_rows()]


def measured_rows() -> list[Mapping[str, Any]]:
    return [*json.loads(MEASURED.read_text())["rows"].values()]


def speed_row(row: Mapping[str, Any]) -> str:
    figures = {name: f"{measured(of['median'])} {row['unit']}" for name, of in row["figures"].items()}
    ours, shim = figures.pop("longshore"), figures.pop("shim", "")
    others = ", ".join(f"{name} {figure}" for name, figure in figures.items())
    targets = [
        f"{measured(goal['found']['median'])} {goal['what']} "
        f"({'at most' if goal['is_met'] else '**missed**:'} {measured(goal['limit'])})"
        for goal in row["goals"]
    ]
    return f"| {row['work']} | {ours} | {shim} | {others} | {'<br>'.join(targets)} |"


def measured(value: float) -> str:
    """Show three digits: 1,234, 123, 12.3, 1.23, 0.123."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def table_of_the_readme(name: str) -> list[str]:
    """Return the lines between a table's two marks."""
    return README.read_text().partition(f"<!-- {name} -->\n")[2].partition(f"<!-- /{name} -->")[0].splitlines()


def main() -> None:
    sys.path[:0] = [str(CONTAINER), str(TESTS)]
    for name in HEADS:
        before, begin, rest = README.read_text().partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        README.write_text(before + begin + "\n".join(table(name)) + "\n" + end + after)


if __name__ == "__main__":
    main()
