"""What happened to a task: one JSON document, signed and uploaded as the last object of the task.

It has every key of sagemaker-shim 0.8.3 in its order and with its meaning, then ours. The same document is the body of
the HTTP answer.
"""

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Self

from pydantic import BaseModel, ConfigDict, SecretBytes

from . import VERSION
from .errors import LongshoreError, OutputBucketMissing, ResultNotStored, ServerError, without_frames
from .logs import logger
from .process import Exit
from .s3_faults import BucketMissing, NameRefused, ObjectForbidden, ObjectMissing
from .stage_in import StagedIn
from .stage_out import StagedOut
from .storage import Storage
from .task import Task

SIGNATURE_KEY = "signature_hmac_sha256"
MAX_HTTP_BYTES = 5 * 1000 * 1000
"""SageMaker cuts real-time answers at 6 MB or less; the uploaded object is always whole."""

OMITTED = "The result is too large for this answer; the result object in S3 is whole."


class Output(BaseModel):
    model_config = ConfigDict(frozen=True)

    relative_path: str
    bucket_name: str
    bucket_key: str
    decompress: bool = False


class RefusedOutput(BaseModel):
    model_config = ConfigDict(frozen=True)

    relative_path: str
    reason: str


class ErrorReport(BaseModel):
    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    hint: str


class Result(BaseModel):
    """The result document; durations are ISO 8601, `*_seconds` are numbers, sizes are bytes."""

    model_config = ConfigDict(frozen=True)

    pk: str
    return_code: int
    user_safe_error_message: str
    user_process_last_stderr_lines: list[str]
    exec_duration: timedelta | None
    invoke_duration: timedelta | None
    outputs: list[Output]
    sagemaker_shim_version: str

    error: ErrorReport | None
    queue_seconds: float
    download_seconds: float
    unpack_seconds: float
    run_seconds: float
    upload_seconds: float
    peak_memory_bytes: int
    input_bytes: int
    output_bytes: int
    refused_outputs: list[RefusedOutput]
    partial_outputs: int

    def failed_by(self, error: LongshoreError) -> Self:
        """Return the result as one of a task that ended with an error, which came up after the result was made."""
        report = ErrorReport.model_validate(error.as_json())
        told = {"return_code": error.return_code, "user_safe_error_message": error.user_message, "error": report}
        return self.model_copy(update=told)

    def document(self) -> bytes:
        return self.model_dump_json().encode()

    def http_document(self, limit: int = MAX_HTTP_BYTES) -> bytes:
        """Return the document as an HTTP body: when it would be too large, without `outputs` and with a word of it.

        Should that not be enough, the first of the last lines on stderr go too.
        """
        whole = self.document()
        if len(whole) <= limit:
            return whole
        shorter = self.model_dump(mode="json", exclude={"outputs", "refused_outputs"}) | {"outputs_omitted": OMITTED}
        lines = shorter["user_process_last_stderr_lines"]
        while len(body := json.dumps(shorter, ensure_ascii=False, separators=(",", ":")).encode()) > limit and lines:
            del lines[: len(lines) // 2 + 1]
        return body


def http_documents(results: Sequence[Result], limit: int = MAX_HTTP_BYTES) -> list[bytes]:
    """Return the documents of results that are one HTTP body together: if it is too large the largest are shortened."""
    documents = [result.document() for result in results]
    too_many = sum(map(len, documents)) - limit
    for index in sorted(range(len(results)), key=lambda index: len(documents[index]), reverse=True):
        if too_many <= 0:
            break
        whole = len(documents[index])
        documents[index] = results[index].http_document(max(0, whole - too_many))
        too_many -= whole - len(documents[index])
    return documents


@dataclass
class Record:
    """What is known of a task so far; each station adds its part."""

    task: Task
    queue_seconds: float = 0.0
    staged_in: StagedIn = field(default_factory=StagedIn)
    exit: Exit | None = None
    staged_out: StagedOut = field(default_factory=StagedOut)
    partial_outputs: int = 0
    error: LongshoreError | None = None

    def result(self) -> Result:
        task, ran, error = self.task, self.exit, self.error
        duration = timedelta(seconds=ran.seconds) if ran else None
        return Result(
            pk=task.pk,
            return_code=error.return_code if error else 0,
            user_safe_error_message=error.user_message if error else "",
            user_process_last_stderr_lines=ran.last_stderr_lines if ran else [],
            exec_duration=duration if ran and not ran.resident else None,
            invoke_duration=duration if ran and ran.resident else None,
            outputs=[
                Output(
                    relative_path=path,
                    bucket_name=task.output_bucket_name,
                    bucket_key=task.output_prefix + path,
                )
                for path in self.staged_out.files
            ],
            sagemaker_shim_version=f"longshore-{VERSION}",
            error=ErrorReport.model_validate(error.as_json()) if error else None,
            queue_seconds=round(self.queue_seconds, 6),
            download_seconds=round(self.staged_in.download_seconds, 6),
            unpack_seconds=round(self.staged_in.unpack_seconds, 6),
            run_seconds=round(ran.seconds, 6) if ran else 0.0,
            upload_seconds=round(self.staged_out.seconds, 6),
            peak_memory_bytes=ran.peak_memory_bytes if ran else 0,
            input_bytes=self.staged_in.bytes,
            output_bytes=self.staged_out.bytes,
            refused_outputs=[
                RefusedOutput(relative_path=path, reason=reason) for path, reason in self.staged_out.refused
            ],
            partial_outputs=self.partial_outputs,
        )


def store(result: Result, task: Task, key: SecretBytes | None, storage: Storage) -> LongshoreError | None:
    """Upload the result, signed if there is a key; return one of NOT_STORED where that can't be done."""
    document = result.document()
    try:
        storage.put_bytes(document, task.output_bucket_name, task.result_key, signature(document, key))
    except Exception as error:
        if not isinstance(error, (ObjectMissing, ObjectForbidden, ServerError)):
            logger.exception("The result of task %s could not be uploaded", task.pk)
        without_frames(error)  # which hold the connection and the error: a cycle
        return OutputBucketMissing() if isinstance(error, (BucketMissing, NameRefused)) else ResultNotStored()
    return None


def signature(document: bytes, key: SecretBytes | None) -> dict[str, str]:
    """Return the object's metadata: the HMAC-SHA256 of the very bytes that are uploaded, in lower-case hex."""
    if key is None:
        return {}
    return {SIGNATURE_KEY: hmac.new(key.get_secret_value(), document, hashlib.sha256).hexdigest()}
