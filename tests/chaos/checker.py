"""The promises of a server under faults, as rules about the history of a run; knows nothing of how that was made.

    started   life                                   a container answered /ping with 200
    posted    life attempt task outputs return_code error status      what has to come of it where nothing goes wrong
    met       attempt excuses                        a fault that was meant for this attempt reached it
    killed    life excuses ... recovered life        what happens to all attempts of a while
    left | cut | answered   attempt ...              how it ended for the client
    pinged    life status
    rested    life probe files processes held ran overlap    one task more, and what was there after it
    ending    life how excuses ... ended life code left ran overlap
    stored    task results outputs                   what S3 has of it in the end, and every result that it ever had

An `excuse` is the code of an error that an attempt may end with because of a fault. What is not excused has to be as
it is without faults, so that a fault costs its own attempt and nothing else.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]

EXIT_CODES = {"SIGTERM": 0, "kill PID 1": -9, "kill gunicorn": 1, "kill nginx": 1}
STOP_SECONDS = 40.0
"""More than a stop may take, with the noise of a busy machine; how long just so is for other tests."""

MAX_SOCKETS = 64
"""Of one process: connections to S3 and from nginx, which are kept for a while."""

NOT_STORED = {"result_not_stored", "output_bucket_missing"}
"""Errors of attempts that have no result, whatever they did."""

BEFORE_ITS_TURN = {"queue_full", "not_ready", "worker_lost", "interrupted", "client_left"}
"""Errors of attempts that may have ended while they waited, without a result."""


@dataclass
class Attempt:
    """What the history says of one attempt."""

    number: int
    posted: Event
    ended: Event | None = None
    excuses: set[str] = field(default_factory=set)
    disturbed: bool = False
    ran: bool = False

    @property
    def task(self) -> str:
        return str(self.posted["task"])

    @property
    def answered(self) -> Event | None:
        return self.ended if self.ended and self.ended["event"] == "answered" else None

    @property
    def owes_a_result(self) -> bool:
        """Whether it has to have left a result of its own: it ran, and nothing kept that from being stored."""
        return self.ran and not self.excuses & NOT_STORED

    def is_as_programmed(self, end: Event) -> bool:
        return (end.get("return_code"), end["error"]) == (self.posted["return_code"], self.posted["error"])


def violations(events: Iterable[Event]) -> list[str]:
    """Return a sentence for everything in a history that may not be."""
    history = list(events)
    attempts = read(history)
    tasks: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts.values():
        tasks[attempt.task].append(attempt)
    stored = {event["task"]: event for event in history if event["event"] == "stored"}
    found: list[str] = []
    for attempt in attempts.values():
        found += (f"attempt {attempt.number} of {attempt.task}: {fault}" for fault in of_attempt(attempt))
    for task, its_attempts in tasks.items():
        if task in stored:
            found += (f"{task}: {fault}" for fault in of_task(its_attempts, stored[task]))
        else:
            found.append(f"{task}: nobody looked at what is stored of it")
    for life, its_events in by_life(history).items():
        found += (f"life {life}: {fault}" for fault in of_life(its_events, tasks))
    return found


def read(history: list[Event]) -> dict[int, Attempt]:
    """Return all attempts by their number, each with the excuses that it has."""
    attempts: dict[int, Attempt] = {}
    open_attempts: set[int] = set()
    gone: dict[int, set[int]] = defaultdict(set)  # by life: those that nobody waits for, but that may go on
    disturbances: dict[int, list[set[str]]] = defaultdict(list)

    def disturb(number: int, excuses: set[str]) -> None:
        attempts[number].excuses |= excuses
        attempts[number].disturbed = True

    for event in history:
        kind, life = event["event"], event.get("life", -1)
        if kind == "posted":
            number = event["attempt"]
            attempts[number] = Attempt(number, event)
            open_attempts.add(number)
            for excuses in disturbances[life]:
                disturb(number, excuses)
        elif kind == "met":
            attempts[event["attempt"]].excuses |= set(event["excuses"])
        elif kind in ("killed", "ending"):
            disturbances[life].append(set(event["excuses"]))
            for number in open_attempts | gone[life]:
                if attempts[number].posted["life"] == life:
                    disturb(number, disturbances[life][-1])
        elif kind == "recovered":
            disturbances[life].pop()
        elif kind in ("left", "cut", "answered"):
            number = event["attempt"]
            attempts[number].ended = event
            open_attempts.discard(number)
            if kind == "left":
                attempts[number].excuses.add("client_left")
                gone[attempts[number].posted["life"]].add(number)
        elif kind in ("rested", "ended"):
            gone[life].clear()
            for number in event["ran"]:
                attempts[number].ran = True
    return attempts


def by_life(history: list[Event]) -> dict[int, list[Event]]:
    lives: dict[int, list[Event]] = defaultdict(list)
    for event in history:
        if "life" in event:
            lives[event["life"]].append(event)
    return lives


def of_attempt(attempt: Attempt) -> Iterator[str]:
    """Yield what is wrong with what a client was told."""
    expected, answer = attempt.posted, attempt.answered
    if attempt.ended is None:
        yield "its client waits to this day"
    elif attempt.ended["event"] == "cut" and "cut" not in attempt.excuses:
        yield f"its connection was cut, and nothing had happened to it: {attempt.ended['error']}"
    elif answer and answer["status"] != expected["status"] and answer["error"] not in attempt.excuses:
        yield f"it was answered {answer['status']} ({answer['error']}) without an excuse for it"
    elif answer and answer["status"] == 200 and not attempt.is_as_programmed(answer):
        if answer["error"] not in attempt.excuses:
            yield f"it ended with {answer['return_code']} ({answer['error']}) without an excuse for it"
    elif answer and answer["status"] == expected["status"] != 200 and answer["error"] != expected["error"]:
        yield f"it was refused with {answer['error']}, and not with {expected['error']}"
    if attempt.ran and expected["status"] != 200:
        yield "it was refused, and ran"


def of_task(attempts: list[Attempt], stored: Event) -> Iterator[str]:
    """Yield what is wrong with what S3 has of a task."""
    results = without_repetitions(stored["results"])
    for result in results:
        yield from of_result(attempts, result)
    yield from of_the_count(attempts, results)
    for attempt in attempts:
        answer = attempt.answered
        if answer and answer["status"] == 200 and answer["sha256"] not in {result["sha256"] for result in results}:
            yield f"no result was ever stored that says what attempt {attempt.number} was answered"
    yield from of_what_stands(attempts, results[-1] if results else None, stored["outputs"])


def without_repetitions(results: list[Event]) -> list[Event]:
    """Leave out results that were put again because S3's answer was lost."""
    return [result for before, result in zip([None, *results], results, strict=False) if result != before]


