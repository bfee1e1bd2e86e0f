"""A file -> S3: in one request, or in parts that several threads send at the same time, each tried again by itself.

Every body has its CRC-32 in a header that is signed, and S3 compares it. It is read twice for that, the second time
from memory to the socket within the kernel; a checksum that follows the body would need an encoding that not every
server of this protocol knows.
"""

import os
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO
from xml.sax.saxutils import escape

from .part_crew import work_together
from .retrying import Retry, retried_part
from .s3_checksum import HEADER, Crc32, encoded
from .s3_client import S3Client, elements_of, refusal
from .s3_faults import UploadBroken, is_upload_gone
from .turn import await_writable, end_turn, is_small, is_writable, turn_for

WHOLE_BYTES = 64 * 1024 * 1024
"""Up to this size an object is put in one request, above in parts."""

PART_BYTES = 32 * 1024 * 1024
MAX_PARTS = 10_000
SMALL_BYTES = 256 * 1024
"""Up to this size a body is sent from memory."""

CHUNK_BYTES = 1024 * 1024
SENT_AT_ONCE_BYTES = 4 * CHUNK_BYTES
"""What the kernel sends in a turn, at most: it takes as much as there is room for on the way."""

READ_AT_ONCE_BYTES = 64 * 1024
"""What is read and sent over TLS: where there is room, there is room for about as much."""


@dataclass(frozen=True)
class Target:
    """An object to be, and the headers that ask for its encryption, if any."""

    client: S3Client
    bucket: str
    key: str
    encryption: Mapping[str, str]

    def put(self, body: "bytes | FilePart", headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        """Put the object, or a part of it, and return its ETag."""
        headers = {**headers, HEADER: body.checksum() if isinstance(body, FilePart) else checksum_of(body)}
        operation = "UploadPart" if query else "PutObject"
        with self.client.request(operation, "PUT", self.bucket, self.key, query, headers, body) as answer:
            answer.read()
            return answer.header("etag") or ""

    def post(
        self, operation: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes, wanted: str
    ) -> str:
        """Make a request of an upload in parts, and return one element of its answer."""
        with self.client.request(operation, "POST", self.bucket, self.key, query, headers, body) as answer:
            said = elements_of(answer.read())
        if "Code" in said or wanted not in said:  # S3 answers 200 before it knows, and then maybe half of it
            raise refusal(said, 500, operation)
        return said[wanted]

    def abort(self, upload: str) -> None:
        """Give up an upload in parts, if we may: that is a right of its own."""
        with (
            suppress(Exception),
            self.client.request(
                "AbortMultipartUpload", "DELETE", self.bucket, self.key, {"uploadId": upload}
            ) as answer,
        ):
            answer.read()


class FilePart:
    """Some bytes of an open file as a body, which can be sent again."""

    def __init__(self, file: int, start: int, size: int) -> None:
        self._file = file
        self._start = start
        self._size = size
        self._checksum = ""

    def __len__(self) -> int:
        return self._size

    def checksum(self) -> str:
        """Return the CRC-32 as S3 writes it."""
        if not self._checksum:
            checksum = Crc32()
            for chunk in self._chunks():
                with turn_for(self._size):
                    checksum.update(chunk)
            self._checksum = encoded(checksum)
        return self._checksum

    def send_to(self, sock: socket.socket) -> None:
        send = self._send_read if isinstance(sock, ssl.SSLSocket) else self._send
        position, end = self._start, self._start + self._size
        while position < end:
            await_writable(sock)
            with turn_for(self._size):
                until = min(position + SENT_AT_ONCE_BYTES, end)
                while position < until and is_writable(sock):
                    position += send(sock, position, until - position)

    def _send(self, sock: socket.socket, position: int, most: int) -> int:
        """Have the kernel send some of the file, as far as there is room, and return how much."""
        try:
            sent = os.sendfile(sock.fileno(), self._file, position, most)
        except BlockingIOError:
            return 0
        except OSError:  # it can't with every kind of file; what is wrong with the connection shows again
            return self._send_read(sock, position, most)
        if not sent:
            raise UploadBroken
        return sent

    def _send_read(self, sock: socket.socket, position: int, most: int) -> int:
        """Read some of the file, send it, and return how much."""
        data = os.pread(self._file, min(READ_AT_ONCE_BYTES, most), position)
        if not data:
            raise UploadBroken
        sock.sendall(data)
        return len(data)

    def _chunks(self) -> Iterator[memoryview]:
        view = memoryview(bytearray(min(CHUNK_BYTES, self._size)))
        offset, end = self._start, self._start + self._size
        while offset < end:
            count = os.preadv(self._file, [view[: end - offset]], offset)
            if not count:
                raise UploadBroken
            yield view[:count]
            offset += count


def put_file(target: Target, file: BinaryIO, pool: Executor, retry: Retry) -> int:
    """Put an open regular file and return its size; one attempt, but for the parts of a large file."""
    descriptor = file.fileno()
    size = os.fstat(descriptor).st_size
    if not is_small(size):
        end_turn()
    if size <= SMALL_BYTES:
        body = os.pread(descriptor, size, 0)
        if len(body) != size:
            raise UploadBroken
        target.put(body, target.encryption, {})
    elif size <= WHOLE_BYTES:
        target.put(FilePart(descriptor, 0, size), target.encryption, {})
    else:
        _put_parts(target, descriptor, size, pool, retry)
    return size


def put_bytes(target: Target, data: bytes, metadata: Mapping[str, str]) -> None:
    """Put a small object with its metadata."""
    target.put(data, {**target.encryption, **{f"x-amz-meta-{name.lower()}": metadata[name] for name in metadata}}, {})


def _put_parts(target: Target, file: int, size: int, pool: Executor, retry: Retry) -> None:
    headers = {**target.encryption, "x-amz-checksum-algorithm": "CRC32"}
    upload = target.post("CreateMultipartUpload", {"uploads": ""}, headers, b"", "UploadId")
    part_bytes = max(PART_BYTES, size // MAX_PARTS + 1)
    parts = [FilePart(file, start, min(part_bytes, size - start)) for start in range(0, size, part_bytes)]
    etags = [""] * len(parts)

    def put(number: int) -> None:
        query = {"partNumber": str(number + 1), "uploadId": upload}
        etags[number] = retried_part(
            retry, lambda: _of_upload(lambda: target.put(parts[number], {}, query)), UploadBroken
        )

    try:
        work_together(pool, range(len(parts)), put)
        listed = "".join(map(_listed, range(1, len(parts) + 1), etags, parts))
        document = f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{listed}</CompleteMultipartUpload>'

        def complete() -> str:
            return target.post("CompleteMultipartUpload", {"uploadId": upload}, {}, document.encode(), "ETag")

        retried_part(retry, lambda: _of_upload(complete), UploadBroken)
    except BaseException:
        target.abort(upload)
        raise


def _of_upload(request: Callable[[], str]) -> str:
    """Make a request of an upload in parts; raises UploadBroken if S3 does not know that any more."""
    try:
        return request()
    except Exception as error:
        if is_upload_gone(error):
            raise UploadBroken from error
        raise


def _listed(number: int, etag: str, part: FilePart) -> str:
    return (
        f"<Part><ETag>{escape(etag)}</ETag><ChecksumCRC32>{part.checksum()}</ChecksumCRC32>"
        f"<PartNumber>{number}</PartNumber></Part>"
    )


def checksum_of(body: bytes) -> str:
    checksum = Crc32()
    checksum.update(body)
    return encoded(checksum)
