"""A fork of the shim's process behaves as a start of its own."""

from __future__ import annotations

import json

import pytest
from both import Both, Environment, Side, observed
from comparison import facts

TASKS = json.dumps(
    [
        {"pk": pk, "inputs": [], "output_bucket_name": "@out@", "output_prefix": pk, "timeout": "PT1M"}
        for pk in ("one", "two")
    ]
)


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        pytest.param(["invoke", "-t", TASKS], {}, id="tasks"),
        pytest.param(["invoke", "-t", TASKS], {"LOG_LEVEL": "ERROR", "MAX_MEMORY_MB": "3000"}, id="variables"),
        pytest.param(["invoke", "-t", TASKS], {"ENTRYPOINT_B64J": "no base64"}, id="a traceback"),
        pytest.param(["invoke"], {}, id="a usage error"),
        pytest.param(["--help"], {}, id="help"),
    ],
)
def test_a_fork_is_like_a_start_of_its_own(both: Both, words: list[str], environment: Environment) -> None:
    code = Side.run(both.shim, words, environment)
    started = facts({"exit": code} | observed(both.shim))
    with both.beside() as other:
        code = other.shim.run(words, environment)
        forked = facts({"exit": code} | observed(other.shim))
    assert started == forked
