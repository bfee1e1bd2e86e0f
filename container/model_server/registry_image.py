"""An image that is in a registry, without its layers: its manifest for SageMaker's machines, and its config."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from .image_errors import ImageBroken, PlatformMissing
from .image_manifest import Blob, Manifest, as_dockers, check_platform
from .registry import Repository

MAX_DEPTH = 3
"""How many indexes may lie in each other."""

MAX_CANDIDATES = 8


@dataclass(frozen=True)
class RegistryImage:
    """An image of linux/amd64, as its registry has it; layers are listed from the bottom."""

    repository: Repository
    media_type: str
    config: Mapping[str, Any]
    layers: tuple[Blob, ...]

    @classmethod
    def read(cls, repository: Repository) -> Self:
        """Read what the reference of a repository names; raises ImageError."""
        return cls._read(repository, repository.reference.name, MAX_DEPTH)

    @classmethod
    def _read(cls, repository: Repository, name: str, depth: int) -> Self:
        manifest = repository.manifest(name)
        if not manifest.is_index:
            return cls._of(repository, manifest)
        if not depth:
            raise ImageBroken(repository.reference, "it is an index of indexes without end")
        platforms: list[str] = []
        for candidate in manifest.candidates()[:MAX_CANDIDATES]:
            try:
                return cls._read(repository, candidate.digest, depth - 1)
            except PlatformMissing as error:  # an index need not say of what platform its images are
                platforms += error.platforms
        raise PlatformMissing(repository.reference, sorted(set(platforms)))

    @classmethod
    def _of(cls, repository: Repository, manifest: Manifest) -> Self:
        config = repository.config(manifest.config)
        check_platform(repository.reference, config)
        layers = manifest.layers(config)
        for layer in layers:
            as_dockers(repository.reference, layer)  # what can't be adapted is refused before anything is pushed
        return cls(repository, manifest.media_type, config, tuple(layers))

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers)
