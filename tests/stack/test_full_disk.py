"""Disks that are full or read-only: each task ends in words, and the next one runs."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from server import Server, is_signed, launched, namespace, serving

if TYPE_CHECKING:
    from conftest import Bucket

MOUNT = """
for folder in "$ALGORITHM_INPUT_PATH" "$ALGORITHM_OUTPUT_PATH"; do
    mkdir "$folder" && mount -t tmpfs -o "$DISK" disk "$folder" || exit
done
exec "$@"
"""
BYTES = 4_000_000
NOBODY_KNOWS = r"^nginx: .*initgroups\("
"""Of a namespace in which there is no other group."""


@contextmanager
def serving_on(disk: str, s3_endpoint: str, warnings: str = NOBODY_KNOWS, **more: str) -> Iterator[Server | None]:
    """Serve with task folders on disks of their own, or yield None where no one may mount any."""
    words = namespace("-mf")
    if words is None:
        yield None
        return
    with serving(s3_endpoint, *words, "sh", "-c", MOUNT, "sh", warnings=warnings, DISK=disk, **more) as server:
        yield server


def zipped(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


WRITES = """
test -z "$(ls -A "$ALGORITHM_OUTPUT_PATH")" && echo ok >"$ALGORITHM_OUTPUT_PATH/ok"
"""


def assert_the_next_one_runs(server: Server, bucket: "Bucket", pk: str) -> None:
    assert server.run(server.task(bucket, f"after-{pk}", WRITES)).json()["return_code"] == 0
    assert bucket.get(f"/out/after-{pk}/ok") == b"ok\n"


def test_a_full_disk_ends_each_task_in_words_and_the_next_one_runs(s3_endpoint: str, bucket: "Bucket") -> None:
    bucket.put("large", bytes(BYTES))
    bucket.put("packed", zipped(large=bytes(BYTES)))
    fills = f'head -c {BYTES} /dev/zero >"$ALGORITHM_OUTPUT_PATH/full"'
    tasks = {
        "staging": bucket.task("staging", [bucket.item("large", "large")]),
        "unpacking": bucket.task("unpacking", [bucket.item("large", "packed", decompress=True)]),
    }
    expected = {
        "staging": ("disk_full", "There is not enough disk space for the inputs"),
        "unpacking": ("zip_too_large", "Contents of zip file too large"),
        "running": ("algorithm_failed", "The algorithm ended with exit code 1"),
    }
    with serving_on("size=1m", s3_endpoint) as server:
        if server is None:
            return
        tasks["running"] = server.task(bucket, "running", fills)
        for station, task in tasks.items():
            answer = server.run(task)
            error = answer.json()["error"]
            assert (answer.status, error["code"], error["message"]) == (200, *expected[station])
            assert is_signed(bucket, station)
            assert_the_next_one_runs(server, bucket, station)
        lines = bucket.result("/out/running")["user_process_last_stderr_lines"]
        assert any("No space left on device" in line for line in lines)
        uploading = server.run(server.task(bucket, "uploading", f"{fills} || true"))
        assert uploading.json()["return_code"] == 0
        assert len(bucket.get("/out/uploading/full")) > 900_000
        assert_the_next_one_runs(server, bucket, "uploading")


def test_a_folder_that_becomes_read_only_is_said_in_words(s3_endpoint: str, bucket: "Bucket") -> None:
    """That of the outputs by the algorithm, that of the inputs by the result; no task can run any more then."""
    reason = "The task folders can not be emptied, so no task can run"
    expected = (
        f"{NOBODY_KNOWS}|could not be emptied|^Traceback|^ |^OSError: .* Read-only|^$|: {reason}$|FoldersNotReset"
    )
    remount = 'mount -o remount,{} "$ALGORITHM_{}_PATH"'
    with serving_on("size=1m", s3_endpoint, expected) as server:
        if server is None:
            return
        assert server.run(server.task(bucket, "1", remount.format("ro", "OUTPUT"))).json()["return_code"] == 0
        assert server.run(server.task(bucket, "2", WRITES)).json()["error"]["code"] == "algorithm_failed"
        assert any("Read-only file system" in it for it in bucket.result("/out/2")["user_process_last_stderr_lines"])
        assert server.run(server.task(bucket, "3", remount.format("rw", "OUTPUT"))).json()["return_code"] == 0
        assert_the_next_one_runs(server, bucket, "3")
        assert server.run(server.task(bucket, "4", remount.format("ro", "INPUT"))).json()["return_code"] == 0
        answer = server.run(server.task(bucket, "5", WRITES))
        assert (answer.status, answer.json()["error"]["code"]) == (503, "folders_not_reset")
        sentence = "The containers input and output directories could not be reset"
        assert bucket.result("/out/5")["user_safe_error_message"] == sentence
        assert is_signed(bucket, "5")
        assert server.ended() == 1
        assert server.own_lines("stderr")[-1] == f"Stopped: {reason}"


def test_a_folder_that_is_read_only_stops_the_start_in_words(s3_endpoint: str) -> None:
    words = namespace("-mf")
    if words is None:
        return
    with launched(s3_endpoint, *words, "sh", "-c", MOUNT, "sh", DISK="ro") as server:
        assert server.ended() == 1
        assert [line for line in server.lines("stderr") if "can not be written to" in line] == server.lines("stderr")
