"""What is done once per container before its first task: the model, the ground truth, the resident program.

How it went is told to the user, to the log, and in an object that a platform reads before any result:
`{prefix}/.sagemaker_shim/runtime_setup_result.json`, signed as results are.
"""

import logging
import os
import signal
import sys
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from . import VERSION
from .cancellation import Cancellation
from .errors import (
    InternalError,
    Interrupted,
    LongshoreError,
    ServerError,
    SetupResultNotStored,
    TarballBroken,
    TaskError,
)
from .log_channel import LogChannels
from .logs import logger, tell_user
from .resident_channel import ResidentChannel
from .result import signature
from .s3_faults import ObjectForbidden, ObjectMissing
from .settings import Settings
from .storage import Storage
from .tarball import fetch_all
from .user import User, look_up


class SetupResult(BaseModel):
    """The document, with every key of sagemaker-shim 0.8.3 in its order."""

    model_config = ConfigDict(frozen=True)

    return_code: int
    user_safe_error_message: str
    sagemaker_shim_version: str


class SetUpExit(IntEnum):
    """How the process of the set-up ends; `FAILED_AND_TOLD` when its stored result says why."""

    DONE = 0
    FAILED = 1
    FAILED_AND_TOLD = 3


class SetUpReport:
    """What the process of the set-up leaves for PID 1: an anonymous file, so that neither waits for the other."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("set-up", os.MFD_CLOEXEC)

    def write(self, fetched: list[Path]) -> None:
        """Say what was brought into folders; in the process of the set-up."""
        with os.fdopen(os.dup(self._descriptor), "wb") as file:
            file.write(b"\0".join(map(os.fsencode, fetched)))

    def read(self) -> list[Path]:
        """Return what was brought, once that process has ended."""
        with os.fdopen(self._descriptor, "rb") as file:
            file.seek(0)
            return [Path(os.fsdecode(path)) for path in file.read().split(b"\0") if path]


def is_needed(settings: Settings) -> bool:
    """Say whether there is anything to set up, or anyone to be told that there was not."""
    return bool(settings.model or settings.ground_truth or settings.mode == "resident" or settings.setup_result_place)


class SetUp(NamedTuple):
    """How the set-up went: why no task can run, if so, and whether a platform was told by a stored result."""

    error: LongshoreError | None
    is_stored: bool


def set_up(
    settings: Settings,
    storage: Storage,
    resident: ResidentChannel | None,
    cancellation: Cancellation,
    fetched: list[Path],
) -> SetUp:
    """Set the container up, and tell everyone how that went; note in `fetched` what it brought into folders.

    Raises the cancellation's reason: a set-up that was interrupted has no result, another container may write it.
    """
    error = _error_of_set_up(settings, storage, resident, cancellation, fetched)
    if error:
        tell_user(logging.ERROR, error.message, None)
        logger.error("The set-up failed (%s: %s) %s", error.code, error, error.hint)
    if not settings.setup_result_place:
        return SetUp(error, is_stored=False)
    try:
        _store(settings, storage, error)
    except SetupResultNotStored as not_stored:
        logger.error("%s", not_stored)
        return SetUp(error or not_stored, is_stored=False)
    return SetUp(error, is_stored=True)


def _error_of_set_up(
    settings: Settings,
    storage: Storage,
    resident: ResidentChannel | None,
    cancellation: Cancellation,
    fetched: list[Path],
) -> LongshoreError | None:
    try:
        if settings.model or settings.ground_truth:
            fetch_all(settings, _owner(settings), storage, cancellation, fetched)
        if resident:
            resident.await_health(cancellation)
    except LongshoreError as error:
        if error is cancellation.reason:
            raise
        return error.with_traceback(None)
    except Exception:
        logger.exception("The set-up failed unexpectedly")
        return InternalError()
    return None


def _owner(settings: Settings) -> User:
    """Return whom the tarballs are for; raises TarballBroken, as the drop-in does, with the true reason as its hint."""
    try:
        return look_up(settings.user)
    except TaskError as error:
        broken = TarballBroken("model" if settings.model else "ground truth")
        broken.hint = f"{error}."
        raise broken from error


def _store(settings: Settings, storage: Storage, error: LongshoreError | None) -> None:
    assert settings.setup_result_place
    document = SetupResult(
        return_code=error.return_code if error else 0,
        user_safe_error_message=error.message if error else "",
        sagemaker_shim_version=f"longshore-{VERSION}",
    ).model_dump_json()
    metadata = signature(document.encode(), settings.signing_key)
    try:
        storage.put_bytes(document.encode(), *settings.setup_result_place, metadata)
    except (ObjectMissing, ObjectForbidden, ServerError) as fault:
        raise SetupResultNotStored from fault
    except Exception as fault:  # whatever it is, the tasks are to have their results
        logger.exception("The result of the set-up could not be uploaded")
        raise SetupResultNotStored from fault


def run_set_up(
    settings: Settings, channels: LogChannels, resident: ResidentChannel | None, report: SetUpReport
) -> None:
    """Set the container up in the process that was forked for it, and end that with a SetUpExit."""
    cancellation = Cancellation()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: cancellation.cancel(Interrupted()))
    channels.close_readers()
    if resident:
        resident.close_keeper()
    fetched: list[Path] = []
    try:
        error, is_stored = set_up(settings, Storage.from_settings(settings), resident, cancellation, fetched)
    except Interrupted:
        sys.exit(SetUpExit.FAILED)
    finally:
        report.write(fetched)
    if not error:
        sys.exit(SetUpExit.DONE)
    sys.exit(SetUpExit.FAILED_AND_TOLD if is_stored else SetUpExit.FAILED)
