"""Every row of drop-in.md that can be seen from outside: what goes to both, and which declared differences that shows.

A row fails when any difference occurs that is not declared, and when one does not occur that it is to show.
"""

from __future__ import annotations

import json
import signal
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import boto3
import pytest
from both import INPUTS, Both, Case, Forks, both_sides, encoded
from comparison import OTHER_KEY, compared
from differences import TABLE, split
from generators import (
    VALID,
    changed,
    encrypted,
    of_method,
    tarred,
    tarred_link,
    truncated,
    zipped,
)

from faulty_s3 import FaultyS3

Cases = Case | list[Case]


class Row(NamedTuple):
    """A row of the page, what is done for it, and the differences that it shows."""

    name: str
    run: Callable[..., Cases]
    shows: set[str]
    shared: bool


ROWS: list[Row] = []
ANYWHERE = {
    "the_server_header",
    "outputs_are_sorted",
    "stderr_lines_of_earlier_tasks",
    "the_linked_input_is_not_left",
    "a_sticky_folder_stays_sticky",
}
"""Differences that any row may have: theirs is never sorted but by chance, and so on."""


def row(name: str, *shows: str, shared: bool = True) -> Callable[[Callable[[Both], Cases]], Callable[[Both], Cases]]:
    """Enter what is done for a row; `shared` takes servers that run already, else the two sides are new."""

    def enter(run: Callable[[Both], Cases]) -> Callable[[Both], Cases]:
        ROWS.append(Row(name, run, set(shows), shared))
        return run

    return enter


def fresh(name: str, *shows: str) -> Callable[[Callable[[Both], Cases]], Callable[[Both], Cases]]:
    return row(name, *shows, shared=False)


@pytest.fixture(scope="module")
def servers(s3_endpoint: str, forks: Forks) -> Iterator[Both]:
    """Both servers, for all rows that leave them as they were."""
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket=INPUTS)
    with both_sides(s3_endpoint, client, forks) as sides:
        sides.serve()
        yield sides
    client.close()


def hexed(data: bytes) -> str:
    return data.hex()


# -- 2.1 The command line


def words(*arguments: str) -> Callable[[Both], Cases]:
    return lambda both: both.command_line(arguments)


fresh("2.1 no command", "the_help_says_more")(words())
fresh("2.1 --help", "the_help_says_more")(words("--help"))
fresh("2.1 an unknown command")(words("nothing-like-it"))
fresh("2.1 an unknown option")(words("invoke", "-x"))
fresh("2.1 a word too many")(words("invoke", "word"))
fresh("2.1 neither tasks nor file")(words("invoke"))
fresh("2.1 both tasks and file")(words("invoke", "-t", "[]", "-f", "s3://b/k"))
fresh("2.1 an empty list")(words("invoke", "--tasks", "[]"))
fresh("2.1 tasks that are no JSON", "the_words_after_a_usage_error")(words("invoke", "-t", "{"))
fresh("2.1 tasks that are no list", "the_words_after_a_usage_error")(words("invoke", "-t", "{}"))
fresh("2.1 tasks that are no tasks", "the_words_after_a_usage_error")(words("invoke", "-t", '[{"pk": 1}, 2]'))
fresh("2.1 a file that is no address", "the_words_after_a_usage_error")(words("invoke", "-f", "bucket/key"))
fresh("2.1 a file that does not exist", "the_words_after_a_usage_error")(words("invoke", "-f", "s3://inputs/none"))


@fresh("2.1 tasks run one after another")
def _(both: Both) -> Cases:
    return both.invoke(
        [both.task(told={"stdout": hexed(b"here\n")}, pk=pk, output_prefix=pk) for pk in ("a", "b", "c")]
    )


@fresh("2.1 a list stops at its first failure", "later_tasks_have_results")
def _(both: Both) -> Cases:
    codes = {"a": 0, "b": 7, "c": 0}
    return both.invoke([both.task(told={"exit": code}, pk=pk, output_prefix=pk) for pk, code in codes.items()])


@fresh("2.1 a file at https://")
def _(both: Both) -> Cases:
    return both.invoke_file("tasks.json", [both.task()], scheme="https")


# -- 2.2 Exit codes


@fresh("2.2 every task returns 0")
def _(both: Both) -> Cases:
    return both.invoke([both.task()])


@fresh("2.2 a task fails")
def _(both: Both) -> Cases:
    return both.invoke([both.task(told={"exit": 3})])


@fresh("2.2 something unexpected", "every_task_has_a_result")
def _(both: Both) -> Cases:
    return both.invoke([both.task([{"relative_path": "a", "bucket_name": INPUTS, "bucket_key": "missing"}])])


