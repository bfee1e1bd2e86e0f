"""PID 1 of `serve`: starts gunicorn, then nginx, watches both, and never exits before its children.

    main loop: a signal | a child's end | a line of nginx or gunicorn | a worker's word about its tasks | the clock

Signal handlers only write to the wake-up pipe. gunicorn, the set-up and the keeper of a resident program are forked
before there is any thread, so they begin with what PID 1 has imported; nginx is started once gunicorn answers, so no
early request finds nobody. /ping says 503 until the set-up is done.
"""

import math
import os
import selectors
import signal
import time
from collections.abc import Callable
from functools import partial

from . import nginx, uncollected
from .children import STOP_SIGNALS, Child, is_running, reap, signal_pipe, start
from .command import algorithm_command
from .directories import PostClean, make_writable
from .errors import Interrupted, StartFailed, WorkerLost
from .freeing import Freeing
from .inherited import Inherited
from .ledger import AcceptedTask, Ledger
from .linked_input import claim_task_folders, leave_empty
from .log_channel import LogChannels
from .logs import configure, logger
from .lost_tasks import run_reporter
from .orphans import any_orphans, end_orphans
from .prctl import adopt_orphans
from .processes import end_group, signal_group, signal_name
from .resident_channel import ResidentChannel
from .run_folder import run_folder
from .scoreboard import Scoreboard, Stuck
from .set_up import SetUpExit, SetUpReport, is_needed, run_set_up
from .settings import Settings

STOP_SECONDS = 23.0
"""From the word to stop until what still runs is killed; we are gone within 25 s, SageMaker kills after 30 s."""

START_SECONDS = 120.0
POLL_SECONDS = 0.02
START_POLL_SECONDS = 0.005
"""How often it is looked whether gunicorn answers and nginx listens: requests wait for that."""

NGINX_SECONDS = 1.0
"""How long nginx may stay once gunicorn has ended and no client takes any more of its answer."""

UNEXPECTED = "PID 1 failed unexpectedly"
UNTOLD = "Lost tasks have no result"


def serve(settings: Settings) -> int:
    """Serve until told to stop, and return the exit code; raises SettingsInvalid and StartFailed."""
    command = algorithm_command(settings)
    nginx.executable()
    channels = LogChannels()
    configure(channels, settings.log_level)
    adopt_orphans()
    post_clean = PostClean(settings.post_clean_directories)
    # /tmp first of all: where there is none, Python would try other folders of the image, also the working folder.
    make_writable(settings.writable_directories)
    with run_folder(settings.run_path) as folder:
        input_folder, output_folder = claim_task_folders(settings)
        supervisor = Supervisor(
            Inherited(
                settings=settings,
                command=command,
                input=input_folder,
                output=output_folder,
                freeing=Freeing(),
                folder=folder,
                channels=channels,
                scoreboard=Scoreboard(settings.slots, settings.queue_limit),
                ledger=Ledger(),
                resident=ResidentChannel() if settings.mode == "resident" else None,
            ),
            post_clean,
        )
        supervisor.start_forked()
        with channels.relayed():
            return supervisor.run()


