"""The Flask predictor: the three routes of a SageMaker container, and JSON for every error.

4xx: the request was wrong, the same will fail again. 200: the task ran, or could not for a reason in the task or the
algorithm; read `return_code` and `error`. 5xx: we failed, a retry may help. A payload, which has no result to read, is
answered with what came out, and a run of it that failed with 422.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from model_server import errors
from model_server.admission import admitted
from model_server.callers import Caller, Doorkeeper
from model_server.cancellation import Cancellation
from model_server.client import watched
from model_server.ledger import Ledger
from model_server.logs import logger
from model_server.machine_limits import unexpected
from model_server.orphans import any_orphans
from model_server.payload import Payload
from model_server.payload_answer import Quality
from model_server.payload_http import failed_run, file_response, payload_of, quality_of
from model_server.payload_run import Ended, run_payload
from model_server.read_ahead import Readable
from model_server.result import MAX_HTTP_BYTES, ErrorReport, http_documents
from model_server.run_folder import RunFolder
from model_server.runner import Outcome, Server, finish_all, run_task
from model_server.scoreboard import Scoreboard, Stuck
from model_server.sending import Sending
from model_server.slot import Slot, Slots
from model_server.task import Task
from model_server.task_body import read_tasks

LINES_TYPES = ("application/jsonlines", "application/x-jsonlines", "application/x-ndjson")
JSON_PAYLOAD = "application/vnd.longshore.payload+json"
FORM = "application/x-www-form-urlencoded"
CALLER_HEADER = "X-Longshore-Caller"
MEGABYTE = 1024 * 1024  # as nginx counts


class Predictor:
    """Runs the tasks that are posted to one worker, and ends them when the worker stops."""

    def __init__(self, server: Server, scoreboard: Scoreboard, folder: RunFolder, ledger: Ledger) -> None:
        self.server = server
        self.scoreboard = scoreboard
        self.doorkeeper = Doorkeeper.against(server.settings.user)
        self._folder = folder
        self._slots = Slots(folder.locks, scoreboard)
        self._sending = Sending(folder.bodies)
        self._ledger = ledger
        self._places = threading.BoundedSemaphore(server.settings.slots + server.settings.queue_limit)
        self._reading = threading.Lock()
        self._running: set[Cancellation] = set()
        self._stopping = False

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of as many places as requests can run or wait, so that the others leave threads for /ping.

        Raises QueueFull at once when none is free: a request of this worker alone would find the queue full later.
        """
        if not self._places.acquire(blocking=False):
            raise errors.QueueFull
        try:
            yield
        finally:
            self._places.release()

    def read(self, body: Readable, announced_bytes: int | None, lines: bool) -> tuple[list[Task], bool]:
        """Return what `read_tasks` does, one body at a time: until its turn comes, a body lies in nginx's file."""
        with self._reading:
            return read_tasks(body, announced_bytes, lines)

    def run(self, tasks: list[Task], arrived: float) -> list[Outcome]:
        """Run tasks one after another in one slot, for as long as the client of this request stays."""
        with self._in_a_slot() as (slot, cancellation):
            queue_seconds = time.monotonic() - arrived
            self._ledger.accepted(tasks)
            outcomes: list[Outcome] = []
            for number, task in enumerate(tasks):
                if reason := cancellation.reason:
                    return outcomes + self._finish_all(tasks[number:], reason, queue_seconds)
                try:
                    outcomes.append(run_task(task, self.server, cancellation, slot.runs, queue_seconds))
                finally:
                    self._ledger.finished(task)
                self._note_stuck_folders(outcomes[-1].result.error)
            return outcomes

    def _finish_all(self, tasks: list[Task], reason: errors.LongshoreError, queue_seconds: float) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        for place, outcome in finish_all(tasks, reason, self.server, queue_seconds):
            outcomes[place] = outcome
            self._ledger.finished(tasks[place])
        return [outcomes[place] for place in sorted(outcomes)]

    def run_payload(self, payload: Payload, quality: Quality, arrived: float) -> Ended:
        """Run a payload in a slot, for as long as the client of this request stays.

        The ledger is not told: when this process is lost there is no result to store, and the client sees it.
        """
        with self._in_a_slot() as (slot, cancellation):
            queue_seconds = time.monotonic() - arrived
            ended = run_payload(payload, quality, self.server, self._sending, cancellation, slot.runs, queue_seconds)
            self._note_stuck_folders(ended.error)
            return ended

    @contextmanager
    def _in_a_slot(self) -> Iterator[tuple[Slot, Cancellation]]:
        with (
            self._cancellable() as cancellation,
            watched(request.environ.get("gunicorn.socket"), cancellation),
            admitted(self._slots, self.scoreboard, cancellation) as slot,
        ):
            if self.scoreboard.state.stuck:  # since this request came
                raise errors.NotReady
            try:
                yield slot, cancellation
            finally:
                self._folder.restore_bodies()  # before the answer, and the next body, are buffered there
                self._note_stuck_processes()

    def _note_stuck_processes(self) -> None:
        """Have no other worker run a task beside what is left of one; `run_task` looks anew in this one."""
        try:
            if any_orphans(but=self.server.others):
                self.scoreboard.state.stuck = Stuck.PROCESSES
        except OSError as error:
            logger.warning("Nobody could look for processes that are left: %s", error.strerror)

    def _note_stuck_folders(self, error: errors.LongshoreError | ErrorReport | None) -> None:
        if error and error.code == errors.FoldersNotReset.code:
            self.scoreboard.state.stuck = Stuck.FOLDERS

    @contextmanager
    def _cancellable(self) -> Iterator[Cancellation]:
        cancellation = Cancellation()
        self._running.add(cancellation)
        if self._stopping:
            cancellation.cancel(errors.Interrupted())
        try:
            yield cancellation
        finally:
            self._running.discard(cancellation)

    def stop(self) -> None:
        """End all tasks, running and waiting; a signal handler may call this."""
        self._stopping = True
        for cancellation in list(self._running):
            cancellation.cancel(errors.Interrupted())