# -- 2.3 Variables

BAD_VALUES = {
    "ENTRYPOINT_B64J": ["not base64!", encoded([1]), encoded(1)],
    "API_METHOD": ["both"],
    "MAX_MEMORY_MB": ["1.5", "x"],
    "ASYNC_CONCURRENCY": ["x"],
    "LOG_LEVEL": ["LOUD"],
    "SIGNING_KEY_HEX": ["no hex", "abc"],
}
for variable, values in BAD_VALUES.items():
    for value in values:

        @fresh(f"2.3 {variable} is {value}", "a_bad_setting_stops_the_start")
        def _(both: Both, variable: str = variable, value: str = value) -> Cases:
            return both.invoke([both.task()], **{variable: value})


@fresh("2.3 no command at all", "a_bad_setting_stops_the_start")
def _(both: Both) -> Cases:
    return both.invoke([both.task()], ENTRYPOINT_B64J=None)


@fresh("2.3 both commands are null", "a_bad_setting_stops_the_start")
def _(both: Both) -> Cases:
    return both.invoke([both.task()], ENTRYPOINT_B64J=encoded(None), CMD_B64J=encoded(None))


@fresh("2.3 SIGNING_KEY_HEX is not set", "no_key_is_no_signature")
def _(both: Both) -> Cases:
    return both.invoke([both.task()], SIGNING_KEY_HEX=None)


@fresh("2.3 SIGNING_KEY_HEX is empty", "no_key_is_no_signature")
def _(both: Both) -> Cases:
    return both.invoke([both.task()], SIGNING_KEY_HEX="")


@fresh("2.3 SIGNING_KEY_HEX in capitals")
def _(both: Both) -> Cases:
    return both.invoke([both.task()], SIGNING_KEY_HEX=OTHER_KEY.upper())


@fresh("2.3 RUNTIME_OUTPUT_* are not set", "no_place_for_a_setup_result_is_none")
def _(both: Both) -> Cases:
    return both.invoke([both.task()], RUNTIME_OUTPUT_BUCKET_NAME=None, RUNTIME_OUTPUT_PREFIX=None)


for level in ("WARNING", "error"):

    @fresh(f"2.3 LOG_LEVEL is {level}", "the_log_level_is_ours_only")
    def _(both: Both, level: str = level) -> Cases:
        return both.invoke([both.task(told={"stdout": hexed(b"out\n"), "stderr": hexed(b"err\n")})], LOG_LEVEL=level)


@fresh("2.3 MAX_MEMORY_MB bounds the program")
def _(both: Both) -> Cases:
    case = both.invoke([both.task(told={"memory_mb": 3000})], MAX_MEMORY_MB="2000")
    assert compared(case).ours["objects"]["/out/.sagemaker_shim/inference_result.json"]["return_code"] == 1
    return case


@fresh("2.3 MAX_MEMORY_MB suffices")
def _(both: Both) -> Cases:
    return both.invoke([both.task(told={"memory_mb": 300})], MAX_MEMORY_MB="2000")


ASKED = [
    "HOME",
    "USER",
    "KEPT",
    "GRAND_CHALLENGE_ANYTHING",
    "Grand_Challenge_Lower",
    "PATH",
    "AWS_EC2_METADATA_DISABLED",
]


@fresh("2.12 the program's environment")
def _(both: Both) -> Cases:
    given = {"KEPT": "as it is", "GRAND_CHALLENGE_ANYTHING": "x", "Grand_Challenge_Lower": "x", "USER": None}
    return both.invoke([both.task(told={"environment": ASKED})], **given)


@fresh("2.3 LD_LIBRARY_PATH", "the_library_path_is_the_images")
def _(both: Both) -> Cases:
    return both.invoke([both.task(told={"environment": ["LD_LIBRARY_PATH"]})], LD_LIBRARY_PATH="/usr/local/cuda")


@fresh("AWS credentials", "credentials_are_withheld")
def _(both: Both) -> Cases:
    return both.invoke([both.task(told={"environment": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]})])


# -- 2.4 HTTP


def asked(method: str, path: str) -> Callable[[Both], Cases]:
    return lambda both: both.ask(method, path)


row("2.4 GET /ping")(asked("GET", "/ping"))
row("2.4 POST /ping", "ping_answers_post_and_head")(asked("POST", "/ping"))
row("2.4 HEAD /ping", "ping_answers_post_and_head")(asked("HEAD", "/ping"))
row("2.4 GET /execution-parameters")(asked("GET", "/execution-parameters"))
row("2.4 POST /execution-parameters")(asked("POST", "/execution-parameters"))
row("2.4 an unknown path")(asked("GET", "/x"))
row("2.4 the root")(asked("GET", "/"))
for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"):
    row(f"2.4 {method} /invocations")(asked(method, "/invocations"))
