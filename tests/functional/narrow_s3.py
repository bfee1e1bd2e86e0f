"""S3 as a platform's role and its VPC endpoint leave it: two rights, and a 403 for everything else.

https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html says which requests a right is
for: parts of an upload are s3:PutObject too, ending one unfinished is not.
"""

from dataclasses import dataclass
from urllib.parse import parse_qs

from faulty_s3 import Answer, Exchange, Fault, FaultyS3, Request

ACCESS_DENIED = Answer(403, "AccessDenied")
PUT_QUERIES = {"PUT": ({"x-id"}, {"x-id", "partNumber", "uploadId"}), "POST": ({"uploads"}, {"uploadId"})}


@dataclass(frozen=True)
class Get:
    """Answer with the object; without the right to list, 403 stands for a missing one too."""

    def apply(self, exchange: Exchange) -> None:
        reply = exchange.ask()
        if reply.status == 404:
            ACCESS_DENIED.apply(exchange)
        else:
            exchange.answer(reply)


class NarrowS3(FaultyS3):
    """Grants s3:GetObject on keys that begin with `readable`, s3:PutObject on those with `writable`, and nothing else.

    `refused` holds the requests that were answered 403 for lack of a right.
    """

    def __init__(self, upstream: str, readable: str, writable: str) -> None:
        super().__init__(upstream)
        self._readable = readable
        self._writable = writable
        self.refused: list[Request] = []

    def next_fault(self, request: Request) -> Fault | None:
        fault = super().next_fault(request)
        if request.key.startswith(self._readable) and _is_get(request):
            return fault or Get()
        if request.key.startswith(self._writable) and _is_put(request):
            return fault
        self.refused.append(request)
        return ACCESS_DENIED


def _is_get(request: Request) -> bool:
    return request.method in ("GET", "HEAD") and _names(request) <= {"x-id"}


def _is_put(request: Request) -> bool:
    return any(_names(request) <= names for names in PUT_QUERIES.get(request.method, ()))


def _names(request: Request) -> set[str]:
    return set(parse_qs(request.query, keep_blank_values=True))
