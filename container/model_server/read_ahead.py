"""A stream that a thread of its own reads, and unpacks, a few blocks ahead of whoever takes them."""

import errno
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, RawIOBase
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK_BYTES = 512 * 1024
BLOCKS_AHEAD = 8


class Readable(Protocol):
    """What is read from; nothing is left of it when `read` returns nothing."""

    def read(self, size: int, /) -> bytes: ...


class Counted:
    """A body, and how many bytes were read of it."""

    def __init__(self, body: BufferedReader) -> None:
        self._body = body
        self.bytes = 0

    def read(self, size: int = -1) -> bytes:
        data = self._body.read(size)
        self.bytes += len(data)
        return data

    def readinto(self, buffer: "WriteableBuffer") -> int:
        size = self._body.readinto(buffer)
        self.bytes += size
        return size


class ReadAhead:
    """Blocks of a source, each with how many bytes of its body had been read for it and all before.

    The thread ends with the source, with its first fault, which comes after the last block, or with the block of
    `with`; that waits for a read that goes on.
    """

    def __init__(self, source: Readable, body: Counted) -> None:
        self._source = source
        self._body = body
        self._blocks: queue.Queue[tuple[bytes, int] | BaseException] = queue.Queue(BLOCKS_AHEAD)
        self._stopped = False
        self._thread = threading.Thread(target=self._read, daemon=True, name="read-ahead")

    def __enter__(self) -> Self:
        try:
            self._thread.start()
        except RuntimeError as error:  # the machine has no more threads
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped = True
        with suppress(queue.Empty):  # it may wait for room for a block, and puts no more than that and a fault
            while True:
                self._blocks.get_nowait()
        self._thread.join()

    def next_block(self) -> tuple[bytes, int]:
        """Return the next block, empty at the end; raises what reading raised. Not to be called after either."""
        taken = self._blocks.get()
        if isinstance(taken, BaseException):
            raise taken
        return taken

    def _read(self) -> None:
        try:
            while not self._stopped:
                block = self._source.read(BLOCK_BYTES)
                self._blocks.put((block, self._body.bytes))
                if not block:
                    return
        except BaseException as error:
            self._blocks.put(error)


class _Blocks(RawIOBase):
    """The blocks as a file; raises what reading raised."""

    def __init__(self, ahead: ReadAhead) -> None:
        self._ahead = ahead
        self._block = memoryview(b"")
        self._is_ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        if not self._block and not self._is_ended:
            self._block = memoryview(self._ahead.next_block()[0])
            self._is_ended = not self._block
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._block))
        view[:count], self._block = self._block[:count], self._block[count:]
        return count


@contextmanager
def fetched_ahead(body: BufferedReader) -> Iterator[BufferedReader]:
    """Give the block a body that a thread reads meanwhile."""
    counted = Counted(body)
    with ReadAhead(counted, counted) as ahead:
        yield BufferedReader(_Blocks(ahead), BLOCK_BYTES)