for method in ("OPTIONS", "PUT", "DELETE"):
    row(f"2.4 {method} /ping", "allow_names_all_methods")(asked(method, "/ping"))
row("2.4 a trailing slash", "a_trailing_slash_is_a_404")(asked("GET", "/ping/"))
row("2.4 a trailing slash of /invocations", "a_trailing_slash_is_a_404")(asked("POST", "/invocations/"))
for path in ("/docs", "/redoc", "/openapi.json"):
    row(f"2.4 {path}", "no_documentation_is_served")(asked("GET", path))


@row("2.4 a task that fails is a 200")
def _(both: Both) -> Cases:
    return both.post(both.task(told={"exit": 9, "stderr": hexed(b"why\n")}))


@row("2.4 something unexpected is a result", "every_task_has_a_result")
def _(both: Both) -> Cases:
    return both.post(both.task([{"relative_path": "a", "bucket_name": INPUTS, "bucket_key": "missing"}]))


BODIES: dict[str, tuple[bytes, list[str]]] = {
    "invalid JSON": (b'{"pk": ', ["the_input_is_not_echoed"]),
    "an empty body": (b"", ["the_input_is_not_echoed"]),
    "white space": (b" \n", ["the_input_is_not_echoed"]),
    "null": (b"null", ["the_input_is_not_echoed"]),
    "undecodable bytes": (b"\xff\xfe\xfd", []),
    "a list": (json.dumps([VALID]).encode(), ["the_input_is_not_echoed"]),
    "a string": (b'"task"', ["the_input_is_not_echoed"]),
    "several lines": (json.dumps(VALID).encode() + b"\n" + json.dumps(VALID).encode(), ["several_lines_are_tasks"]),
}
for what, (body, shows) in BODIES.items():

    @row(f"2.4 {what}", *shows)
    def _(both: Both, body: bytes = body) -> Cases:
        return both.post(body)


for content_type in ("text/plain", "application/octet-stream", "text/csv; header=present"):

    @row(f"2.4 the content type {content_type}", "another_type_is_a_415", "the_input_is_not_echoed")
    def _(both: Both, content_type: str = content_type) -> Cases:
        return both.post(both.task(), content_type)


for content_type in ("application/json; charset=utf-8", "application/task+json"):

    @row(f"2.4 the content type {content_type}")
    def _(both: Both, content_type: str = content_type) -> Cases:
        return both.post(both.task(), content_type)


@row("2.4 bytes that are no text, of another content type", "bytes_of_another_type_are_refused")
def _(both: Both) -> Cases:
    return both.post(b"\xe4", "text/csv")


@row("2.4 an empty body of another content type", "another_type_is_a_415", "an_empty_body_of_another_type")
def _(both: Both) -> Cases:
    return both.post(b"", "application/octet-stream")


@row("2.4 no content type")
def _(both: Both) -> Cases:
    return both.post(both.task(), None)


# -- 2.5 The task

ACCEPTED: dict[str, dict[str, Any]] = {
    "an unknown key": {"unknown": 1},
    "a prefix with a slash at its end": {"output_prefix": "out/"},
    "a prefix with slashes at its start": {"output_prefix": "//out//in"},
    "a prefix of a slash": {"output_prefix": "/"},
    **{
        f"a timeout of {value!r}": {"timeout": value}
        for value in (
            "PT1H10M30S",
            "P1D",
            "P1Y",
            "P1M",
            "P1W",
            "PT60.5S",
            60,
            60.5,
            True,
            "00:01:00",
            "1:00:00",
            "1 days, 00:00:01",
            "P1DT0.5S",
        )
    },
}
for what, more in ACCEPTED.items():

    @row(f"2.5 {what}")
    def _(both: Both, more: dict[str, Any] = more) -> Cases:
        return both.post(both.task(told={"exit": 0}, **more))


REFUSED: dict[str, tuple[tuple[Any, ...], Any]] = {
    "pk is a number": (("pk",), 1),
    "inputs are no list": (("inputs",), {}),
    "a blank prefix": (("output_prefix",), ""),
    "a bad bucket": (("output_bucket_name",), "a/b"),
    "an empty bucket": (("inputs", 0, "bucket_name"), ""),
    "a bucket of 256 characters": (("inputs", 0, "bucket_name"), "b" * 256),
    "decompress is a word": (("inputs", 0, "decompress"), "perhaps"),
    "timeout is text": (("timeout",), "10"),
    "timeout is a list": (("timeout",), []),
    "a key is a number": (("inputs", 0, "bucket_key"), 3),
    "a path is a number": (("inputs", 0, "relative_path"), 3),
    "an input is null": (("inputs", 0), None),
}
for what, (place, value) in REFUSED.items():

    @row(f"2.5 {what}", "the_input_is_not_echoed")
    def _(both: Both, place: tuple[Any, ...] = place, value: Any = value) -> Cases:
        return both.post(changed(VALID, place, value))


