"""What an image consists of: manifests of Docker's and OCI's, and the one kind that SageMaker takes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from .image_errors import ImageBroken, LayerUnsupported, NotAnImage, PlatformMissing
from .image_reference import DIGEST

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
MANIFESTS = (DOCKER_MANIFEST, OCI_MANIFEST)
INDEXES = (DOCKER_LIST, OCI_INDEX)
READ = (*MANIFESTS, *INDEXES)
"""The types that are asked for."""

DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"

DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

LAYERS_AS_THEY_ARE = {DOCKER_LAYER, "application/vnd.oci.image.layer.v1.tar+gzip"}
FOREIGN_LAYERS = {
    DOCKER_FOREIGN_LAYER,
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
}
"""Layers that may have to be fetched from where `urls` says."""

UNCOMPRESSED_LAYERS = {"application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"}

OS, ARCHITECTURE = "linux", "amd64"
USUAL_VARIANTS = ("", "v1")
OLD_MANIFESTS = {
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
}
OLD = "a manifest of schema 1"
PUSH_AGAIN = "Pull it, and push it again by a Docker of this decade."


@dataclass(frozen=True)
class Blob:
    """A part of an image; `urls` are where a layer is that no registry may hand out."""

    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] = ()

    @classmethod
    def read(cls, described: Any) -> Self:
        """Read a descriptor; raises ValueError."""
        if not isinstance(described, dict):
            raise ValueError("a part of it is not described")
        digest, size, urls = described.get("digest"), described.get("size"), described.get("urls") or ()
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise ValueError("a part of it has no sha256 digest")
        if not isinstance(size, int) or size < 0:
            raise ValueError("a part of it has no size")
        return cls(str(described.get("mediaType", "")), digest, size, tuple(urls))

    def as_json(self) -> dict[str, Any]:
        described = {"mediaType": self.media_type, "size": self.size, "digest": self.digest}
        return described | ({"urls": list(self.urls)} if self.urls else {})


@dataclass(frozen=True)
class Manifest:
    """What a registry has under a name: an index of images of several platforms, or one image."""

    source: str
    media_type: str
    content: Mapping[str, Any]

    @classmethod
    def read(cls, source: object, data: bytes, content_type: str) -> Self:
        """Read it; `source` is what an error names. Raises NotAnImage and ImageBroken."""
        try:
            content = json.loads(data)
        except ValueError:
            raise ImageBroken(source, "its manifest is no JSON") from None
        if not isinstance(content, dict):
            raise ImageBroken(source, "its manifest is no JSON object")
        media_type = str(content.get("mediaType") or content_type.partition(";")[0].strip())
        if content.get("schemaVersion") == 1 or media_type in OLD_MANIFESTS:
            raise NotAnImage(source, OLD, PUSH_AGAIN)
        if media_type not in READ:
            media_type = _by_its_parts(content) or media_type
        if media_type not in READ:
            raise NotAnImage(source, f"of the type {media_type or 'unknown'}")
        return cls(str(source), media_type, content)

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEXES

    def candidates(self) -> list[Blob]:
        """Return the manifests of an index that are for SageMaker's machines, or may be, the best first."""
        fits, unknown, platforms = [], [], []
        for entry in self._list("manifests"):
            platform = entry.get("platform") if isinstance(entry, dict) else None
            if not isinstance(platform, dict):
                unknown.append(self._blob(entry))
                continue
            if platform.get("os") == OS and platform.get("architecture") == ARCHITECTURE:
                fits.append((platform.get("variant", "") not in USUAL_VARIANTS, self._blob(entry)))
            elif platform.get("os") != "unknown":  # what says so is about an image, and none: a builder's attestation
                platforms.append(named(platform))
        fits.sort(key=lambda fit: fit[0])
        if not fits and not unknown:
            raise PlatformMissing(self.source, sorted(set(platforms)))
        return [blob for _, blob in fits] or unknown

    @property
    def config(self) -> Blob:
        """The config of an image; raises NotAnImage where it is something else that a registry keeps."""
        config = self._blob(self.content.get("config"))
        kind = str(self.content.get("artifactType") or config.media_type)
        if config.media_type in (DOCKER_CONFIG, OCI_CONFIG) and not self.content.get("artifactType"):
            return config
        what = "a Helm chart" if "helm" in kind else f"an artifact of the type {kind}"
        raise NotAnImage(self.source, what)

    def layers(self, config: Mapping[str, Any]) -> list[Blob]:
        """Return the layers of an image, from the bottom; raises ImageBroken where its config speaks of others."""
        layers = [self._blob(entry) for entry in self._list("layers")]
        rootfs = config.get("rootfs")
        diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        if not isinstance(diff_ids or [], list) or len(diff_ids or []) != len(layers):
            raise ImageBroken(self.source, f"it has {len(layers)} layers, and its config speaks of others")
        return layers

    def _list(self, name: str) -> Sequence[Any]:
        found = self.content.get(name)
        if not isinstance(found, list):
            raise ImageBroken(self.source, f"its manifest has no {name}")
        return found

    def _blob(self, described: Any) -> Blob:
        try:
            return Blob.read(described)
        except (ValueError, TypeError) as error:
            raise ImageBroken(self.source, str(error)) from None


def check_platform(source: object, config: Mapping[str, Any]) -> None:
    """Refuse an image that SageMaker's machines can not run; raises PlatformMissing."""
    if (config.get("os"), config.get("architecture")) != (OS, ARCHITECTURE):
        raise PlatformMissing(source, [named(config)])


def named(platform: Mapping[str, Any]) -> str:
    """Return what a platform is called: linux/arm64/v8."""
    return "/".join(str(platform[part]) for part in ("os", "architecture", "variant") if platform.get(part))


def as_dockers(source: object, layer: Blob) -> Blob | None:
    """Return a layer as Docker's manifests have it; None is one that has to be compressed for that.

    Raises LayerUnsupported.
    """
    if layer.media_type in LAYERS_AS_THEY_ARE:
        return Blob(DOCKER_LAYER, layer.digest, layer.size)
    if layer.media_type in FOREIGN_LAYERS:
        return Blob(DOCKER_FOREIGN_LAYER if layer.urls else DOCKER_LAYER, layer.digest, layer.size, layer.urls)
    if layer.media_type in UNCOMPRESSED_LAYERS:
        return None
    raise LayerUnsupported(source, layer.media_type)


def docker_manifest(config: Blob, layers: Sequence[Blob]) -> bytes:
    """Write the manifest that SageMaker takes; the same image has the same bytes."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": config.as_json(),
        "layers": [layer.as_json() for layer in layers],
    }
    return json.dumps(manifest, separators=(",", ":")).encode()


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _by_its_parts(content: Mapping[str, Any]) -> str:
    """Tell what a manifest is that does not say so: OCI's need not."""
    if "manifests" in content:
        return OCI_INDEX
    return OCI_MANIFEST if "config" in content and "layers" in content else ""
