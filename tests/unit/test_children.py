"""What PID 1 is told of signals."""

import os
import signal
from collections.abc import Iterator
from io import FileIO

import pytest

from model_server.children import STOP_SIGNALS, signal_pipe


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