def of_result(attempts: list[Attempt], result: Event) -> Iterator[str]:
    """Yield what is wrong with one result, whether it stands or was replaced."""
    excuses = set().union(*(attempt.excuses for attempt in attempts))
    if not result["signed"]:
        yield "a result is not signed rightly"
    if result["pk"] != attempts[0].task:
        yield f"a result is that of {result['pk']}"
    if not attempts[0].is_as_programmed(result) and result["error"] not in excuses:
        yield f"a result says {result['return_code']} ({result['error']}) without an excuse for it"
    if result["return_code"] == 0 and result["outputs"] != sorted(attempts[0].posted["outputs"]):
        yield f"a result says that all went well, with the outputs {result['outputs']}"
    if len(result["attempts"]) > 1 or not set(result["attempts"]) <= {attempt.number for attempt in attempts}:
        yield f"a result has lines of the attempts {result['attempts']}"


def of_the_count(attempts: list[Attempt], results: list[Event]) -> Iterator[str]:
    """Yield attempts with more results than one, and with none though they ran.

    A result that no attempt's lines are in is of one that did not run, or whose worker was lost; the latter may have
    stored its own before.
    """
    own = defaultdict(int)
    for result in results:
        for number in result["attempts"]:
            own[number] += 1
    anonymous = sum(not result["attempts"] for result in results)
    for number, times in own.items():
        if times > 1:
            yield f"attempt {number} has {times} results"
    without = [attempt for attempt in attempts if not own[attempt.number]]
    owing = sum(attempt.owes_a_result for attempt in without)
    if anonymous < owing:
        yield f"{owing - anonymous} attempts ran and have no result"
    if anonymous > len(without) + sum(attempt.disturbed for attempt in attempts if own[attempt.number]):
        yield f"{anonymous} results say of no attempt that it ran, and there are not so many of them"


