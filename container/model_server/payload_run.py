"""One payload, from its slot to its answer: the way of a task, without S3 and without a result object."""

import logging
import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

from .cancellation import Cancellation
from .errors import LongshoreError, without_frames
from .logs import logger, tell_user
from .machine_limits import unexpected
from .payload import Payload, receive
from .payload_answer import Answer, Quality, pack
from .process import Exit
from .runner import Server, run_process, task_folders
from .sending import Sending


class Ended(NamedTuple):
    """How it ended: with an answer or else with an error, and how the run was if there was one."""

    answer: Answer | None
    error: LongshoreError | None
    exit: Exit | None


def run_payload(
    payload: Payload,
    quality: Quality,
    server: Server,
    sending: Sending,
    cancellation: Cancellation,
    on_group: Callable[[int], None],
    queue_seconds: float,
) -> Ended:
    """Run the algorithm on a payload, as `run_task` does on a task; never raises what is a payload's own failure."""
    pk = f"payload-{secrets.token_hex(4)}"
    answer: Answer | None = None
    error: LongshoreError | None = None
    ran: Exit | None = None
    received, receive_seconds = 0, 0.0
    try:
        with task_folders(pk, server, cancellation) as folder:
            started = time.monotonic()
            received = receive(payload, folder, cancellation)
            receive_seconds = time.monotonic() - started
            ran = run_process(pk, server.default_timeout, server, cancellation, on_group)
            if ran.error:
                raise ran.error
            packed = pack(server.output, quality, cancellation.raise_if_set)
        server.freeing.wait(cancellation)  # the answer may need the space on its way out
        answer = sending.begin(packed, cancellation)
    except LongshoreError as fault:
        error = without_frames(fault)  # which may hold descriptors
    except Exception as fault:
        logger.exception("Payload %s failed unexpectedly", pk)
        error = unexpected(without_frames(fault))
    if error and error.user_message:
        tell_user(logging.ERROR, error.user_message, pk)
    logger.info(
        "Payload %s ended with return code %d%s: queued %.3f s, received %d bytes in %.3f s, "
        "ran %.3f s with %d bytes at most, answered with %d files of %d bytes",
        pk,
        error.return_code if error else 0,
        f" ({error.code}: {error.message})" if error else "",
        queue_seconds,
        received,
        receive_seconds,
        ran.seconds if ran else 0.0,
        ran.peak_memory_bytes if ran else 0,
        answer.outputs if answer else 0,
        answer.size if answer else 0,
    )
    return Ended(answer, error, ran)