row("2.5 a key is empty", "an_empty_key_is_refused")(
    lambda both: both.post(changed(VALID, ("inputs", 0, "bucket_key"), ""))
)
for field in ("pk", "inputs", "output_bucket_name", "output_prefix"):

    @row(f"2.5 {field} is missing", "the_input_is_not_echoed")
    def _(both: Both, field: str = field) -> Cases:
        task = both.task()
        del task[field]
        return both.post(task)


@row("2.5 an access point is a bucket", "the_input_is_not_echoed")
def _(both: Both) -> Cases:
    """Only that it is no fault: there is none here to read from."""
    arn = "arn:aws:s3:us-east-1:123456789012:accesspoint/mine"
    return both.post(changed(changed(VALID, ("inputs", 0, "bucket_name"), arn), ("pk",), 1))


@row("2.5 an output bucket that does not exist", "an_output_bucket_that_does_not_exist_is_a_422")
def _(both: Both) -> Cases:
    return both.post(both.task(output_bucket_name="no-such-bucket"))


@row("2.5 a bucket with a newline", "a_bucket_has_no_newline")
def _(both: Both) -> Cases:
    return both.post(changed(VALID, ("inputs", 0, "bucket_name"), INPUTS + "\n"))


@fresh("2.5 relative_path", "paths_and_names_stay_in_their_folder")
def _(both: Both) -> Cases:
    both.serve(USE_LINKED_INPUT="false")
    paths = [["../outside"], ["a/../../outside"], ["@root@/absolute"], [""], ["."], ["a", "./a"], ["a", "a/b"]]
    return [both.post(both.task([both.item(path, "x") for path in several])) for several in paths]


@fresh("2.5 pk", "paths_and_names_stay_in_their_folder")
def _(both: Both) -> Cases:
    both.serve(USE_LINKED_INPUT="false")
    return [both.post(both.task(pk=pk)) for pk in ("", "a/b", "..", "new\nline")]


@row("2.5 no timeout", "a_timeout_is_optional")
def _(both: Both) -> Cases:
    task = both.task(told={"exit": 0})
    del task["timeout"]
    return both.post(task)


for timeout in (0, -5, "-PT1S"):

    @fresh(f"2.5 a timeout of {timeout!r}", "a_timeout_is_positive")
    def _(both: Both, timeout: Any = timeout) -> Cases:
        both.serve()
        return both.post(both.task(timeout=timeout))


# -- 2.6 The result, and what the client reads of it (C6, C7, C8)


@row("2.6 outputs")
def _(both: Both) -> Cases:
    names = [f"{folder}/{number}" for folder in ("a", "b-c", "b") for number in range(7)]
    return both.post(both.task(told={"files": dict.fromkeys(names, "x")}))


for code in (1, 2, 42, 137, 255):

    @row(f"2.6 the exit code {code}")
    def _(both: Both, code: int = code) -> Cases:
        return both.post(both.task(told={"exit": code, "files": {"a": "not uploaded"}}))


for name in ("SIGKILL", "SIGSEGV", "SIGTERM", "SIGHUP"):

    @row(f"2.6 {name}", "a_signal_is_128_more")
    def _(both: Both, name: str = name) -> Cases:
        return both.post(both.task(told={"signal": int(signal.Signals[name])}))


@row("2.6 the last lines of stderr")
def _(both: Both) -> Cases:
    lines = b"".join(b"line %d\n" % number for number in range(150))
    return both.post(both.task(told={"stderr": hexed(lines + b"no newline"), "exit": 1}))


@row("2.6 lines of earlier tasks", "stderr_lines_of_earlier_tasks")
def _(both: Both) -> Cases:
    both.post(both.task(told={"stderr": hexed(b"first\n")}))
    return both.post(both.task(told={"stderr": hexed(b"second\n")}))


@row("2.6 a result that the program writes", "the_results_folder_is_reserved")
def _(both: Both) -> Cases:
    forged = {".sagemaker_shim/inference_result.json": "{}", ".sagemaker_shim/more": "x", "good": "g"}
    return both.post(both.task(told={"files": forged}))


# -- 2.8 The log

