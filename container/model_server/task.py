"""Is it a task? The task JSON of sagemaker-shim, checked as a whole before anything is done. No I/O here.

Where the two differ (`timeout` is optional and positive; `pk` and `relative_path` stay where they belong) the
difference is on purpose: an unchecked path writes anywhere.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from .errors import NO_TASK, BodyUnreadable, TaskInvalid

BUCKET_NAME = re.compile(r"[a-zA-Z0-9.\-_]{1,255}")
ACCESS_POINT = re.compile(
    r"arn:(aws[a-zA-Z-]*):(s3|s3-object-lambda):[a-z\-0-9]*:[0-9]{12}:accesspoint[/:][a-zA-Z0-9\-.]{1,63}"
    r"|arn:(aws[a-zA-Z-]*):s3-outposts:[a-z\-0-9]+:[0-9]{12}:outpost[/:][a-zA-Z0-9\-]{1,63}[/:]accesspoint[/:]"
    r"[a-zA-Z0-9\-]{1,63}"
)
"""botocore's rules for `Bucket` (botocore/handlers.py)."""

MAX_SEGMENT_BYTES = 255  # NAME_MAX
MAX_PATH_SEGMENTS = 64
MAX_PATH_BYTES = 3072  # PATH_MAX, less room for the folder that the path is in
MAX_PK_BYTES = 240  # NAME_MAX, less room for what is appended to it
SPLITTING = ("Cc", "Zl", "Zp")  # Unicode's control characters and line breaks, which would split a line of the log
RESULT_NAME = ".sagemaker_shim/inference_result.json"
MAX_PREFIX_BYTES = 1024 - len(RESULT_NAME)  # S3's longest key, less room for the result's name
MAX_SIZE = 2**60
MAX_FAULTS = 100
MAX_FAULT_BYTES = 500
"""Together they keep the body of a 422 under 64 KiB."""


def _bucket_name(name: str) -> str:
    if not (BUCKET_NAME.fullmatch(name) or ACCESS_POINT.fullmatch(name)):
        raise ValueError("Invalid bucket name")
    return name


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # JSON can have half of a surrogate pair
        raise ValueError("must be valid Unicode") from None


def _segment_faults(segment: str) -> str | None:
    if segment in ("", ".", "..") or "/" in segment or "\0" in segment:
        return "must be one plain path segment"
    if len(_encoded(segment)) > MAX_SEGMENT_BYTES:
        return f"must have segments of at most {MAX_SEGMENT_BYTES} bytes"
    return None


def _pk(pk: str) -> str:
    if fault := _segment_faults(pk):
        raise ValueError(fault)
    if any(unicodedata.category(character) in SPLITTING for character in pk):
        raise ValueError("must not hold control characters")
    if len(_encoded(pk)) > MAX_PK_BYTES:
        raise ValueError(f"must be at most {MAX_PK_BYTES} bytes")
    return pk


def _relative_path(path: Path) -> Path:
    if path.is_absolute():
        raise ValueError("must be relative")
    if not path.parts:
        raise ValueError("must name a file")
    if len(path.parts) > MAX_PATH_SEGMENTS:
        raise ValueError(f"must have at most {MAX_PATH_SEGMENTS} segments")
    for segment in path.parts:
        if segment == "..":
            raise ValueError("must not leave its folder")
        if fault := _segment_faults(segment):
            raise ValueError(fault)
    if len(str(path).encode()) > MAX_PATH_BYTES:
        raise ValueError(f"must be at most {MAX_PATH_BYTES} bytes")
    return path


def _prefix(prefix: str) -> str:
    if not prefix:
        raise ValueError("Prefix cannot be blank")
    prefix = prefix if prefix.endswith("/") else prefix + "/"
    if len(_encoded(prefix)) > MAX_PREFIX_BYTES:
        raise ValueError(f"must be at most {MAX_PREFIX_BYTES} bytes, with the slash at its end")
    return prefix


def _size(value: Any) -> float | None:
    """Return a number of bytes; anything else is unknown: other platforms may use the name for something else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value <= MAX_SIZE else None


def _time_limit(limit: timedelta) -> timedelta:
    if limit <= timedelta(0):
        raise ValueError("must be greater than 0")
    return limit


Location = tuple[str | int, ...]
Fault = dict[str, Any]
BucketName = Annotated[str, AfterValidator(_bucket_name)]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


class Input(Strict):
    """One object to stage; with `decompress` it is a zip, unpacked into the folder that `relative_path` is in.

    `size` in bytes is for who shares tasks out.
    """

    relative_path: Annotated[Path, AfterValidator(_relative_path)]
    bucket_name: BucketName
    bucket_key: Annotated[str, Field(min_length=1)]
    decompress: bool = False
    size: Annotated[float | None, BeforeValidator(_size)] = None


def _paths_are_free(inputs: list[Input]) -> list[Input]:
    """Refuse two inputs on one path, and a file where another needs a folder; a zip's own path is no file."""
    places: dict[Path, int] = {}
    faults: list[tuple[int, str]] = []
    for index, item in enumerate(inputs):
        if (other := places.setdefault(item.relative_path, index)) != index:
            faults.append((index, f"is the path of inputs[{other}] too"))
    for index, item in enumerate(inputs):
        for folder in item.relative_path.parents:
            if folder in places and not inputs[places[folder]].decompress:
                faults.append((index, f"lies under inputs[{places[folder]}], which is a file"))
    if faults:
        raise PydanticCustomError("path_taken", "Two inputs need one path", {"faults": faults})
    return inputs


