"""What a run does, drawn from a seed: lives of the container, the tasks of each, and what goes wrong with them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Literal

from programs import PROGRAMS

from faulty_s3 import Answer, CutBody, Delay, Fault, LostAnswer, ShortBody, WrongBody

Target = Literal["script", "input", "output", "result"]
Action = Literal["leave", "kill algorithm", "kill worker"]
End = Literal["SIGTERM", "kill PID 1", "kill gunicorn", "kill nginx"]

TARGETS: tuple[Target, ...] = ("script", "input", "output", "result")
INPUTS: tuple[Target, ...] = ("script", "input")
ACTIONS: tuple[Action, ...] = ("leave", "kill algorithm", "kill worker")
ENDS: tuple[End, ...] = ("SIGTERM", "kill PID 1", "kill gunicorn", "kill nginx")

PASSING: dict[str, Fault] = {
    "500": Answer(500, "InternalError"),
    "503": Answer(503, "SlowDown"),
    "400 RequestTimeout": Answer(400, "RequestTimeout"),
    "429": Answer(429, "TooManyRequests"),
    "lost answer": LostAnswer(),
    "late answer": Delay(0.3),
    "cut body": CutBody(),
    "short body": ShortBody(),
    "wrong body": WrongBody(),
}
"""What S3 does once or twice, and nobody may notice."""

OF_BODIES = {"cut body", "short body", "wrong body"}

FINAL: dict[str, Fault] = {
    "404": Answer(404, "NoSuchBucket"),
    "403": Answer(403, "AccessDenied"),
    "refused": Answer(403, "SignatureDoesNotMatch"),
    "lasting 503": Answer(503, "ServiceUnavailable"),
}
"""What it says again and again, so that the attempt fails."""

EXCUSES: dict[str, dict[Target, str]] = {
    "404": dict.fromkeys(INPUTS, "input_missing") | {"output": "outputs_not_stored", "result": "output_bucket_missing"},
    "403": dict.fromkeys(INPUTS, "input_forbidden") | {"output": "outputs_not_stored", "result": "result_not_stored"},
    "refused": dict.fromkeys(TARGETS, "storage_refused") | {"result": "result_not_stored"},
    "lasting 503": dict.fromkeys(TARGETS, "storage_unavailable") | {"result": "result_not_stored"},
}
"""The error that each of these is for the object that it is about."""

RETRIES = 2
TASKS_OF_A_LIFE = 70
TASKS_AT_AN_END = 3


@dataclass(frozen=True)
class S3Fault:
    """A fault of S3 for the next `times` requests for one object of an attempt, None for all."""

    kind: str
    target: Target
    times: int | None

    @property
    def fault(self) -> Fault:
        return (PASSING | FINAL)[self.kind]

    @property
    def excuses(self) -> list[str]:
        return [EXCUSES[self.kind][self.target]] if self.kind in EXCUSES else []


@dataclass(frozen=True)
class AttemptPlan:
    """What goes wrong with one attempt, and whether it is tried again although it was answered well."""

    faults: tuple[S3Fault, ...] = ()
    action: Action | None = None
    seconds: float = 0.0
    again: bool = False


@dataclass(frozen=True)
class Step:
    """A task: its program, the seed of what that draws, and its attempts, of which later ones may not be needed."""

    name: str
    program: str
    seed: int
    attempts: tuple[AttemptPlan, ...]


@dataclass(frozen=True)
class Life:
    """One container from its start to its end: the tasks that end within it, and those that its end meets."""

    number: int
    steps: tuple[Step, ...]
    at_end: tuple[Step, ...]
    end: End
    seconds: float


def lives(seed: int, tasks: int) -> Iterator[Life]:
    """Yield the lives of a run of so many tasks; the same ones for the same seed."""
    random = Random(seed)
    steps = iter([draw_step(f"task-{number}", random) for number in range(tasks)])
    number = 0
    while drawn := list(islice(steps, TASKS_OF_A_LIFE)):
        met = min(random.randint(0, TASKS_AT_AN_END), len(drawn) - 1)
        end = random.choices(ENDS, weights=(4, 2, 1, 1))[0]
        cut = len(drawn) - met
        yield Life(number, tuple(drawn[:cut]), tuple(drawn[cut:]), end, random.uniform(0, 0.5))
        number += 1


def draw_step(name: str, random: Random) -> Step:
    weights = [weight for weight, _ in PROGRAMS.values()]
    program = random.choices(list(PROGRAMS), weights)[0]
    attempts = [draw_attempt(random, 0.5), *(draw_attempt(random, 0.3) for _ in range(RETRIES - 1)), AttemptPlan()]
    return Step(name, program, random.getrandbits(32), tuple(attempts))


def draw_attempt(random: Random, trouble: float) -> AttemptPlan:
    again = random.random() < 0.05
    if random.random() >= trouble:
        return AttemptPlan(again=again)
    kind = random.choices(["S3", *ACTIONS], weights=(30, 10, 8, 3))[0]
    if kind != "S3":
        action = next(action for action in ACTIONS if action == kind)
        return AttemptPlan(action=action, seconds=random.choice([0.0, random.uniform(0, 0.4)]), again=again)
    return AttemptPlan(tuple(draw_fault(random) for _ in range(random.choice([1, 1, 2]))), again=again)


def draw_fault(random: Random) -> S3Fault:
    target = random.choice(TARGETS)
    if random.random() < 0.3:
        kind = random.choices(list(FINAL), weights=(4, 4, 3, 1))[0]
        return S3Fault(kind, target, None)
    kinds = [kind for kind in PASSING if target in INPUTS or kind not in OF_BODIES]
    return S3Fault(random.choice(kinds), target, random.randint(1, 2))
