"""Bodies that are no task, through Flask's client: in as a file, out as what the algorithm writes."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rig import DEADLINE_SECONDS, Rig, wait_until
from werkzeug.test import TestResponse

from held_files import held
from model_server.cancellation import Cancellation
from model_server.freeing import LARGE_BYTES
from model_server.payload_answer import Answer
from model_server.sending import Sending

if TYPE_CHECKING:
    from conftest import Start
    from tests.conftest import Bucket

RETURN_CODE = "X-Amzn-SageMaker-Custom-Attributes"
ON = {"ALGORITHM_PAYLOADS": "true"}
JSON_PAYLOAD = "application/vnd.longshore.payload+json"


def send(rig: Rig, body: bytes | str, kind: str = "text/plain", **headers: str) -> TestResponse:
    """POST a body; the keyword `accept` is a header."""
    return rig.app.test_client().post("/invocations", data=body, content_type=kind, headers=headers, buffered=True)


def script(start: Start, **env: str) -> Rig:
    """Return a predictor whose payloads are shell scripts, which run in the output folder."""
    return start("runs_its_payload", env=ON | env)


def failed(answer: TestResponse, return_code: int = 1) -> dict[str, Any]:
    """Return the error of a 422, after checking what holds for all of them."""
    assert (answer.status_code, answer.content_type) == (422, "application/json"), answer.text
    assert answer.headers[RETURN_CODE] == f"return_code={return_code}"
    body: dict[str, Any] = answer.json
    assert list(body) == ["detail", "error", "return_code", "user_process_last_stderr_lines"]
    assert body["return_code"] == return_code
    assert body["detail"] == body["error"]["message"]
    return body


@pytest.mark.parametrize(
    ("kind", "name", "comes_back_as"),
    [
        ("text/csv; charset=utf-8", "payload.csv", "text/csv"),
        ("image/png", "payload.png", "image/png"),
        ("application/octet-stream", "payload.bin", "application/octet-stream"),
        ("application/x-npy", "payload.npy", "application/x-npy"),
        (JSON_PAYLOAD, "payload.json", "application/json"),
        ("image/x-mha", "payload.mha", "application/octet-stream"),
    ],
)
def test_a_payload_is_a_file_of_its_type_and_what_comes_out_is_the_answer(
    start: Start, bucket: Bucket, kind: str, name: str, comes_back_as: str
) -> None:
    rig = start("echoes_input", env=ON)
    body = bytes(range(256)) * 100
    answer = send(rig, body, kind)
    assert (answer.status_code, answer.content_type, answer.data) == (200, comes_back_as, body)
    assert (answer.content_length, RETURN_CODE in answer.headers) == (len(body), False)
    packed = send(rig, body, kind, accept="application/zip")
    assert packed.content_type == "application/zip"
    assert zipfile.ZipFile(io.BytesIO(packed.data)).namelist() == [name]
    assert bucket.keys() == []
    rig.check_at_rest()


def test_an_answer_goes_out_once_the_space_of_all_else_is_free(
    start: Start, bucket: Bucket, tmp_path: Path, slow_freeing: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Sending.begin
    held_then: list[set[str]] = []

    def beginning(sending: Sending, answer: Answer, cancellation: Cancellation) -> Answer:
        held_then.append(held(tmp_path))
        return begin(sending, answer, cancellation)

    monkeypatch.setattr(Sending, "begin", beginning)
    rig = script(start)
    threading.Timer(0.3, slow_freeing.set).start()
    body = f"# {'x' * LARGE_BYTES}\necho done > result.txt".encode()
    assert send(rig, body).data == b"done\n"
    assert held_then == [{"output/result.txt"}]  # which is the answer


def test_tasks_are_tasks_all_the_same(start: Start, bucket: Bucket) -> None:
    rig = start("does_nothing", env=ON)
    assert rig.run(bucket.task("json"))["return_code"] == 0
    for kind in (None, "application/task+json"):
        assert rig.post(bucket.task("other"), content_type=kind).json["pk"] == "other"
    lines = json.dumps(bucket.task("line")).encode() + b"\n"
    assert rig.post(lines, content_type="application/x-ndjson").content_type == "application/jsonlines"
    assert rig.post(b"{}", content_type="application/json").json["error"]["code"] == "task_invalid"


def test_a_body_that_is_taken_for_a_task_and_is_none_is_told_how_it_would_be_a_payload(start: Start) -> None:
    rig = start("does_nothing", env=ON)
    for body, code in ((b"{}", "task_invalid"), (b"\xff\xd8", "body_unreadable")):
        error = rig.post(body, content_type=None).json["error"]
        assert error["code"] == code
        assert "without a Content-Type" in error["hint"]
    assert JSON_PAYLOAD in rig.post(b"{}").json["error"]["hint"]


def test_a_payload_before_the_set_up_is_done_is_a_503(start: Start) -> None:
    answer = send(start("does_nothing", env=ON, ready=False), "x")
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "not_ready")


def test_an_empty_payload_is_run_and_an_empty_output_is_an_answer(start: Start) -> None:
    rig = start("echoes_input", env=ON)
    answer = send(rig, b"", "text/csv")
    assert (answer.status_code, answer.content_type, answer.data) == (200, "text/csv", b"")
    rig.check_at_rest()


def test_several_files_are_a_zip_the_same_each_time(start: Start) -> None:
    rig = script(start)
    write = 'mkdir -p "deep/Ordner ä"; printf a >"deep/Ordner ä/ü.csv"; : >empty; printf z >z.json; ln z.json twin.json'
    first, second = send(rig, write), send(rig, write, accept="*/*")
    assert (first.status_code, first.content_type) == (200, "application/zip")
    assert first.data == second.data
    archive = zipfile.ZipFile(io.BytesIO(first.data))
    assert archive.namelist() == ["deep/Ordner ä/ü.csv", "empty", "twin.json", "z.json"]
    assert [archive.read(name) for name in archive.namelist()] == [b"a", b"", b"z", b"z"]
    rig.check_at_rest()


@pytest.mark.parametrize(
    ("files", "accept", "kind"),
    [
        ("a.csv", "text/csv", "text/csv"),
        ("a.csv", "text/csv; header=present", "text/csv"),
        ("a.csv", "text/*;q=0.5", "text/csv"),
        ("a.mha", "text/csv", "application/octet-stream"),
        ("a.csv b.json", "application/json", "application/json"),
        ("a.csv b.json", "application/json, application/zip;q=0.5", "application/json"),
        ("a.csv b.json", "application/zip, text/csv;q=0.9", "application/zip"),
        ("a.csv b.json", "", "application/zip"),
        ("a.csv b.json", "*", "application/zip"),
        ("a.csv b.json", "application/x-zip-compressed", "application/x-zip-compressed"),
        ("a.jsonl", "application/x-ndjson", "application/x-ndjson"),
        ("a.jpg", "image/*", "image/jpeg"),
        ("a.jpg b.xml", "image/jpg, text/xml;q=0.5", "image/jpg"),
    ],
)
def test_accept_says_what_comes_back(start: Start, files: str, accept: str, kind: str) -> None:
    answer = send(script(start), f"touch {files}", accept=accept)
    assert (answer.status_code, answer.content_type) == (200, kind)


@pytest.mark.parametrize(
    "kind",
    [
        "application/vnd.longshore.payload+json",
        "application/x-gzip",
        "application/x-parquet",
        "application/x-zip-compressed",
        "audio/x-wav",
        "image/jpg",
        "text/x-libsvm",
        "text/xml",
    ],
)
def test_what_a_client_sends_and_accepts_by_another_name_comes_back_by_that_name(start: Start, kind: str) -> None:
    answer = send(start("echoes_input", env=ON), b"same", kind, accept=kind)
    assert (answer.status_code, answer.content_type, answer.data) == (200, kind, b"same")


@pytest.mark.parametrize(
    ("files", "accept", "hint"),
    [
        ("a.csv", "application/json", "There is text/csv."),
        ("a.csv", "text/csv;q=0", "There is text/csv."),
        (
            "a.csv b.csv c.json",
            "text/csv",
            "There is application/json, text/csv (2 files, as a zip only), application/zip with all.",
        ),
    ],
)
def test_what_the_client_does_not_accept_is_a_406_that_names_what_there_was(
    start: Start, files: str, accept: str, hint: str
) -> None:
    rig = script(start)
    answer = send(rig, f"touch {files}", accept=accept)
    assert (answer.status_code, answer.content_type) == (406, "application/json")
    assert (answer.json["error"]["code"], answer.json["error"]["hint"]) == ("not_acceptable", hint)
    rig.check_at_rest()


def test_a_run_that_failed_is_a_422_with_its_return_code_and_leaves_clean_folders(start: Start) -> None:
    rig = script(start)
    body = failed(send(rig, "touch half.csv; echo why >&2; exit 3"), 3)
    assert body["error"]["code"] == "algorithm_failed"
    assert body["user_process_last_stderr_lines"] == ["why\n"]
    rig.check_at_rest()
    assert send(rig, "ls -A . ../input >seen.txt").text == ".:\nseen.txt\n\n../input:\npayload.txt\n"


def test_what_is_said_of_a_failed_run_stays_small_whatever_the_algorithm_says(start: Start) -> None:
    rig = script(start)
    told = failed(
        send(rig, "for i in $(seq 100); do head -c 16000 /dev/zero | tr '\\0' '\\1' >&2; echo >&2; done; exit 4"), 4
    )
    assert len(json.dumps(told)) <= 1_000_000
    assert 0 < len(told["user_process_last_stderr_lines"]) < 100


def test_a_time_limit_ends_a_payload(start: Start) -> None:
    body = failed(send(script(start, MODEL_SERVER_TIMEOUT="0.2"), "sleep 60"))
    assert body["error"]["code"] == "time_limit_exceeded"


def test_a_command_that_does_not_exist_is_said(start: Start) -> None:
    rig = start("no_such_program", env=ON)
    assert failed(send(rig, "x"))["error"]["code"] == "command_missing"
    rig.check_at_rest()


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (":", "no_output"),
        ("mkdir -p a/b", "no_output"),
        ("ln -s /etc/passwd a.csv; mkfifo b.csv", "outputs_refused"),
        ('cd ..; rm -r output; ln -s /etc output; echo "$PWD" >/dev/null', "output_folder_gone"),
    ],
)
def test_nothing_to_answer_with_is_a_422_that_says_why(start: Start, lines: str, code: str) -> None:
    rig = script(start)
    assert failed(send(rig, lines))["error"]["code"] == code
    rig.check_at_rest()


def test_links_fifos_and_sockets_never_block_and_are_left_out(start: Start) -> None:
    rig = start("writes_links", env=ON)
    answer = send(rig, "x")
    assert answer.status_code == 200
    names = zipfile.ZipFile(io.BytesIO(answer.data)).namelist()
    assert names == ["absolute inner link", "folder/good too.txt", "folder/inner link", "good.txt"]
    assert b"root:" not in b"".join(map(zipfile.ZipFile(io.BytesIO(answer.data)).read, names))
    rig.check_at_rest()
    assert any("outputs can not be taken" in line for line in rig.lines("stderr", internal=True))


def test_a_file_that_was_in_the_way_at_the_start_stays(start: Start, tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    mounted = tmp_path / "input" / "payload.csv"
    mounted.write_text("mounted")
    assert failed(send(start("echoes_input", env=ON), "x", "text/csv"))["error"]["code"] == "payload_path_taken"
    assert mounted.read_text() == "mounted"


def test_a_payload_is_one_line_of_the_log_without_a_file_name(start: Start) -> None:
    rig = script(start)
    send(rig, "echo hello; touch patient-7.csv")
    records = rig.log()
    (told,) = [record["log"] for record in records if record["internal"]]
    assert told.startswith("Payload payload-")
    assert " ended with return code 0: queued " in told
    assert "received 31 bytes" in told
    assert "answered with 1 files of 0 bytes" in told
    (said,) = [record for record in records if not record["internal"]]
    assert said["log"] == "hello"
    assert said["task"] == told.split()[1]


def test_a_payload_is_in_a_folder_of_its_own_where_inputs_are_linked(start: Start, tmp_path: Path) -> None:
    linked = {"ALGORITHM_USE_LINKED_INPUT": "true", "ALGORITHM_LINKED_INPUT_PARENT": str(tmp_path / "data")}
    rig = script(start, **linked)
    folder = Path(send(rig, "readlink ../input >a.txt").text.strip())
    assert folder.parent == tmp_path / "data"
    assert folder.name.startswith("payload-")
    rig.check_at_rest()
    assert list((tmp_path / "data").iterdir()) == []


def test_a_payload_that_ends_early_is_not_run(start: Start, tmp_path: Path) -> None:
    rig = start("echoes_input", env=ON)
    answer = rig.app.test_client().post(
        "/invocations",
        input_stream=io.BytesIO(b"half"),
        content_type="text/csv",
        environ_overrides={"CONTENT_LENGTH": "8", "wsgi.input_terminated": True},
    )
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "client_left")
    rig.check_at_rest()


def test_a_payload_beyond_the_limit_is_413(start: Start) -> None:
    answer = (
        start("echoes_input", env=ON)
        .app.test_client()
        .post(
            "/invocations",
            input_stream=io.BytesIO(),
            content_type="text/csv",
            environ_overrides={"CONTENT_LENGTH": str(110 * 1024 * 1024 + 1), "wsgi.input_terminated": True},
        )
    )
    assert (answer.status_code, answer.json["error"]["code"]) == (413, "body_too_large")


def test_the_slot_is_free_and_the_folders_empty_before_the_answer_is_read(start: Start) -> None:
    rig = script(start)
    unread = rig.app.test_client().post("/invocations", data="printf answer >a.txt", content_type="text/plain")
    rig.check_at_rest()
    assert send(rig, "printf next >b.txt").text == "next"
    assert unread.text == "answer"
    unread.close()


def test_payloads_and_tasks_wait_for_each_other(start: Start, bucket: Bucket, tmp_path: Path) -> None:
    rig = script(start, MODEL_SERVER_QUEUE="2")
    answers: dict[str, TestResponse] = {}

    def sending(name: str, lines: str) -> threading.Thread:
        thread = threading.Thread(target=lambda: answers.update({name: send(rig, lines)}))
        thread.start()
        return thread

    wait = f'touch "{tmp_path}/up"; while [ ! -e "{tmp_path}/go" ]; do sleep 0.02; done; echo 1 >a.txt'
    threads = [sending("running", wait)]
    wait_until((tmp_path / "up").exists, "the first")
    threads.append(sending("waiting", "echo 2 >a.txt"))
    wait_until(lambda: rig.waiting() == 1, "the second in the queue")
    task = rig.post_in_thread(bucket.task())
    wait_until(lambda: rig.waiting() == 2, "the third in the queue")
    refused = send(rig, "x")
    assert (refused.status_code, refused.json["error"]["code"]) == (503, "queue_full")
    assert refused.headers["Retry-After"]
    (tmp_path / "go").touch()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert [answers[name].text for name in ("running", "waiting")] == ["1\n", "2\n"]
    assert task.answer().status_code == 200
    rig.check_at_rest()


def test_a_stop_interrupts_a_payload(start: Start, tmp_path: Path) -> None:
    rig = script(start)
    answers: list[TestResponse] = []
    thread = threading.Thread(target=lambda: answers.append(send(rig, f'touch "{tmp_path}/up"; sleep 60')))
    thread.start()
    wait_until((tmp_path / "up").exists, "the run")
    rig.predictor.stop()
    thread.join(DEADLINE_SECONDS)
    assert (answers[0].status_code, answers[0].json["error"]["code"]) == (503, "interrupted")
    rig.check_at_rest()
