"""What nginx and gunicorn answer by themselves, without the predictor, in the shape of its errors."""

import json

from .errors import BodyTooLarge, InternalError, MethodNotAllowed, RouteMissing, WorkerLost

LOST = 502
"""nginx's own code for a connection to gunicorn that ended before there was an answer, or that could not be made."""

OURS = (RouteMissing, MethodNotAllowed, BodyTooLarge, InternalError)
NGINX_ONLY = {
    400: ("bad_request", "The request could not be read"),
    408: ("request_timeout", "The request was not sent in time"),
    411: ("length_required", "The request has no length"),
    414: ("uri_too_long", "The address of the request is too long"),
    417: ("expectation_failed", "The request expects what the server does not do"),
    421: ("misdirected_request", "The request is for another server"),
    431: ("headers_too_large", "The headers of the request are too large"),
    501: ("not_implemented", "The request asks for what the server does not do"),
    503: ("unavailable", "The server can not take the request now; send it again"),
    504: ("gateway_timeout", "The server did not answer in time"),
    505: ("http_version_unsupported", "The HTTP version of the request is not served"),
    507: ("disk_full", "There is no room for the body of the request"),
}
ERRORS: dict[int, dict[str, str]] = {
    **{error.http_status: error().as_json() for error in OURS},
    **{status: {"code": code, "message": message, "hint": ""} for status, (code, message) in NGINX_ONLY.items()},
    LOST: WorkerLost().as_json(),
}
"""By status."""


def error_body(status: int) -> str:
    """Return the JSON that a refusal has for a body; it is a bad request where the status is none of those known."""
    error = ERRORS.get(status, ERRORS[400])
    return json.dumps({"detail": error["message"], "error": error})