LINES: dict[str, tuple[bytes, list[str]]] = {
    "breaks within a line": (b"a\rb\x0bc\x0cd\x1ce\x1df\x1eg" + "\x85h\u2028i\u2029j\r\nk\n".encode(), []),
    "a break before a newline": (b"a\x0b\nb\n", []),
    "empty lines": (b"\n\n\r\n", []),
    "NULs": (b"a\0b\n\0\n", []),
    "a last line of NULs": (b"a\n\0", ["a_last_line_of_nuls_is_no_record"]),
    "no newline at the end": (b"a\nb", []),
    "a line of 20 KB": (b"x" * 20_000 + b"\n", ["a_long_line_is_several_records"]),
    "a line of 200 KB": (b"x" * 200_000 + b"\nafter\n", ["a_long_line_is_several_records"]),
    "what is not UTF-8": (b"Gr\xf6\xdfe\n", ["what_is_not_utf_8_is_replaced"]),
}
for what, (data, shows) in LINES.items():

    @fresh(f"2.8 {what}", *shows)
    def _(both: Both, data: bytes = data) -> Cases:
        return both.invoke([both.task(told={"stdout": hexed(data), "stderr": hexed(data)})])


# -- 2.9 The life of a task


@row("2.9 what a task leaves is gone for the next")
def _(both: Both) -> Cases:
    first = both.post(both.task([both.item("a/b", "x")], {"files": {"c/d": "y"}}))
    return [first, both.post(both.task())]


LINKS = {
    "a link to an output": ({"inner": "good"}, ["links_are_shown"]),
    "a link out of the folder": ({"outer": "/etc/hostname"}, ["links_that_leave_are_refused"]),
    "a dangling link": ({"dangling": "nowhere"}, ["links_that_leave_are_refused"]),
    "a link to a folder": ({"folder": "/etc"}, ["links_that_leave_are_refused"]),
}
for what, (links, shows) in LINKS.items():

    @row(f"2.9 {what}", *[name for name in shows if name != "links_are_shown"])
    def _(both: Both, links: dict[str, str] = links) -> Cases:
        return both.post(both.task(told={"files": {"good": "g"}, "links": links}))


@fresh("2.9 a linked folder that holds something", "a_folder_that_is_not_empty_fails_no_task")
def _(both: Both) -> Cases:
    for side in both.sides:
        (side.place.root / "ml" / "input" / "data" / "pk-input").mkdir()
        (side.place.root / "ml" / "input" / "data" / "pk-input" / "before").write_text("kept")
    return both.invoke([both.task([both.item("in", "x")])])


@fresh("2.9 a FIFO at the top", "what_is_left_is_removed")
def _(both: Both) -> Cases:
    return both.invoke([both.task(told={"files": {"good": "g"}, "fifos": ["fifo"]})], USE_LINKED_INPUT="false")


@fresh("2.9 a FIFO in a folder", "what_is_left_is_removed")
def _(both: Both) -> Cases:
    return both.invoke([both.task(told={"files": {"good": "g"}, "fifos": ["folder/fifo"]})], USE_LINKED_INPUT="false")


# -- 2.10 Zips

ZIPS: dict[str, tuple[bytes, list[str]]] = {
    "files": (zipped(["a", "b/c"]), []),
    "a shared folder": (zipped(["top/a", "top/b/c"]), []),
    "one file": (zipped(["x/y/a"]), []),
    "litter": (zipped(["top/a", "__MACOSX/top/._a", "top/.DS_Store", "top/desktop.ini", "my_desktop_ini.txt"]), []),
    "nothing": (zipped([]), []),
    "folders only": (zipped(["a/", "a/b/"]), []),
    "one file above": (zipped(["../x"]), []),
    "bzip2": (zipped(["a", "b"], zipfile.ZIP_BZIP2), []),
    "lzma": (zipped(["a", "b"], zipfile.ZIP_LZMA), []),
    "an unsupported method": (of_method(zipped(["a", "b"]), 97), []),
    "no zip": (b"no zip", []),
    "a truncated zip": (truncated(zipped(["a", "b"]), 50), []),
    "a wrong checksum": (zipped(["name"], zipfile.ZIP_STORED).replace(b"name", b"nama", 1), []),
    "a path that leaves": (zipped(["../../x", "y"]), []),
    "an absolute name": (zipped(["/passwd"]), ["an_absolute_name_is_no_path"]),
    "two absolute names": (zipped(["/a", "/b"]), ["every_task_has_a_result"]),
    "absolute and relative names": (zipped(["/a", "b"]), ["every_task_has_a_result"]),
    "an encrypted zip": (encrypted(zipped(["a", "b"])), ["every_task_has_a_result"]),
    "a name of 300 characters": (zipped(["n" * 300, "b"]), ["every_task_has_a_result"]),
    "a file where a folder is": (zipped(["a", "a/b"]), ["every_task_has_a_result"]),
}
for what, (archive, shows) in ZIPS.items():

    @row(f"2.10 {what}", *shows)
    def _(both: Both, archive: bytes = archive) -> Cases:
        return both.post(both.task([both.item("into/here.zip", archive, decompress=True)], {"exit": 0}))


