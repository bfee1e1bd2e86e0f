"""Post a file to a model server, and show the answer: see `predict.sh --help`."""

import contextlib
import http.client
import json
import mimetypes
import os
import sys
import urllib.error
import urllib.request
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from options import Parser, address, media_type

TASK = "application/json"
TASKS = "application/jsonlines"
TASK_TYPES = ("", TASK, TASKS, "application/x-jsonlines", "application/x-ndjson")
JSON_PAYLOAD = "application/vnd.longshore.payload+json"
ANY = "application/octet-stream"
TYPES = {".csv": "text/csv", ".geojson": JSON_PAYLOAD, ".jsonl": TASKS}
COMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
# Python's own tables, the same on every machine.
KNOWN = mimetypes.MimeTypes()
# No proxy stands between this machine and its own server, whatever the environment says.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

DESCRIPTION = """\
Post a file to the model server that serve-local.sh has started, as SageMaker does, and show the answer.

A JSON file with a "pk" is a task, a .jsonl file is a task a line; any other file is a payload, which the program gets
as its input, and answers with its output."""

AFTER = """\
Exit code 0 means that the task succeeded, 1 that it or the request failed."""


def main() -> None:
    options = parse()
    content_type = options.content_type or guess(options.file)
    try:
        # Before the post: nobody waits for an answer that can't be kept.
        with saved(options.output) as output, post(options, content_type) as answer:
            if is_of_tasks(content_type):
                code = show_results(answer, options.url, output)
            else:
                code = show_output(answer, options.file, output)
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"predict: The answer is lost: {reason_of(error)}.")
    sys.exit(code)


def parse() -> Namespace:
    parser = Parser("predict.sh", DESCRIPTION, AFTER)
    parser.add_argument("file", type=Path, metavar="FILE", help="a task, or any payload")
    parser.add_argument(
        "--url", type=address, default="http://127.0.0.1:8080", help="the server; http://127.0.0.1:8080 by default"
    )
    parser.add_argument(
        "--content-type", type=media_type, metavar="TYPE", help="what the file is, where its name does not tell"
    )
    parser.add_argument("--accept", type=media_type, metavar="TYPE", help="what the answer is to be")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the answer's body to this file")
    options = parser.parse_args()
    if not options.file.is_file():
        parser.error(f"there is no file {options.file}")
    if options.output and options.output.is_dir():
        parser.error(f"{options.output} is a folder: --output names a file")
    if options.output and not options.output.parent.is_dir():
        parser.error(f"there is no folder {options.output.parent}")
    return options


def post(options: Namespace, content_type: str) -> http.client.HTTPResponse:
    """Post the file, and return the answer of a server that took it."""
    headers = {"Content-Type": content_type, "Content-Length": str(options.file.stat().st_size)}
    if options.accept:
        headers["Accept"] = options.accept
    with options.file.open("rb") as body:
        request = urllib.request.Request(f"{options.url}/invocations", body, headers, method="POST")
        try:
            answer: http.client.HTTPResponse = OPENER.open(request)
        except urllib.error.HTTPError as error:
            refuse(error)
        except (OSError, http.client.HTTPException) as error:
            is_refused = isinstance(getattr(error, "reason", error), ConnectionRefusedError)
            why = "serve-local.sh must run in another terminal" if is_refused else reason_of(error)
            sys.exit(f"predict: {options.url} does not answer: {why}.")
    return answer


def reason_of(error: Exception) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return "it ended too early" + (f", {error.expected} bytes are missing" if error.expected else "")
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)


def guess(path: Path) -> str:
    """Return the content type of a file, by its name; by its content too where it may be a task."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        return TASK if is_task(path) else JSON_PAYLOAD
    known, encoding = KNOWN.guess_type(path.name.lower(), strict=False)
    if encoding:
        return COMPRESSED.get(encoding, ANY)
    kind = TYPES.get(suffix) or known or ANY
    return JSON_PAYLOAD if kind.endswith("+json") else kind


def is_task(path: Path) -> bool:
    """Tell a task from a payload; what can be neither is not posted."""
    text = path.read_bytes()
    if not text.strip():
        sys.exit(f"predict: {path} is empty.")
    try:
        document = json.loads(text)
    except RecursionError:
        return False
    except ValueError as error:
        sys.exit(f"predict: {path} is not JSON ({error}); with --content-type it is posted all the same.")
    if isinstance(document, list) and any(map(has_key, document)):
        sys.exit(f"predict: {path} is a list of tasks, which `process-local.sh --tasks {path}` runs.")
    return has_key(document)


def has_key(document: Any) -> bool:
    return isinstance(document, dict) and "pk" in document


def is_of_tasks(content_type: str) -> bool:
    """Tell whether the server takes a body of this type as tasks, so that it answers with their results."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in TASK_TYPES or (kind.endswith("+json") and kind != JSON_PAYLOAD)


