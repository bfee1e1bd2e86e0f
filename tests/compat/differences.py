"""What may differ: the one table. Each entry names the row of drop-in.md that allows it, or the section of the fault.

An entry is a function of a case and of one leaf where its facts differ, and is as narrow as it can be. What it does not
recognise fails the test. test_rows_of_the_page.py shows each of them at least once.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

from comparison import MISSING, Compared, Facts, Leaf

SKIPPED = "The task was skipped because an earlier task of the same list failed"
NOT_RESET = "The containers input and output directories could not be reset"

Recognises = Callable[[Compared, Leaf], bool]


class Difference(NamedTuple):
    """One entry: its name, the row's first cell or the section's number, and what recognises it."""

    name: str
    row: str
    recognises: Recognises


TABLE: list[Difference] = []


def allowed_by(row: str) -> Callable[[Recognises], Recognises]:
    """Enter a function into the table under its own name."""

    def enter(recognises: Recognises) -> Recognises:
        TABLE.append(Difference(recognises.__name__, row, recognises))
        return recognises

    return enter


def split(case: Compared) -> tuple[set[str], list[Leaf]]:
    """Return the names of the differences that occurred, and the leaves that no entry recognises."""
    names: set[str] = set()
    undeclared: list[Leaf] = []
    for leaf in case.leaves:
        found = {entry.name for entry in TABLE if entry.recognises(case, leaf)}
        names |= found
        if not found:
            undeclared.append(leaf)
    return names, undeclared


# -- what entries look at


def result_of(facts: Facts) -> Facts:
    """Return the result that one side gave, over HTTP or in S3; empty when it gave none."""
    if isinstance(facts.get("body"), dict) and "return_code" in facts["body"]:
        return dict(facts["body"])
    results = [stored for key, stored in facts["objects"].items() if key.endswith("/inference_result.json")]
    return dict(results[0]) if results else {}


def sentence_of(facts: Facts) -> str:
    return str(result_of(facts).get("user_safe_error_message", ""))


def setup_sentence_of(facts: Facts) -> str:
    """Return what went wrong with the set-up, as one side stored it."""
    results = [stored for key, stored in facts["objects"].items() if key.endswith("/runtime_setup_result.json")]
    return str(results[0]["user_safe_error_message"]) if results else ""


def faults_in(facts: Facts) -> list[Facts]:
    """Return what a 422 says of the task, by field."""
    body = facts.get("body")
    return list(body["detail"]) if facts.get("status") == 422 and isinstance(body, dict) else []


def fields_at_fault(facts: Facts) -> set[str]:
    return {str(fault["loc"][-1]) for fault in faults_in(facts)}


def crashed(facts: Facts) -> bool:
    """Say whether something unexpected happened to the shim, which then has no result."""
    return facts.get("status") == 500 or (facts.get("exit") == 1 and facts["plain"] == ["a traceback"])


def is_of_the_outcome(leaf: Leaf) -> bool:
    """Say whether a leaf follows from one side having run a task, and the other not."""
    return leaf.path[0] in ("status", "body", "exit", "plain", "headers", "objects", "stdout", "stderr")


# -- the run


@allowed_by("return code after a signal")
def a_signal_is_128_more(case: Compared, leaf: Leaf) -> bool:
    return (
        leaf.path[-1] == "return_code"
        and isinstance(leaf.shim, int)
        and -65 < leaf.shim < 0
        and leaf.ours == 128 - leaf.shim
    )


@allowed_by("2.6")
def stderr_lines_of_earlier_tasks(case: Compared, leaf: Leaf) -> bool:
    """Theirs are never forgotten between tasks."""
    if leaf.path[-1] != "user_process_last_stderr_lines" or MISSING in (leaf.shim, leaf.ours):
        return False
    return len(leaf.shim) > len(leaf.ours) and leaf.shim[len(leaf.shim) - len(leaf.ours) :] == leaf.ours


@allowed_by("outputs")
def outputs_are_sorted(case: Compared, leaf: Leaf) -> bool:
    if leaf.path[-1] != "outputs" or MISSING in (leaf.shim, leaf.ours):
        return False
    return bool(leaf.ours == sorted(leaf.shim, key=lambda output: str(output["relative_path"])))


@allowed_by("2.8")
def a_last_line_of_nuls_is_no_record(case: Compared, leaf: Leaf) -> bool:
    """Theirs is an empty line, not even a record, and one of the last lines of stderr."""
    if leaf.path == ("plain",):
        return not any(leaf.shim) and leaf.ours == []
    if leaf.path[-1] != "user_process_last_stderr_lines" or MISSING in (leaf.shim, leaf.ours):
        return False
    return leaf.shim == [*leaf.ours, ""] or stderr_lines_of_earlier_tasks(case, leaf._replace(ours=[*leaf.ours, ""]))


# -- what is no task


@allowed_by("HTTP validation errors")
def the_input_is_not_echoed(case: Compared, leaf: Leaf) -> bool:
    """Both name the same fields with the same faults, in the same order."""
    if leaf.path != ("body", "detail") or not isinstance(leaf.shim, list) or not isinstance(leaf.ours, list):
        return False
    return [_fault(fault) for fault in leaf.shim] == [_fault(fault) for fault in leaf.ours]


def _fault(fault: Any) -> Any:
    return [fault["type"], fault["loc"], fault["msg"]]


@allowed_by("/docs, /openapi.json, server header")
def the_server_header(case: Compared, leaf: Leaf) -> bool:
    return leaf.path == ("headers", "server")


@allowed_by("relative_path, pk")
def paths_and_names_stay_in_their_folder(case: Compared, leaf: Leaf) -> bool:
    refused = fields_at_fault(case.ours) - fields_at_fault(case.shim)
    return bool(refused) and refused <= {"relative_path", "pk"} and (is_of_the_outcome(leaf) or leaf.ours == MISSING)


@allowed_by("task `timeout`")
def a_timeout_is_optional(case: Compared, leaf: Leaf) -> bool:
    missing = fields_at_fault(case.shim) - fields_at_fault(case.ours)
    return missing == {"timeout"} and case.task.get("timeout") is None and is_of_the_outcome(leaf)


@allowed_by("task `timeout`")
def a_timeout_is_positive(case: Compared, leaf: Leaf) -> bool:
    refused = fields_at_fault(case.ours) - fields_at_fault(case.shim)
    return refused == {"timeout"} and is_of_the_outcome(leaf)


@allowed_by("anything unexpected")
def every_task_has_a_result(case: Compared, leaf: Leaf) -> bool:
    """Theirs ends in a traceback and an empty 500, ours in a result with a sentence."""
    if setup_sentence_of(case.ours):
        return False
    return (
        crashed(case.shim)
        and case.ours.get("status", 200) == 200
        and bool(sentence_of(case.ours))
        and is_of_the_outcome(leaf)
    )


@allowed_by("anything unexpected")
def an_empty_key_is_refused(case: Compared, leaf: Leaf) -> bool:
    """Theirs ends in an empty 500: no object has such a name."""
    refused = fields_at_fault(case.ours) - fields_at_fault(case.shim)
    return refused == {"bucket_key"} and is_of_the_outcome(leaf)


@allowed_by("2.5")
def a_bucket_has_no_newline(case: Compared, leaf: Leaf) -> bool:
    """Theirs takes one at the end of the name, and fails with it."""
    refused = fields_at_fault(case.ours) - fields_at_fault(case.shim)
    if refused != {"bucket_name"} or not is_of_the_outcome(leaf):
        return False
    return any(item["bucket_name"].endswith("\n") for item in case.task["inputs"])


@allowed_by("anything unexpected")
def an_output_bucket_that_does_not_exist_is_a_422(case: Compared, leaf: Leaf) -> bool:
    refused = fields_at_fault(case.ours) - fields_at_fault(case.shim)
    return refused == {"output_bucket_name"} and case.statuses == (500, 422) and is_of_the_outcome(leaf)


@allowed_by("2.4")
def another_type_is_a_415(case: Compared, leaf: Leaf) -> bool:
    """Nothing reads more of a refusal than its status class; the faults are the same."""
    return leaf.path == ("status",) and case.statuses == (422, 415) and is_of_another_type(case)


def is_of_another_type(case: Compared) -> bool:
    return "json" not in str(case.given["headers"]).lower()


@allowed_by("2.4")
def an_empty_body_of_another_type(case: Compared, leaf: Leaf) -> bool:
    """What theirs says is missing, ours says is no task."""
    if leaf.path != ("body", "detail") or case.body or case.statuses != (422, 415):
        return False
    return [fault["type"] for fault in [*leaf.shim, *leaf.ours]] == ["missing", "model_attributes_type"]


@allowed_by("anything unexpected")
def bytes_of_another_type_are_refused(case: Compared, leaf: Leaf) -> bool:
    """Theirs fails to write down in its answer what is no text."""
    if case.statuses != (500, 415) or not is_of_the_outcome(leaf):
        return False
    return "\ufffd" in case.body.decode(errors="replace") and is_of_another_type(case)


@allowed_by("one invocation, several tasks")
def several_lines_are_tasks(case: Compared, leaf: Leaf) -> bool:
    return case.body.strip().count(b"\n") > 0 and case.statuses == (422, 200) and is_of_the_outcome(leaf)


# -- other requests


@allowed_by("POST /ping; trailing slash")
def ping_answers_post_and_head(case: Compared, leaf: Leaf) -> bool:
    return case.request in (("POST", "/ping"), ("HEAD", "/ping")) and case.statuses == (405, 200)


@allowed_by("POST /ping; trailing slash")
def allow_names_all_methods(case: Compared, leaf: Leaf) -> bool:
    return leaf == Leaf(("headers", "allow"), "GET", "GET, HEAD, POST") and case.request[1] == "/ping"


@allowed_by("POST /ping; trailing slash")
def a_trailing_slash_is_a_404(case: Compared, leaf: Leaf) -> bool:
    return case.statuses == (307, 404) and case.request[1].endswith("/")


@allowed_by("/docs, /openapi.json, server header")
def no_documentation_is_served(case: Compared, leaf: Leaf) -> bool:
    return case.request[1] in ("/docs", "/redoc", "/openapi.json") and case.statuses == (200, 404)


# -- the command line


@allowed_by("the command")
def the_help_says_more(case: Compared, leaf: Leaf) -> bool:
    if leaf.path != ("plain",) or case.exits not in ((0, 0), (2, 2)):
        return False
    theirs, ours = ({" ".join(line.split()) for line in lines} for lines in (leaf.shim, leaf.ours))
    return theirs <= ours and "Commands:" in theirs


@allowed_by("HTTP validation errors")
def the_words_after_a_usage_error(case: Compared, leaf: Leaf) -> bool:
    """The sentence is the same; what is wrong with the list or with its address, each says in words of its own."""
    if leaf.path != ("plain",) or case.exits != (2, 2) or "" not in leaf.shim[4:]:
        return False
    end = leaf.shim.index("", 4)
    same = leaf.shim[:end] == leaf.ours[:end]
    return same and str(leaf.shim[end - 1]).startswith("Error: Invalid value: The ")


# -- the set-up


@allowed_by("2.3")
def a_bad_setting_stops_the_start(case: Compared, leaf: Leaf) -> bool:
    """Theirs crashes when it comes to use it, after whatever it did until then."""
    stopped = case.exits == (1, 78) and case.shim["plain"] == ["a traceback"]
    return stopped and len(case.ours["plain"]) == 1 and case.ours["objects"] == {}


@allowed_by("empty signing key")
def no_key_is_no_signature(case: Compared, leaf: Leaf) -> bool:
    if not case.is_set("SIGNING_KEY_HEX") or case.variable("SIGNING_KEY_HEX") or leaf.path[0] != "objects":
        return False
    return leaf[1:] in (("the empty key", None), (["signature_hmac_sha256"], []))


@allowed_by("RUNTIME_OUTPUT_* unset")
def no_place_for_a_setup_result_is_none(case: Compared, leaf: Leaf) -> bool:
    unset = case.is_set("RUNTIME_OUTPUT_PREFIX") and not case.variable("RUNTIME_OUTPUT_PREFIX")
    return unset and case.exits == (1, 0) and crashed(case.shim)


@allowed_by("LOG_LEVEL")
def the_log_level_is_ours_only(case: Compared, leaf: Leaf) -> bool:
    hidden = {"WARNING": ["stdout"], "ERROR": ["stdout", "stderr"]}.get(case.variable("LOG_LEVEL").upper(), [])
    return leaf.path[0] in hidden and leaf.shim == []


@allowed_by("LD_LIBRARY_PATH")
def the_library_path_is_the_images(case: Compared, leaf: Leaf) -> bool:
    return _in_environment(leaf, "LD_LIBRARY_PATH", None, "/usr/local/cuda")


@allowed_by("AWS credentials")
def credentials_are_withheld(case: Compared, leaf: Leaf) -> bool:
    return _in_environment(leaf, "AWS_ACCESS_KEY_ID", "test", None)


def _in_environment(leaf: Leaf, name: str, shim: str | None, ours: str | None) -> bool:
    """Say whether a leaf is what the program wrote down of its environment, with these values of a variable."""
    if leaf.path[0] != "objects" or not leaf.path[1].endswith("/environment.json") or leaf.path[2] != "content":
        return False
    return (json.loads(leaf.shim).get(name), json.loads(leaf.ours).get(name)) == (shim, ours)


@allowed_by("HOME of the image")
def the_home_is_the_images(case: Compared, leaf: Leaf) -> bool:
    home = case.variable("HOME")
    if leaf.path != ("stdout",) or home in ("", "/root") or len(leaf.shim) != len(leaf.ours):
        return False
    return all(ours == theirs or ours[1] == home for theirs, ours in zip(leaf.shim, leaf.ours, strict=True))


@allowed_by("HOME of a uid without passwd entry")
def the_home_of_a_bare_number(case: Compared, leaf: Leaf) -> bool:
    if leaf.path != ("stdout",) or len(leaf.shim) != len(leaf.ours):
        return False
    others = [(theirs[1], ours[1]) for theirs, ours in zip(leaf.shim, leaf.ours, strict=True) if theirs != ours]
    return set(others) == {("/root", "/")}


@allowed_by("anything unexpected")
def a_missing_tarball_is_a_result_of_the_set_up(case: Compared, leaf: Leaf) -> bool:
    """Theirs crashes, and nobody is told."""
    told = setup_sentence_of(case.ours).endswith(": Tarfile does not exist") and case.exits == (1, 0)
    return told and crashed(case.shim) and is_of_the_outcome(leaf)


@allowed_by("anything unexpected")
def tasks_of_a_failed_set_up_have_results(case: Compared, leaf: Leaf) -> bool:
    """Theirs has the result of the set-up only."""
    if leaf.path[0] != "objects" or leaf.shim != MISSING or not isinstance(leaf.ours, dict):
        return False
    sentence = setup_sentence_of(case.ours)
    return bool(sentence) and sentence == leaf.ours.get("user_safe_error_message")


@allowed_by("2.11")
def a_failed_set_up_leaves_no_files(case: Compared, leaf: Leaf) -> bool:
    """Theirs keeps what it had extracted until then; what is to be emptied at the end, both empty."""
    return bool(setup_sentence_of(case.ours)) and leaf.path[0] == "files" and leaf.path[1].startswith("ml/")


@allowed_by("2.11")
def a_link_belongs_to_the_user(case: Compared, leaf: Leaf) -> bool:
    """Theirs changes the owner of what the link leads to."""
    if leaf.path[0] != "files" or not str(leaf.shim).startswith("lrwx") or not str(leaf.ours).startswith("lrwx"):
        return False
    theirs, ours = leaf.shim.split(" "), leaf.ours.split(" ")
    return theirs[1] == "0:0" and theirs[2:] == ours[2:] and bool(case.variable("USER"))


@allowed_by("setup failure in `serve`")
def a_failed_set_up_is_an_orderly_end(case: Compared, leaf: Leaf) -> bool:
    return leaf == Leaf(("exit",), 3, 0) and bool(setup_sentence_of(case.ours))


@allowed_by("POST_CLEAN_DIRECTORIES")
def what_was_there_before_is_kept(case: Compared, leaf: Leaf) -> bool:
    return leaf.path[0] == "files" and leaf.path[1].endswith("/before") and leaf.shim == MISSING


# -- the folders


@allowed_by("outputs")
def links_that_leave_are_refused(case: Compared, leaf: Leaf) -> bool:
    """Theirs uploads what they lead to, or has no result at all when that is no file."""
    links = {"outer", "dangling", "folder"}
    if crashed(case.shim):
        return case.refused and case.statuses == (500, 200) and is_of_the_outcome(leaf)
    if leaf.path[-1] == "outputs" and MISSING not in (leaf.shim, leaf.ours):
        kept = [output for output in leaf.shim if output["relative_path"] not in links]
        kept.sort(key=lambda output: str(output["relative_path"]))
        return len(kept) < len(leaf.shim) and kept == leaf.ours
    return leaf.path[0] == "objects" and leaf.path[-1].rpartition("/")[2] in links and leaf.ours == MISSING


@allowed_by("2.6")
def the_results_folder_is_reserved(case: Compared, leaf: Leaf) -> bool:
    """Theirs uploads what a program writes there, and then its own result over it."""
    if leaf.path[-1] == "outputs" and MISSING not in (leaf.shim, leaf.ours):
        kept = [output for output in leaf.shim if not output["relative_path"].startswith(".sagemaker_shim/")]
        return len(kept) < len(leaf.shim) and kept == leaf.ours
    return leaf.path[0] == "objects" and leaf.path[-1].endswith(".sagemaker_shim/more") and leaf.ours == MISSING


@allowed_by("2.9")
def what_is_left_is_removed(case: Compared, leaf: Leaf) -> bool:
    """Theirs fails the task for a FIFO that it can't remove, and keeps it."""
    left = any(path.startswith("output/") for path in case.shim["files"])
    if leaf.path[0] == "files":
        return leaf.path[1].startswith("output/") and leaf.ours == MISSING
    return left and sentence_of(case.shim) == NOT_RESET and result_of(case.ours).get("return_code") == 0


