"""A body that is no task -> /input: streamed to a file, which gets its name when it is whole."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from .archive import NO_ROOM
from .cancellation import Cancellation
from .errors import ClientLeft, DiskFull, FoldersNotReset, PayloadPathTaken
from .machine_limits import READ_ONLY
from .read_ahead import Readable

CHUNK_BYTES = 1024 * 1024
FILE_MODE = 0o644  # whatever the umask is


@dataclass(frozen=True)
class Payload:
    """A body that was not read yet: its bytes, if they were announced, and the extension of the file it is to be."""

    body: Readable
    announced_bytes: int | None
    extension: str

    @property
    def name(self) -> str:
        return f"payload.{self.extension}"


def receive(payload: Payload, folder: Path, cancellation: Cancellation) -> int:
    """Write a payload to its file in a folder and return its bytes.

    Raises ClientLeft when it ends early, DiskFull, FoldersNotReset, PayloadPathTaken, and the cancellation's reason.
    """
    staging = folder / f".payload-{secrets.token_hex(8)}"  # what is mounted in the folder may have any other name
    destination = folder / payload.name
    try:
        size = _write(payload, staging, cancellation)
        if os.path.lexists(destination):
            raise PayloadPathTaken
        staging.rename(destination)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull from error
        if error.errno in READ_ONLY:  # since we started: it was tried then
            raise FoldersNotReset from error
        raise
    return size


def _write(payload: Payload, path: Path, cancellation: Cancellation) -> int:
    size = 0
    with open(path, "xb") as file:
        os.fchmod(file.fileno(), FILE_MODE)
        while chunk := payload.body.read(CHUNK_BYTES):
            cancellation.raise_if_set()
            file.write(chunk)
            size += len(chunk)
    cancellation.raise_if_set()
    if payload.announced_bytes not in (None, size):
        raise ClientLeft
    return size
