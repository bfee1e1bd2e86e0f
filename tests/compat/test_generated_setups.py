"""Generated environments and lists of tasks, run by `invoke` of both: exit code, results, objects, log and files."""

from __future__ import annotations

import json
from typing import Any

from both import INPUTS, Both, encoded
from comparison import compared
from differences import split
from generators import RESIDENTS, Resident, SetUp, set_ups
from trial import tried


def run_set_up(both: Both, set_up: SetUp) -> list[str]:
    """Run one set-up in new folders, and return what differs."""
    with both.beside() as fresh:
        environment = dict(set_up.environment)
        for name, command in set_up.commands.items():
            environment[name] = encoded(json.loads(json.dumps(command).replace("@top@", str(fresh.top))))
        for name, tarball in set_up.tarballs.items():
            fresh.put(f"/auxiliary-data/{name}.tar.gz", tarball)
            environment[name] = f"s3://{INPUTS}//auxiliary-data/{name}.tar.gz"
        tasks: list[dict[str, Any]] = [
            fresh.task(
                told={"exit": code, "stdout": "6f0a", "stderr": "650a"},
                pk=f"job-{number}",
                output_prefix=f"/o/{number}",
            )
            for number, code in enumerate(set_up.exits)
        ]
        if set_up.from_file is None:
            case = fresh.invoke(tasks, **environment)
        else:
            case = fresh.invoke_file(set_up.from_file, tasks, "s3", **environment)
        return [f"{leaf}\n  {set_up!r:.1500}" for leaf in split(compared(case))[1]]


def test_set_ups_end_alike(both: Both) -> None:
    tried("set-ups", set_ups(), lambda set_up: run_set_up(both, set_up))


def test_set_ups_with_tarballs_end_alike(both: Both) -> None:
    tried("set-ups with tarballs", set_ups(with_tarballs=True), lambda set_up: run_set_up(both, set_up))


def run_resident(both: Both, plan: Resident) -> list[str]:
    """Run tasks by a resident server in new folders, and return what differs."""
    with both.beside() as fresh:
        tasks = [
            fresh.task([fresh.item("in", "x")], pk=f"job-{number}", output_prefix=f"/o/{number}")
            for number in range(plan.tasks)
        ]
        case = fresh.invoke(tasks, **(fresh.resident(plan.answers) | plan.environment))
        return [f"{leaf}\n  {plan!r:.1500}" for leaf in split(compared(case))[1]]


def test_resident_servers_end_alike(both: Both) -> None:
    tried("resident servers", RESIDENTS, lambda plan: run_resident(both, plan))