def show_results(answer: http.client.HTTPResponse, url: str, target: IO[bytes] | None) -> int:
    """Show the result of each task; returns the exit code."""
    body = answer.read()
    if target:
        target.write(body)
    failed = False
    for result in results_in(body, url):
        failed |= result["return_code"] != 0
        print(printable(json.dumps(result, indent=2, ensure_ascii=False)))
        for item in result.get("outputs", []):
            tell(f"s3://{item['bucket_name']}/{item['bucket_key']}")
        if result["return_code"] != 0:
            tell(f"The task ended with return code {result['return_code']}.")
            explain(result.get("error"))
    return int(failed)


def results_in(body: bytes, url: str) -> list[dict[str, Any]]:
    """Return the results that an answer holds, one a line; what else answers with 200 is named."""
    try:
        results = [json.loads(line) for line in body.splitlines()]
    except ValueError:
        results = []
    if not results or not all(isinstance(result, dict) and "return_code" in result for result in results):
        sys.exit(f"predict: {url} answers with what is no result of a task: is it a model server?")
    return results


def show_output(answer: http.client.HTTPResponse, file: Path, target: IO[bytes] | None) -> int:
    """Show what the program made of a payload; what is no text goes to a file instead of a terminal."""
    kind = answer.headers.get_content_type()
    if target:
        copy(answer, target)
    elif not sys.stdout.isatty():
        copy(answer, sys.stdout.buffer)
    elif kind.startswith("text/") or kind == "application/json" or kind.endswith("+json"):
        print(printable(answer.read().decode(errors="replace")), end="")
    else:
        suffix = KNOWN.guess_extension(kind) or file.suffix
        with saved(unused(Path(f"{file.stem}-answer{suffix}"))) as unnamed:
            copy(answer, unnamed)
    return 0


@contextlib.contextmanager
def saved(target: Path | None) -> Iterator[IO[bytes] | None]:
    """Open a file, if one is named, that gets its name in the end: what was cut off does not look whole."""
    if not target:
        yield None
        return
    is_plain = target.is_file() or not target.exists()  # nothing may take the place of /dev/null
    path = target.resolve().with_name(f".predict-{os.getpid()}") if is_plain else target
    try:
        if target.exists():
            target.open("ab").close()  # what may not be written may not be replaced either
        file = path.open("wb")
    except OSError as error:
        sys.exit(f"predict: {target} can't be written: {error.strerror}.")
    try:
        with file:
            yield file
        if is_plain:
            path.replace(target.resolve())
            tell(f"The answer is in {target}: {target.stat().st_size} bytes.")
    finally:
        if is_plain:
            path.unlink(missing_ok=True)


def copy(answer: http.client.HTTPResponse, target: IO[bytes]) -> None:
    """Copy a whole body; raises IncompleteRead, which reading in parts does not, for one that is cut off."""
    while chunk := answer.read(1024 * 1024):
        target.write(chunk)
    target.flush()
    if answer.length:
        raise http.client.IncompleteRead(b"", answer.length)


def unused(path: Path) -> Path:
    number = 1
    candidate = path
    while candidate.exists():
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate


def refuse(error: urllib.error.HTTPError) -> NoReturn:
    """Say why the server did not do it, in its own sentence."""
    body = error.read().decode(errors="replace")
    tell(f"The server answered {error.code}.")
    try:
        document = json.loads(body)
        problem = document["error"]
        tell(problem["message"])
    except (ValueError, KeyError, TypeError):
        tell(body)
    else:
        explain({**problem, "message": ""})
        show_faults(document.get("detail"))
        for line in document.get("user_process_last_stderr_lines") or []:
            tell(f"  {line.rstrip()}")
    sys.exit(1)


def explain(problem: dict[str, Any] | None) -> None:
    for key in ("message", "hint"):
        if problem and problem.get(key):
            tell(problem[key])


def show_faults(detail: Any) -> None:
    """Say what is wrong with a task, fault by fault; elsewhere the detail is the sentence once more."""
    for fault in detail if isinstance(detail, list) else []:
        tell(f"  {'.'.join(map(str, fault['loc']))}: {fault['msg']}")


def tell(text: str) -> None:
    print(printable(text), file=sys.stderr)


def printable(text: str) -> str:
    """Spell out what could command the terminal."""
    return "".join(c if c.isprintable() or c in "\n\r\t" else repr(c)[1:-1] for c in text)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