@allowed_by("2.9")
def a_folder_that_is_not_empty_fails_no_task(case: Compared, leaf: Leaf) -> bool:
    """Theirs fails every task of that name from then on."""
    held = "ml/input/data/pk-input/before" in case.ours["files"]
    return held and sentence_of(case.shim) == NOT_RESET and result_of(case.ours).get("return_code") == 0


@allowed_by("2.9")
def the_linked_input_is_not_left(case: Compared, leaf: Leaf) -> bool:
    """Theirs keeps the link and one empty folder for each task."""
    if leaf.path == ("files", "input"):
        return "-> @root@/ml/input/data/" in str(leaf.shim) and leaf.ours == "drwxr-xr-x 0:0"
    return leaf.path[0] == "files" and leaf.path[1].endswith("-input") and leaf[1:] == ("drwxr-xr-x 0:0", MISSING)


@allowed_by("2.3")
def a_sticky_folder_stays_sticky(case: Compared, leaf: Leaf) -> bool:
    """Of the writable directories, /tmp as a rule; theirs takes the bit away that keeps users apart."""
    return leaf.path[0] == "files" and (leaf.shim[:10], leaf.ours[:10]) == ("drwxrwxrwx", "drwxrwxrwt")


# -- the log


@allowed_by("long line")
def a_long_line_is_several_records(case: Compared, leaf: Leaf) -> bool:
    """Theirs is whole up to 64 KiB, and lost beyond that."""
    if leaf.path[-1] == "user_process_last_stderr_lines" and MISSING not in (leaf.shim, leaf.ours):
        return any(len(line) > 16_384 for line in [*leaf.shim, *leaf.ours])
    if leaf.path not in (("stdout",), ("stderr",)) or not any(record[3:] for record in logged(case.ours)):
        return False
    lost = "WARNING: A log line was skipped as it was too long"
    return joined(leaf.ours) == leaf.shim or any(record[1] == lost for record in case.shim["stderr"])