class Task(Strict):
    """What to stage, where to put what comes out, and how long the run may take."""

    pk: Annotated[str, AfterValidator(_pk)]
    inputs: Annotated[list[Input], AfterValidator(_paths_are_free)]
    output_bucket_name: BucketName
    output_prefix: Annotated[str, AfterValidator(_prefix)]
    timeout: Annotated[timedelta, AfterValidator(_time_limit)] | None = None

    @property
    def result_key(self) -> str:
        return self.output_prefix + RESULT_NAME


def parse_tasks(values: Iterable[Any], root: str = "body") -> list[Task]:
    """Return the tasks in decoded JSON values; the faults of all of them are named in one TaskInvalid."""
    return _collect((partial(_parse, value, (root, index)) for index, value in enumerate(values)))


def parse_body(body: bytes, lines: bool) -> tuple[list[Task], bool]:
    """Return the tasks of a request body, and whether they came one a line.

    `lines` says that the content type promises lines; a JSON body of several objects, one a line, is taken too.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BodyUnreadable from None
    if not (text.strip() if lines else text):
        raise TaskInvalid([_fault("missing", ("body",), "Field required")])
    if not lines and not _looks_like_lines(text):
        return _collect([partial(_parse_line, text, ("body",))]), False
    rows = (row for row in text.split("\n") if row.strip())
    return _collect(partial(_parse_line, row, ("body", index)) for index, row in enumerate(rows)), True


def _looks_like_lines(text: str) -> bool:
    """Say whether the first line is a JSON object of its own and another line follows it."""
    first, _, rest = text.strip().partition("\n")
    try:
        return bool(rest) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _collect(parsers: Iterable[Callable[[], Task]]) -> list[Task]:
    tasks: list[Task] = []
    faults: list[Fault] = []
    for parse in parsers:
        try:
            tasks.append(parse())
        except TaskInvalid as error:
            faults += error.faults
    if faults:
        raise TaskInvalid(_bounded(faults))
    return tasks


def _parse_line(row: str, where: Location) -> Task:
    return _parse(_decode(row, where), where)


def _decode(text: str, where: Location) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        position, reason = error.pos, error.msg
    except (ValueError, RecursionError):  # a number of thousands of digits; brackets nested by the thousand
        position, reason = 0, "Not readable"
    raise TaskInvalid([_fault("json_invalid", (*where, position), "JSON decode error", reason)])


def _parse(value: Any, where: Location) -> Task:
    if value is None:
        raise TaskInvalid([_fault("missing", where, "Field required")])
    if not isinstance(value, dict):
        raise TaskInvalid([_fault("model_attributes_type", where, NO_TASK)])
    try:
        return Task.model_validate(value, from_attributes=True)  # or pydantic has other words for what is no object
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
    raise TaskInvalid([fault for detail in details for fault in _from_pydantic(detail, where)])


def _from_pydantic(detail: ErrorDetails, where: Location) -> list[Fault]:
    if detail["type"] != "path_taken":
        return [_fault(detail["type"], (*where, *detail["loc"]), detail["msg"])]
    return [
        _fault("path_taken", (*where, *detail["loc"], index, "relative_path"), message)
        for index, message in detail["ctx"]["faults"]
    ]


def _fault(kind: str, where: Location, message: str, reason: str | None = None) -> Fault:
    """Make one entry of `detail`, in the shape that FastAPI gives it, without the input."""
    fault: Fault = {"type": kind, "loc": list(where), "msg": message[:MAX_FAULT_BYTES]}
    if reason is not None:
        fault["ctx"] = {"error": reason}
    return fault


def _bounded(faults: list[Fault]) -> list[Fault]:
    """Keep the first faults and count the others."""
    if len(faults) <= MAX_FAULTS:
        return faults
    more = len(faults) - MAX_FAULTS
    return [*faults[:MAX_FAULTS], _fault("too_many_faults", ("body",), f"{more} more faults are not listed")]
