"""What is ours in gunicorn's workers."""

import signal
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.arbiter import Arbiter

from model_server import gunicorn_app
from model_server.gunicorn_app import ModelWorker, end_on_sigterm


def test_a_worker_that_is_refused_its_threads_ends_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """gunicorn ends all workers for one that raises before it is booted; one that exits is started again."""

    def refused(threads: int, name: str) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(gunicorn_app, "started_pool", refused)
    monkeypatch.setattr(gunicorn_app, "RESTART_SECONDS", 0.0)
    worker: Any = SimpleNamespace(cfg=SimpleNamespace(threads=1))
    with pytest.raises(SystemExit) as ended:
        ModelWorker.get_thread_pool(worker)
    assert ended.value.code not in (0, Arbiter.WORKER_BOOT_ERROR, Arbiter.APP_LOAD_ERROR)
    assert caplog.messages == ["A worker does not start: can't start new thread"]


@pytest.mark.parametrize("came", [[signal.SIGTERM], [signal.SIGCHLD, signal.SIGTERM, signal.SIGTERM]])
def test_a_worker_that_was_told_to_stop_before_it_listened_stops(came: list[int]) -> None:
    """Else an idle server would take as long to stop as it gives to tasks."""
    before, done = signal.getsignal(signal.SIGTERM), []
    worker: Any = SimpleNamespace(handle_exit=lambda signum, frame: done.append("worker"))
    signals: SimpleQueue[int] = SimpleQueue()
    for signum in came:
        signals.put(signum)
    try:
        end_on_sigterm(worker, lambda: done.append("tasks"), signals)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done == ["tasks", "worker"]


def test_a_worker_that_was_told_nothing_stops_when_it_is() -> None:
    before, done = signal.getsignal(signal.SIGTERM), []
    worker: Any = SimpleNamespace(handle_exit=lambda signum, frame: done.append("worker"))
    try:
        end_on_sigterm(worker, lambda: done.append("tasks"), SimpleQueue())
        assert not done
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done == ["tasks", "worker"]
