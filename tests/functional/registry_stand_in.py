"""A registry on loopback that has bad days: it forgets logins, breaks off, is busy, and keeps its blobs elsewhere.

Debian's docker-registry, which tests/image has, does none of that when asked to.
"""

import base64
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from small_images import digest_of


class Asked(NamedTuple):
    """A request that came; `authorization` is its header."""

    method: str
    path: str
    query: dict[str, list[str]]
    authorization: str


@dataclass
class StandIn:
    """What the registry has, how it behaves, and what it was asked."""

    host: str = ""
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    user: str = ""
    """Who may enter, as user:password; nobody in particular where it is empty."""

    token_key: str = ""
    """The word for the token in the token server's answer; without one logins are of the basic kind."""

    uses_of_a_token: int = 1000
    blob_store: str = ""
    """Where blobs are fetched from, if not from here."""

    answers: dict[str, list[tuple[int, dict[str, str], bytes]]] = field(default_factory=dict)
    """What is answered next to a method, before the registry does as it should."""

    cuts: dict[str, int] = field(default_factory=dict)
    """How many bodies of a method break off in their midst: GET the answer's, PATCH the request's."""

    largest_read: int = 0
    tokens: dict[str, int] = field(default_factory=dict)

    def put_blob(self, repository: str, data: bytes, digest: str) -> None:
        self.blobs[repository, digest] = data

    def put_manifest(self, repository: str, tag: str, media_type: str, manifest: Any) -> None:
        data = json.dumps(manifest).encode()
        for name in (tag, digest_of(data)):
            self.manifests[repository, name] = (media_type, data)

    def seen(self, method: str, part: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.method == method and part in asked.path]


@contextmanager
def running_stand_in() -> Iterator[StandIn]:
    registry = StandIn()

    class Handler(_Handler):
        stand_in = registry

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        registry.host = f"127.0.0.1:{server.server_port}"
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    stand_in: StandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        registry, parts = self.stand_in, urlsplit(self.path)
        query = parse_qs(parts.query)
        registry.asked.append(Asked(self.command, parts.path, query, self.headers.get("Authorization", "")))
        if self.command == "PATCH" and registry.cuts.get("PATCH"):
            registry.cuts["PATCH"] -= 1
            self.rfile.read(10)
            self.close_connection = True
            return
        body = self._body()
        if registry.answers.get(self.command) and parts.path.startswith("/v2/"):
            self._reply(*registry.answers[self.command].pop(0))
        elif parts.path == "/token":
            self._token(body)
        elif not self._is_let_in():
            challenge = f'Bearer realm="http://{registry.host}/token",service="stand-in"'
            self._reply(401, {"WWW-Authenticate": challenge if registry.token_key else 'Basic realm="stand-in"'})
        else:
            repository, _, rest = parts.path.removeprefix("/v2/").partition("/manifests/")
            if rest:
                self._manifest(repository, rest, body)
            else:
                repository, _, rest = parts.path.removeprefix("/v2/").partition("/blobs/")
                self._blob(repository, rest, query, body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline(), 16):
            self.stand_in.largest_read = max(self.stand_in.largest_read, size)
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _is_let_in(self) -> bool:
        said = self.headers.get("Authorization", "")
        if not self.stand_in.token_key:
            return not self.stand_in.user or said == _basic(self.stand_in.user)
        token = said.removeprefix("Bearer ")
        self.stand_in.tokens[token] = self.stand_in.tokens.get(token, 0) - 1
        return self.stand_in.tokens[token] >= 0

    def _token(self, body: bytes) -> None:
        registry = self.stand_in
        said = self.headers.get("Authorization", "")
        refresh = parse_qs(body.decode()).get("refresh_token", [""])[0]
        if registry.user and said != _basic(registry.user) and refresh != registry.user:
            self._reply(401)
            return
        token = uuid.uuid4().hex
        registry.tokens[token] = registry.uses_of_a_token
        self._reply(200, {}, json.dumps({registry.token_key: token, "expires_in": 300}).encode())

    def _manifest(self, repository: str, name: str, body: bytes) -> None:
        registry = self.stand_in
        if self.command == "PUT":
            for known in (name, digest_of(body)):
                registry.manifests[repository, known] = (self.headers["Content-Type"], body)
            self._reply(201, {"Docker-Content-Digest": digest_of(body)})
            return
        media_type, data = registry.manifests.get((repository, name), ("", b""))
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest_of(data)}
        self._reply(200 if data else 404, headers if data else {}, data)

    def _blob(self, repository: str, rest: str, query: dict[str, list[str]], body: bytes) -> None:
        registry = self.stand_in
        begun = ("upload", rest.removeprefix("uploads/"))
        if self.command == "POST":
            mounted = registry.blobs.get((query.get("from", [""])[0], query.get("mount", [""])[0]))
            if mounted is not None:
                registry.blobs[repository, query["mount"][0]] = mounted
                self._reply(201)
            else:
                self._reply(202, {"Location": f"/v2/{repository}/blobs/uploads/{uuid.uuid4().hex}?state=1"})
        elif self.command == "PATCH":
            registry.blobs[begun] = body
            self._reply(202, {"Location": f"/v2/{repository}/blobs/{rest}?state=2"})
        elif self.command == "PUT":
            data = registry.blobs.pop(begun)
            is_it = digest_of(data) == query["digest"][0]
            if is_it:
                registry.blobs[repository, query["digest"][0]] = data
            self._reply(201 if is_it else 400)
        elif self.command == "GET" and registry.blob_store:
            self._reply(307, {"Location": f"http://{registry.blob_store}/v2/{repository}/blobs/{rest}"})
        else:
            data = registry.blobs.get((repository, rest))
            self._reply(404 if data is None else 200, {}, data or b"")

    def _reply(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.command == "GET" and "/blobs/" in self.path and self.stand_in.cuts.get("GET")
        if cut:
            self.stand_in.cuts["GET"] -= 1
            self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)


def _basic(user: str) -> str:
    return "Basic " + base64.b64encode(user.encode()).decode()
