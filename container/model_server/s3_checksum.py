"""The checksums that S3 states of an object, and is told of what it stores: those that need no library of their own.

S3 may also state CRC-64/NVME and CRC-32C, which are not compared, as in botocore without AWS's C libraries.
"""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from botocore.exceptions import FlexibleChecksumError
from isal import isal_zlib

from .s3_client import Answer

HEADER = "x-amz-checksum-crc32"


class Checksum(Protocol):
    def update(self, data: memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


class Crc32:
    """CRC-32 with the interface of hashlib's; ISA-L's takes a fifth of the time of zlib's."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview | bytes) -> None:
        self._value = isal_zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


KINDS: dict[str, Callable[[], Checksum]] = {
    HEADER: Crc32,
    "x-amz-checksum-sha256": hashlib.sha256,
    "x-amz-checksum-sha1": hashlib.sha1,
}


@dataclass(frozen=True)
class Stated:
    """A checksum that S3 states for a whole object."""

    header: str
    value: str

    @classmethod
    def by(cls, answer: Answer) -> "Stated | None":
        """Return what an answer states; one with a hyphen is of the checksums of parts, not of the whole."""
        for header in KINDS:
            value = answer.header(header)
            if value and "-" not in value:
                return cls(header, value)
        return None

    def start(self) -> Checksum:
        return KINDS[self.header]()

    def compare(self, checksum: Checksum) -> None:
        """Raise FlexibleChecksumError unless it is the one."""
        if (found := encoded(checksum)) != self.value:
            raise FlexibleChecksumError(error_msg=f"{self.header} is {self.value}, and what came has {found}")


def encoded(checksum: Checksum) -> str:
    """Return a checksum as it stands in a header."""
    return base64.b64encode(checksum.digest()).decode()
