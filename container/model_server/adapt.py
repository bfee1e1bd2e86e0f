"""Adapt an image that is in a registry: one more layer, another config, and nothing of the image is pulled.

`get_image_config`, `get_new_env_vars` and `mutate_image` are what sagemaker-shim's example has, by the same names.
"""

import json
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from . import VERSION
from .adaptation import ConfigUnusable, NoCommand, adapted_config, get_new_env_vars, holds_our_layer
from .config_changes import config_changes
from .image_errors import CommandUndeclared, ImageBroken, RegistryFailed, TargetByDigest
from .image_manifest import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    Blob,
    as_dockers,
    digest_of,
    docker_manifest,
)
from .image_reference import ImageReference
from .layer_file import GZIP, LayerFile
from .layer_source import layer_at_hand
from .registry import Registry, Repository
from .registry_http import Http
from .registry_image import RegistryImage

__all__ = ["adapt", "get_image_config", "get_new_env_vars", "mutate_image"]

LAYERS_AT_A_TIME = 4

Say = Callable[[str], None]


def get_image_config(*, repo_tag: str) -> dict[str, Any]:
    """Return the config of an image in a registry, for linux/amd64; raises ImageError."""
    with _registries() as repository_of:
        return dict(RegistryImage.read(repository_of(ImageReference.parse(repo_tag))).config)


def mutate_image(
    *,
    env_vars: Mapping[str, str],
    existing_repo_tag: str = "",
    new_repo_tag: str = "",
    repo_tag: str = "",
    version: str = VERSION,
    layer: Path | None = None,
) -> str:
    """Push an image with our layer and these variables, and return its name; raises ImageError.

    `repo_tag` is another name for `existing_repo_tag`; without `new_repo_tag` its tag gets an ending with the version.
    """
    existing = existing_repo_tag or repo_tag
    source = ImageReference.parse(existing)
    new = new_repo_tag or f"{source.address}:{source.tag or 'latest'}-longshore-{version}"
    with _planned(existing, new, layer, lambda _: env_vars, _say_nothing) as plan:
        plan.push(_say_nothing)
    return new


def adapt(source: str, target: str, *, layer: Path | None, dry_run: bool, say: Say) -> str:
    """Adapt an image, and return what the command prints; `say` is told of each step. Raises ImageError."""
    with _planned(source, target, layer, get_new_env_vars, say) as plan:
        if dry_run:
            return "\n".join(plan.lines())
        return f"{plan.target.reference} {plan.push(say)}"


@dataclass(frozen=True)
class Plan:
    """What an image becomes, and where."""

    image: RegistryImage
    target: Repository
    layer: LayerFile
    config: Mapping[str, Any]

    @property
    def kept(self) -> tuple[Blob, ...]:
        """The layers of the image that stay: all, but for one of ours, which the new one replaces."""
        layers = self.image.layers
        return layers[:-1] if holds_our_layer(self.image.config) else layers

    @property
    def ours(self) -> Blob:
        return Blob(DOCKER_LAYER, self.layer.digest, self.layer.size)

    @property
    def config_bytes(self) -> bytes:
        return json.dumps(self.config, separators=(",", ":"), sort_keys=True).encode()

    def lines(self) -> list[str]:
        """Say for people what would change."""
        of = self.image.media_type
        return [
            f"{self.image.repository.reference} -> {self.target.reference}",
            *config_changes(self.image.config, self.config),
            *(f"- Layer {_sized(layer)}" for layer in self.image.layers[len(self.kept) :]),
            f"+ Layer {_sized(self.ours)}, on {_counted(len(self.kept), 'layer')} that stay",
            *([f"- Manifest {of}", f"+ Manifest {DOCKER_MANIFEST}"] if of != DOCKER_MANIFEST else []),
            "Nothing was pushed",
        ]

    def push(self, say: Say) -> str:
        """Push what the target's registry has not, the manifest last, and return its digest."""
        layers, ways = self._carry_layers()
        if layers:
            said = ", ".join(f"{number} {way}" for way, number in sorted(ways.items()))
            say(f"Layers: {said}")
        is_there = self.target.has_blob(self.ours.digest)
        if not is_there:
            self.target.upload(self.layer.chunks, self.ours.digest, self.ours.size)
        say(f"Longshore's layer: {'there already' if is_there else 'uploaded'}")
        data = self.config_bytes
        config = Blob(DOCKER_CONFIG, digest_of(data), len(data))
        if not self.target.has_blob(config.digest):
            self.target.upload(lambda: _once(data), config.digest, config.size)
        manifest = docker_manifest(config, [*layers, self.ours])
        return self._tag(manifest, say)

    def _tag(self, manifest: bytes, say: Say) -> str:
        """Give the target's tag to a manifest, unless it has it; see that it has it then."""
        digest, tag = digest_of(manifest), self.target.reference.name
        if self.target.digest(tag) == digest:
            say("Push: it is there already, the same")
            return digest
        self.target.put_manifest(tag, DOCKER_MANIFEST, manifest)
        found = self.target.digest(tag) or digest_of(self.target.manifest_bytes(tag)[0])
        if found != digest:
            raise RegistryFailed(
                self.target.reference.host, f"it has {found} as {self.target.reference}, and {digest} was pushed"
            )
        say(f"Push: {self.target.reference}")
        return digest

    def _carry_layers(self) -> tuple[list[Blob], Counter[str]]:
        """Have the target's repository hold each layer that stays; return them as Docker's manifests name them."""
        ended = Event()
        pool = ThreadPoolExecutor(LAYERS_AT_A_TIME, thread_name_prefix="layer")
        carrying = [pool.submit(self._carry, layer, ended) for layer in self.kept]
        try:
            for done in as_completed(carrying):
                done.result()
        finally:
            ended.set()  # one that has failed ends the others
            pool.shutdown(cancel_futures=True)
        carried = [done.result() for done in carrying]
        return [blob for blob, _ in carried], Counter(way for _, way in carried)

    def _carry(self, layer: Blob, ended: Event) -> tuple[Blob, str]:
        """Return a layer as the target has it, and how it came there."""
        source, target = self.image.repository, self.target
        blob = as_dockers(source.reference, layer)
        if blob is None:
            digest, size = target.upload(lambda: _gzipped(_until(ended, source.chunks(layer))))
            return Blob(DOCKER_LAYER, digest, size), "compressed and copied"
        if blob.urls:
            return blob, "left where they are, at another address"
        if source.address == target.address or target.has_blob(blob.digest):
            return blob, "there already"
        if source.reference.host == target.reference.host and target.mount(blob.digest, source):
            return blob, "mounted from the other repository"
        target.upload(lambda: _until(ended, source.chunks(blob)), blob.digest, blob.size)
        return blob, "copied"


