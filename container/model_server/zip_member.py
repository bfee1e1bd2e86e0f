"""One member of a zip, piece by piece, in little memory, whatever it holds.

The standard library unpacks of bzip2 and lzma all that one piece of packed data gives: 20 GB, of a megabyte. What is
deflated or stored it unpacks well, but in many small steps, under one lock for all members: here it takes one read
for a small one, and two threads may unpack two at once.
"""

import bz2
import copy
import lzma
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Protocol

from .lzma_stream import MAX_DICTIONARY_BYTES, PACKED_BYTES
from .read_ahead import Readable

PIECE_BYTES = 1024 * 1024
SIGNATURE = b"PK\3\4"
LOCAL_HEADER = struct.Struct("<4s2xH18xHH")
"""The signature, the flags, and how long the name and what is extra are, which follow it."""

EXTRA_BYTES = 64
"""How much that is extra is read with the header, in the hope that it is all."""

UTF8_FLAG = 0x800
UNKNOWN_FLAGS = 0x20 | 0x40
"""Patches, and encryption of the index."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def pieces(archive: zipfile.ZipFile, file: int, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield the plain bytes of a member, up to PIECE_BYTES at once; `file` is the archive's descriptor.

    Raises what `zipfile` does of one that is broken, after what came before the fault. It may be at work in several
    threads, for a member each.
    """
    if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        yield from _quick_pieces(file, info)
        return
    with _opened(archive, info) as source:
        while piece := source.read(PIECE_BYTES):
            yield piece


def _quick_pieces(file: int, info: zipfile.ZipInfo) -> Iterator[bytes]:
    data, place = _start(file, info)
    packed_left = info.compress_size - len(data)
    left = info.file_size
    checksum = 0
    inflate = zlib.decompressobj(-zlib.MAX_WBITS) if info.compress_type == zipfile.ZIP_DEFLATED else None
    while left and not (inflate and inflate.eof):
        if not data and packed_left:
            data = os.pread(file, min(packed_left, PACKED_BYTES), place)
            place += len(data)
            packed_left -= len(data)
            if not data:
                raise EOFError("a member is cut off")
        if inflate:
            # One byte more than there should be, so that a fault after the last one is seen; of no data more may come.
            piece = inflate.decompress(data, left + 1 if left <= PIECE_BYTES else PIECE_BYTES)[:left]
            data = inflate.unconsumed_tail
        else:
            piece, data = data[:left], b""
        if not (piece or data or packed_left):  # before the size in the index: the checksum decides
            break
        left -= len(piece)
        checksum = zlib.crc32(piece, checksum)
        if piece:
            yield piece
    if checksum != info.CRC:
        raise zipfile.BadZipFile("a checksum is wrong")


def _start(file: int, info: zipfile.ZipInfo) -> tuple[bytes, int]:
    """Return the first of a member's packed bytes, none perhaps, and where the next ones are."""
    if info.header_offset > sys.maxsize:
        raise zipfile.BadZipFile("a header is beyond all places")
    most = min(info.compress_size, PACKED_BYTES)
    head = os.pread(file, LOCAL_HEADER.size + 4 * len(info.orig_filename) + EXTRA_BYTES + most, info.header_offset)
    if len(head) < LOCAL_HEADER.size:
        raise zipfile.BadZipFile("a header is cut off")
    signature, flags, name_bytes, extra_bytes = LOCAL_HEADER.unpack_from(head)
    if signature != SIGNATURE:
        raise zipfile.BadZipFile("a header is wrong")
    if info.flag_bits & UNKNOWN_FLAGS:
        raise NotImplementedError("patches, or encryption of the index")
    start = LOCAL_HEADER.size + name_bytes
    name = head[LOCAL_HEADER.size : start].decode("utf-8" if flags & UTF8_FLAG else "cp437")
    if name != info.orig_filename:
        raise zipfile.BadZipFile("the name in a header is another one")
    start += extra_bytes
    data = head[start : start + most]
    return data, info.header_offset + start + len(data)


@contextmanager
def _opened(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[Readable]:
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
