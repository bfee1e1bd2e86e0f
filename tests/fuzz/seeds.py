"""What the fuzzer starts from: bytes of every kind that the code tells apart.

    python seeds.py FOLDER

writes them into a folder for each target.
"""

import io
import json
import struct
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ITEM = {"relative_path": "a/b.zip", "bucket_name": "bucket", "bucket_key": "/k", "decompress": True, "size": 7}
TASK = {"pk": "1", "inputs": [ITEM], "output_bucket_name": "bucket", "output_prefix": "/out", "timeout": "PT1M"}


def tasks() -> Iterator[bytes]:
    clashing = [ITEM | {"relative_path": path, "decompress": False} for path in ("a", "a/b", "./a", "c//d")]
    access_point = {"output_bucket_name": "arn:aws:s3:eu-west-1:123456789012:accesspoint/name"}
    for timeout in (None, 1.5, "1:02:03", "P1DT2H", "-PT1S", 10**30):
        yield b"\0" + json.dumps(TASK | {"timeout": timeout}).encode()
    yield b"\0" + json.dumps(TASK | access_point | {"inputs": clashing, "pk": "é\u2028"}, ensure_ascii=False).encode()
    yield b"\0" + json.dumps({"inputs": [{}, None, 7, "x"], "pk": "\ud800"}).encode()
    yield b"\0\xef\xbb\xbf" + json.dumps(TASK, indent=1).encode()
    for promised in (b"\0", b"\1"):
        yield promised + b"\r\n".join([json.dumps(TASK).encode(), b"", b"{}", b"[[[", b"null", b'{"pk": 1e999}'])
    yield b"\1\xff\xfe\n"


def zips() -> Iterator[bytes]:
    names = ["d/a", "d/b/", "d/b/c", "__MACOSX/x", "d/.DS_Store"]
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield _zipped(names, method)
    for name in ("../a", "/a", "a/../../b", "a\\b", "", "ü", "." * 300):
        yield _zipped([name, "b"], zipfile.ZIP_STORED)
    yield _zipped(["a"], zipfile.ZIP_STORED, b"#!/bin/sh\n") + b"tail"
    yield b"head" + _zipped(["a"], zipfile.ZIP_DEFLATED)
    encrypted = bytearray(_zipped(["a"], zipfile.ZIP_STORED))
    struct.pack_into("<H", encrypted, 6, 1)
    yield bytes(encrypted)
    yield b"PK\x05\x06" + bytes(18)


def _zipped(names: list[str], method: int, content: bytes = b"content" * 9) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, method  # as it is: ZipInfo would tidy it
            archive.writestr(info, b"" if name.endswith("/") else content)
    return buffer.getvalue()


def tarballs() -> Iterator[bytes]:
    members = [
        _member("d", tarfile.DIRTYPE),
        _member("d/f", content=b"content"),
        _member("d/l", tarfile.SYMTYPE, "f"),
        _member("d/h", tarfile.LNKTYPE, "d/f"),
        _member("./", tarfile.DIRTYPE),
    ]
    for packed in range(4):
        yield bytes([packed]) + _tarred(members, tarfile.PAX_FORMAT)
    yield b"\0" + _tarred(members, tarfile.USTAR_FORMAT)
    yield b"\0" + _tarred([_member("n" * 200, content=b"x")], tarfile.GNU_FORMAT)
    yield b"\0" + _tarred([_member("ü" * 80, content=b"x", pax_headers={"mtime": "1.5", "size": "1"})])
    for name, kind, target in (
        ("../f", tarfile.REGTYPE, ""),
        ("/f", tarfile.REGTYPE, ""),
        ("d/../f", tarfile.REGTYPE, ""),
        ("l", tarfile.SYMTYPE, "../secret"),
        ("l", tarfile.SYMTYPE, "/etc/passwd"),
        ("h", tarfile.LNKTYPE, "../secret"),
        ("p", tarfile.FIFOTYPE, ""),
        ("s", tarfile.GNUTYPE_SPARSE, ""),
    ):
        yield b"\0" + _tarred([_member(name, kind, target), _member("l/x", content=b"x")], tarfile.GNU_FORMAT)


def _member(
    name: str, kind: bytes = tarfile.REGTYPE, target: str = "", content: bytes = b"", **more: object
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def _tarred(members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue().rstrip(b"\0") + bytes(1024)


SEEDS = {"tasks": tasks, "zips": zips, "tarballs": tarballs}


def main(folder: Path) -> None:
    for target, seeds in SEEDS.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (folder / target / f"seed-{number:02}").write_bytes(seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
