"""Who gives out the tokens that a registry wants to see, as Docker Hub, GitHub and GitLab have them."""

import base64
import datetime
import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

SERVICE, ISSUER = "images", "tokens of tests"
TOKEN_SECONDS = 300


@dataclass
class TokenServer:
    """What it was asked: a list of scopes for each token."""

    user: str
    password: str
    address: str = ""
    certificate: bytes = b""
    asked: list[list[str]] = field(default_factory=list)
    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
        now = datetime.datetime.now(datetime.UTC)
        hour = datetime.timedelta(hours=1)
        made = x509.CertificateBuilder(name, name, self._key.public_key(), 1, now - hour, now + hour)
        self.certificate = made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.DER)

    def auth(self, folder: Path) -> str:
        """Return what a registry's configuration says of this server; its certificate is left in a folder."""
        bundle = folder / "tokens.pem"
        bundle.write_bytes(x509.load_der_x509_certificate(self.certificate).public_bytes(Encoding.PEM))
        said = {"realm": self.address, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(bundle)}
        return json.dumps({"token": said})

    @property
    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def token(self, scopes: list[str]) -> str:
        """Sign a token that is good for what is asked, and nothing else."""
        now = int(time.time())
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        head = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(self.certificate).decode()]}
        claims = {"iss": ISSUER, "aud": SERVICE, "sub": self.user, "jti": uuid.uuid4().hex, "access": access}
        claims |= {"iat": now, "nbf": now - 60, "exp": now + TOKEN_SECONDS}
        signed = ".".join(_written(json.dumps(part).encode()) for part in (head, claims))
        numbers = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_written(b''.join(number.to_bytes(32, 'big') for number in numbers))}"


@contextmanager
def running_token_server(user: str, password: str) -> Iterator[TokenServer]:
    """Run a token server for the block, which knows one user."""
    tokens = TokenServer(user, password)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            question = parse_qs(urlsplit(self.path).query)
            if self.headers.get("Authorization") != tokens.basic or question["service"] != [SERVICE]:
                self._answer(401, {})
                return
            tokens.asked.append(question["scope"])
            self._answer(200, {"token": tokens.token(question["scope"]), "expires_in": TOKEN_SECONDS})

        def _answer(self, status: int, answer: Any) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        tokens.address = f"http://127.0.0.1:{server.server_port}/token"
        try:
            yield tokens
        finally:
            server.shutdown()
            thread.join()


def _written(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
