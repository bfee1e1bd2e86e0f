"""The files that are copied: plain ones, zips, tarballs and lines of a log."""

from __future__ import annotations

import io
import os
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
BLOCK_BYTES = 16 * MIB
LINE = b"%08d epoch 3 step 117: loss 0.693147, dice 0.8123, 2.1 s; the volume has 512 slices, of which .\n"


@dataclass(frozen=True)
class Shape:
    """So many files of so many bytes."""

    count: int
    size: int

    @property
    def total(self) -> int:
        return self.count * self.size

    def __str__(self) -> str:
        return f"{self.count:,} x {said_bytes(self.size)}"


def said_bytes(size: int) -> str:
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size} B"


def put_files(folder: Path, shape: Shape) -> list[str]:
    """Make the files and return their names. Large ones share one content on one piece of memory, by hard links."""
    folder.mkdir(parents=True)
    block = random.Random(1).randbytes(min(BLOCK_BYTES, max(shape.size, 64 * KIB)))
    names = [f"{number:06}.bin" for number in range(shape.count)]
    for number, name in enumerate(names):
        path = folder / name
        if number and shape.size >= 32 * MIB:
            os.link(folder / names[0], path)
        else:
            with path.open("wb") as file:
                for start in range(0, shape.size, len(block)):
                    file.write(block[: shape.size - start])
    return names


def put_zip(path: Path, shape: Shape) -> None:
    """Make a zip of members of which one half can be compressed."""
    source = random.Random(2)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        noise = source.randbytes(shape.size * 2)
        for number in range(shape.count):
            start = number * 61 % shape.size
            content = noise[start : start + shape.size // 2] + b"longshore " * (shape.size // 20)
            archive.writestr(f"folder-{number % 20}/{number:06}.dat", content[: shape.size].ljust(shape.size, b"."))


def put_tar(path: Path, shape: Shape, packed: bool) -> None:
    """Make a tarball of numbers such as a model has, which hardly can be compressed; `packed` is with gzip."""
    source = random.Random(3)
    block = struct.pack(f"<{MIB // 8}f", *(source.gauss(0, 0.02) for _ in range(MIB // 8)))
    member = (block * (shape.size // len(block) + 1))[: shape.size]
    headers = (_tar_header(f"weights-{number:02}.bin", shape.size) for number in range(shape.count))
    with path.open("wb") as file:
        if packed:
            file.writelines(_gzip(headers, member))
        else:
            for header in headers:
                file.write(header)
                file.write(member)
            file.write(bytes(2 * tarfile.BLOCKSIZE))


def _tar_header(name: str, size: int) -> bytes:
    assert size % tarfile.BLOCKSIZE == 0
    header = tarfile.TarInfo(name)
    header.size = size
    return header.tobuf(tarfile.USTAR_FORMAT)


def _gzip(headers: Iterable[bytes], member: bytes) -> Iterator[bytes]:
    """Yield one gzip stream of the tarball; what is the same in each member is compressed only once."""
    packed_member = _flushed(member)
    check, size = 0, 0
    yield b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    for header in headers:
        yield _flushed(header)
        yield packed_member
        check, size = zlib.crc32(member, zlib.crc32(header, check)), size + len(header) + len(member)
    end = bytes(2 * tarfile.BLOCKSIZE)
    last = zlib.compressobj(1, zlib.DEFLATED, -15)
    yield last.compress(end) + last.flush()
    yield struct.pack("<II", zlib.crc32(end, check), (size + len(end)) & 0xFFFFFFFF)


def _flushed(data: bytes) -> bytes:
    """Compress so that what follows does not depend on it."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)


def put_lines(path: Path, count: int) -> None:
    """Write lines of 100 bytes."""
    text = io.BytesIO()
    with path.open("wb") as file:
        for number in range(count):
            text.write(LINE % number)
            if text.tell() > MIB:
                file.write(text.getvalue())
                text.seek(0)
                text.truncate()
        file.write(text.getvalue())
