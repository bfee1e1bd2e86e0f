"""How tasks are shared out: everything once, the same everywhere, and evenly."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_server.shares import owners, share_of, sizes
from model_server.task import MAX_SIZE, Task

HOSTS = st.lists(st.text("abc-1", min_size=1, max_size=4), min_size=1, max_size=8, unique=True).map(sorted)
BYTES = st.one_of(st.none(), st.integers(0, MAX_SIZE), st.floats(0, 1e12))
INPUT_SIZES = st.lists(st.lists(BYTES, max_size=3), max_size=60)


def task(number: int, item_sizes: list[Any]) -> Task:
    """Return a task whose inputs say their sizes, None for one that doesn't."""
    inputs = [
        {"relative_path": f"{place}", "bucket_name": "b", "bucket_key": "k"} | ({} if size is None else {"size": size})
        for place, size in enumerate(item_sizes)
    ]
    value = {"pk": f"{number}", "inputs": inputs, "output_bucket_name": "b", "output_prefix": f"{number}"}
    return Task.model_validate(json.loads(json.dumps(value)))


@given(INPUT_SIZES, HOSTS)
def test_every_task_is_in_just_one_share_and_in_the_order_of_the_list(item_sizes: Any, hosts: list[str]) -> None:
    tasks = [task(number, sizes) for number, sizes in enumerate(item_sizes)]
    shares = [share_of(tasks, host, hosts) for host in hosts]
    assert sorted(int(task.pk) for share in shares for task in share) == list(range(len(tasks)))
    for share in shares:
        assert [int(task.pk) for task in share] == sorted(int(task.pk) for task in share)
    assert [share_of(list(tasks), host, list(hosts)) for host in hosts] == shares


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), HOSTS)
def test_two_hosts_differ_by_no_more_than_the_largest_task(weights: list[int], hosts: list[str]) -> None:
    given_to = owners(weights, hosts)
    loads = [sum(w for w, owner in zip(weights, given_to, strict=True) if owner == host) for host in hosts]
    assert max(loads) - min(loads) <= max(weights)


@given(st.integers(0, 200), HOSTS, st.sampled_from([[None], [], [7], [0]]))
def test_tasks_that_weigh_the_same_are_shared_evenly_by_count(count: int, hosts: list[str], item_sizes: Any) -> None:
    tasks = [task(number, item_sizes) for number in range(count)]
    counts = [len(share_of(tasks, host, hosts)) for host in hosts]
    assert max(counts) - min(counts) <= 1


def test_a_task_of_unknown_size_counts_as_the_mean_of_the_known() -> None:
    assert sizes([task(0, [1, 2]), task(1, [5]), task(2, [None, 9]), task(3, [])]) == [3, 5, 4, 4]


@pytest.mark.parametrize("size", ["7", -1, True, float("nan"), float("inf"), 10**400, [], {}, 2**61])
def test_what_is_no_number_of_bytes_is_unknown_and_no_fault(size: Any) -> None:
    assert task(0, [size]).inputs[0].size is None


def test_large_tasks_are_spread_and_small_ones_fill_up() -> None:
    assert owners([1, 9, 1, 8, 1, 1], ["a", "b"]) == ["b", "a", "a", "b", "b", "a"]
