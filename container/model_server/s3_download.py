"""S3 -> a file or a stream. An object is asked for once, as a whole; what is large is then fetched in parts.

The first answer says how large the object is, which version of it this is (its ETag) and what its checksum is, so there
is no HEAD, which would cost a round trip. It is read to the end of the first part; the other parts are asked for by
several threads at the same time, on condition that the object is still the same, and each is tried again by itself.
While many other objects are fetched beside it, it is read on: a connection that is left in the middle of a body is
lost, and with it what is on its way.
"""

import io
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from .cancellation import Cancellation
from .part_crew import work_together
from .retrying import Retry, retried_part
from .s3_checksum import Checksum, Stated
from .s3_client import Answer, Asked, S3Client
from .s3_faults import ObjectChanged, is_changed
from .turn import is_large, is_small, large_turns

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PART_BYTES = 32 * 1024 * 1024
"""What one request fetches of a larger object."""

CHUNK_BYTES = 1024 * 1024
SLOW_BYTES = 64 * 1024
"""What is copied at a time of a body that comes slowly."""

TURN_SECONDS = 0.02
"""How long a thread copies in one turn, if it has more than a chunk: each change costs a wake-up."""

WITH_CHECKSUM: Mapping[str, str] = {"x-amz-checksum-mode": "ENABLED"}


@dataclass(frozen=True)
class Source:
    """An object, and how to ask for it; `ranges` is cleared for good by an S3 server that knows none.

    `asked` has the request for all of it, if that was sent ahead; the first attempt takes it. `is_one_of_many` says
    whether as many other objects are fetched at the same time as there are connections worth having.
    """

    client: S3Client
    bucket: str
    key: str
    retry: Retry
    cancellation: Cancellation
    ranges: threading.Event
    asked: list[Asked] = field(default_factory=list)
    is_one_of_many: Callable[[], bool] = lambda: False

    def whole(self) -> Answer:
        """Ask for all of it."""
        return self._get(WITH_CHECKSUM, self.asked.pop() if self.asked else None)

    def part(self, etag: str, start: int, end: int | None = None) -> Answer:
        """Ask for the bytes from `start` on, before `end`; raises ObjectChanged if it has another ETag by now."""
        last = "" if end is None else end - 1
        try:
            answer = self._get({"range": f"bytes={start}-{last}", "if-match": etag})
        except Exception as error:
            if is_changed(error):
                raise ObjectChanged from error
            raise
        is_ranged = answer.status == 206 and (answer.header("content-range") or "").startswith(f"bytes {start}-")
        if is_ranged and answer.header("etag") in (etag, None):
            return answer
        answer.close()  # the server knows no Range, or no If-Match
        if not is_ranged:
            self.ranges.clear()
        raise ObjectChanged

    def _get(self, headers: Mapping[str, str], asked: Asked | None = None) -> Answer:
        return self.client.request("GetObject", "GET", self.bucket, self.key, headers=headers, asked=asked)


def _etag_of(answer: Answer) -> str | None:
    """Return the ETag by which the rest of an object can be asked for: a weak one equals none."""
    etag = answer.header("etag")
    return None if etag is None or etag.startswith("W/") else etag


_idle_buffers: list[memoryview] = []
"""As many as were used at one time; a new one would have to be filled with zeros first."""


@contextmanager
def _buffer() -> Iterator[memoryview]:
    """Lend a block a buffer of a chunk."""
    try:
        view = _idle_buffers.pop()
    except IndexError:
        view = memoryview(bytearray(CHUNK_BYTES))
    try:
        yield view
    finally:
        _idle_buffers.append(view)


def get_file(source: Source, path: str, pool: Executor) -> int:
    """Get an object into a new file and return its size; one attempt, but for the parts of a large object."""
    with source.whole() as answer:
        source.cancellation.check()  # the answer may have taken long, and nobody waits for the file any more
        stated, etag, size = Stated.by(answer), _etag_of(answer), answer.size
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            if size is None or size <= PART_BYTES or not etag or not source.ranges.is_set():
                _copy_whole(source, answer, file, stated)
                return answer.received
            _copy_parts(source, answer, etag, size, file, pool)
        finally:
            os.close(file)
    if stated:
        _compare(path, stated, source.cancellation)
    return size


def _in_turns(copy: Callable[[memoryview], bool], answer: Answer | None = None) -> None:
    """Call `copy` with a buffer, in turns, for as long as it says that there is more.

    What is copied from an answer is waited for between the turns. Of one that comes slowly the little that is there is
    copied without a turn: whoever does so may have to wait for the rest of a record.
    """
    has_more = True
    while has_more:
        if answer and not answer.await_plenty():
            has_more = copy(memoryview(bytearray(SLOW_BYTES)))
            continue
        with large_turns(), _buffer() as view:
            until = time.monotonic() + TURN_SECONDS
            has_more = copy(view)
            while has_more and time.monotonic() < until and (answer is None or answer.has_plenty()):
                has_more = copy(view)


