"""What a machine refuses: files, processes, threads and memory that are used up, and folders that are read-only."""

import errno
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from .errors import InternalError, MachineLimit, ServerError

REFUSALS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN)
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def is_refusal(error: BaseException) -> bool:
    """Say whether an error means that the machine has no more of something for us."""
    if isinstance(error, OSError):
        return error.errno in REFUSALS
    return isinstance(error, MemoryError) or str(error) == "can't start new thread"


def unexpected(error: Exception) -> ServerError:
    """Return what to tell of an error that nobody thought of."""
    return MachineLimit() if is_refusal(error) else InternalError()


def started_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """Return a pool whose threads all run: what is submitted to it can't be refused, nor left in its queue, later.

    Raises RuntimeError where the machine refuses one.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    all_run = Barrier(threads)
    try:
        for _ in range(threads):
            pool.submit(all_run.wait)
    except RuntimeError:
        all_run.abort()
        pool.shutdown(wait=False)
        raise
    return pool
