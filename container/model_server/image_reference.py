"""The name of an image, as Docker reads it: where its registry is, its repository, and which of its images is meant."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Self

from .image_errors import ReferenceInvalid

DOCKER_HUB = "registry-1.docker.io"
"""Where the images are whose names begin with no registry, or with one of these:"""

HUB_NAMES = {"docker.io", "index.docker.io", DOCKER_HUB}

COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
REPOSITORY = re.compile(rf"{COMPONENT}(?:/{COMPONENT})*")
HOST = re.compile(r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
PORTS = range(1, 1 << 16)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class ImageReference:
    """An image's name in full; `host` is the registry that is spoken to."""

    host: str
    repository: str
    tag: str | None
    digest: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `docker pull` takes; raises ReferenceInvalid."""
        if "://" in text:
            raise ReferenceInvalid(_without_password(text), "it is an address, and begins with a scheme")
        rest, has_digest, digest = text.partition("@")
        if has_digest and not DIGEST.fullmatch(digest):
            raise ReferenceInvalid(text, "what follows @ is no sha256 digest")
        first, has_host, repository = rest.partition("/")
        if not has_host or not (set(".:[") & set(first) or first == "localhost"):
            first, repository = DOCKER_HUB, rest
        repository, has_tag, tag = repository.partition(":")
        if has_tag and not TAG.fullmatch(tag):
            raise ReferenceInvalid(text, f"{tag!r} can not be a tag")
        if not _is_host(first):
            raise ReferenceInvalid(text, f"{first!r} can not be a registry")
        if first in HUB_NAMES:
            first = DOCKER_HUB
            repository = repository if "/" in repository else f"library/{repository}"
        if not REPOSITORY.fullmatch(repository) or len(repository) > 255:
            raise ReferenceInvalid(text, f"{repository.removeprefix('library/')!r} can not be a repository")
        return cls(first, repository, tag or None, digest or None)

    def __str__(self) -> str:
        if self.digest:
            return f"{self.address}@{self.digest}"
        return f"{self.address}:{self.name}"

    @property
    def address(self) -> str:
        """The repository, with its registry as people write it."""
        return f"{'docker.io' if self.host == DOCKER_HUB else self.host}/{self.repository}"

    @property
    def name(self) -> str:
        """What the image is called in its repository: the digest where there is one."""
        return self.digest or self.tag or "latest"

    @property
    def url(self) -> str:
        """The repository's address in the registry's HTTP API."""
        return f"{'http' if is_loopback(self.host) else 'https'}://{self.host}/v2/{self.repository}"


def is_loopback(host: str) -> bool:
    """Say whether a host, with or without a port, is this machine: plain HTTP is spoken there and nowhere else."""
    found = HOST.fullmatch(host)
    name = found["name"].lower() if found else host.lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_host(text: str) -> bool:
    found = HOST.fullmatch(text)
    if not found or int(found["port"] or 1) not in PORTS:
        return False
    return not text.startswith("[") or _is_ipv6(found["name"].strip("[]"))


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _without_password(text: str) -> str:
    """Leave out of an address who is to log in there."""
    return re.sub(r"//[^/]*@", "//", text)