def of_what_stands(attempts: list[Attempt], standing: Event | None, outputs: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with the result that is there in the end, and with the outputs beside it."""
    last = attempts[-1]
    answer = last.answered
    if answer and answer["status"] == 200 and (standing is None or standing["sha256"] != answer["sha256"]):
        yield "the result that stands is not what the last attempt was answered"
    if answer and answer["status"] >= 500 and answer["error"] not in NOT_STORED:
        stands = standing["error"] if standing else "nothing"
        may_have_waited = answer["error"] in BEFORE_ITS_TURN and (not last.ran or answer["error"] == "worker_lost")
        if not may_have_waited and stands != answer["error"]:
            yield f"the last attempt was answered {answer['error']}, and the result that stands says {stands}"
    if standing is None:
        return
    for number in standing["attempts"]:
        if any(later.number > number and later.owes_a_result for later in attempts):
            yield f"the result that stands is that of attempt {number}, and a later one ran"
    if standing["return_code"] == 0:
        whose = next((one for one in attempts if standing["attempts"] == [one.number]), None)
        if whose is None:
            yield "a result that says that all went well is of no attempt that ran"
            return
        for name, digest in whose.posted["outputs"].items():
            if name not in outputs:
                yield f"the output {name} is not there"
            elif outputs[name] != digest and not any(later.number > whose.number and later.ran for later in attempts):
                yield f"the output {name} is not what the algorithm wrote"


def of_life(events: list[Event], tasks: Mapping[str, list[Attempt]]) -> Iterator[str]:
    """Yield what is wrong with a container as a whole."""
    kinds = [event["event"] for event in events]
    if kinds.count("rested") == 0:
        yield "nobody looked at it at rest"
    if kinds.count("ended") != 1:
        yield "its end was not seen"
    wounded = 0
    at_first: Mapping[str, Any] = {}
    for event in events:
        if event["event"] == "killed":
            wounded += 1
        elif event["event"] == "recovered":
            wounded -= 1
        elif event["event"] == "pinged" and event["status"] != 200 and not wounded:
            yield f"/ping was answered {event['status']}"
        elif event["event"] == "rested":
            yield from of_a_rest(event, at_first, tasks)
            at_first = at_first or event["held"]
        elif event["event"] == "ended":
            yield from of_an_end(event)
        if event["event"] in ("rested", "ended") and event["overlap"]:
            yield f"attempts {event['overlap']} were not alone"


def of_a_rest(event: Event, at_first: Mapping[str, Any], tasks: Mapping[str, list[Attempt]]) -> Iterator[str]:
    (probe,) = tasks[event["probe"]]
    if not probe.answered or not probe.is_as_programmed(probe.answered):
        yield f"the next task, {event['probe']}, did not run"
    if event["files"]:
        yield f"files of tasks are left: {event['files']}"
    if event["processes"]:
        yield f"processes of tasks are left: {event['processes']}"
    for what in grown(at_first, event["held"]):
        yield f"descriptors pile up: {what}"


def grown(at_first: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return which process holds more of what than at first; sockets only where they are too many."""
    found = []
    for process, held in now.items():
        if held.get("socket", 0) > MAX_SOCKETS:
            found.append(f"{process} has {held['socket']} sockets")
        for kind, number in held.items() if process in at_first else ():
            if kind != "socket" and number > at_first[process].get(kind, 0):
                found.append(f"{process} has {number} of {kind}")
    return found


def of_an_end(event: Event) -> Iterator[str]:
    """Check how a container ended: with 1, too, where its log says that lost tasks are `untold`."""
    if event["code"] != (event["untold"] or EXIT_CODES[event["how"]]):
        yield f"it ended with {event['code']} after {event['how']}"
    if event["left"]:
        yield f"processes are left of it after {event['how']}: {event['left']}"
    if event["seconds"] > STOP_SECONDS:
        yield f"its end took {event['seconds']} s after {event['how']}"
