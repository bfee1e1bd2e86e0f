"""A container registry on loopback: Debian's docker-registry, with a user and a password."""

import base64
import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker_rig import eventually

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"

ECR_PASSWORD = "123456789012-auth-token"
"""What moto's ECR gives to its one account."""

OCI_NAMES = {
    DOCKER_MANIFEST: OCI_MANIFEST,
    "application/vnd.docker.container.image.v1+json": "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
}

CONFIG = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: "{images}"}}}}
http: {{addr: "{host}"}}
auth: {auth}
"""
BCRYPT = "print crypt($ARGV[0], q($2b$05$) . q(.) x 22)"
"""In Perl, which every Debian has: the only way of writing passwords that the registry reads."""


@dataclass(frozen=True)
class Registry:
    """A registry that runs; `host` is what image names begin with."""

    host: str
    user: str
    password: str
    log: str = field(default="", repr=False)
    """The file with a line for each request."""

    @property
    def folder(self) -> Path:
        return Path(self.log).parent

    def requests(self, method: str, part: str) -> list[str]:
        """Return the address of each request of a method, if this is in it, and the status of its answer."""
        found = re.findall(rf'"{method} (\S+) HTTP/1.1" ([0-9]+)', Path(self.log).read_text())
        return [f"{address} {status}" for address, status in found if part in address]

    def manifest(self, repository: str, reference: str) -> tuple[str, str, Any]:
        """Return the type, the digest and the content of a manifest."""
        status, headers, body = self._call("GET", f"{repository}/manifests/{reference}", Accept=DOCKER_MANIFEST)
        assert status == 200, body
        return headers["Content-Type"], headers["Docker-Content-Digest"], json.loads(body)

    def tags(self, repository: str) -> list[str]:
        status, _, body = self._call("GET", f"{repository}/tags/list")
        return json.loads(body)["tags"] or [] if status == 200 else []

    def blob(self, repository: str, digest: str) -> bytes:
        return self._call("GET", f"{repository}/blobs/{digest}")[2]

    def put_blob(self, repository: str, data: bytes, digest: str) -> None:
        _, headers, _ = self._call("POST", f"{repository}/blobs/uploads/")
        place = headers["Location"] + ("&" if "?" in headers["Location"] else "?") + f"digest={digest}"
        status, _, body = self._call("PUT", place, data, Content_Type="application/octet-stream")
        assert status == 201, body

    def put_manifest(self, repository: str, tag: str, media_type: str, manifest: Any) -> None:
        body = json.dumps(manifest).encode()
        status, _, answer = self._call("PUT", f"{repository}/manifests/{tag}", body, Content_Type=media_type)
        assert status == 201, answer

    def turn_into_oci(self, repository: str, tag: str) -> None:
        """Make an image's manifest what newer engines push."""
        manifest = json.dumps(self.manifest(repository, tag)[2])
        for dockers, ocis in OCI_NAMES.items():
            manifest = manifest.replace(dockers, ocis)
        self.put_manifest(repository, tag, OCI_MANIFEST, json.loads(manifest))

    def _call(self, method: str, path: str, data: bytes | None = None, **headers: str) -> tuple[int, Any, bytes]:
        url = path if "://" in path else f"http://{self.host}/v2/{path}"
        request = urllib.request.Request(url, data, method=method)
        credentials = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        request.add_header("Authorization", f"Basic {credentials}")
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()


@contextmanager
def running_registry(
    folder: Path, user: str, password: str, auth: str = "", images: Path | None = None
) -> Iterator[Registry]:
    """Run a registry for the block, whose images are in a folder; `auth` is how it asks who comes, if not itself."""
    program = shutil.which("docker-registry")
    assert program, "There is no docker-registry: ./tests/run.sh installs it where it may"
    host = f"127.0.0.1:{free_port()}"
    encrypted = subprocess.run(["perl", "-e", BCRYPT, password], stdout=subprocess.PIPE, text=True, check=True).stdout
    (folder / "passwords").write_text(f"{user}:{encrypted}\n")
    auth = auth or f'{{htpasswd: {{realm: images, path: "{folder}/passwords"}}}}'
    (folder / "config.yml").write_text(CONFIG.format(images=images or folder / "images", host=host, auth=auth))
    with (
        (folder / "requests.log").open("wb") as log,
        subprocess.Popen([program, "serve", folder / "config.yml"], stdout=log, stderr=subprocess.DEVNULL) as process,
    ):
        try:
            eventually(lambda: answers(host), "the registry answers")
            yield Registry(host, user, password, log.name)
        finally:
            process.terminate()


def answers(host: str) -> bool:
    name, _, port = host.partition(":")
    try:
        socket.create_connection((name, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
