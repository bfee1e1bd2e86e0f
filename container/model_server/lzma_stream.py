"""What xz and lzma packed, read as `lzma.open` reads it, but for the memory that it may ask for.

How much of what was unpacked is to be kept is up to who packed it, and can be gigabytes.
"""

import lzma
from typing import BinaryIO

PACKED_BYTES = 64 * 1024
MAX_DICTIONARY_BYTES = 128 * 1024 * 1024
"""`xz -9` and 7-Zip at its best take 64 MiB."""

MAX_MEMORY_BYTES = MAX_DICTIONARY_BYTES + 8 * 1024 * 1024


class DictionaryTooLarge(lzma.LZMAError):
    """What was packed can't be unpacked within the limit; the message is the reason in words."""


class LzmaStream:
    """The plain bytes of one stream or several in a row; what follows the last of them is ignored."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        self._decompressor = _decompressor()
        self._ended = False

    def read(self, size: int) -> bytes:
        """Return some bytes, none at the end; raises lzma.LZMAError, and EOFError for what is cut off."""
        plain = b""
        while not plain and not self._ended:
            plain = self._next(size) if self._decompressor.eof else self._more(size)
        return plain

    def _more(self, size: int) -> bytes:
        data = self._packed.read(PACKED_BYTES) if self._decompressor.needs_input else b""
        if not data and self._decompressor.needs_input:
            raise EOFError("it is cut off")
        return self._plain(data, size)

    def _plain(self, data: bytes, size: int) -> bytes:
        try:
            return self._decompressor.decompress(data, size)
        except lzma.LZMAError as error:
            if "limit" in str(error):
                raise DictionaryTooLarge("it needs a dictionary of more than 128 MiB") from error
            raise

    def _next(self, size: int) -> bytes:
        data = self._decompressor.unused_data or self._packed.read(PACKED_BYTES)
        self._decompressor = _decompressor()
        try:
            if data:
                return self._plain(data, size)
        except DictionaryTooLarge:
            raise
        except lzma.LZMAError:
            pass
        self._ended = True
        return b""


def _decompressor() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=MAX_MEMORY_BYTES)