def _copy_whole(source: Source, answer: Answer, file: int, stated: Stated | None) -> None:
    checksum = stated.start() if stated else None
    size, offset = answer.size, 0
    read = answer.take if is_large(size) else answer.fill

    def copy(view: memoryview) -> bool:
        nonlocal offset
        chunk = view[: read(view)]
        source.cancellation.check()
        if checksum:
            checksum.update(chunk)
        write_at(file, chunk, offset)
        offset += len(chunk)
        return bool(chunk) and offset != size

    if is_large(size):
        _in_turns(copy, answer)
    else:
        with nullcontext(memoryview(bytearray(size))) if is_small(size) else _buffer() as buffer:
            while copy(buffer):
                pass
    if stated and checksum:
        stated.compare(checksum)


class _Part(NamedTuple):
    start: int
    end: int


def _copy_parts(source: Source, first: Answer, etag: str, size: int, file: int, pool: Executor) -> None:
    """Copy all parts: from an answer that is open while other files use the other connections, then in several threads.

    The answer is closed.
    """
    opened = [first]
    parts = deque(_Part(start, min(start + PART_BYTES, size)) for start in range(0, size, PART_BYTES))

    def read_on(part: _Part) -> None:
        answer = opened.pop() if opened else source.part(etag, part.start)
        try:
            _copy_range(source, answer, file, part)
        except BaseException:
            answer.close()
            raise
        opened.append(answer)

    def copy(part: _Part) -> None:
        with opened.pop() if opened and part == following else source.part(etag, *part) as answer:
            _copy_range(source, answer, file, part)

    def with_retries(work: Callable[[_Part], None], part: _Part) -> None:
        retried_part(source.retry, lambda: work(part), ObjectChanged)

    try:
        while parts and source.is_one_of_many():
            with_retries(read_on, parts[0])
            parts.popleft()
        following = parts[0] if parts else None
        work_together(pool, parts, partial(with_retries, copy))
    finally:
        while opened:
            opened.pop().close()


def _copy_range(source: Source, answer: Answer, file: int, part: _Part) -> None:
    offset, end = part

    def copy(view: memoryview) -> bool:
        nonlocal offset
        count = answer.take(view[: end - offset])
        source.cancellation.check()
        if not count:
            raise answer.cut_off(answer.received + end - offset)
        write_at(file, view[:count], offset)
        offset += count
        return offset < end

    _in_turns(copy, answer)


def _compare(path: str, stated: Stated, cancellation: Cancellation) -> None:
    """Compare the checksum of a file that came in parts: reading it once more is cheap while it is in memory."""
    checksum = stated.start()
    with open(path, "rb", buffering=0) as file:

        def read(view: memoryview) -> bool:
            count = file.readinto(view)
            cancellation.check()
            checksum.update(view[:count])
            return bool(count)

        _in_turns(read)
    stated.compare(checksum)


def write_at(file: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written


class Stream(io.RawIOBase):
    """The body of an object as a file, which goes on where it was when its connection breaks.

    Reading it raises the cancellation's reason once there is one. The body does not end when it is closed: whoever
    buffers the file may close it, and there may be more to compare.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        answer = source.whole()
        self._answer: Answer | None = answer
        self._size = answer.size
        self._etag = _etag_of(answer)
        self._stated = Stated.by(answer)
        self._checksum: Checksum | None = self._stated.start() if self._stated else None
        self._position = 0
        self._fault: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        if self._fault:
            raise self._fault
        view = memoryview(buffer).cast("B")
        try:
            count = self._read(view)
        except Exception as error:
            self._fault = error
            raise
        if self._checksum:
            self._checksum.update(view[:count])
        self._position += count
        return count

    def _read(self, view: memoryview) -> int:
        self._source.cancellation.check()
        resumes = self._etag is not None and self._size is not None and self._source.ranges.is_set()
        if not resumes:
            return self._attempt(view)
        return retried_part(self._source.retry, lambda: self._attempt(view), ObjectChanged)

    def _attempt(self, view: memoryview) -> int:
        if self._position == self._size:
            return 0
        if self._answer is None:
            assert self._etag
            self._answer = self._source.part(self._etag, self._position)
        try:
            count = self._answer.read_into(view)
            if not count and self._size is not None:  # what was asked for from here on is whole, and too short
                raise self._answer.cut_off(self._size)
        except Exception:
            self.end()
            raise
        return count

    def read_to_end(self) -> None:
        """Read what is left, so that length and checksum are compared; raises what reading raised before."""
        with _buffer() as view:
            while self.readinto(view):
                pass
        if self._stated and self._checksum:
            self._stated.compare(self._checksum)

    def end(self) -> None:
        """Let go of the connection."""
        answer, self._answer = self._answer, None
        if answer:
            answer.close()


@contextmanager
def streamed(source: Source) -> Iterator[Stream]:
    """Give the block the body of an object, and let go of its connection after it."""
    stream = Stream(source)
    try:
        yield stream
    finally:
        stream.end()