RepositoryOf = Callable[[ImageReference], Repository]


@contextmanager
def _registries() -> Iterator[RepositoryOf]:
    """Give access to registries for the block; who we are to one is found out once."""
    registries: dict[str, Registry] = {}
    with closing(Http()) as http:

        def repository_of(reference: ImageReference) -> Repository:
            registry = registries.setdefault(reference.host, Registry(reference.host, http))
            return Repository(reference, registry)

        yield repository_of


@contextmanager
def _planned(
    source: str,
    target: str,
    layer: Path | None,
    variables: Callable[[Mapping[str, Any]], Mapping[str, str]],
    say: Say,
) -> Iterator[Plan]:
    """Read what the image is, and plan for the block what it becomes."""
    to = ImageReference.parse(target)
    if to.digest:
        raise TargetByDigest(target)
    with _registries() as repository_of:
        image = RegistryImage.read(repository_of(ImageReference.parse(source)))
        reference = image.repository.reference
        say(f"Source: {reference}, {_counted(len(image.layers), 'layer')}, {_megabytes(image.size)}")
        with _faults_of(reference):
            env_vars = variables(image.config)
        with layer_at_hand(layer, say) as file:
            with _faults_of(reference):
                config = adapted_config(image.config, env_vars, diff_id=file.diff_id)
            yield Plan(image, repository_of(to), file, config)


@contextmanager
def _faults_of(reference: ImageReference) -> Iterator[None]:
    """Name the image in what is said of its config."""
    try:
        yield
    except NoCommand as error:
        raise CommandUndeclared(reference, str(error)) from None
    except ConfigUnusable as error:
        raise ImageBroken(reference, str(error)) from None


def _until(ended: Event, chunks: Generator[bytes]) -> Generator[bytes]:
    """Pass chunks on while they are wanted: one layer that fails ends the others."""
    with closing(chunks):
        for chunk in chunks:
            if ended.is_set():
                raise Unwanted
            yield chunk


class Unwanted(Exception):
    """Ends the copying of a layer whose image can't be pushed any more."""


def _gzipped(chunks: Generator[bytes]) -> Generator[bytes]:
    """Compress a layer; the same layer has the same bytes: no time and no name are in it."""
    packer = zlib.compressobj(wbits=GZIP)
    with closing(chunks):
        for chunk in chunks:
            if packed := packer.compress(chunk):
                yield packed
    yield packer.flush()


def _once(data: bytes) -> Generator[bytes]:
    yield data


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _sized(layer: Blob) -> str:
    return f"{_megabytes(layer.size)}, {layer.digest}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _say_nothing(_: str) -> None: ...
