"""What PID 1 is told of signals, and the processes that it starts."""

import os
import signal
from collections.abc import Iterator
from errno import EAGAIN
from io import FileIO

import pytest

from model_server.children import STOP_SIGNALS, signal_pipe, start


@pytest.fixture
def signals() -> Iterator[FileIO]:
    """Have signals come through the pipe, and their handlers as they were afterwards."""
    numbers = (*STOP_SIGNALS, signal.SIGCHLD)
    handlers = {number: signal.getsignal(number) for number in numbers}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    pipe = signal_pipe()
    yield pipe
    os.close(signal.set_wakeup_fd(-1))
    pipe.close()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_the_word_to_stop_is_not_lost_among_the_ends_of_many_children(signals: FileIO) -> None:
    for _ in range(5_000):
        os.kill(os.getpid(), signal.SIGCHLD)
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.read(8192) == bytes([signal.SIGCHLD]) * 5_000 + bytes([signal.SIGTERM])
    assert signals.read(8192) is None


def test_a_process_that_can_not_be_had_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> int:
        raise BlockingIOError(EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refused)
    mask, descriptors = signal.pthread_sigmask(signal.SIG_BLOCK, []), os.listdir("/proc/self/fd")
    with pytest.raises(BlockingIOError):
        start("report", lambda: None, signal.SIGTERM)
    assert os.listdir("/proc/self/fd") == descriptors
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
