"""Images of a few bytes, as registries keep them, and layers to add to them."""

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import Any, Protocol

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"


class Keeper(Protocol):
    """A registry that is given blobs and manifests."""

    def put_blob(self, repository: str, data: bytes, digest: str) -> None: ...

    def put_manifest(self, repository: str, tag: str, media_type: str, manifest: Any) -> None: ...


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def tar_of(name: str, data: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def layer_of(name: str, data: bytes) -> bytes:
    """Return a layer as `build_local.sh --layer` writes it."""
    return gzip.compress(tar_of(name, data), mtime=0)


@dataclass
class SmallImage:
    """An image with one layer; what is not said is what most images have."""

    layer: bytes = field(default_factory=lambda: tar_of("program", b"#!/bin/sh\n"))
    architecture: str = "amd64"
    config: dict[str, Any] = field(default_factory=lambda: {"Cmd": ["/program"], "User": "1000", "Env": ["PATH=/bin"]})
    is_oci: bool = False
    layer_type: str = ""

    @property
    def blob(self) -> bytes:
        return self.layer if self.layer_type == OCI_LAYER else gzip.compress(self.layer, mtime=0)

    @property
    def config_bytes(self) -> bytes:
        return json.dumps(
            {
                "os": "linux",
                "architecture": self.architecture,
                "config": self.config,
                "rootfs": {"type": "layers", "diff_ids": [digest_of(self.layer)]},
                "history": [{"created_by": "COPY program /program"}],
            }
        ).encode()

    @property
    def manifest(self) -> dict[str, Any]:
        usual = OCI_LAYER + "+gzip" if self.is_oci else DOCKER_LAYER
        return {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST if self.is_oci else DOCKER_MANIFEST,
            "config": described(OCI_CONFIG if self.is_oci else DOCKER_CONFIG, self.config_bytes),
            "layers": [described(self.layer_type or usual, self.blob)],
        }

    def put(self, registry: Keeper, repository: str, tag: str) -> dict[str, Any]:
        """Push it, and return its descriptor for an index."""
        for data in (self.blob, self.config_bytes):
            registry.put_blob(repository, data, digest_of(data))
        registry.put_manifest(repository, tag, self.manifest["mediaType"], self.manifest)
        platform = {"os": "linux", "architecture": self.architecture}
        return described(self.manifest["mediaType"], json.dumps(self.manifest).encode()) | {"platform": platform}


def described(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "size": len(data), "digest": digest_of(data)}


def index_of(*descriptors: dict[str, Any]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(descriptors)}
