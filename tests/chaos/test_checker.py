"""The checker finds what it is there for: each bad history is a good one with one thing wrong."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from checker import violations

Event = dict[str, Any]
History = list[Event]


def posted(attempt: int, task: str, **more: Any) -> Event:
    outputs = {"a": f"a of {attempt}", "b": f"b of {attempt}"}
    expected = {"return_code": 0, "error": None, "status": 200, "outputs": outputs}
    return {"event": "posted", "life": 0, "attempt": attempt, "task": task} | expected | more


def result(attempt: int | None, task: str, **more: Any) -> Event:
    well = {"return_code": 0, "error": None, "outputs": ["a", "b"]}
    return {"sha256": f"result of {attempt}", "pk": task, "attempts": [attempt] if attempt else []} | well | more


def failed(attempt: int | None, task: str, error: str, **more: Any) -> Event:
    return result(attempt, task, sha256=f"{error} of {attempt}", return_code=1, error=error, outputs=[]) | more


def answered(attempt: int, says: Event) -> Event:
    return {"event": "answered", "attempt": attempt, "status": 200} | says


def refused(attempt: int, error: str, status: int = 503) -> Event:
    return {"event": "answered", "attempt": attempt, "status": status, "error": error}


def stored(task: str, *results: Event, of: int) -> Event:
    outputs = {"a": f"a of {of}", "b": f"b of {of}"}
    return {"event": "stored", "task": task, "results": [{"signed": True} | one for one in results], "outputs": outputs}


def rested(probe: str, *ran: int, **more: Any) -> Event:
    held = {"python-1": {"pipe": 2, "socket": 9}}
    seen = {"files": [], "processes": [], "held": held}
    return {"event": "rested", "life": 0, "probe": probe} | seen | signs(*ran) | more


def signs(*ran: int) -> Event:
    return {"ran": list(ran), "overlap": []}


def good_history() -> History:
    """Return what a good server does: five tasks under faults, two to see whether it lives, a restart, and its end."""
    return [
        {"event": "started", "life": 0},
        posted(1, "plain"),
        answered(1, result(1, "plain")),
        {"event": "pinged", "life": 0, "status": 200},
        posted(2, "missing"),
        {"event": "met", "attempt": 2, "excuses": ["input_missing"]},
        answered(2, failed(None, "missing", "input_missing")),
        posted(3, "probe-1"),
        answered(3, result(3, "probe-1")),
        rested("probe-1", 1, 3),
        posted(4, "left"),
        {"event": "left", "attempt": 4},
        posted(5, "left"),
        answered(5, result(5, "left")),
        posted(6, "lost"),
        {"event": "killed", "life": 0, "excuses": ["worker_lost"]},
        {"event": "pinged", "life": 0, "status": 502},
        refused(6, "worker_lost", 502),
        posted(7, "lost"),
        {"event": "recovered", "life": 0},
        answered(7, result(7, "lost")),
        posted(8, "wrong", status=422, error="task_invalid", return_code=1),
        refused(8, "task_invalid", 422),
        posted(9, "unstored"),
        {"event": "met", "attempt": 9, "excuses": ["outputs_not_stored"]},
        refused(9, "outputs_not_stored"),
        posted(10, "probe-2"),
        answered(10, result(10, "probe-2")),
        rested("probe-2", 1, 3, 4, 5, 6, 7, 9, 10),
        posted(11, "cut"),
        {"event": "ending", "life": 0, "how": "SIGTERM", "excuses": ["interrupted", "cut"]},
        refused(11, "interrupted"),
        {"event": "ended", "life": 0, "how": "SIGTERM", "code": 0, "seconds": 1.5, "left": [], "untold": 0} | signs(11),
        stored("plain", result(1, "plain"), of=1),
        stored("missing", failed(None, "missing", "input_missing"), of=2) | {"outputs": {}},
        stored("probe-1", result(3, "probe-1"), of=3),
        stored("left", failed(4, "left", "client_left"), result(5, "left"), of=5),
        stored("lost", failed(None, "lost", "worker_lost"), result(7, "lost"), of=7),
        stored("wrong", of=8) | {"outputs": {}},
        stored("unstored", failed(9, "unstored", "outputs_not_stored"), of=9) | {"outputs": {}},
        stored("probe-2", result(10, "probe-2"), of=10),
        stored("cut", failed(11, "cut", "interrupted"), of=11) | {"outputs": {}},
    ]


def find(history: History, event: str, **facts: Any) -> Event:
    """Return the last event that has these facts."""
    return next(e for e in reversed(history) if e["event"] == event and facts.items() <= e.items())


def say(event: str, chosen: dict[str, Any], **other: Any) -> Callable[[History], None]:
    """Have an event say something else."""
    return lambda history: find(history, event, **chosen).update(other)


def drop(event: str, **chosen: Any) -> Callable[[History], None]:
    return lambda history: history.remove(find(history, event, **chosen))


def of_stored(task: str, change: Callable[[History], Any]) -> Callable[[History], None]:
    """Have S3 hold other results of a task."""

    def changed(history: History) -> None:
        change(find(history, "stored", task=task)["results"])

    return changed


def answered_and_stored(task: str, says: Event) -> Callable[[History], None]:
    """Have the client's answer and the result that stands say the same other thing."""

    def changed(history: History) -> None:
        attempt = find(history, "posted", task=task)["attempt"]
        find(history, "answered", attempt=attempt).update(says)
        find(history, "stored", task=task)["results"][-1].update(says)

    return changed


