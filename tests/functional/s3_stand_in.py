"""A server that answers as a test wants it, over TLS too, and a proxy: for what no S3 server can be made to do."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class Seen:
    """One request, and the number of the connection on which it came, from 1 on."""

    method: str
    target: str
    headers: dict[str, str]
    connection: int


@dataclass
class StandIn:
    """The server's address, and what came."""

    endpoint: str
    requests: list[Seen] = field(default_factory=list)
    connections: int = 0


class Exchange(BaseHTTPRequestHandler):
    """One connection: `reply` answers, `write` sends bytes as they are."""

    protocol_version = "HTTP/1.1"
    number = 0

    def reply(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if not {name.lower() for name in headers} & {"transfer_encoding", "content_length"}:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def write(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


Answering = Callable[[Exchange], None]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: the other side may end as it likes."""


@contextmanager
def standing_in(answer: Answering, tls: ssl.SSLContext | None = None, name: str = "127.0.0.1") -> Iterator[StandIn]:
    """Run a server for the block, which is called by this name; `answer` is called for each request."""
    lock = threading.Lock()

    class Handler(Exchange):
        def setup(self) -> None:
            with lock:
                stand_in.connections += 1
                self.number = stand_in.connections
            super().setup()

        def _answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            stand_in.requests.append(Seen(self.command, self.path, headers, self.number))
            with suppress(ConnectionError):
                answer(self)

        do_GET = do_PUT = do_POST = do_DELETE = do_CONNECT = _answer  # noqa: N815 - the names that http.server calls

    server = _Server(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    stand_in = StandIn(f"{'https' if tls else 'http'}://{name}:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def forward(exchange: Exchange) -> None:
    """Be a proxy: open a tunnel, or pass a request on that names its whole address."""
    if exchange.command == "CONNECT":
        host, _, port = exchange.path.rpartition(":")
        with socket.create_connection((host, int(port))) as server:
            exchange.reply(200, Content_Length="0")
            back = threading.Thread(target=_copy, args=(server, exchange.connection))
            back.start()
            _copy(exchange.connection, server)
            back.join()
        exchange.close_connection = True
        return
    address = urlsplit(exchange.path)
    body = exchange.body()
    with socket.create_connection((address.hostname or "", address.port or 80)) as server:
        kept = [(name, value) for name, value in exchange.headers.items() if name.lower() != "proxy-authorization"]
        head = "".join(f"{name}: {value}\r\n" for name, value in [*kept, ("Connection", "close")])
        server.sendall(f"{exchange.command} {address.path or '/'} HTTP/1.1\r\n{head}\r\n".encode() + body)
        _copy(server, exchange.connection)
    exchange.close_connection = True


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class Authority:
    """An authority of one's own, whose certificates are in `file`."""

    file: Path
    server: ssl.SSLContext


def authority(folder: Path, *names: str) -> Authority:
    """Make an authority, and what a server of these names needs; addresses are names too."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    ours = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An authority for tests")])
    now = datetime.now(UTC)
    half_made = x509.CertificateBuilder().issuer_name(ours).not_valid_before(now - timedelta(days=1))
    half_made = half_made.not_valid_after(now + timedelta(days=1))
    root = (
        half_made.subject_name(ours)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    server_key = ec.generate_private_key(ec.SECP256R1())
    known = [x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names]
    leaf = (
        half_made.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A server for tests")]))
        .public_key(server_key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectAlternativeName(known), critical=False)
        .sign(key, hashes.SHA256())
    )
    file, both = folder / "authority.pem", folder / "server.pem"
    file.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    both.write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + leaf.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return Authority(file, context)
