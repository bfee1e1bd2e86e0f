"""One member of a zip as a stream that takes little memory, whatever it holds.

The standard library unpacks of bzip2 and lzma all that one piece of packed data gives: 20 GB, of a megabyte.
"""

import bz2
import copy
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Protocol

from .lzma_stream import MAX_DICTIONARY_BYTES, PACKED_BYTES


class Source(Protocol):
    """What a member is read from; nothing is left of it when `read` returns nothing."""

    def read(self, size: int, /) -> bytes: ...


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


@contextmanager
def opened_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[Source]:
    """Open a member for the block; reading it raises what `zipfile` does of one that is broken."""
    if info.compress_type not in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with archive.open(info) as plain:
            yield plain
        return
    packed_as_it_is = copy.copy(info)
    packed_as_it_is.compress_type, packed_as_it_is.file_size = zipfile.ZIP_STORED, info.compress_size
    del packed_as_it_is.CRC  # which is that of the plain bytes
    with archive.open(packed_as_it_is) as packed:
        is_lzma = info.compress_type == zipfile.ZIP_LZMA
        yield _Unpacked(packed, _lzma(packed) if is_lzma else bz2.BZ2Decompressor(), info)


def _lzma(packed: IO[bytes]) -> lzma.LZMADecompressor:
    """Make a decompressor by the header that a zip's lzma has; raises NotImplementedError where it would take much."""
    head = packed.read(4)
    properties = packed.read(struct.unpack("<2xH", head)[0]) if len(head) == 4 else b""
    if len(properties) != 5:
        raise zipfile.BadZipFile("the header of lzma is broken or missing")
    rest, dictionary = struct.unpack("<BI", properties)
    if dictionary > MAX_DICTIONARY_BYTES:
        raise NotImplementedError("lzma with a dictionary this large")
    rest, context_bits = divmod(rest, 9)
    position_bits, literal_bits = divmod(rest, 5)
    options = {"dict_size": dictionary, "lc": context_bits, "lp": literal_bits, "pb": position_bits}
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, **options}])


class _Unpacked:
    """The plain bytes of a member, of which no more are unpacked than are asked for."""

    def __init__(self, packed: IO[bytes], decompressor: _Decompressor, info: zipfile.ZipInfo) -> None:
        self._packed = packed
        self._decompressor = decompressor
        self._left = info.file_size
        self._expected_checksum = info.CRC
        self._checksum = 0

    def read(self, size: int, /) -> bytes:
        plain = b""
        while self._left and not plain:
            if self._decompressor.eof:  # before the size in the index: the checksum decides
                self._left = 0
                break
            data = self._packed.read(PACKED_BYTES) if self._decompressor.needs_input else b""
            plain = self._decompressor.decompress(data, min(size, self._left))
            if not plain and not data and self._decompressor.needs_input:
                raise EOFError("a member is cut off")
        self._left -= len(plain)
        self._checksum = zlib.crc32(plain, self._checksum)
        if not self._left and self._checksum != self._expected_checksum:
            raise zipfile.BadZipFile("a checksum is wrong")
        return plain