MORE_PIPES = {"python-1": {"pipe": 3, "socket": 9}}
MANY_SOCKETS = {"python-1": {"pipe": 2, "socket": 900}}

BAD: dict[str, tuple[Callable[[History], Any], str]] = {
    "a failure that nothing explains": (
        answered_and_stored("plain", failed(1, "plain", "algorithm_failed")),
        "attempt 1 of plain: it ended with 1 (algorithm_failed) without an excuse",
    ),
    "an error that nothing explains": (
        say("answered", {"attempt": 1}, status=500, error="internal_error"),
        "attempt 1 of plain: it was answered 500 (internal_error) without an excuse",
    ),
    "another fault than the one that was met": (
        answered_and_stored("missing", failed(None, "missing", "storage_unavailable")),
        "attempt 2 of missing: it ended with 1 (storage_unavailable) without an excuse",
    ),
    "a worker's end that costs a task which was posted later": (
        lambda history: history.insert(-9, refused(10, "worker_lost", 502)),
        "attempt 10 of probe-2: it was answered 502 (worker_lost) without an excuse",
    ),
    "a task that is not refused": (
        lambda history: (
            find(history, "answered", attempt=8).update(answered(8, result(8, "wrong"))),
            find(history, "stored", task="wrong").update(stored("wrong", result(8, "wrong"), of=8)),
        ),
        "attempt 8 of wrong: it was answered 200 (None) without an excuse",
    ),
    "a refused task that runs": (
        lambda history: find(history, "rested", probe="probe-2")["ran"].append(8),
        "attempt 8 of wrong: it was refused, and ran",
    ),
    "a refusal for another reason": (
        say("answered", {"attempt": 8}, error="body_unreadable"),
        "attempt 8 of wrong: it was refused with body_unreadable, and not with task_invalid",
    ),
    "a client that is never answered": (drop("answered", attempt=1), "attempt 1 of plain: its client waits"),
    "a connection that is cut for nothing": (
        lambda history: (
            history.remove(find(history, "answered", attempt=1)),
            history.insert(2, {"event": "cut", "attempt": 1, "error": "reset"}),
        ),
        "attempt 1 of plain: its connection was cut",
    ),
    "an output that is not there": (
        say("stored", {"task": "plain"}, outputs={"a": "a of 1"}),
        "plain: the output b is not there",
    ),
    "an output with other bytes": (
        say("stored", {"task": "plain"}, outputs={"a": "a of 1", "b": "half of b"}),
        "plain: the output b is not what the algorithm wrote",
    ),
    "outputs of the attempt before": (
        say("stored", {"task": "lost"}, outputs={"a": "a of 6", "b": "b of 7"}),
        "lost: the output a is not what the algorithm wrote",
    ),
    "a success that lists half of the outputs": (
        answered_and_stored("plain", result(1, "plain", outputs=["a"])),
        "plain: a result says that all went well, with the outputs ['a']",
    ),
    "a success that lists what another task left": (
        answered_and_stored("plain", result(1, "plain", outputs=["a", "b", "late"])),
        "plain: a result says that all went well, with the outputs ['a', 'b', 'late']",
    ),
    "a success of an interrupted task": (
        of_stored("cut", lambda results: results[0].update(result(11, "cut", outputs=["a"]))),
        "cut: a result says that all went well, with the outputs ['a']",
    ),
    "a success after an answer that says otherwise": (
        of_stored("unstored", lambda results: results[0].update(result(9, "unstored"))),
        "unstored: the last attempt was answered outputs_not_stored, and the result that stands says None",
    ),
    "a success of nobody": (
        of_stored("plain", lambda results: results[0].update(attempts=[])),
        "plain: a result that says that all went well is of no attempt that ran",
    ),
    "an answer that no result has": (
        say("answered", {"attempt": 1}, sha256="another"),
        "plain: no result was ever stored that says what attempt 1 was answered",
    ),
    "no result after an answer": (
        of_stored("plain", lambda results: results.clear()),
        "plain: the result that stands is not what the last attempt was answered",
    ),
    "the first attempt's result over that of its retry": (
        of_stored("left", lambda results: results.reverse()),
        "left: the result that stands is not what the last attempt was answered",
    ),
    "a late success of the first attempt over that of its retry": (
        of_stored("left", lambda results: results.append(results.pop(0) | result(4, "left"))),
        "left: the result that stands is that of attempt 4, and a later one ran",
    ),
    "two results of one attempt": (
        of_stored("plain", lambda results: results.insert(0, results[0] | {"sha256": "another"})),
        "plain: attempt 1 has 2 results",
    ),
    "results of more attempts than there were": (
        of_stored("missing", lambda results: results.append(results[0] | {"sha256": "another"})),
        "missing: 2 results say of no attempt that it ran",
    ),
    "a lost task without a result": (
        of_stored("lost", lambda results: results.pop(0)),
        "lost: 1 attempts ran and have no result",
    ),
    "an interrupted task without a result": (
        of_stored("cut", lambda results: results.clear()),
        "cut: 1 attempts ran and have no result",
    ),
    "a result that is not signed": (
        of_stored("plain", lambda results: results[0].update(signed=False)),
        "plain: a result is not signed rightly",
    ),
    "a result of another task": (
        of_stored("plain", lambda results: results[0].update(pk="other")),
        "plain: a result is that of other",
    ),
    "lines of another task": (
        of_stored("plain", lambda results: results[0].update(attempts=[1, 7])),
        "plain: a result has lines of the attempts [1, 7]",
    ),
    "a replaced result that nothing explains": (
        of_stored("left", lambda results: results[0].update(error="internal_error")),
        "left: a result says 1 (internal_error) without an excuse",
    ),
    "a task that nobody looked at": (drop("stored", task="plain"), "plain: nobody looked at what is stored"),
    "a server that runs no further task": (
        answered_and_stored("probe-2", failed(10, "probe-2", "folders_not_reset")),
        "life 0: the next task, probe-2, did not run",
    ),
    "a process that is left": (
        say("rested", {"probe": "probe-2"}, processes=["sleep-9"]),
        "life 0: processes of tasks are left: ['sleep-9']",
    ),
    "a file that is left": (
        say("rested", {"probe": "probe-1"}, files=["input/scan"]),
        "life 0: files of tasks are left: ['input/scan']",
    ),
    "a descriptor that is left": (
        say("rested", {"probe": "probe-2"}, held=MORE_PIPES),
        "life 0: descriptors pile up: python-1 has 3 of pipe",
    ),
    "connections that pile up": (
        say("rested", {"probe": "probe-2"}, held=MANY_SOCKETS),
        "life 0: descriptors pile up: python-1 has 900 sockets",
    ),
    "tasks that overlap": (say("rested", {"probe": "probe-2"}, overlap=[7]), "life 0: attempts [7] were not alone"),
    "tasks that overlap at the end": (say("ended", {}, overlap=[11]), "life 0: attempts [11] were not alone"),
    "a ping that is not answered": (say("pinged", {"status": 200}, status=0), "life 0: /ping was answered 0"),
    "a ping that stays bad": (
        lambda history: history.insert(-12, {"event": "pinged", "life": 0, "status": 502}),
        "life 0: /ping was answered 502",
    ),
    "a wrong exit code": (say("ended", {}, code=1), "life 0: it ended with 1 after SIGTERM"),
    "an exit code that hides what is untold": (
        say("ended", {}, untold=1),
        "life 0: it ended with 0 after SIGTERM",
    ),
    "an end that takes too long": (say("ended", {}, seconds=80.0), "life 0: its end took 80.0 s"),
    "a process that outlives the end": (
        say("ended", {}, left=["nginx-5"]),
        "life 0: processes are left of it after SIGTERM: ['nginx-5']",
    ),
    "an end that nobody saw": (drop("ended"), "life 0: its end was not seen"),
    "a container that nobody looked at": (
        lambda history: [history.remove(find(history, "rested")) for _ in range(2)],
        "life 0: nobody looked at it at rest",
    ),
}


def test_a_good_history_is_good() -> None:
    assert violations(good_history()) == []


@pytest.mark.parametrize("case", BAD)
def test_a_bad_history_is_found(case: str) -> None:
    change, expected = BAD[case]
    history = copy.deepcopy(good_history())
    change(history)
    found = violations(history)
    assert any(sentence.startswith(expected) for sentence in found), found


def test_a_result_that_is_put_again_since_its_answer_was_lost_is_one() -> None:
    history = good_history()
    results = find(history, "stored", task="plain")["results"]
    results.append(dict(results[0]))
    assert violations(history) == []
