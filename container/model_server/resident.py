"""A program that stays (the drop-in's API method `invoke`): started once, posted to for each task, brought back.

It is kept by a small process of its own, so that PID 1 waits for nothing and every worker finds it. A server that
ended, or that had to be ended with a task, is started again.
"""

import select
import signal
import time
from contextlib import suppress

from .algorithm_server import AlgorithmServer, Resident
from .cancellation import Cancellation
from .errors import Interrupted, ServerNotHealthy, ServerNotStarted
from .logs import logger
from .prctl import adopt_orphans
from .resident_channel import DONE, Answer, Question

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 10.0
"""Between two tries to start it again."""

STEADY_SECONDS = 60.0
"""How long a server has to be healthy, if no task came, before its end is a new trouble."""


class Keeper:
    """Keeps the server: starts it when it is first asked for, answers questions, and brings it back."""

    def __init__(self, resident: Resident) -> None:
        self._resident = resident
        self._channel = resident.channel
        self._stop = Cancellation()
        self._server = AlgorithmServer(resident, self._stop)
        self._give_up_at = 0.0
        self._pause = 0.0

    def stop(self) -> None:
        """Let the server end; a signal handler may call this."""
        self._stop.cancel(Interrupted())

    def run(self) -> None:
        """Keep the server until told to stop; ends the process with 1 when it can't be brought back."""
        try:
            self._set_up()
            while True:
                if self._answer_questions():
                    self._begin_trouble()
                self._bring_back()
        except Interrupted:
            self._refuse_the_others()
        finally:
            self._server.end()

    def _set_up(self) -> None:
        """Start the server for the first who asks; when that fails, tell everyone."""
        question = self._next_question()
        try:
            self._server.start()
        except (ServerNotStarted, ServerNotHealthy) as error:
            while True:
                question.answer(Answer.failed(error))
                question = self._next_question()
        self._begin_trouble()
        question.answer(DONE)

    def _begin_trouble(self) -> None:
        """Let the time begin within which the server has to be steady, if it ends."""
        self._give_up_at = time.monotonic() + self._resident.settings.start_timeout
        self._pause = 0.0

    def _next_question(self) -> Question:
        """Return the next question while no server is there; raises Interrupted."""
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        poll.register(self._channel, select.POLLIN)
        poll.poll()
        self._stop.raise_if_set()
        return self._channel.receive()

    def _answer_questions(self) -> bool:
        """Answer what is asked for as long as the server is there, and return whether it was any good."""
        steady_at = time.monotonic() + min(STEADY_SECONDS, self._resident.settings.start_timeout)
        had_task = False
        while self._server.is_there:
            if self._server.wait_for(self._channel):
                had_task |= self._answer(self._channel.receive())
        return had_task or time.monotonic() > steady_at

    def _answer(self, question: Question) -> bool:
        """Answer a question, and return whether it was a task that began."""
        if question.task is None:
            question.answer(DONE)
        elif question.take():
            question.answer(self._server.invoke(question))
            self._stop.raise_if_set()
            return True
        return False

    def _bring_back(self) -> None:
        """Start the server again, at once or when it is asked for, for as long as a start may take.

        Its port may be taken for a minute (TIME_WAIT). A server that ends again and again, though it was healthy for a
        moment each time, is one that can't be brought back.
        """
        question = None
        if not self._resident.eager:
            question = self._next_question()
            self._begin_trouble()
        while not self._server.is_there:
            self._stop.wait(min(self._pause, max(0.0, self._give_up_at - time.monotonic())))
            if time.monotonic() >= self._give_up_at:
                logger.critical("The algorithm's server can not be brought back")
                raise SystemExit(1)
            self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            logger.warning("Starting the algorithm's server again")
            try:
                self._server.start(self._give_up_at)
            except (ServerNotStarted, ServerNotHealthy) as error:
                logger.error("%s: %s", error, error.hint)
        if question:
            self._answer(question)

    def _refuse_the_others(self) -> None:
        """Tell those who asked, and were not heard yet, that the container is stopping."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        with suppress(Interrupted):  # nobody is left to ask
            while poll.poll(0):
                self._channel.receive().answer(Answer.failed(Interrupted()))


def run_keeper(resident: Resident) -> None:
    """Be the keeper, in the process that was forked for it."""
    adopt_orphans()
    resident.channels.close_readers()
    resident.channel.close_asker()
    keeper = Keeper(resident)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: keeper.stop())
    keeper.run()
