"""The server's own folders: sockets, locks and nginx's files, apart from everything that a task can reach."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import StartFailed
from .logs import logger

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - there in every container, also with a read-only root
NGINX_ID = 65533
"""The user and group that nginx drops to when we are root: nobody's, so that the algorithm's user is another."""

MAX_SOCKET_PATH_BYTES = 107


@dataclass(frozen=True)
class RunFolder:
    """`locks` is for us alone, `nginx` for nginx, and the socket between nginx and gunicorn is in a folder of its own.

    `bodies` is where nginx buffers large request bodies; `nginx_id` is None when nginx runs as the user that we are.
    """

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

    def restore_bodies(self) -> None:
        """Make the folder of large bodies again if it is gone: a program may empty the folder that it is in."""
        if os.path.lexists(self.bodies):
            return
        with suppress(OSError):  # somebody else is making it, or there is no place for it: then nginx says so
            self.bodies.mkdir(0o700)
            if self.nginx_id is not None:
                os.chown(self.bodies, self.nginx_id, self.nginx_id, follow_symlinks=False)
            logger.warning(
                "The folder of large bodies was removed and is made again: what empties %s?", self.bodies.parent
            )


@contextmanager
def run_folder(parent: Path | None) -> Iterator[RunFolder]:
    """Make the folders for the block, fresh ones in a folder that may be shared, and remove them after it.

    Raises StartFailed.
    """
    with ExitStack() as made:
        try:
            folder = _make(parent, made)
        except OSError as error:
            raise StartFailed(f"The server's own folders can not be made: {error}") from error
        yield folder


def _make(parent: Path | None, made: ExitStack) -> RunFolder:
    if parent:
        parent.mkdir(parents=True, exist_ok=True)
    path = _fresh(parent or _shared_memory(), made)
    nginx_id = _nginx_id(path)
    bodies = path / "nginx" / "bodies"
    if parent is None and (roomy := _roomy_folder(nginx_id)):
        bodies = _fresh(roomy, made)
    folder = RunFolder(path, bodies, nginx_id)
    if len(os.fsencode(folder.socket)) > MAX_SOCKET_PATH_BYTES:
        raise StartFailed(f"MODEL_SERVER_RUN_PATH: {path.parent} is too long for the path of a socket")
    path.chmod(0o711)
    nginx = -1 if nginx_id is None else nginx_id  # -1 leaves an owner as it is
    for inner, mode, owner, group in (
        (folder.locks, 0o700, -1, -1),
        (folder.socket.parent, 0o710, -1, nginx),
        (folder.nginx, 0o700, nginx, nginx),
        (folder.bodies, 0o700, nginx, nginx),
    ):
        inner.mkdir(exist_ok=True)
        inner.chmod(mode)
        os.chown(inner, owner, group)
    return folder


def _fresh(parent: Path, made: ExitStack) -> Path:
    path = tempfile.mkdtemp(prefix="longshore-", dir=parent)
    made.callback(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


def _shared_memory() -> Path:
    return SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())


def _roomy_folder(nginx_id: int | None) -> Path | None:
    """Return a folder on disk that nginx's user can reach; shared memory is 64 MB small in a container."""
    with suppress(FileNotFoundError):  # a read-only root without a writable folder for temporary files
        folder = Path(tempfile.gettempdir()).resolve()
        if nginx_id is None or all(step.stat().st_mode & stat.S_IXOTH for step in (folder, *folder.parents)):
            return folder
    return None


def _nginx_id(path: Path) -> int | None:
    """Return the id that nginx is to drop to, or None where we may not change users."""
    if os.geteuid() != 0:
        return None
    with suppress(OSError):  # root without capabilities, or of a user namespace that has no such id
        os.chown(path, NGINX_ID, NGINX_ID)
        os.chown(path, 0, 0)
        return NGINX_ID
    return None
