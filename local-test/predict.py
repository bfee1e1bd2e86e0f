"""Post a file to a model server, and show the answer: see `predict.sh --help`."""

import http.client
import json
import mimetypes
import sys
import urllib.error
import urllib.request
from argparse import Namespace
from email.message import Message
from pathlib import Path
from typing import IO, Any, NoReturn

from options import Parser

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
    headers = {"Content-Type": content_type, "Content-Length": str(options.file.stat().st_size)}
    if options.accept:
        headers["Accept"] = options.accept
    with options.file.open("rb") as body:
        request = urllib.request.Request(f"{options.url.rstrip('/')}/invocations", body, headers, method="POST")
        try:
            answer = OPENER.open(request)
        except urllib.error.HTTPError as error:
            refuse(error)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            is_refused = isinstance(reason, ConnectionRefusedError)
            why = "serve-local.sh must run in another terminal" if is_refused else reason
            sys.exit(f"predict: {options.url} does not answer: {why}.")
    with answer:
        if is_of_tasks(content_type):
            sys.exit(show_results(answer.read(), options.output))
        show_output(answer, options.file, options.output)


def parse() -> Namespace:
    parser = Parser("predict.sh", DESCRIPTION, AFTER)
    parser.add_argument("file", type=Path, metavar="FILE", help="a task, or any payload")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="the server; http://127.0.0.1:8080 by default")
    parser.add_argument("--content-type", metavar="TYPE", help="what the file is, where its name does not tell")
    parser.add_argument("--accept", metavar="TYPE", help="what the answer is to be")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the answer's body to this file")
    options = parser.parse_args()
    if not options.file.is_file():
        parser.error(f"there is no file {options.file}")
    if options.output and options.output.is_dir():
        parser.error(f"{options.output} is a folder: --output names a file")
    if options.output and not options.output.parent.is_dir():
        parser.error(f"there is no folder {options.output.parent}")
    return options


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


def show_results(body: bytes, target: Path | None) -> int:
    """Show the result of each task; returns the exit code."""
    if target:
        target.write_bytes(body)
    failed = False
    for line in body.splitlines():
        result = json.loads(line)
        failed |= result.get("return_code") != 0
        print(printable(json.dumps(result, indent=2, ensure_ascii=False)))
        for item in result.get("outputs", []):
            tell(f"s3://{item['bucket_name']}/{item['bucket_key']}")
        if result.get("return_code") != 0:
            tell(f"The task ended with return code {result.get('return_code')}.")
            explain(result.get("error"))
    return int(failed)


def show_output(answer: IO[bytes], file: Path, target: Path | None) -> None:
    """Show what the program made of a payload; what is no text goes to a file instead of a terminal."""
    headers: Message = answer.headers  # type: ignore[attr-defined]
    kind = headers.get_content_type()
    if target:
        save(answer, target)
    elif not sys.stdout.isatty():
        copy(answer, sys.stdout.buffer)
    elif kind.startswith("text/") or kind == "application/json" or kind.endswith("+json"):
        print(printable(answer.read().decode(errors="replace")), end="")
    else:
        suffix = KNOWN.guess_extension(kind) or file.suffix
        save(answer, unused(Path(f"{file.stem}-answer{suffix}")))


def save(answer: IO[bytes], target: Path) -> None:
    with target.open("wb") as file:
        copy(answer, file)
    tell(f"The answer is in {target}: {target.stat().st_size} bytes.")


def copy(answer: IO[bytes], target: IO[bytes]) -> None:
    while chunk := answer.read(1024 * 1024):
        target.write(chunk)
    target.flush()


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
