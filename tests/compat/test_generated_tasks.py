"""Generated tasks and bodies, posted to both servers: each answer, object, log line and file has to be the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from both import INPUTS, Both
from comparison import compared
from differences import split
from generators import BODIES, CONTENT_TYPES, Plan, plain_inputs, plans, zip_inputs
from hypothesis import strategies as st
from trial import tried


@pytest.fixture
def servers(both: Both) -> Both:
    both.serve(USE_LINKED_INPUT="false")
    return both


def task_of(both: Both, plan: Plan) -> dict[str, Any]:
    """Put a plan's objects where they belong, and return the task."""
    inputs = []
    for number, item in enumerate(plan.inputs):
        key = f"{item.key}{number}"  # two inputs may have one key by chance
        both.put(key, item.content)
        inputs.append({"relative_path": item.relative_path, "bucket_name": INPUTS, "bucket_key": key, **item.more})
    return both.task(inputs, plan.told, **plan.more)


def faults_of(both: Both, body: bytes, content_type: str | None) -> list[str]:
    case = compared(both.post(body, content_type))
    return [f"{leaf}\n  {content_type} {body!r:.3000}" for leaf in split(case)[1]]


def post_plan(both: Both, plan: Plan) -> list[str]:
    return faults_of(both, json.dumps(task_of(both, plan)).encode(), "application/json")


def test_tasks_end_alike(servers: Both) -> None:
    tried("tasks", plans(plain_inputs()), lambda plan: post_plan(servers, plan))


def test_tasks_with_zips_end_alike(servers: Both) -> None:
    tried("tasks with zips", plans(zip_inputs()), lambda plan: post_plan(servers, plan))


def test_bodies_that_are_no_task_are_refused_alike(servers: Both) -> None:
    tried("bodies", st.tuples(BODIES, CONTENT_TYPES), lambda sent: faults_of(servers, *sent))
