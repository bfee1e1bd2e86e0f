"""The server's own folders: sockets, locks and nginx's files, apart from everything that a task can reach."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import StartFailed

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - there in every container, also with a read-only root
NGINX_ID = 65533
"""The user and group that nginx drops to when we are root: nobody's, so that the algorithm's user is another."""

MAX_SOCKET_PATH_BYTES = 107


@dataclass(frozen=True)
class RunFolder:
    """`locks` is for us alone, `nginx` for nginx, `gunicorn` holds the socket between the two; `bodies` is where
    nginx buffers large request bodies. `nginx_id` is None when nginx runs as the user that we are."""

    path: Path
    bodies: Path
    nginx_id: int | None

    @property
    def locks(self) -> Path:
        return self.path / "locks"

    @property
    def nginx(self) -> Path:
        return self.path / "nginx"

    @property
    def socket(self) -> Path:
        return self.path / "gunicorn" / "gunicorn.sock"


@contextmanager
def run_folder(path: Path | None) -> Iterator[RunFolder]:
    """Make the folders for the block, at a path or at a fresh one, and remove them after it; raises StartFailed."""
    made: list[Path] = []
    try:
        try:
            folder = _make(path, made)
        except OSError as error:
            raise StartFailed(f"The server's own folder can not be made: {error}") from error
        yield folder
    finally:
        for path in made:
            shutil.rmtree(path, ignore_errors=True)


def _make(path: Path | None, made: list[Path]) -> RunFolder:
    if path is None:
        shared = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
        path = Path(tempfile.mkdtemp(prefix="longshore-", dir=shared))
    else:
        path.mkdir(parents=True, exist_ok=True)
    made.append(path)
    bodies = Path(tempfile.mkdtemp(prefix="longshore-bodies-"))
    made.append(bodies)
    folder = RunFolder(path, bodies, _nginx_id(path))
    if len(os.fsencode(folder.socket)) > MAX_SOCKET_PATH_BYTES:
        raise StartFailed(f"MODEL_SERVER_RUN_PATH: {path} is too long for the path of a socket")
    path.chmod(0o711)
    nginx = -1 if folder.nginx_id is None else folder.nginx_id  # -1 leaves an owner as it is
    for inner, mode, owner, group in (
        (folder.locks, 0o700, -1, -1),
        (folder.socket.parent, 0o710, -1, nginx),
        (folder.nginx, 0o700, nginx, nginx),
        (bodies, 0o700, nginx, nginx),
    ):
        inner.mkdir(exist_ok=True)
        inner.chmod(mode)
        os.chown(inner, owner, group)
    folder.socket.unlink(missing_ok=True)
    return folder


def _nginx_id(path: Path) -> int | None:
    """Return the id that nginx is to drop to, or None where we may not change users."""
    if os.geteuid() != 0:
        return None
    with suppress(PermissionError):  # root without capabilities
        os.chown(path, NGINX_ID, NGINX_ID)
        os.chown(path, 0, 0)
        return NGINX_ID
    return None
