"""Who may be killed at which stage of a task, and what is then seen of it: the table that a test walks.

The README shows the same to its readers, and a test compares the two.
"""

from itertools import groupby
from typing import NamedTuple

from stages import AFTER_ITS_END, BEFORE_ITS_END, RUNNING, STAGES

PROGRAM = "the program"
ITS_CHILD = "a process that it started"
WORKER = "a worker"
GUNICORN = "gunicorn"
NGINX = "nginx"
NGINX_WORKER = "nginx's worker"


class Death(NamedTuple):
    """One row.

    `status` is that of the answer, None where the connection ends without one; `error` and `return_code` are the stored
    result's. `exit` is the last line of a container that ends, else it goes on.
    """

    killed: str
    stage: str
    status: int | None
    error: str | None
    return_code: int
    exit: str = ""


def everywhere(killed: str, *outcome: int | str | None, stages: tuple[str, ...] = STAGES) -> list[Death]:
    return [Death(killed, stage, *outcome) for stage in stages]  # type: ignore[arg-type]


DEATHS = [
    Death(PROGRAM, RUNNING, 200, "algorithm_failed", 137),
    Death(ITS_CHILD, RUNNING, 200, None, 0),
    *everywhere(WORKER, 502, "worker_lost", 1),
    *everywhere(NGINX_WORKER, None, "client_left", 1, stages=BEFORE_ITS_END),
    *everywhere(NGINX_WORKER, None, None, 0, stages=AFTER_ITS_END),
    *everywhere(GUNICORN, 503, "interrupted", 1, "gunicorn was ended by SIGKILL", stages=BEFORE_ITS_END),
    *everywhere(GUNICORN, 200, None, 0, "gunicorn was ended by SIGKILL", stages=AFTER_ITS_END),
    *everywhere(NGINX, 503, "interrupted", 1, "nginx was ended by SIGKILL", stages=BEFORE_ITS_END),
    *everywhere(NGINX, 200, None, 0, "nginx was ended by SIGKILL", stages=AFTER_ITS_END),
]


def rows() -> list[str]:
    """Return the rows as the README has them: stages that end alike are in one."""
    shown = []
    for (killed, *_), alike in groupby(DEATHS, lambda death: death._replace(stage="")):
        deaths = list(alike)
        stages = "any stage" if len(deaths) == len(STAGES) else ", ".join(death.stage for death in deaths)
        shown.append("| " + " | ".join([killed, stages, *_cells(deaths[0])]) + " |")
    return shown


def _cells(death: Death) -> list[str]:
    answers = {
        None: "a closed connection",
        200: "200, the result",
        502: f"502, `{death.error}`",
        503: f"503, `{death.error}`",
    }
    result = f"`{death.error}`, return code {death.return_code}" if death.error else "what the program made of it"
    then = f"none: exit code 1, and `Stopped: {death.exit}`" if death.exit else "runs, in clean folders"
    return [answers[death.status], result, then]
