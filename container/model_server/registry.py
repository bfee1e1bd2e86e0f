"""A registry, as far as an image is adapted there, by the HTTP API that all have (OCI's distribution spec)."""

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3

from .image_errors import ImageBroken, ImageError, RegistryFailed, RegistryUnreachable
from .image_manifest import READ, Blob, Manifest, digest_of
from .image_reference import ImageReference
from .registry_faults import PULL, PUSH, refusal
from .registry_http import (
    PASSING_FAULTS,
    Http,
    Patience,
    Response,
    asked_pause,
    content,
    discard,
    in_words,
    is_confidential,
    led_to,
    origin,
)
from .registry_login import Login

CHUNK = 1 << 20
MAX_CONFIG_BYTES = 8 << 20
MAX_LOGINS = 3
"""How often a request logs in: a token may have expired meanwhile, but a registry may refuse every new one."""

OpenBlob = Callable[[], Generator[bytes]]
"""Begins to read what is uploaded, once more for every try."""


class BrokeOff(Exception):
    """Says that a transfer may succeed when it is tried again; `error` is for when it never does."""

    def __init__(self, error: ImageError, pause_seconds: float = 0) -> None:
        super().__init__(str(error))
        self.error = error
        self.pause_seconds = pause_seconds


class Registry:
    """One registry, and who we are there."""

    def __init__(self, host: str, http: Http) -> None:
        self.host = host
        self.http = http
        self.login = Login(host, http)