# -- 2.12 Users

WHO = 'id -u; id -g; id -G; echo "$HOME"; echo "$USER"; cat "$TOLD_INPUT/in" && cp "$TOLD_INPUT/in" "$TOLD_OUTPUT"'
USERS: dict[str, list[str]] = {
    **{user: [] for user in ("root", "nobody", "65534", "nobody:daemon", ":daemon", ":12345", "nobody:54321")},
    **{user: [] for user in ("no_such_user", "root:no_such_group", "bad user", ":", "root:")},
    "12345": ["the_home_of_a_bare_number"],
    "12345:54321": ["the_home_of_a_bare_number"],
    "4294967296": ["every_task_has_a_result"],
}
for user, shows in USERS.items():

    @fresh(f"2.12 USER {user}", *shows)
    def _(both: Both, user: str = user) -> Cases:
        task = both.task([both.item("in", "x")])
        return both.invoke([task], USER=user, ENTRYPOINT_B64J=encoded(WHO))


@fresh("2.12 HOME and USER", "the_home_is_the_images")
def _(both: Both) -> Cases:
    return both.invoke([both.task()], HOME="/data", USER="nobody", ENTRYPOINT_B64J=encoded('echo "$HOME"'))


COMMANDS: dict[str, tuple[Any, Any, list[str]]] = {
    "shell ENTRYPOINT": ("echo $0 $*", ["ignored"], []),
    "list and list": (["echo", "a b"], ["c", "*"], []),
    "list and shell": (["echo"], "echo x", []),
    "shell CMD only": (None, "echo $0 $*", []),
    "list CMD only": (None, ["echo", "x"], []),
    "a command that does not exist": (["/no/such"], None, []),
    "a command that is not on PATH": (["no-such-program"], None, []),
    "a command that is a folder": (["/etc"], None, []),
    "a command without permission": (["/etc/passwd"], None, []),
}
for what, (entrypoint, cmd, shows) in COMMANDS.items():

    @fresh(f"2.12 {what}", *shows)
    def _(both: Both, entrypoint: Any = entrypoint, cmd: Any = cmd) -> Cases:
        return both.invoke([both.task()], ENTRYPOINT_B64J=encoded(entrypoint), CMD_B64J=encoded(cmd))


@fresh("2.12 a file that is no program", "every_task_has_a_result")
def _(both: Both) -> Cases:
    program = both.top / "no program"
    program.write_text("neither a script nor a binary")
    program.chmod(0o755)
    return both.invoke([both.task()], ENTRYPOINT_B64J=encoded([str(program)]))


# -- 2.13 The end of a run


@fresh("2.13 a time limit")
def _(both: Both) -> Cases:
    return both.invoke([both.task(told={"stdout": hexed(b"began\n"), "seconds": 50}, timeout="PT1S")])


@fresh("2.13 a program that ignores SIGTERM")
def _(both: Both) -> Cases:
    command = encoded("trap '' TERM; echo began; sleep 50 & wait; wait; sleep 50")
    return both.invoke([both.task(timeout=1)], ENTRYPOINT_B64J=command)


@fresh("2.13 a process that holds the pipes", "a_run_ends_with_its_program")
def _(both: Both) -> Cases:
    return both.invoke([both.task(timeout=3)], ENTRYPOINT_B64J=encoded("sleep 50 & echo done"))


@fresh("2.2 SIGTERM while a task runs", "an_interrupted_task_has_a_result")
def _(both: Both) -> Cases:
    words = ["-t", json.dumps([both.task()])]
    return both.signalled("invoke", words, signal.SIGTERM, '"began"', ENTRYPOINT_B64J=encoded("echo began; sleep 50"))


@fresh("2.2 SIGINT while a task runs", "an_interrupted_task_has_a_result")
def _(both: Both) -> Cases:
    words = ["-t", json.dumps([both.task()])]
    return both.signalled("invoke", words, signal.SIGINT, '"began"', ENTRYPOINT_B64J=encoded("echo began; sleep 50"))


@fresh("2.2 SIGTERM of an idle server", "a_stop_is_no_failure")
def _(both: Both) -> Cases:
    both.serve()
    return both.stopped()