def logged(facts: Facts) -> list[list[Any]]:
    return [*facts["stdout"], *facts["stderr"]]


def joined(records: list[list[Any]]) -> list[list[Any]]:
    """Join the records of each long line."""
    whole: list[list[Any]] = []
    goes_on = False
    for level, text, task, *continued in records:
        if goes_on:
            whole[-1][1] += text
        else:
            whole.append([level, text, task])
        goes_on = bool(continued)
    return whole


@allowed_by("non-UTF-8 output")
def what_is_not_utf_8_is_replaced(case: Compared, leaf: Leaf) -> bool:
    """Theirs loses the task."""
    ran = (case.statuses[1], case.ours.get("exit")) in ((200, None), (None, 0))
    return ran and replaced(case.ours) and crashed(case.shim) and is_of_the_outcome(leaf)


def replaced(facts: Facts) -> bool:
    return any("\ufffd" in record[1] for record in logged(facts))


@allowed_by("2.10")
def an_absolute_name_is_no_path(case: Compared, leaf: Leaf) -> bool:
    """Theirs cuts the first letter of the name off, with the slash that is no common folder."""
    return (
        sentence_of(case.ours) == "Zip file contains invalid paths"
        and is_of_the_outcome(leaf)
        and (sentence_of(case.shim) == "" and case.statuses == (200, 200))
    )


