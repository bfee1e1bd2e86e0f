"""The layer that is added to images: a tar file that gzip has compressed, and what a registry has to know of it."""

import hashlib
import tarfile
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from .image_errors import LayerInvalid, LayerMissing

CHUNK = 1 << 20
GZIP = 16 + zlib.MAX_WBITS


@dataclass(frozen=True)
class LayerFile:
    """A layer on this machine; `diff_id` is the digest of what is in it before it was compressed."""

    path: Path
    digest: str
    size: int
    diff_id: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read it once, from its beginning to its end; raises LayerMissing and LayerInvalid."""
        outer, inner, size, head = hashlib.sha256(), hashlib.sha256(), 0, b""
        try:
            for chunk, plain in _unpacked(path):
                outer.update(chunk)
                size += len(chunk)
                for part in plain:
                    inner.update(part)
                    head += part[: tarfile.BLOCKSIZE - len(head)]
        except zlib.error:
            raise LayerInvalid(path, "gzip has not written it, or it is damaged") from None
        try:
            tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            raise LayerInvalid(path, "it does not hold a tar file") from None
        return cls(path, f"sha256:{outer.hexdigest()}", size, f"sha256:{inner.hexdigest()}")

    def chunks(self) -> Generator[bytes]:
        return _chunks(self.path)


def _unpacked(path: Path) -> Iterator[tuple[bytes, Iterator[bytes]]]:
    """Yield each part of a file, and what it unpacks to; gzip lets a file be several, one after another."""
    unpacker = zlib.decompressobj(GZIP)
    is_started = False

    def unpack(chunk: bytes) -> Iterator[bytes]:
        nonlocal unpacker, is_started
        while chunk:
            if unpacker.eof:
                unpacker = zlib.decompressobj(GZIP)
            is_started = True
            while chunk and not unpacker.eof:
                yield unpacker.decompress(chunk, CHUNK)
                chunk = unpacker.unconsumed_tail
            chunk = unpacker.unused_data if unpacker.eof else b""

    for chunk in _chunks(path):
        yield chunk, unpack(chunk)
    while not unpacker.eof and (rest := unpacker.decompress(b"", CHUNK)):
        yield b"", iter([rest])
    if not is_started or not unpacker.eof:
        raise LayerInvalid(path, "it is cut off" if is_started else "it is empty")


def _chunks(path: Path) -> Generator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise LayerMissing(path, error.strerror or type(error).__name__) from None