@fresh("2.4 a time limit in serve", "a_time_limit_does_not_end_the_server")
def _(both: Both) -> Cases:
    both.serve()
    return [both.post(both.task(told={"seconds": 50}, timeout="PT1S")), both.how_it_goes_on()]


@fresh("2.4 busy", "a_busy_server_lets_wait")
def _(both: Both) -> Cases:
    both.serve()
    first = both.task(told={"stdout": hexed(b"began\n"), "seconds": 2.5}, pk="first", output_prefix="first")
    return both.post_beside(first, both.task(pk="second", output_prefix="second"))


# -- 2.7 and 2.11 The set-up


@fresh("2.7 the result of the set-up in serve")
def _(both: Both) -> Cases:
    case = both.serve()
    assert "/io/app/model/pk/.sagemaker_shim/runtime_setup_result.json" in case.ours["objects"]
    return case


SET_UP_FAILED = "tasks_of_a_failed_set_up_have_results"
TARBALLS: dict[str, tuple[bytes, list[str]]] = {
    **{f"a tarball of {mode}": (tarred(["a", "b/c", "d/"], mode), []) for mode in ("w:", "w:gz", "w:bz2", "w:xz")},
    "an absolute name": (tarred(["/absolute"], "w:gz"), []),
    "an inner link": (tarred_link("link", "first"), []),
    "a link that leaves": (tarred_link("link", "../../outside"), [SET_UP_FAILED]),
    "an absolute link": (tarred_link("link", "/etc/passwd"), [SET_UP_FAILED]),
    "a path that leaves": (tarred(["../outside"], "w:gz"), [SET_UP_FAILED]),
    "a device": (tarred_link("device", "", tarfile.CHRTYPE), [SET_UP_FAILED]),
    "a FIFO": (tarred_link("fifo", "", tarfile.FIFOTYPE), [SET_UP_FAILED]),
    "a truncated tarball": (truncated(tarred(["a" * 99, "b"], "w:gz"), 50), [SET_UP_FAILED]),
    "no tarball": (b"no tarball", [SET_UP_FAILED]),
    "an empty object": (b"", [SET_UP_FAILED]),
}
LISTS_MODEL = encoded('cd "$TOLD_MODEL" && find . -exec stat -c "%A %u %g %s %N" {} + | sort')
for what, (tarball, shows) in TARBALLS.items():

    @fresh(f"2.11 {what}", *shows)
    def _(both: Both, tarball: bytes = tarball) -> Cases:
        both.put("/auxiliary-data/model.tar.gz", tarball)
        variables = {"MODEL": f"s3://{INPUTS}//auxiliary-data/model.tar.gz", "TOLD_MODEL": "@root@/ml/model"}
        return both.invoke([both.task()], ENTRYPOINT_B64J=LISTS_MODEL, **variables)


@fresh("2.11 a tarball for another user")
def _(both: Both) -> Cases:
    both.put("model.tar", tarred(["a", "b/c"], "w:"))
    variables = {"MODEL": f"s3://{INPUTS}/model.tar", "TOLD_MODEL": "@root@/ml/model", "USER": "nobody:daemon"}
    return both.invoke([both.task()], ENTRYPOINT_B64J=LISTS_MODEL, **variables)


@fresh("2.11 a link for another user", "a_link_belongs_to_the_user")
def _(both: Both) -> Cases:
    both.put("model.tar", tarred_link("link", "first"))
    return both.invoke([both.task()], MODEL=f"s3://{INPUTS}/model.tar", USER="nobody", POST_CLEAN_DIRECTORIES=":")


@fresh("2.11 a missing tarball", "a_missing_tarball_is_a_result_of_the_set_up", SET_UP_FAILED)
def _(both: Both) -> Cases:
    return both.invoke([both.task()], MODEL=f"s3://{INPUTS}/not-there.tar.gz")


@fresh("2.11 bad ground truth", SET_UP_FAILED)
def _(both: Both) -> Cases:
    both.put("bad.tar", b"no tarball")
    return both.invoke([both.task()], GROUND_TRUTH=f"s3://{INPUTS}/bad.tar")


@fresh("2.11 what a bad tarball leaves", SET_UP_FAILED, "a_failed_set_up_leaves_no_files")
def _(both: Both) -> Cases:
    both.put("bad.tar", tarred_link("link", "/etc/passwd"))
    return both.invoke([both.task()], MODEL=f"s3://{INPUTS}/bad.tar", POST_CLEAN_DIRECTORIES=":")


@fresh("2.2 a failed set-up in serve", "a_failed_set_up_is_an_orderly_end")
def _(both: Both) -> Cases:
    both.put("bad.tar", b"no tarball")
    return both.serve(MODEL=f"s3://{INPUTS}/bad.tar")