@allowed_by("2.13")
def a_run_ends_with_its_program(case: Compared, leaf: Leaf) -> bool:
    """Theirs waits for all that hold its pipes, until the time limit."""
    if sentence_of(case.shim) != "Time limit exceeded" or result_of(case.ours).get("return_code") != 0:
        return False
    return leaf.path[-1] in ("return_code", "user_safe_error_message", "stderr", "outputs", "plain")


@allowed_by("anything unexpected")
def an_interrupted_task_has_a_result(case: Compared, leaf: Leaf) -> bool:
    """Theirs ends at once on a signal, and leaves everything as it is."""
    interrupted = "The task was interrupted because the container is stopping"
    if "signal" not in case.given or sentence_of(case.ours) != interrupted:
        return False
    return leaf.path[0] in ("objects", "stderr", "files", "plain")


@allowed_by("2.2")
def a_stop_is_no_failure(case: Compared, leaf: Leaf) -> bool:
    """`serve` was asked to stop, and did."""
    return leaf == Leaf(("exit",), 128 + signal.SIGTERM, 0) and case.given.get("signal") == signal.SIGTERM


@allowed_by("resident server timed out or died")
def a_time_limit_does_not_end_the_server(case: Compared, leaf: Leaf) -> bool:
    """Theirs says so in the answer's log, and ends."""
    return leaf == Leaf(("exit",), 128 + signal.SIGTERM, None)


@allowed_by("busy")
def a_busy_server_lets_wait(case: Compared, leaf: Leaf) -> bool:
    return case.statuses == (500, 200) and (case.task or {}).get("pk") == "second"


# -- a list of tasks


@allowed_by("fail fast in `invoke`")
def later_tasks_have_results(case: Compared, leaf: Leaf) -> bool:
    if leaf.path == ("stderr",):
        kept = [record for record in leaf.ours if record[:2] != ["ERROR", SKIPPED]]
        return len(kept) < len(leaf.ours) and kept == leaf.shim
    if leaf.path[0] != "objects" or leaf.shim != MISSING or not isinstance(leaf.ours, dict):
        return False
    return bool(leaf.ours.get("user_safe_error_message") == SKIPPED)
