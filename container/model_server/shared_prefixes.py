"""Tasks of one list that put their results in one place, where the last one replaces all others."""

from collections import Counter
from collections.abc import Sequence

from .logs import logger
from .task import Task

NAMED_TASKS = 10
"""How many tasks one line of the log names."""


def warn_of_shared_prefixes(tasks: Sequence[Task]) -> None:
    """Say in our log which tasks those are; they are run all the same, as a platform may have its reasons."""
    places = Counter((task.output_bucket_name, task.output_prefix) for task in tasks)
    shared = [task.pk for task in tasks if places[task.output_bucket_name, task.output_prefix] > 1]
    if shared:
        more = f" and {len(shared) - NAMED_TASKS} more" if len(shared) > NAMED_TASKS else ""
        named = ", ".join(shared[:NAMED_TASKS])
        logger.warning("Tasks have the output_prefix of another, so results replace each other: %s%s", named, more)