def create_app(predictor: Predictor) -> Flask:
    """Return the WSGI application of a worker."""
    app = Flask(__name__, static_folder=None)
    settings = predictor.server.settings
    app.config["MAX_CONTENT_LENGTH"] = settings.body_limit_mb * MEGABYTE or None
    app.url_map.strict_slashes = True

    @app.before_request
    def keep_the_algorithm_out() -> None:
        if header := request.headers.get(CALLER_HEADER):  # nginx's; nobody else reaches our socket
            predictor.doorkeeper.admit(Caller.of(header))

    @app.route("/ping", methods=["GET", "HEAD", "POST"], provide_automatic_options=False)
    def ping() -> Response:
        response = Response(status=200 if predictor.scoreboard.ready else 503)
        del response.headers["Content-Type"]
        return response

    @app.route("/execution-parameters", methods=["GET"], provide_automatic_options=False)
    def execution_parameters() -> Response:
        return _json(
            200,
            {
                "MaxConcurrentTransforms": settings.slots,
                "BatchStrategy": settings.batch_strategy,
                "MaxPayloadInMB": settings.max_payload_mb,
            },
        )

    for rule in app.url_map.iter_rules("execution_parameters"):
        rule.methods = {"GET"}  # without the HEAD that comes with it

    @app.route("/invocations", methods=["POST"], provide_automatic_options=False)
    def invocations() -> Response:
        arrived = time.monotonic()
        if not predictor.scoreboard.ready:
            raise errors.NotReady
        with predictor.place():
            if _is_payload(settings.payloads):
                payload = payload_of(request, _body())
                return _payload_answer(predictor.run_payload(payload, quality_of(request), arrived))
            tasks, as_lines = predictor.read(_body(), request.content_length, request.mimetype in LINES_TYPES)
            return _answer(predictor.run(tasks, arrived), as_lines)

    @app.after_request
    def read_to_the_end(response: Response) -> Response:
        """Leave nothing of the body unread: its rest would meet a closed connection, which nginx takes for our end."""
        with suppress(OSError):
            while _body().read(MEGABYTE):
                pass
        return response

    @app.errorhandler(errors.LongshoreError)
    def refused(error: errors.LongshoreError) -> Response:
        if request.path == "/invocations" or isinstance(error, errors.CallerForbidden):
            logger.info("A request was answered %d (%s: %s)", error.http_status, error.code, error)
        errors.without_frames(error)  # which hold the cancellation that holds the error: a cycle, and a descriptor
        return _error(error)

    @app.errorhandler(HTTPException)
    def not_served(exception: HTTPException) -> Response:
        if isinstance(exception, NotFound):
            return refused(errors.RouteMissing())
        if isinstance(exception, RequestEntityTooLarge):
            return refused(errors.BodyTooLarge())
        if isinstance(exception, MethodNotAllowed):
            response = refused(errors.MethodNotAllowed())
            response.headers["Allow"] = ", ".join(sorted(exception.valid_methods or ()))
            return response
        return refused(errors.BodyUnreadable())

    @app.errorhandler(Exception)
    def failed(exception: Exception) -> Response:
        logger.error("A request failed unexpectedly", exc_info=exception)
        return refused(unexpected(exception))

    return app


def _is_payload(payloads: bool) -> bool:
    """Say whether the body is a payload and not tasks; raises FormUnsupported and ContentTypeUnsupported."""
    kind = request.mimetype
    if kind != JSON_PAYLOAD and (kind in ("", "application/json", *LINES_TYPES) or kind.endswith("+json")):
        return False
    if kind == FORM or kind.startswith("multipart/"):
        raise errors.FormUnsupported
    if not payloads:
        raise errors.ContentTypeUnsupported
    return True


def _body() -> Readable:
    """Return what the body is read from; nginx has counted and bounded it, chunked or not, so that it has an end."""
    body: Readable = request.environ["wsgi.input"]
    return body


def _answer(outcomes: list[Outcome], as_lines: bool) -> Response:
    """Answer with the results, or with an error if there is none to read: the first that a retry may help against."""
    failed = [outcome.error for outcome in outcomes if outcome.error and outcome.error.http_status >= 400]
    if len(failed) == len(outcomes):
        return _error(next((error for error in failed if error.http_status >= 500), failed[0]))
    results = [
        outcome.result.failed_by(outcome.error) if isinstance(outcome.error, errors.NOT_STORED) else outcome.result
        for outcome in outcomes
    ]
    documents = http_documents(results, MAX_HTTP_BYTES - len(results))  # with room for the ends of the lines
    if as_lines:
        return Response(b"".join(line + b"\n" for line in documents), 200, mimetype=LINES_TYPES[0])
    return Response(documents[0], 200, mimetype="application/json")


def _payload_answer(ended: Ended) -> Response:
    if ended.answer:
        return file_response(ended.answer, request.environ)
    error = ended.error or errors.InternalError()
    if error.http_status != errors.TaskError.http_status:
        return _error(error)
    return failed_run(error, ended.exit)


def _error(error: errors.LongshoreError) -> Response:
    response = _json(error.http_status, {"detail": error.detail, "error": error.as_json()})
    if isinstance(error, errors.QueueFull):
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response


def _json(status: int, value: object) -> Response:
    return Response(json.dumps(value, separators=(",", ":")), status, mimetype="application/json")
