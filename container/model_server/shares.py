"""Which instance of a job runs which tasks: worked out by each of them alone, and by all of them alike."""

from collections.abc import Sequence

from .task import Task


def share_of(tasks: Sequence[Task], host: str, hosts: Sequence[str]) -> list[Task]:
    """Return a host's tasks, in the order of the list; `hosts` is in the same order everywhere."""
    return [task for task, owner in zip(tasks, owners(sizes(tasks), hosts), strict=True) if owner == host]


def owners(weights: Sequence[float], hosts: Sequence[str]) -> list[str]:
    """Return whose each of the tasks is: the largest first, each to the host with the least so far.

    No two hosts differ by more than the largest task, and where all weigh the same by no more than one task.
    """
    given = [hosts[0]] * len(weights)
    loads = [(0.0, 0, place) for place in range(len(hosts))]
    for index in sorted(range(len(weights)), key=lambda index: -weights[index]):
        load, count, place = min(loads)
        loads[place] = (load + weights[index], count + 1, place)
        given[index] = hosts[place]
    return given


def sizes(tasks: Sequence[Task]) -> list[float]:
    """Return the bytes of each task's inputs; one that does not say them all counts as the mean of those that do."""
    stated = [_size(task) for task in tasks]
    known = [size for size in stated if size is not None]
    mean = sum(known) / len(known) if known else 1.0
    return [mean if size is None else size for size in stated]


def _size(task: Task) -> float | None:
    total = 0.0
    for item in task.inputs:
        if item.size is None:
            return None
        total += item.size
    return total if task.inputs else None