@fresh("2.3 POST_CLEAN_DIRECTORIES")
def _(both: Both) -> Cases:
    both.put("model.tar", tarred(["a", "b/c"], "w:"))
    return both.invoke([both.task()], MODEL=f"s3://{INPUTS}/model.tar", POST_CLEAN_DIRECTORIES="@root@/ml/model")


@fresh("2.3 POST_CLEAN_DIRECTORIES that held something", "what_was_there_before_is_kept")
def _(both: Both) -> Cases:
    for side in both.sides:
        (side.place.root / "ml" / "model").mkdir(parents=True)
        (side.place.root / "ml" / "model" / "before").write_text("kept")
    return both.invoke([both.task()])


# -- 2.14 The resident server

RESIDENT: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "one task": ({}, {}, []),
    "a status other than 201": ({"invoke": [200]}, {}, []),
    "a failure of /invoke": ({"invoke": [500]}, {}, []),
    "a server that is late": ({"late": 1.2, "health": [503, 200]}, {}, []),
    "a redirect of /health": ({"health": [302]}, {}, [SET_UP_FAILED]),
    "a server that never is healthy": ({"health": [500]}, {"START_AND_HEALTH_TIMEOUT_SECONDS": "2"}, [SET_UP_FAILED]),
    "a server that never listens": ({"late": 50}, {"START_AND_HEALTH_TIMEOUT_SECONDS": "2"}, [SET_UP_FAILED]),
    "a command that does not exist": ({}, {"ENTRYPOINT_B64J": encoded(["/no/such"])}, [SET_UP_FAILED]),
    "a server that hangs up": ({"invoke": [0]}, {}, []),
    "a server that dies": ({"dies": True}, {}, []),
}
for what, (answers, more, shows) in RESIDENT.items():

    @fresh(f"2.14 {what}", *shows)
    def _(both: Both, answers: dict[str, Any] = answers, more: dict[str, Any] = more) -> Cases:
        return both.invoke([both.task([both.item("in", "x")])], **(both.resident(answers) | more))


@fresh("2.14 two tasks")
def _(both: Both) -> Cases:
    tasks = [both.task([both.item("in", "x")], pk=pk, output_prefix=pk) for pk in ("a", "b")]
    return both.invoke(tasks, **both.resident({}))


@fresh("2.14 a time limit")
def _(both: Both) -> Cases:
    return both.invoke([both.task(timeout="PT1S")], **both.resident({"slow": 50}))


# -- C What the client depends on


@fresh("C1 a list at a key with a slash at its start")
def _(both: Both) -> Cases:
    tasks = [both.task(pk=f"job-{number}", output_prefix=f"/io/{number}") for number in range(2)]
    return both.invoke_file("/invocations/app/model/pk/invocation.json", tasks)


@fresh("C3 its variables")
def _(both: Both) -> Cases:
    given = {
        "LOG_LEVEL": "INFO",
        "PYTHONUNBUFFERED": "1",
        "no_proxy": "amazonaws.com",
        "MAX_MEMORY_MB": "4000",
        "API_METHOD": "exec",
    }
    return both.invoke([both.task(told={"environment": ["PYTHONUNBUFFERED", "no_proxy"]})], **given)


@fresh("C15 nothing but GET and PUT is asked of S3")
def _(both: Both) -> Cases:
    """What its role may do; theirs asks with HEAD too, which its GET allows."""
    task = both.task(
        [both.item("a", "x" * 20_000_000), both.item("z.zip", zipped(["a"]), decompress=True)], {"files": {"o": "y"}}
    )
    with FaultyS3(both.ours.endpoint) as s3:
        assert both.ours.run(["invoke", "-t", json.dumps([task])], {"AWS_S3_ENDPOINT_URL": s3.endpoint}) == 0
        asked = {(request.method, request.bucket) for request in s3.requests}
    assert asked == {("GET", INPUTS), ("PUT", both.ours.place.bucket)}
    return []


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_row_shows_its_differences_and_no_other(row: Row, request: pytest.FixtureRequest) -> None:
    both: Both = request.getfixturevalue("servers" if row.shared else "both")
    ran = row.run(both)
    names: set[str] = set()
    for case in ran if isinstance(ran, list) else [ran]:
        found, undeclared = split(compared(case))
        assert not undeclared, "\n" + "\n".join(map(str, undeclared)) + f"\n{case.given}"
        names |= found
    assert names - (ANYWHERE - row.shows) == row.shows


def test_every_declared_difference_is_shown_by_a_row() -> None:
    shown = {name for row in ROWS for name in row.shows} | ANYWHERE
    assert shown == {entry.name for entry in TABLE}
