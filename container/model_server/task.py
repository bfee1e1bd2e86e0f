"""Is it a task? The task JSON of sagemaker-shim, checked as a whole before anything is done. No I/O here.

Where the two differ (`timeout` is optional and positive; `pk` and `relative_path` stay where they belong) the
difference is on purpose: an unchecked path writes anywhere.
"""

import re
import unicodedata
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from .errors import NO_TASK
from .faults import Faults, Location

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
INPUTS_AT_A_TIME = 100
FAULTS_WITHIN = "faults_within"


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


def _checked_in_parts(values: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Check some inputs at a time, since pydantic keeps all the faults of what it checks at once."""
    if not isinstance(values, list):
        return check(values)
    inputs: list[Input] = []
    faults = Faults()
    for start in range(0, len(values), INPUTS_AT_A_TIME):
        try:
            checked = check(values[start : start + INPUTS_AT_A_TIME])
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_input=False, include_context=False):
                index, *field = detail["loc"]
                faults.add(detail["type"], (start + int(index), *field), detail["msg"])
            inputs.clear()
        else:
            inputs += [] if faults else checked
    _raise_within(faults)
    return inputs


def _paths_are_free(inputs: list[Input]) -> list[Input]:
    """Refuse two inputs on one path, and a file where another needs a folder; a zip's own path is no file."""
    places: dict[str, int] = {}
    faults = Faults()
    for index, item in enumerate(inputs):
        if (other := places.setdefault(str(item.relative_path), index)) != index:
            faults.add("path_taken", (index, "relative_path"), f"is the path of inputs[{other}] too")
    for index, item in enumerate(inputs):
        folder = str(item.relative_path)
        while folder := folder.rpartition("/")[0]:
            if folder in places and not inputs[places[folder]].decompress:
                message = f"lies under inputs[{places[folder]}], which is a file"
                faults.add("path_taken", (index, "relative_path"), message)
    _raise_within(faults)
    return inputs


def _raise_within(faults: Faults) -> None:
    if faults:
        raise PydanticCustomError(FAULTS_WITHIN, "The inputs are not valid", {"faults": faults})


class Task(Strict):
    """What to stage, where to put what comes out, and how long the run may take."""

    pk: Annotated[str, AfterValidator(_pk)]
    inputs: Annotated[list[Input], WrapValidator(_checked_in_parts), AfterValidator(_paths_are_free)]
    output_bucket_name: BucketName
    output_prefix: Annotated[str, AfterValidator(_prefix)]
    timeout: Annotated[timedelta, AfterValidator(_time_limit)] | None = None

    @property
    def result_key(self) -> str:
        return self.output_prefix + RESULT_NAME


def parse_tasks(values: Iterable[Any], root: str = "body") -> list[Task]:
    """Return the tasks in decoded JSON values; the faults of all of them are named in one TaskInvalid."""
    faults = Faults()
    tasks = [parse_task(value, (root, index), faults) for index, value in enumerate(values)]
    faults.raise_if_any()
    return [task for task in tasks if task]


def parse_task(value: Any, where: Location, faults: Faults) -> Task | None:
    """Return the task in a decoded JSON value, or None after adding its faults to those of all."""
    if value is None:
        faults.add("missing", where, "Field required")
    elif not isinstance(value, dict):
        faults.add("model_attributes_type", where, NO_TASK)
    else:
        try:
            return Task.model_validate(value, from_attributes=True)  # or pydantic has other words for what is no object
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_input=False):
                place = (*where, *detail["loc"])
                if detail["type"] == FAULTS_WITHIN:
                    faults.add_all(detail["ctx"]["faults"], place)
                else:
                    faults.add(detail["type"], place, detail["msg"])
    return None
