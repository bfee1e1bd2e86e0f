"""Inputs that are zips: unpacked by the drop-in's rules, and every broken one ends in a result that says why."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from rig import outputs_of, signed_result

if TYPE_CHECKING:
    from conftest import Start
    from tests.conftest import Bucket

NOT_EXTRACTED = ("zip_broken", "Input zip file could not be extracted")
INVALID_PATHS = ("zip_paths_invalid", "Zip file contains invalid paths")
PATH_TAKEN = ("input_path_taken", "An input file can not be written because its path is taken")


def zipped(*names: str, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip whose members hold their own names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name in names:
            archive.writestr(name, "" if name.endswith("/") else name)
    return buffer.getvalue()


def unpacked(start: Start, bucket: Bucket, archive: bytes, relative_path: str = "input.zip") -> dict[str, str]:
    """Run a task with one zip, and return the files that the algorithm found, by path."""
    bucket.put("in.zip", archive)
    task = bucket.task(inputs=[bucket.item(relative_path, "in.zip", decompress=True)])
    result = start("lists_input").run(task)
    assert result["return_code"] == 0, result["error"]
    listing: dict[str, str] = json.loads(bucket.get("/out/task/listing.json"))
    return {path: found for path, found in listing.items() if found != "folder"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(["a", "b/c"], {"a": "a", "b/c": "b/c"}, id="as it is"),
        pytest.param(["top/a", "top/b/c"], {"a": "top/a", "b/c": "top/b/c"}, id="a shared folder is stripped"),
        pytest.param(["x/y/a", "x/y/b"], {"a": "x/y/a", "b": "x/y/b"}, id="shared folders, however deep"),
        pytest.param(["x/y/a"], {"a": "x/y/a"}, id="one file goes without its folders"),
        pytest.param(["one"], {"one": "one"}, id="one file"),
        pytest.param(["top/", "top/a", "top/b/"], {"a": "top/a"}, id="folders are left out"),
        pytest.param(["top-1/a", "top-2/a"], {"top-1/a": "top-1/a", "top-2/a": "top-2/a"}, id="no half names"),
        pytest.param(
            ["top/a", "__MACOSX/top/._a", "top/.DS_Store", "top/desktop.ini", ".DS_Store"],
            {"a": "top/a"},
            id="litter of desktops is left out and does not count as shared",
        ),
        pytest.param(["a", "my_desktop_ini.txt", "b"], {"a": "a", "b": "b"}, id="litter is matched anywhere in a name"),
        pytest.param(["../x"], {"x": "../x"}, id="one file above its folder"),
        pytest.param([], {}, id="empty"),
        pytest.param(["folder/"], {}, id="nothing but a folder"),
        pytest.param(
            ["größe/日本.txt", "größe/b c+%2F"], {"日本.txt": "größe/日本.txt", "b c+%2F": "größe/b c+%2F"}, id="utf8"
        ),
    ],
)
def test_a_zip_is_unpacked_by_the_rules(
    start: Start, bucket: Bucket, names: list[str], expected: dict[str, str]
) -> None:
    assert unpacked(start, bucket, zipped(*names)) == expected


def test_a_zip_is_unpacked_into_the_folder_that_its_path_is_in_and_is_not_kept(start: Start, bucket: Bucket) -> None:
    assert unpacked(start, bucket, zipped("a", "b"), "images/ct/scan.zip") == {"images/ct/a": "a", "images/ct/b": "b"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_all_common_methods_are_unpacked(start: Start, bucket: Bucket, method: int) -> None:
    assert unpacked(start, bucket, zipped("a", "b", method=method)) == {"a": "a", "b": "b"}


def test_a_link_in_a_zip_becomes_a_plain_file_and_modes_are_not_restored(start: Start, bucket: Bucket) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        setuid = zipfile.ZipInfo("locked")
        setuid.create_system, setuid.external_attr = 3, 0o100000 << 16
        archive.writestr(setuid, "can be read")
    assert unpacked(start, bucket, buffer.getvalue()) == {"link": "/etc/passwd", "locked": "can be read"}


def test_several_zips_and_files_share_a_folder(start: Start, bucket: Bucket) -> None:
    bucket.put("1.zip", zipped("a", "b"))
    bucket.put("2.zip", zipped("c", "d"))
    bucket.put("e", "e")
    inputs = [
        bucket.item("images/1.zip", "1.zip", decompress=True),
        bucket.item("images/2.zip", "2.zip", decompress=True),
        bucket.item("images/e", "e"),
    ]
    result = start("echoes_input").run(bucket.task(inputs=inputs))
    assert outputs_of(result) == [f"images/{name}" for name in "abcde"]
    assert result["input_bytes"] == len(zipped("a", "b")) * 2 + 1


def flagged_encrypted(archive: bytes) -> bytes:
    broken = bytearray(archive)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = broken.find(signature)
        while at >= 0:
            broken[at + offset] |= 1
            at = broken.find(signature, at + 4)
    return bytes(broken)


def with_method(archive: bytes, method: int) -> bytes:
    broken = bytearray(archive)
    broken[8:10] = struct.pack("<H", method)
    at = broken.find(b"PK\x01\x02") + 10
    broken[at : at + 2] = struct.pack("<H", method)
    return bytes(broken)


def with_garbage(method: int) -> bytes:
    """Return a zip with one member whose packed bytes are not what its method writes."""
    archive = bytearray(zipped("a" * 100, method=method))
    data = 30 + 100
    archive[data : data + 12] = b"\xff" * 12
    return bytes(archive)


def with_wrong_checksum() -> bytes:
    archive = bytearray(zipped("name", method=zipfile.ZIP_STORED))
    archive[30 + 4] ^= 1
    return bytes(archive)


def with_duplicates() -> bytes:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return zipped("a", "a")


MALFORMED: dict[str, tuple[Any, tuple[str, str]]] = {
    "no zip": (lambda: b"this is no zip", NOT_EXTRACTED),
    "no bytes": (lambda: b"", NOT_EXTRACTED),
    "truncated at its end": (lambda: zipped("a", "b")[:-10], NOT_EXTRACTED),
    "truncated in the middle": (lambda: zipped("a", "b")[: len(zipped("a", "b")) // 2], NOT_EXTRACTED),
    "without its beginning": (lambda: zipped("a", "b")[20:], NOT_EXTRACTED),
    "broken deflate": (lambda: with_garbage(zipfile.ZIP_DEFLATED), NOT_EXTRACTED),
    "broken bzip2": (lambda: with_garbage(zipfile.ZIP_BZIP2), NOT_EXTRACTED),
    "broken lzma": (lambda: with_garbage(zipfile.ZIP_LZMA), NOT_EXTRACTED),
    "wrong checksum": (with_wrong_checksum, NOT_EXTRACTED),
    "encrypted": (lambda: flagged_encrypted(zipped("a", "b")), ("zip_encrypted", "Input zip file is encrypted")),
    "unknown method": (
        lambda: with_method(zipped("a"), 98),
        ("zip_method_unsupported", "Zip file contains an unsupported compression method"),
    ),
    "a path that leaves": (lambda: zipped("a", "../b"), INVALID_PATHS),
    "a path that leaves in the middle": (lambda: zipped("a/x", "b/../../../c"), INVALID_PATHS),
    "one absolute name": (lambda: zipped("/passwd"), INVALID_PATHS),
    "two absolute names": (lambda: zipped("/etc/passwd", "/etc/shadow"), INVALID_PATHS),
    "absolute and relative names": (lambda: zipped("/etc/passwd", "a"), INVALID_PATHS),
    "two members of one name": (with_duplicates, INVALID_PATHS),
    "two members of one place": (lambda: zipped("a", "./a"), INVALID_PATHS),
    "a name of dots": (lambda: zipped("a", ".."), INVALID_PATHS),
    "a file where a folder is needed": (lambda: zipped("a", "a/b", "c"), PATH_TAKEN),
    "a file that is the folder of all": (lambda: zipped("a", "a/b"), INVALID_PATHS),
    "a folder where a file is needed": (lambda: zipped("a/b", "a", "c"), PATH_TAKEN),
    "too long a name": (lambda: zipped("a", "n" * 256), INVALID_PATHS),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_zip_ends_in_a_result_that_says_so(start: Start, bucket: Bucket, kind: str) -> None:
    make, (code, sentence) = MALFORMED[kind]
    bucket.put("in.zip", make())
    bucket.put("file", "data")
    inputs = [bucket.item("file", "file"), bucket.item("in.zip", "in.zip", decompress=True)]
    task = bucket.task(inputs=inputs)
    rig = start("echoes_input")
    result = rig.run(task)
    assert (result["error"]["code"], result["error"]["message"]) == (code, sentence)
    assert (result["return_code"], result["user_safe_error_message"]) == (1, sentence)
    assert result["error"]["hint"].startswith("See inputs[1] of the task.")
    assert (result["exec_duration"], result["outputs"]) == (None, [])
    assert bucket.keys() == ["/out/task/.sagemaker_shim/inference_result.json", "file", "in.zip"]
    assert [sentence] == rig.lines("stderr")


def test_a_zip_over_a_limit_of_the_settings_ends_in_a_result_that_names_the_setting(
    start: Start, bucket: Bucket
) -> None:
    bucket.put("in.zip", zipped("a", "b", "c"))
    task = bucket.task(inputs=[bucket.item("in.zip", "in.zip", decompress=True)])
    rig = start("echoes_input", env={"MODEL_SERVER_MAX_ARCHIVE_FILES": "2"})
    result = rig.run(task)
    assert (result["return_code"], result["error"]["code"], result["outputs"]) == (1, "zip_over_limit", [])
    assert any("MODEL_SERVER_MAX_ARCHIVE_FILES" in line for line in rig.lines("stderr", internal=True))


def test_a_member_never_replaces_another_input(start: Start, bucket: Bucket) -> None:
    bucket.put("in.zip", zipped("a", "b"))
    bucket.put("a", "an input of its own")
    inputs = [bucket.item("in.zip", "in.zip", decompress=True), bucket.item("a", "a")]
    task = bucket.task(inputs=inputs)
    start("echoes_input").run(task)
    assert signed_result(bucket, task)["error"]["code"] == "input_path_taken"


def test_a_task_after_a_malformed_zip_finds_clean_folders(start: Start, bucket: Bucket) -> None:
    bucket.put("bad.zip", with_garbage(zipfile.ZIP_DEFLATED))
    bucket.put("file", "data")
    rig = start("echoes_input")
    rig.run(bucket.task("bad", inputs=[bucket.item("bad.zip", "bad.zip", decompress=True)]))
    assert outputs_of(rig.run(bucket.task("good", inputs=[bucket.item("file", "file")]))) == ["file"]
