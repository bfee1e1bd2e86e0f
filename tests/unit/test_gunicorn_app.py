"""What is ours in gunicorn's workers."""

from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.arbiter import Arbiter

from model_server import gunicorn_app
from model_server.gunicorn_app import ModelWorker


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
