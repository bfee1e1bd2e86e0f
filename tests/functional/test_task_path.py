"""A task's way from S3 through a program and back to S3."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rig import RESULT_KEYS, algorithm, outputs_of, signed_result, wait_until

from faulty_s3 import CutBody, FaultyS3, Hold, LostAnswer, ShortBody, WrongBody
from held_files import held
from model_server import VERSION
from model_server.freeing import LARGE_BYTES

if TYPE_CHECKING:
    from conftest import Start
    from tests.conftest import Bucket

AWKWARD_KEYS = [
    "/starts/with/a/slash.txt",
    "//starts//with/two.txt",
    "has//a//double/slash.txt",
    "has spaces in it.txt",
    "has+a+plus.txt",
    "has%2Fa%20percent.txt",
    "größe/日本語 🩻.txt",
    "goes/../up.txt",
    "../starts/up.txt",
    "./has/./dots.txt",
    "has?a&question=mark#and:more;@!$'(),*~[]{}|\\^`\"<>.txt",
    "has=an=equals.txt",
    "ends in a space ",
    "ends/with/a/slash/",
]


def test_an_algorithm_reads_inputs_and_its_outputs_are_uploaded(start: Start, bucket: Bucket) -> None:
    bucket.put("in/a.txt", "alpha")
    bucket.put("in/b.txt", "")
    task = bucket.task(inputs=[bucket.item("a.txt", "in/a.txt"), bucket.item("deep/er/b.txt", "in/b.txt")])
    result = start("echoes_input").run(task)
    assert (result["return_code"], result["user_safe_error_message"], result["error"]) == (0, "", None)
    assert bucket.get("/out/task/a.txt") == b"alpha"
    assert bucket.get("/out/task/deep/er/b.txt") == b""
    assert result["outputs"] == [
        {"relative_path": path, "bucket_name": bucket.name, "bucket_key": f"/out/task/{path}", "decompress": False}
        for path in ("a.txt", "deep/er/b.txt")
    ]


def test_a_result_has_the_keys_of_sagemaker_shim_in_order_and_then_ours(start: Start, bucket: Bucket) -> None:
    bucket.put("in", "0123456789")
    result = start("echoes_input").run(bucket.task(inputs=[bucket.item("in", "in")]))
    assert list(result) == [
        *RESULT_KEYS,
        "error",
        "queue_seconds",
        "download_seconds",
        "unpack_seconds",
        "run_seconds",
        "upload_seconds",
        "peak_memory_bytes",
        "input_bytes",
        "output_bytes",
        "refused_outputs",
        "partial_outputs",
    ]
    assert result["exec_duration"].startswith("PT")
    assert result["exec_duration"].endswith("S")
    assert result["invoke_duration"] is None
    assert result["sagemaker_shim_version"] == f"longshore-{VERSION}"
    assert (result["input_bytes"], result["output_bytes"]) == (10, 10)
    for name in ("download_seconds", "run_seconds", "upload_seconds"):
        assert 0 < result[name] < 30, name


def test_any_key_can_be_an_input(start: Start, bucket: Bucket) -> None:
    for key in AWKWARD_KEYS:
        bucket.put(key, f"the object at {key}")
    inputs = [bucket.item(f"{place:02}", key) for place, key in enumerate(AWKWARD_KEYS)]
    result = start("echoes_input").run(bucket.task(inputs=inputs))
    assert result["return_code"] == 0, result["error"]
    found = [bucket.get(output["bucket_key"]).decode() for output in result["outputs"]]
    assert found == [f"the object at {key}" for key in AWKWARD_KEYS]


def test_any_prefix_can_take_the_outputs(start: Start, bucket: Bucket) -> None:
    bucket.put("in", "data")
    rig = start("echoes_input")
    expected = ["in"]
    for prefix in ("plain", *(key.rstrip("/") for key in AWKWARD_KEYS)):
        result = rig.run(bucket.task(inputs=[bucket.item("file", "in")], output_prefix=prefix))
        assert result["return_code"] == 0, result["error"]
        assert [output["bucket_key"] for output in result["outputs"]] == [f"{prefix}/file"]
        expected += [f"{prefix}/file", f"{prefix}/.sagemaker_shim/inference_result.json"]
        assert bucket.keys() == sorted(expected)


def test_awkward_paths_reach_the_algorithm_and_become_keys(start: Start, bucket: Bucket) -> None:
    paths = ["a b/+.txt", "größe/日本語.txt", "100%2F.txt", "-rf", "..a", "quote'\".txt", ".hidden/.x"]
    bucket.put("in", "data")
    task = bucket.task(inputs=[bucket.item(path, "in") for path in paths])
    assert outputs_of(start("echoes_input").run(task)) == sorted(paths)
    assert set(bucket.keys()) > {f"/out/task/{path}" for path in paths}


def test_300_small_inputs_come_whole_and_go_out_sorted(start: Start, bucket: Bucket) -> None:
    paths = [f"{number % 7}/{number}.txt" for number in range(300)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: bucket.put(f"in/{path}", f"content of {path}"), paths))
    rig = start("lists_input")
    result = rig.run(bucket.task(inputs=[bucket.item(path, f"in/{path}") for path in paths]))
    assert result["return_code"] == 0, result["error"]
    listing = json.loads(bucket.get("/out/task/listing.json"))
    folders = {str(number): "folder" for number in range(7)}
    assert listing == {path: f"content of {path}" for path in paths} | folders


def test_outputs_are_sorted_by_their_whole_path(start: Start, bucket: Bucket) -> None:
    paths = ["b", "a/z", "a.txt", "a/b/c", "a-b", "Z", "ä", "a/1"]
    bucket.put("in", "data")
    result = start("echoes_input").run(bucket.task(inputs=[bucket.item(path, "in") for path in paths]))
    assert outputs_of(result) == sorted(paths)
    assert set(bucket.keys()) > {f"/out/task/{path}" for path in paths}


def test_the_result_is_put_last_and_nothing_is_asked_of_s3_but_get_and_put(
    start: Start, bucket: Bucket, s3: FaultyS3
) -> None:
    bucket.put("in", "data")
    paths = [f"{number}.txt" for number in range(20)]
    task = bucket.task(inputs=[bucket.item(path, "in") for path in paths])
    start("echoes_input", endpoint=s3.endpoint).run(task)
    assert {request.method for request in s3.requests[:20]} == {"GET"}
    puts = [request.key for request in s3.requests[20:] if request.method == "PUT"]
    assert len(puts) == len(s3.requests) - 20
    assert sorted(puts[:-1]) == sorted(f"/out/task/{path}" for path in paths)
    assert puts[-1] == "/out/task/.sagemaker_shim/inference_result.json"


def test_a_file_appears_under_its_name_only_when_it_is_whole(start: Start, bucket: Bucket, s3: FaultyS3) -> None:
    whole = os.urandom(300_000)
    bucket.put("slow", whole)
    bucket.put("fast", "fast")
    hold = Hold()
    s3.fault("GET", "slow", hold)
    rig = start("echoes_input", endpoint=s3.endpoint)
    inputs = [bucket.item("folder/slow.bin", "slow"), bucket.item("fast.txt", "fast")]
    posted = rig.post_in_thread(bucket.task(inputs=inputs))
    wait_until(hold.reached.is_set, "half a body")
    wait_until((rig.input / "fast.txt").exists, "the other input")
    half = [path for path in rig.input.rglob("*") if path.is_file() and path.name != "fast.txt"]
    assert not (rig.input / "folder/slow.bin").exists()
    assert all(path.relative_to(rig.input).parts[0].startswith(".") for path in half)
    hold.released.set()
    assert posted.answer().json["return_code"] == 0
    assert bucket.get("/out/task/folder/slow.bin") == whole


@pytest.mark.parametrize("fault", [CutBody(), WrongBody(), ShortBody()], ids=["cut", "wrong", "short"])
def test_a_body_that_comes_broken_is_fetched_anew(start: Start, bucket: Bucket, s3: FaultyS3, fault: Any) -> None:
    whole = os.urandom(3_000_000)
    bucket.put("in", whole)
    s3.fault("GET", "in", fault, times=1)
    result = start("echoes_input", endpoint=s3.endpoint).run(bucket.task(inputs=[bucket.item("file", "in")]))
    assert result["return_code"] == 0
    assert result["input_bytes"] == len(whole)
    assert bucket.get("/out/task/file") == whole


def test_an_upload_whose_answer_was_lost_is_done_again(start: Start, bucket: Bucket, s3: FaultyS3) -> None:
    bucket.put("in", "data")
    s3.fault("PUT", "/out/task/file", LostAnswer())
    s3.fault("PUT", "/out/task/.sagemaker_shim/inference_result.json", LostAnswer())
    result = start("echoes_input", endpoint=s3.endpoint).run(bucket.task(inputs=[bucket.item("file", "in")]))
    assert outputs_of(result) == ["file"]
    assert bucket.get("/out/task/file") == b"data"


def test_what_cannot_be_uploaded_is_named_and_the_good_files_are_uploaded(start: Start, bucket: Bucket) -> None:
    result = start("writes_links").run(bucket.task())
    assert (result["return_code"], result["error"]) == (0, None)
    good = ["absolute inner link", "folder/good too.txt", "folder/inner link", "good.txt"]
    assert outputs_of(result) == good
    assert bucket.get("/out/task/folder/inner link") == b"good"
    assert bucket.get("/out/task/absolute inner link") == b"good"
    leaves = "it is a link that leaves the output folder"
    assert {entry["relative_path"]: entry["reason"] for entry in result["refused_outputs"]} == {
        "outer link": leaves,
        "folder/outer relative link": leaves,
        "outer folder": leaves,
        "inner folder": "it is a link to a folder",
        "dangling link": "it is a link to nothing",
        "itself": "it is a link that leads to itself",
        "fifo": "it is no regular file",
        "socket": "it is no regular file",
        "latin1-\\udce9.txt": "its name is not UTF-8",
    }
    result_key = "/out/task/.sagemaker_shim/inference_result.json"
    assert bucket.keys() == sorted([*(f"/out/task/{path}" for path in good), result_key])


def test_every_output_whose_name_is_not_utf_8_is_named(start: Start, bucket: Bucket) -> None:
    names = [b"\xe9", b"\xe8", b"\xe7"]
    rig = start("does_nothing")
    program = rig.output.parent / "writes-names"
    program.write_text(
        f"#!/usr/bin/env python3\nfor name in {names}: open({os.fsencode(rig.output)} + b'/' + name, 'w')\n"
    )
    program.chmod(0o755)
    rig.predictor.server.command[:] = [str(program)]
    refused = rig.run(bucket.task())["refused_outputs"]
    assert [entry["relative_path"] for entry in refused] == ["\\udce7", "\\udce8", "\\udce9"]


def test_an_algorithm_cannot_write_the_result_itself(start: Start, bucket: Bucket) -> None:
    task = bucket.task()
    result = start("writes_a_result_of_its_own").run(task)
    assert "forged" not in result
    assert outputs_of(result) == ["good.txt"]
    assert bucket.keys() == ["/out/task/.sagemaker_shim/inference_result.json", "/out/task/good.txt"]
    assert [entry["relative_path"] for entry in result["refused_outputs"]] == [
        ".sagemaker_shim/inference_result.json",
        ".sagemaker_shim/more.txt",
    ]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_no_result_is_replaced_by_what_looks_like_one(start: Start, bucket: Bucket, kind: str) -> None:
    """Neither its own, nor that of a task whose prefix is beneath its own."""
    other = bucket.task("other", output_prefix="/out/task/b")
    rig = start("writes_a_result_in_disguise", kind)
    rig.run(other)
    before = bucket.get("/out/task/b/.sagemaker_shim/inference_result.json")
    result = rig.run(bucket.task())
    assert outputs_of(result) == ["good.txt", "real/inference_result.json"]
    assert "forged" not in result
    assert bucket.get("/out/task/b/.sagemaker_shim/inference_result.json") == before
    reserved, leads = "its folder is reserved for the result", "nothing may lead to .sagemaker_shim"
    own = ".sagemaker_shim/inference_result.json" if kind == "folder" else ".sagemaker_shim"
    assert {entry["relative_path"]: entry["reason"] for entry in result["refused_outputs"]} == {
        own: reserved,
        ".SageMaker_Shim/inference_result.json": reserved,
        "b/.sagemaker_shim/inference_result.json": reserved,
        "to-it": leads,
        "b/into-it": leads,
        "into-another": leads,
    }
    stored = bucket.keys()
    assert [key for key in stored if not key.startswith("/out/task/b/")] == [
        "/out/task/.sagemaker_shim/inference_result.json",
        "/out/task/good.txt",
        "/out/task/real/inference_result.json",
    ]


def test_an_algorithm_without_inputs_and_outputs_is_fine(start: Start, bucket: Bucket) -> None:
    result = start("does_nothing").run(bucket.task())
    assert (result["return_code"], result["outputs"], result["refused_outputs"]) == (0, [], [])
    assert bucket.keys() == ["/out/task/.sagemaker_shim/inference_result.json"]


def test_nothing_of_a_task_remains_whatever_it_left(start: Start, bucket: Bucket, tmp_path: Path) -> None:
    survivor = tmp_path / "survivor"
    survivor.mkdir()
    (survivor / "file").write_text("not ours")
    rig = start("leaves_a_labyrinth", env={"SURVIVES": str(survivor)})
    bucket.put("in", "data")
    for pk in ("first", "second"):
        task = bucket.task(pk, inputs=[bucket.item("file", "in")])
        assert rig.run(task)["return_code"] == 0  # checks that both folders are empty
    assert (survivor / "file").read_text() == "not ours"


def test_what_was_in_the_folders_before_us_survives_and_is_not_uploaded(
    start: Start, bucket: Bucket, tmp_path: Path
) -> None:
    for name in ("input", "output"):
        (tmp_path / name / "mounted").mkdir(parents=True)
        (tmp_path / name / "mounted/weights.bin").write_text("weights")
        (tmp_path / name / "note.txt").write_text("note")
    bucket.put("in", "data")
    rig = start("does_nothing")
    for pk in ("first", "second"):
        task = bucket.task(pk, inputs=[bucket.item("mounted/new.txt", "in"), bucket.item("new/new.txt", "in")])
        assert rig.post(task).status_code == 200
        result = signed_result(bucket, task)
        assert (result["return_code"], result["outputs"], result["refused_outputs"]) == (0, [], [])
    for name in ("input", "output"):
        left = {str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).rglob("*")}
        assert left == {"mounted", "mounted/weights.bin", "note.txt"}
        assert (tmp_path / name / "mounted/weights.bin").read_text() == "weights"


def test_a_file_that_was_there_before_us_is_uploaded_once_an_algorithm_writes_it(
    start: Start, bucket: Bucket, tmp_path: Path
) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output/file").write_text("old")
    bucket.put("in", "new")
    rig = start("echoes_input")
    assert rig.post(bucket.task(inputs=[bucket.item("file", "in")])).json["return_code"] == 0
    assert bucket.get("/out/task/file") == b"new"


def test_an_input_never_replaces_what_was_there_before_us(start: Start, bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "input/file").write_text("mounted")
    bucket.put("in", "new")
    answer = start("echoes_input").post(bucket.task(inputs=[bucket.item("file", "in")]))
    assert answer.json["error"]["code"] == "input_path_taken"
    assert answer.json["error"]["hint"].startswith("See inputs[0] of the task.")
    assert (tmp_path / "input/file").read_text() == "mounted"


@pytest.mark.parametrize("path", ["link/file", "link/deep/file"])
@pytest.mark.parametrize("decompress", [False, True])
def test_an_input_never_leaves_the_folder_through_a_link_that_was_there_before_us(
    start: Start, bucket: Bucket, tmp_path: Path, path: str, decompress: bool
) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "input/link").symlink_to(tmp_path / "elsewhere")
    bucket.put("in", "data")
    answer = start("does_nothing").post(bucket.task(inputs=[bucket.item(path, "in", decompress=decompress)]))
    assert answer.json["error"]["code"] == "input_path_taken"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_one_task_sees_nothing_of_the_one_before(start: Start, bucket: Bucket) -> None:
    bucket.put("in", "data")
    rig = start("echoes_input")
    rig.run(bucket.task("first", inputs=[bucket.item("secret.txt", "in")]))
    assert outputs_of(rig.run(bucket.task("second", inputs=[bucket.item("own.txt", "in")]))) == ["own.txt"]


def test_the_same_task_can_run_again(start: Start, bucket: Bucket) -> None:
    bucket.put("in", "data")
    rig = start("echoes_input")
    task = bucket.task(inputs=[bucket.item("file", "in")])
    assert [outputs_of(rig.run(task)) for _ in range(3)] == [["file"]] * 3


def test_large_files_of_a_task_are_freed_beside_its_answer_and_before_the_next_task(
    start: Start, bucket: Bucket, tmp_path: Path, slow_freeing: threading.Event
) -> None:
    bucket.put("in", b"x" * LARGE_BYTES)
    rig = start("echoes_input")
    rig.run(bucket.task("first", inputs=[bucket.item("file", "in")]))
    assert held(tmp_path) == {"input/file", "output/file"}
    second = rig.post_in_thread(bucket.task("second"))
    time.sleep(0.5)  # many times what the task takes
    assert not second.answered
    slow_freeing.set()
    assert second.answer().json["return_code"] == 0
    assert held(tmp_path) == set()


def test_without_a_key_a_result_is_not_signed(start: Start, bucket: Bucket) -> None:
    rig = start("does_nothing", env={"MODEL_SERVER_SIGNING_KEY_HEX": ""})
    assert rig.post(bucket.task()).status_code == 200
    assert bucket.metadata("/out/task/.sagemaker_shim/inference_result.json") == {}


def test_a_program_of_any_name_can_be_the_algorithm(start: Start, bucket: Bucket, tmp_path: Path) -> None:
    odd = tmp_path / "größe of a program"
    odd.write_bytes(Path(algorithm("does_nothing")).read_bytes())
    odd.chmod(0o755)
    assert start(str(odd)).run(bucket.task())["return_code"] == 0