class Repository:
    """One repository of a registry; `reference` is the image that errors name."""

    def __init__(self, reference: ImageReference, registry: Registry) -> None:
        self.reference = reference
        self._registry = registry
        self._http = registry.http

    @property
    def address(self) -> str:
        """Registry and name: the same for what is one repository."""
        return self.reference.address

    # -- reading

    def manifest(self, name: str) -> Manifest:
        """Return what is under a tag or a digest."""
        data, media_type = self.manifest_bytes(name)
        return Manifest.read(self.reference, data, media_type)

    def manifest_bytes(self, name: str) -> tuple[bytes, str]:
        response = self._ask(PULL, "GET", f"manifests/{name}", {"Accept": ", ".join(READ)})
        data = self._content(response)
        if response.status != 200:
            raise self._refusal(PULL, response, data)
        if name.startswith("sha256:") and digest_of(data) != name:
            raise ImageBroken(self.reference, f"its manifest is not the one of the digest {name}")
        return data, response.headers.get("Content-Type", "")

    def digest(self, tag: str) -> str | None:
        """Return the digest of what is under a tag, by the registry's word; None where there is nothing."""
        response = self._ask(PUSH, "HEAD", f"manifests/{tag}", {"Accept": ", ".join(READ)})
        discard(response)
        if response.status == 404:
            return None
        if response.status != 200:
            raise self._refusal(PUSH, response, b"")
        return response.headers.get("Docker-Content-Digest")

    def config(self, blob: Blob) -> dict[str, Any]:
        """Return the config of an image."""
        if blob.size > MAX_CONFIG_BYTES:
            raise ImageBroken(self.reference, "its config is too large")
        patience = Patience()
        while True:
            try:
                data = b"".join(self.chunks(blob))
                break
            except BrokeOff as fault:
                if not patience.wait():
                    raise fault.error from fault
        try:
            config = json.loads(data)
        except ValueError:
            raise ImageBroken(self.reference, "its config is no JSON") from None
        if not isinstance(config, dict) or not isinstance(config.get("config") or {}, dict):
            raise ImageBroken(self.reference, "its config is not what an image has")
        return config

    def chunks(self, blob: Blob) -> Generator[bytes]:
        """Yield a blob's content, in parts; the last comes only when all that came is what the digest says.

        Raises BrokeOff, and ImageBroken where it is something else.
        """
        response = self._ask(PULL, "GET", f"blobs/{blob.digest}")
        if response.status != 200:
            raise self._refusal(PULL, response, self._content(response))
        seen, size, last = hashlib.sha256(), 0, b""
        try:
            while (chunk := response.read(CHUNK, decode_content=False)) and size <= blob.size:
                size += len(chunk)
                seen.update(chunk)
                if last:
                    yield last
                last = chunk
        except urllib3.exceptions.HTTPError as fault:
            raise BrokeOff(self._unreachable(fault)) from fault
        finally:
            discard(response)
        if size < blob.size:
            raise BrokeOff(RegistryUnreachable(self._registry.host, "the connection breaks off"))
        if size > blob.size or f"sha256:{seen.hexdigest()}" != blob.digest:
            raise ImageBroken(self.reference, f"what the registry has as {blob.digest} is something else")
        yield last

    # -- writing

    def has_blob(self, digest: str) -> bool:
        response = self._ask(PUSH, "HEAD", f"blobs/{digest}")
        discard(response)
        if response.status in (401, 403):
            raise self._refusal(PUSH, response, b"")
        return response.status == 200

    def mount(self, digest: str, source: "Repository") -> bool:
        """Have the registry take a blob from another repository of its own; say False where it does not."""
        other = source.reference.repository
        question = urlencode({"mount": digest, "from": other})
        response = self._ask(PUSH, "POST", f"blobs/uploads/?{question}", also_from=other)
        discard(response)
        if response.status == 202:  # it would have us upload it
            with suppress(urllib3.exceptions.HTTPError, ImageError):
                discard(self._ask(PUSH, "DELETE", self._place(response)))
        return response.status == 201

    def upload(self, open_blob: OpenBlob, digest: str | None = None, size: int | None = None) -> tuple[str, int]:
        """Upload a blob, from its beginning whenever that breaks off; return its digest and size.

        Where they are not known before, they are those of what was sent.
        """
        patience = Patience()
        while True:
            try:
                return self._upload_once(open_blob, digest, size)
            except BrokeOff as fault:
                if not patience.wait(fault.pause_seconds):
                    raise fault.error from fault
            if digest and size is not None and self.has_blob(digest):
                return digest, size  # only its answer was lost

    def _upload_once(self, open_blob: OpenBlob, digest: str | None, size: int | None) -> tuple[str, int]:
        response = self._ask(PUSH, "POST", "blobs/uploads/")
        data = self._content(response)
        if response.status != 202:
            raise self._refusal(PUSH, response, data)
        headers = {"Content-Type": "application/octet-stream"} | ({} if size is None else {"Content-Length": str(size)})
        with closing(open_blob()) as chunks:
            sent = _Sent(chunks)
            response = self._send_once("PATCH", self._place(response), headers, sent)
        self._expect(response, 202, 201, 204)
        place = self._place(response)
        place += f"{'&' if urlsplit(place).query else '?'}{urlencode({'digest': digest or sent.digest})}"
        response = self._ask(PUSH, "PUT", place)
        self._expect(response, 201)
        return digest or sent.digest, sent.size

    def _expect(self, response: Response, *statuses: int) -> None:
        """Refuse an answer that is no success of an upload; raises BrokeOff where the upload may be begun anew."""
        data = self._content(response)
        if response.status in statuses:
            return
        error = self._refusal(PUSH, response, data)
        if response.status in PASSING_FAULTS | {401, 404, 416}:  # a token or an upload that has expired
            raise BrokeOff(error, asked_pause(response))
        raise error

    def put_manifest(self, name: str, media_type: str, data: bytes) -> None:
        """Give a tag to an image, and see that the registry has it now."""
        response = self._ask(PUSH, "PUT", f"manifests/{name}", {"Content-Type": media_type}, data)
        answer = self._content(response)
        if response.status != 201:
            raise self._refusal(PUSH, response, answer)

    # -- how requests are sent

    def _ask(
        self,
        action: str,
        method: str,
        place: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        also_from: str | None = None,
    ) -> Response:
        """Ask the registry, and log in if it wants that; raises RegistryUnreachable."""
        scopes = self._scopes(action, also_from)
        url = urljoin(f"{self.reference.url}/", place)
        login = self._registry.login
        logins = 0
        while True:
            header = login.header(scopes) if origin(url) == origin(self.reference.url) else ""
            allowed = dict(headers or {}) | ({"Authorization": header} if header else {})
            response = self._http.ask(method, url, allowed, body)
            challenges = response.headers.getlist("WWW-Authenticate")
            if response.status != 401 or not challenges or logins == MAX_LOGINS:
                return response
            if not login.answer(challenges, scopes, refused=header):
                return response
            logins += 1
            discard(response)

    def _send_once(self, method: str, url: str, headers: Mapping[str, str], body: Iterable[bytes]) -> Response:
        """Send what can not be sent again without beginning anew; raises BrokeOff."""
        header = self._registry.login.header(self._scopes(PUSH)) if origin(url) == origin(self.reference.url) else ""
        allowed = dict(headers) | ({"Authorization": header} if header else {})
        try:
            return self._http.send(method, url, allowed, body)
        except urllib3.exceptions.HTTPError as fault:
            raise BrokeOff(self._unreachable(fault)) from fault

    def _scopes(self, action: str, also_from: str | None = None) -> tuple[str, ...]:
        actions = "pull" if action == PULL else "pull,push"
        own = f"repository:{self.reference.repository}:{actions}"
        return (own, f"repository:{also_from}:pull") if also_from else (own,)

    def _place(self, response: Response) -> str:
        """Return where an upload goes on."""
        place = led_to(f"{self.reference.url}/", response.headers.get("Location", ""))
        if not response.headers.get("Location") or not is_confidential(place):
            raise RegistryFailed(self._registry.host, "it does not say where an upload goes on")
        return place

    def _content(self, response: Response) -> bytes:
        try:
            return content(response)
        except urllib3.exceptions.HTTPError as fault:
            raise self._unreachable(fault) from fault

    def _refusal(self, action: str, response: Response, body: bytes) -> ImageError:
        is_anonymous = response.status in (401, 403) and self._registry.login.is_anonymous
        return refusal(action, self.reference, response.status, body, is_anonymous)

    def _unreachable(self, fault: BaseException) -> ImageError:
        return RegistryUnreachable(self._registry.host, in_words(fault))


class _Sent:
    """Passes on what is uploaded, and knows its digest and size."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self._hash = hashlib.sha256()
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._hash.update(chunk)
            self.size += len(chunk)
            yield chunk

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"
