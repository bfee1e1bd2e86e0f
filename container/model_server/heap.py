"""The C library's heap: by itself it keeps what one large body took, for each worker that had one."""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
LARGE_BYTES = 4 * 1024 * 1024
ARENAS = 2
"""Parts of the heap that are apart; each keeps what was freed in it, and by default every thread has one."""

_libc = ctypes.CDLL(None)


def give_back_what_is_large() -> None:
    """Have the heap give large blocks back to the kernel when they are freed, in this process and what it forks.

    To be called before there are threads. glibc would raise both thresholds to the size of the first large block that
    is freed; other C libraries have none.
    """
    with suppress(AttributeError):
        for threshold in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            _libc.mallopt(threshold, LARGE_BYTES)
        _libc.mallopt(M_ARENA_MAX, ARENAS)  # Python runs one thread at a time anyway
