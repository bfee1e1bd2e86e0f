"""What a request says of its payload, and how the end of its run is said over HTTP."""

import json
from typing import TYPE_CHECKING

from flask import Request, Response
from werkzeug.datastructures import MIMEAccept
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wsgi import wrap_file

from .errors import LongshoreError
from .media_types import extension_of
from .payload import Payload
from .payload_answer import Answer, Quality
from .process import Exit
from .read_ahead import Readable

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

RETURN_CODE_HEADER = "X-Amzn-SageMaker-Custom-Attributes"  # SageMaker hands it on to who invoked the endpoint
MAX_ERROR_BYTES = 1000 * 1000


def payload_of(request: Request, body: Readable) -> Payload:
    """Return the body as a payload, of which nothing is read yet; raises RequestEntityTooLarge."""
    length, limit = request.content_length, request.max_content_length
    if length and limit and length > limit:
        raise RequestEntityTooLarge
    return Payload(body, length, extension_of(request.mimetype))


def quality_of(request: Request) -> Quality:
    """Return how much the client likes a media type, by its Accept header; the parameters of types do not count."""
    kinds = ((kind.partition(";")[0].strip(), quality) for kind, quality in request.accept_mimetypes)
    accepted = MIMEAccept(("*/*" if kind == "*" else kind, quality) for kind, quality in kinds)
    return accepted.quality if accepted else lambda kind: 1


def file_response(answer: Answer, environ: "WSGIEnvironment") -> Response:
    """Answer with an open file, which is closed once it is sent; it is never read into memory."""
    response = Response(wrap_file(environ, answer.file), 200, direct_passthrough=True)
    response.content_type = answer.media_type
    response.content_length = answer.size
    return response


def failed_run(error: LongshoreError, ran: Exit | None) -> Response:
    """Answer with the error, the return code, and as many of the last lines on stderr as there is room for."""
    lines = list(ran.last_stderr_lines) if ran else []
    told = {
        "detail": error.detail,
        "error": error.as_json(),
        "return_code": error.return_code,
        "user_process_last_stderr_lines": lines,
    }
    while len(body := json.dumps(told, separators=(",", ":"))) > MAX_ERROR_BYTES and lines:
        del lines[: len(lines) // 2 + 1]
    response = Response(body, 422, mimetype="application/json")
    response.headers[RETURN_CODE_HEADER] = f"return_code={error.return_code}"
    return response
