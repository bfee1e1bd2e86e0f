"""Whom the kernel ends first when memory runs out: the algorithm, and not the server."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OWN = Path("/proc/self/oom_score_adj")
ADDED = 500
"""As if a process used half of all memory more than it does."""

HIGHEST = 1000


@contextmanager
def first_to_end() -> Iterator[Callable[[int], None]]:
    """Have what is started in the block, and what that starts, ended before us; yields what is to be told its pid.

    It inherits our own score, which is raised for as long as the block takes. Where the kernel keeps that from us,
    because our memory is hidden and we are not root, the score of the new process is raised once it is there.
    """
    own = OWN.read_text()
    raised = str(min(int(own) + ADDED, HIGHEST))
    try:
        OWN.write_text(raised)
    except OSError:
        yield lambda pid: _raise_later(pid, raised)
        return
    try:
        yield lambda pid: None
    finally:
        OWN.write_text(own)


def _raise_later(pid: int, score: str) -> None:
    with suppress(OSError):  # it has ended, or is another user's
        Path(f"/proc/{pid}/oom_score_adj").write_text(score)