class Supervisor:
    """The state of PID 1: its children, whether it is stopping, and by when it has to have started or be gone."""

    def __init__(self, inherited: Inherited, post_clean: PostClean) -> None:
        self._inherited = inherited
        self._post_clean = post_clean
        self._scoreboard = inherited.scoreboard
        self._ledger = inherited.ledger
        self._gunicorn: Child | None = None
        self._nginx: Child | None = None
        self._set_up: Child | None = None
        self._set_up_report = SetUpReport()
        self._keeper: Child | None = None
        self._serving = False
        self._children: dict[int, Child] = {}
        self._reports: dict[int, int] = {}  # pid of the process that reports: worker whose tasks it reports
        self._stopping = False
        self._is_over = False
        self._why = ""  # what failed, if anything did
        self._deadline = time.monotonic() + START_SECONDS
        self._give_up_at = math.inf
        self._nginx_ends_at = 0.0
        self._unsent: dict[str, int] = {}
        self._selector = selectors.DefaultSelector()
        self._signals = signal_pipe()
        self._selector.register(self._signals, selectors.EVENT_READ, self._take_signals)
        self._selector.register(self._ledger, selectors.EVENT_READ, self._hear_workers)

    def start_forked(self) -> None:
        """Fork what begins with our memory; before there is any thread."""
        inherited, state = self._inherited, self._scoreboard.state
        uncollected.begin()
        self._gunicorn = self._start("gunicorn", partial(_run_gunicorn, inherited))
        if inherited.resident:
            self._keeper = self._start("resident", self._keep_resident(inherited.resident))
        else:
            state.healthy = True
        if is_needed(inherited.settings):
            report = self._set_up_report
            body = partial(run_set_up, inherited.settings, inherited.channels, inherited.resident, report)
            self._set_up = self._start("set-up", body)
        else:
            state.set_up = True
        if inherited.resident:
            inherited.resident.close()

    def _keep_resident(self, channel: ResidentChannel) -> Callable[[], None]:
        # Not at the top: few algorithms are servers, and an HTTP client is a lot.
        from .algorithm_server import Resident
        from .resident import run_keeper

        inherited = self._inherited
        resident = Resident(
            settings=inherited.settings,
            command=inherited.command,
            channels=inherited.channels,
            channel=channel,
            state=self._scoreboard.state,
            eager=True,
        )
        return partial(run_keeper, resident)

    def run(self) -> int:
        """Watch over the children until all are gone, and return the exit code."""
        if self._inherited.settings.signing_key is None:
            logger.warning("There is no signing key: results are not signed")
        while not self._is_over:
            try:
                self._watch()
                self._is_over = self._stopping and self._all_ended()
            except StartFailed as error:
                self._fail(str(error))
            except Exception:  # whatever it is, no child may be left alone
                if self._why != UNEXPECTED:  # while we stop it may fail again and again
                    logger.exception(UNEXPECTED)
                self._fail(UNEXPECTED)
                self._is_over = time.monotonic() > self._give_up_at
        end_orphans()
        leave_empty((self._inherited.input, self._inherited.output))  # of a task whose worker was lost
        self._post_clean.clean()
        if self._why:
            logger.critical("Stopped: %s", self._why)
            return 1
        logger.info("Stopped")
        return 0

    def _watch(self) -> None:
        """Wait for the next event, and do what is due."""
        for key, _ in self._selector.select(self._seconds_to_next_look()):
            key.data()
        if self._is_starting():
            self._go_on_starting()
        elif self._stopping:
            self._go_on_stopping()
        elif stuck := self._scoreboard.state.stuck:
            self._fail(Stuck(stuck).why)
        self._inherited.folder.restore_bodies()  # for what comes in while a program runs

    def _seconds_to_next_look(self) -> float:
        if not self._stopping and not self._scoreboard.state.listening:
            return START_POLL_SECONDS
        return POLL_SECONDS if self._is_starting() or self._stopping else 0.5

    # -- starting

    def _is_starting(self) -> bool:
        return not self._stopping and not self._serving

    def _go_on_starting(self) -> None:
        settings, folder, state = self._inherited.settings, self._inherited.folder, self._scoreboard.state
        if not state.listening:
            if time.monotonic() > self._deadline:
                self._fail(f"The server did not start within {START_SECONDS:g} s")
            elif self._nginx:
                state.listening = nginx.is_listening(folder)
            elif nginx.upstream_answers(folder):
                self._nginx = self._start("nginx", nginx.body(settings, folder), end_with=signal.SIGQUIT)
        self._serving = self._scoreboard.ready
        if self._serving:
            logger.info(
                "Serving on port %d: %d workers, %d task at a time, %d places to wait",
                settings.port,
                settings.workers,
                settings.slots,
                settings.queue_limit,
            )

    def _start(self, name: str, body: Callable[[], None], end_with: int = signal.SIGTERM) -> Child:
        child = start(name, body, end_with)
        self._children[child.pid] = child
        self._selector.register(child.output, selectors.EVENT_READ, partial(self._read_output, child))
        return child

    def _read_output(self, child: Child) -> None:
        if not child.output.read():
            self._selector.unregister(child.output)
            child.output.close()

    # -- what happens while it runs

    def _take_signals(self) -> None:
        for signum in self._signals.read(4096) or b"":
            if signum in STOP_SIGNALS:
                logger.info("Received %s", signal.Signals(signum).name)
                self._stop()
        for pid, code in reap():
            if child := self._children.pop(pid, None):
                self._child_ended(child, code)
            else:  # a worker whose arbiter is gone, or what a task left behind
                self._hear_workers()  # its last words were sent before its end
                self._worker_ended(pid)

    def _child_ended(self, child: Child, code: int) -> None:
        how = f"was ended by {signal_name(-code)}" if code < 0 else f"ended with code {code}"
        if (worker := self._reports.pop(child.pid, None)) is not None:
            if code:
                logger.error("The results of lost tasks could not be stored: %s %s", child.name, how)
                if self._stopping:
                    self._why = self._why or UNTOLD
            self._scoreboard.clear_slots(worker)
        elif child is self._set_up and self._took_set_up(code):
            pass
        elif not self._stopping:
            self._fail(f"{child.name} {how}")

    def _took_set_up(self, code: int) -> bool:
        """Go on after the set-up, or stop where a platform knows that it failed; return False for any other end."""
        self._post_clean.note_fetched(self._set_up_report.read())
        if code == SetUpExit.DONE:
            self._scoreboard.state.set_up = True
        elif code == SetUpExit.FAILED_AND_TOLD:
            logger.error("Stopping: the set-up failed, as its stored result says")
            self._stop()
        elif code == SetUpExit.FAILED and not self._stopping:
            self._fail("The set-up failed")
        return code in list(SetUpExit)

    def _hear_workers(self) -> None:
        for worker in self._ledger.receive():
            self._worker_ended(worker)

    def _worker_ended(self, worker: int) -> None:
        """End what a worker ran and have its tasks reported; until then nobody else gets its slot."""
        for slot in self._scoreboard.slots:
            if slot.worker == worker:
                if slot.group:
                    end_group(slot.group)
                if self._gunicorn and is_running(self._gunicorn.pid):  # else its other workers are orphans too
                    end_orphans(but=self._children)
                    if any_orphans(but=self._children):
                        self._scoreboard.state.stuck = Stuck.PROCESSES
        tasks = self._ledger.unfinished(worker)
        if tasks:
            self._report(worker, tasks)
        else:
            self._scoreboard.clear_slots(worker)

    def _report(self, worker: int, tasks: list[AcceptedTask]) -> None:
        """Have a process tell of tasks that were lost; where none can be had we stop, and try again until the end."""
        inherited = self._inherited
        reason = Interrupted if self._stopping else WorkerLost
        body = partial(run_reporter, tasks, reason, inherited.settings, inherited.channels)
        try:
            self._reports[self._start("report", body).pid] = worker
        except OSError as error:
            if not self._stopping:
                self._fail(f"no process can be started to tell of lost tasks: {error.strerror}")
            if time.monotonic() < self._give_up_at:
                return
            logger.critical("Nobody could tell of %d lost tasks: %s", len(tasks), error.strerror)
            self._why = self._why or UNTOLD
        else:
            logger.error("Worker %d ended with %d unfinished tasks", worker, len(tasks))
        self._ledger.forget(worker)  # not before a process has them

    # -- stopping

    def _fail(self, why: str) -> None:
        if why != self._why:
            logger.critical("Stopping: %s", why)
        self._why = why
        self._stop()

    def _stop(self) -> None:
        """Ask everything to end; tasks are cancelled by their workers, answers still go out through nginx."""
        if self._stopping:
            return
        self._stopping = True
        self._deadline = self._give_up_at = time.monotonic() + STOP_SECONDS
        self._nginx_ends_at = time.monotonic() + NGINX_SECONDS
        for child, signum in (
            (self._gunicorn, signal.SIGTERM),
            (self._nginx, signal.SIGQUIT),
            (self._set_up, signal.SIGTERM),
            (self._keeper, signal.SIGTERM),
        ):
            if child and child.pid in self._children:
                os.kill(child.pid, signum)
            elif child and child in (self._gunicorn, self._nginx):
                signal_group(child.pid, signum)  # the workers of a master that was killed

    def _go_on_stopping(self) -> None:
        now = time.monotonic()
        if now > self._deadline:
            self._kill_everything()
        before, self._unsent = self._unsent, nginx.unsent(self._inherited.settings.port)
        if self._gunicorn or self._unsent != before:
            self._nginx_ends_at = now + NGINX_SECONDS
        elif self._nginx and now > self._nginx_ends_at:
            signal_group(self._nginx.pid, signal.SIGKILL)

    def _all_ended(self) -> bool:
        self._gunicorn, self._nginx = _left(self._gunicorn), _left(self._nginx)
        if self._children or self._gunicorn or self._nginx:
            return False
        self._hear_workers()
        for worker in self._ledger.workers():
            self._worker_ended(worker)
        return not self._children and not self._ledger.workers()

    def _kill_everything(self) -> None:
        logger.error("Not everything ended within %g s; killing it", STOP_SECONDS)
        for group in (self._scoreboard.state.resident, *(slot.group for slot in self._scoreboard.slots)):
            if group:
                signal_group(group, signal.SIGKILL)
        for child in (*self._children.values(), self._gunicorn, self._nginx):
            if child:
                signal_group(child.pid, signal.SIGKILL)
        self._deadline += 1


def _run_gunicorn(inherited: Inherited) -> None:
    """Import gunicorn and Flask in the process that runs them: beside the set-up, and not into PID 1's memory."""
    with uncollected.importing():
        from .gunicorn_app import run_gunicorn

    run_gunicorn(inherited)


def _left(child: Child | None) -> Child | None:
    """Return a child, or None once it and its workers have ended: from then on its number may be another's."""
    return child if child and signal_group(child.pid, 0) else None
