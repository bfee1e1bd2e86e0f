"""gunicorn inside a process that PID 1 forked: what was made before the fork is passed down as objects."""

import faulthandler
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

from gunicorn import util
from gunicorn.app.base import Application
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker
from gunicorn.workers.gthread import ThreadWorker

from predictor import Predictor

from .heap import give_back_what_is_large
from .inherited import Inherited
from .logs import logger
from .machine_limits import is_refusal, started_pool
from .prctl import adopt_orphans
from .refusals import error_body
from .runner import Server
from .sending import SENDERS
from .storage import Storage

CONFIGURATION = Path(__file__).parent.parent / "gunicorn.conf.py"
SPARE_THREADS = 4
"""Threads of a worker beyond what tasks, waiting requests and answers can hold, so that /ping is always answered."""

SWITCH_SECONDS = 0.0005
"""How long a busy thread of a worker may keep Python from one that waits: /ping, with its dozen waits, is behind it."""

REFUSED_SECONDS = 0.1
RESTART_SECONDS = 1.0


def write_error(sock: socket.socket, status_int: int, reason: str, mesg: str) -> None:
    """Answer what gunicorn refuses before there is a request, as everything else is answered: in JSON."""
    body = error_body(status_int)
    head = f"HTTP/1.1 {status_int} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    util.write_nonblock(sock, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())


class GunicornLogger(Logger):
    """Sends gunicorn's own lines the way of all others."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers = []
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)


class ModelWorker(ThreadWorker):
    """A worker of gunicorn's that outlives a machine without more threads or files."""

    _refused = False

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """Start all threads now: gunicorn would end a worker that is refused one later, and its task with it."""
        try:
            return started_pool(self.cfg.threads, "request")
        except RuntimeError as error:
            logger.error("A worker does not start: %s", error)
            time.sleep(RESTART_SECONDS)
            sys.exit(1)  # the others go on: gunicorn would end them all for what is raised here

    def accept(self, listener: socket.socket) -> None:
        try:
            super().accept(listener)
            self._refused = False
        except OSError as error:
            if not is_refusal(error):
                raise
            if not self._refused:
                logger.warning("A connection waits: %s", error.strerror)
            self._refused = True
            time.sleep(REFUSED_SECONDS)  # it is still there then, or another worker has taken it


def end_on_sigterm(worker: Worker, end_tasks: Callable[[], None], since_the_fork: SimpleQueue[int]) -> None:
    """Make SIGTERM end a worker and its tasks: waiting for them would take as long as they run.

    One that came before there was a handler of the worker's went to the arbiter's, which left it in a queue that nobody
    reads in this process.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        end_tasks()
        worker.handle_exit(signum, frame)

    signal.signal(signal.SIGTERM, stop)
    with suppress(Empty):
        while since_the_fork.get_nowait() != signal.SIGTERM:
            pass
        stop(signal.SIGTERM, None)


class ModelServer(Application):
    """The gunicorn application: settings from gunicorn.conf.py, then the few that follow from ours."""

    def __init__(self, inherited: Inherited) -> None:
        self._inherited = inherited
        self._predictor: Predictor | None = None
        self._signals: SimpleQueue[int] = SimpleQueue()
        super().__init__()

    def load_config(self) -> None:
        settings = self._inherited.settings
        self.load_config_from_file(str(CONFIGURATION))
        self.cfg.set("bind", f"unix:{self._inherited.folder.socket}")
        self.cfg.set("workers", settings.workers)
        self.cfg.set("threads", settings.slots + settings.queue_limit + SENDERS + SPARE_THREADS)
        self.cfg.set("worker_connections", 1000 + settings.queue_limit)  # beyond them it takes none, also no /ping
        self.cfg.set("worker_class", ModelWorker)
        self.cfg.set("logger_class", GunicornLogger)
        self.cfg.set("post_fork", self._worker_forked)
        self.cfg.set("post_worker_init", self._worker_started)
        self.cfg.set("child_exit", self._worker_ended)

    def load(self) -> Callable[..., Any]:
        """Make the WSGI application, in a worker."""
        import wsgi

        inherited = self._inherited
        server = Server(
            settings=inherited.settings,
            command=inherited.command,
            input=inherited.input,
            output=inherited.output,
            freeing=inherited.freeing,
            storage=Storage.from_settings(inherited.settings),
            channels=inherited.channels,
            default_timeout=inherited.settings.timeout,
            resident=inherited.resident,
        )
        self._predictor = Predictor(server, inherited.scoreboard, inherited.folder, inherited.ledger)
        return wsgi.create_application(self._predictor)

    def _worker_forked(self, arbiter: Arbiter, worker: Worker) -> None:
        self._signals = arbiter.SIG_QUEUE

    def _worker_started(self, worker: Worker) -> None:
        """Set up what a worker has of its own."""
        predictor = self._predictor
        assert predictor is not None
        end_on_sigterm(worker, predictor.stop, self._signals)
        sys.setswitchinterval(SWITCH_SECONDS)
        adopt_orphans()  # so that what leaves a task's process group is found when the task ends

    def _worker_ended(self, arbiter: Arbiter, worker: Worker) -> None:
        """Free the places in the queue of a worker that is gone, and tell PID 1, which does what takes time."""
        pid = int(worker.pid)
        self._inherited.scoreboard.forget_waiting(pid)
        self._inherited.ledger.worker_ended(pid)


def run_gunicorn(inherited: Inherited) -> None:
    """Run gunicorn's arbiter to its end, in the process that was forked for it."""
    faulthandler.enable()
    give_back_what_is_large()
    inherited.channels.close_readers()
    if inherited.resident:
        inherited.resident.close_keeper()
    util.write_error = write_error  # there is no setting for it, and gunicorn's own is HTML
    ModelServer(inherited).run()
