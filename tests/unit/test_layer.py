"""The layer that an image is adapted with, of a folder that stands for a container's root."""

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from model_server.errors import StartFailed
from model_server.layer import Layer, can_be_packed, write_layer


def make(root: Path, modes: int = 0o022) -> Path:
    """Make a root with a layer, and other things that are none of it."""
    before = os.umask(modes)
    try:
        (root / "longshore/program/model_server").mkdir(parents=True)
        (root / "longshore/bin").mkdir()
        (root / "longshore/bin/serve").write_bytes(b"\x7fELF")
        (root / "longshore/bin/serve").chmod(0o777 & ~modes)
        (root / "longshore/bin/python3").symlink_to("../python/bin/python3.11")
        (root / "longshore/program/model_server/a.py").write_text("a" * 100_000)
        for name in ("input", "output", "etc"):
            (root / name).mkdir()
        (root / "input/scan").write_text("of a task")
    finally:
        os.umask(before)
    return root


def packed(root: Path) -> tuple[bytes, Layer]:
    target = io.BytesIO()
    layer = write_layer(target, root)
    return target.getvalue(), layer


def test_it_has_our_folder_whole_and_the_task_folders_empty(tmp_path: Path) -> None:
    content, _ = packed(make(tmp_path))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = {member.name: member for member in archive}
        assert archive.extractfile("longshore/program/model_server/a.py").read() == b"a" * 100_000  # type: ignore[union-attr]
    assert {name: oct(member.mode) for name, member in members.items()} == {
        "input": "0o777",
        "longshore": "0o755",
        "longshore/.wh..wh..opq": "0o644",
        "longshore/bin": "0o755",
        "longshore/bin/python3": "0o777",
        "longshore/bin/serve": "0o755",
        "longshore/program": "0o755",
        "longshore/program/model_server": "0o755",
        "longshore/program/model_server/a.py": "0o644",
        "output": "0o777",
    }
    assert list(members).index("longshore/.wh..wh..opq") == list(members).index("longshore") + 1
    assert members["longshore/bin/python3"].linkname == "../python/bin/python3.11"
    assert {(member.uid, member.gid, member.uname, member.mtime) for member in members.values()} == {(0, 0, "", 0)}


def test_the_same_files_make_the_same_bytes_whatever_their_times_and_modes(tmp_path: Path) -> None:
    first = make(tmp_path / "first")
    second = make(tmp_path / "second", 0o077)
    for path in second.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    assert packed(first) == packed(second)


def test_its_digests_are_told_as_it_is_written(tmp_path: Path) -> None:
    content, layer = packed(make(tmp_path))
    assert layer == Layer(
        f"sha256:{hashlib.sha256(content).hexdigest()}",
        len(content),
        f"sha256:{hashlib.sha256(gzip.decompress(content)).hexdigest()}",
    )


def test_where_there_is_no_layer_that_is_said(tmp_path: Path) -> None:
    root = make(tmp_path)
    assert can_be_packed(root)
    (root / "longshore/program").rename(root / "program")
    (root / "longshore/program").symlink_to("/opt/program")
    assert not can_be_packed(root)
    with pytest.raises(StartFailed, match="target `layer`"):
        write_layer(io.BytesIO(), root)
