"""The table of differences itself, and that the comparison can fail."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from both import Case, Observation, Place, signature_of
from comparison import MISSING, RESULT_KEYS, compared
from differences import TABLE, split
from trial import NUMBERS

TASK = {"pk": "pk", "inputs": [], "output_bucket_name": "@out@", "output_prefix": "/out", "timeout": "PT1M"}
RESULT: dict[str, Any] = {
    "pk": "pk",
    "return_code": 0,
    "user_safe_error_message": "",
    "user_process_last_stderr_lines": ["a\n"],
    "exec_duration": "PT1.5S",
    "invoke_duration": None,
    "outputs": [{"relative_path": "a", "bucket_name": "bucket", "bucket_key": "/out/a", "decompress": False}],
    "sagemaker_shim_version": "0.8.3",
}
KEY_OF_THE_RESULT = "/out/.sagemaker_shim/inference_result.json"


def seen() -> Observation:
    """Return what is seen of a task that went well."""
    record = {"log": "a", "level": "WARNING", "source": "stderr", "internal": False, "task": "pk"}
    observation = {
        "status": 200,
        "headers": {"content-type": "application/json"},
        "log": {"stdout": [], "stderr": [json.dumps(record)]},
        "objects": {"/out/a": {"content": b"a", "content_type": "binary/octet-stream", "metadata": {}}},
        "files": {"input": "drwxr-xr-x 0:0", "output": "drwxrwxrwx 0:0"},
        "place": Place("ours", Path("/nowhere"), "bucket"),
    }
    store(observation, RESULT)
    return observation


def store(observation: Observation, result: dict[str, Any], signature: str | None = None) -> None:
    """Put a result into an observation, as object and as answer."""
    content = json.dumps(result).encode()
    observation["body"] = content
    observation["objects"][KEY_OF_THE_RESULT] = {
        "content": content,
        "content_type": "binary/octet-stream",
        "metadata": {"signature_hmac_sha256": signature or signature_of(content)},
    }


def undeclared(ours: Observation) -> list[tuple[str, ...]]:
    given = {"method": "POST", "path": "/invocations", "body": json.dumps(TASK).encode(), "headers": {}}
    return [leaf.path for leaf in split(compared(Case(given, seen(), ours)))[1]]


def with_result(**changed: Any) -> Callable[[Observation], None]:
    return lambda ours: store(ours, RESULT | changed)


def without_key(ours: Observation) -> None:
    store(ours, {name: RESULT[name] for name in RESULT_KEYS if name != "invoke_duration"})


def in_another_order(ours: Observation) -> None:
    store(ours, dict(reversed(RESULT.items())))


def with_a_line(**changed: Any) -> Callable[[Observation], None]:
    def change(ours: Observation) -> None:
        ours["log"]["stderr"] = [json.dumps(json.loads(ours["log"]["stderr"][0]) | changed)]

    return change


MADE_UP: dict[str, Callable[[Observation], None]] = {
    "another status": lambda ours: ours.update(status=201),
    "another header": lambda ours: ours["headers"].update(allow="POST"),
    "another return code": with_result(return_code=1),
    "a signal's number": with_result(return_code=137),
    "another sentence": with_result(user_safe_error_message="Something else"),
    "another last line": with_result(user_process_last_stderr_lines=["b\n"]),
    "a duration that is none": with_result(exec_duration="1.5 s"),
    "no duration": with_result(exec_duration=None),
    "another output": with_result(outputs=[]),
    "a key less": without_key,
    "another order of keys": in_another_order,
    "a wrong signature": lambda ours: store(ours, RESULT, signature="0" * 64),
    "an answer that is not the object": lambda ours: ours.update(body=ours["body"] + b" "),
    "another content": lambda ours: ours["objects"]["/out/a"].update(content=b"b"),
    "an object more": lambda ours: ours["objects"].update({"/out/b": ours["objects"]["/out/a"]}),
    "an object less": lambda ours: ours["objects"].pop("/out/a"),
    "another line": with_a_line(log="b"),
    "another level": with_a_line(level="ERROR"),
    "another task": with_a_line(task=None),
    "a line that is internal": with_a_line(internal=True),
    "a traceback": lambda ours: ours["log"]["stderr"].append("Traceback (most recent call last):"),
    "a file that is left": lambda ours: ours["files"].update({"output/a": "-rw-r--r-- 0:0 b'a'"}),
    "another mode": lambda ours: ours["files"].update(output="drwxr-xr-x 0:0"),
}


def test_the_same_is_no_difference() -> None:
    assert undeclared(seen()) == []


@pytest.mark.parametrize("change", MADE_UP.values(), ids=MADE_UP)
def test_a_made_up_difference_is_found(change: Callable[[Observation], None]) -> None:
    ours = copy.deepcopy(seen())
    change(ours)
    assert undeclared(ours)


def test_what_is_volatile_or_ours_alone_is_no_difference() -> None:
    ours = seen()
    further: dict[str, Any] = {"error": None, "run_seconds": 0.1, "refused_outputs": []}
    store(ours, RESULT | {"exec_duration": "PT2H1M0.1S", "sagemaker_shim_version": "longshore-0.1.0"} | further)
    ours["log"]["stdout"].append(
        json.dumps({"log": "x", "level": "INFO", "source": "stdout", "internal": True, "task": None})
    )
    assert undeclared(ours) == []


@pytest.mark.parametrize(
    "line",
    [
        '{"log": "x", "level": "INFO", "source": "stdout", "internal": true}',
        '{"level": "INFO", "log": "x", "source": "stdout", "internal": true, "task": null}',
        '{"log": "x", "level": "INFO", "source": "stderr", "internal": true, "task": null}',
        '{"log": "x", "level": "ERROR", "source": "stdout", "internal": true, "task": null}',
        '{"log":"x", "level": "INFO", "source": "stdout", "internal": true, "task": null}',
        '{"log": "\u00fc", "level": "INFO", "source": "stdout", "internal": true, "task": null}',
        json.dumps({"log": "x" * 16_384, "level": "INFO", "source": "stdout", "internal": True, "task": None}),
    ],
)
def test_a_line_of_ours_that_is_not_in_the_format_is_found(line: str) -> None:
    ours = seen()
    ours["log"]["stdout"].append(line)
    with pytest.raises(AssertionError):
        undeclared(ours)


def test_every_entry_has_a_row_and_a_name_of_its_own() -> None:
    assert len({entry.name for entry in TABLE}) == len(TABLE)
    assert all(entry.row for entry in TABLE)
    assert MISSING not in {entry.row for entry in TABLE}


def test_there_are_1000_examples() -> None:
    assert sum(NUMBERS.values()) == 1_000
