"""What a registry has under a name: which image of an index it is, and what can not be adapted."""

import json
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from model_server.image_errors import ImageBroken, ImageError, LayerUnsupported, NotAnImage, PlatformMissing
from model_server.image_manifest import (
    DOCKER_FOREIGN_LAYER,
    DOCKER_LAYER,
    DOCKER_LIST,
    OCI_INDEX,
    OLD_MANIFESTS,
    Blob,
    Manifest,
    as_dockers,
    docker_manifest,
)
from model_server.image_reference import ImageReference
from model_server.registry import Repository
from model_server.registry_image import MAX_DEPTH, RegistryImage
from small_images import DOCKER_CONFIG, OCI_LAYER, SmallImage, described, digest_of, index_of

DIGEST = digest_of(b"")
UNKNOWN = {"platform": {"os": "unknown", "architecture": "unknown"}}
AMD64 = SmallImage(is_oci=True)
ARM64 = SmallImage(is_oci=True, architecture="arm64")


@dataclass
class Shelf:
    """A repository that is a dictionary."""

    reference: ImageReference = field(default_factory=lambda: ImageReference.parse("registry.example.com/image:1"))
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[bytes, str]] = field(default_factory=dict)

    def put_blob(self, _: str, data: bytes, digest: str) -> None:
        self.blobs[digest] = data

    def put_manifest(self, _: str, tag: str, media_type: str, manifest: Any) -> None:
        data = json.dumps(manifest).encode()
        self.manifests[tag] = self.manifests[digest_of(data)] = (data, media_type)

    def put(self, image: SmallImage, **platform: str) -> dict[str, Any]:
        """Put an image there, and return its descriptor, which says this of its platform."""
        entry = image.put(self, "", "an image")
        return entry | {"platform": entry["platform"] | platform}

    def put_index(self, *entries: dict[str, Any], media_type: str = OCI_INDEX) -> dict[str, Any]:
        """Put an index there, and return its descriptor."""
        index = index_of(*entries) | {"mediaType": media_type}
        self.put_manifest("", "1", media_type, index)
        return described(media_type, json.dumps(index).encode())

    def manifest(self, name: str) -> Manifest:
        return Manifest.read(self.reference, *self.manifests[name])

    def config(self, blob: Blob) -> Any:
        return json.loads(self.blobs[blob.digest])

    def read(self) -> RegistryImage:
        return RegistryImage.read(cast(Repository, self))


def without_platform(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != "platform"}


# -- which image of an index


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_an_index_leads_to_the_image_for_amd64(media_type: str) -> None:
    shelf = Shelf()
    attestation = described("application/vnd.oci.image.manifest.v1+json", b"about an image") | UNKNOWN
    shelf.put_index(attestation, shelf.put(ARM64, variant="v8"), shelf.put(AMD64), media_type=media_type)
    assert shelf.read().config["architecture"] == "amd64"


def test_the_variant_that_every_machine_runs_is_taken() -> None:
    shelf = Shelf()
    newest, usual = SmallImage(config={"Cmd": ["v3"]}), SmallImage(config={"Cmd": ["v1"]})
    shelf.put_index(shelf.put(newest, variant="v3"), shelf.put(usual))
    assert shelf.read().config["config"]["Cmd"] == ["v1"]


def test_an_index_that_names_no_platform_is_looked_through() -> None:
    shelf = Shelf()
    shelf.put_index(*(without_platform(shelf.put(image)) for image in (ARM64, AMD64)))
    assert shelf.read().config["architecture"] == "amd64"


def test_an_index_may_be_in_another() -> None:
    shelf = Shelf()
    entry = shelf.put_index(shelf.put(AMD64))
    for _ in range(MAX_DEPTH - 1):
        entry = shelf.put_index(entry)
    assert shelf.read().config["architecture"] == "amd64"
    shelf.put_index(entry)
    with pytest.raises(ImageBroken, match="an index of indexes without end"):
        shelf.read()


@pytest.mark.parametrize(
    ("platforms", "named"),
    [
        ([], "no platform"),
        ([{"os": "unknown", "architecture": "unknown"}], "no platform"),
        (
            [{"os": "windows", "architecture": "amd64"}, {"os": "linux", "architecture": "arm", "variant": "v7"}],
            "linux/arm/v7, windows/amd64",
        ),
    ],
)
def test_an_index_without_amd64_says_what_it_is_for(platforms: list[dict[str, str]], named: str) -> None:
    shelf = Shelf()
    shelf.put_index(*(described("", b"") | {"platform": platform} for platform in platforms))
    with pytest.raises(PlatformMissing, match=f"it is for {named}"):
        shelf.read()


def test_an_index_that_is_wrong_about_its_image_is_not_believed() -> None:
    shelf = Shelf()
    shelf.put_index(shelf.put(ARM64, architecture="amd64"))
    with pytest.raises(PlatformMissing, match="it is for linux/arm64"):
        shelf.read()


# -- layers, as Docker's manifests have them


@pytest.mark.parametrize(
    ("media_type", "urls", "dockers"),
    [
        (DOCKER_LAYER, (), DOCKER_LAYER),
        (f"{OCI_LAYER}+gzip", (), DOCKER_LAYER),
        (DOCKER_FOREIGN_LAYER, ("https://example.com/layer",), DOCKER_FOREIGN_LAYER),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", ("https://example.com/layer",), "foreign"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", (), DOCKER_LAYER),
    ],
)
def test_a_layer_that_gzip_has_compressed_stays_as_it_is(media_type: str, urls: tuple[str, ...], dockers: str) -> None:
    layer = as_dockers("image", Blob(media_type, DIGEST, 7, urls))
    expected = DOCKER_FOREIGN_LAYER if dockers == "foreign" else dockers
    assert layer == Blob(expected, DIGEST, 7, urls)
    manifest = json.loads(docker_manifest(Blob(DOCKER_CONFIG, DIGEST, 1), [layer]))
    assert manifest["layers"][0].get("urls", []) == list(urls)


@pytest.mark.parametrize("media_type", [OCI_LAYER, "application/vnd.docker.image.rootfs.diff.tar"])
def test_a_layer_without_compression_has_to_be_compressed(media_type: str) -> None:
    assert as_dockers("image", Blob(media_type, DIGEST, 7)) is None


@pytest.mark.parametrize(
    "media_type", [f"{OCI_LAYER}+zstd", f"{OCI_LAYER}+gzip+encrypted", "application/vnd.in-toto+json", ""]
)
def test_a_layer_that_docker_does_not_know_is_refused(media_type: str) -> None:
    shelf = Shelf()
    SmallImage(is_oci=True, layer_type=media_type or "other").put(shelf, "", "1")
    with pytest.raises(LayerUnsupported, match="compression=gzip"):
        shelf.read()


# -- what is no image


@pytest.mark.parametrize(
    ("changes", "content_type", "kind", "sentence"),
    [
        ({"schemaVersion": 1, "mediaType": ""}, "", NotAnImage, "a manifest of schema 1"),
        *(({"mediaType": None}, f"{old}; charset=utf-8", NotAnImage, "of this decade") for old in OLD_MANIFESTS),
        ({"artifactType": "application/vnd.example+json"}, "", NotAnImage, "an artifact of the type application/vnd.e"),
        ({"artifactType": 7}, "", NotAnImage, "an artifact of the type 7"),
        (
            *({"config": described("application/vnd.cncf.helm.config.v1+json", b"{}")}, "", NotAnImage),
            "a Helm chart",
        ),
        ({"mediaType": "a/b", "layers": None, "config": {}}, "", ImageBroken, "no sha256 digest"),
        ({"mediaType": ["a", {}]}, "", None, ""),
        ({"config": None}, "", ImageBroken, "a part of it is not described"),
        ({"config": {"digest": "sha512:0", "size": 1}}, "", ImageBroken, "no sha256 digest"),
        ({"config": {"digest": DIGEST, "size": "1"}}, "", ImageBroken, "no size"),
        ({"layers": {}}, "", ImageBroken, "its manifest has no layers"),
        ({"layers": []}, "", ImageBroken, "it has 0 layers, and its config speaks of others"),
        ({"layers": [{"digest": DIGEST, "size": 1, "urls": 7}]}, "", ImageBroken, "is broken"),
        ({"mediaType": OCI_INDEX}, "", ImageBroken, "its manifest has no manifests"),
    ],
)
def test_what_is_no_image_is_refused(
    changes: dict[str, Any], content_type: str, kind: type[ImageError] | None, sentence: str
) -> None:
    shelf = Shelf()
    AMD64.put(shelf, "", "1")
    shelf.put_manifest("", "1", content_type, AMD64.manifest | changes)
    if kind is None:  # a type that is none is not believed, and its parts are
        assert shelf.read().config["architecture"] == "amd64"
        return
    with pytest.raises(kind) as error:
        shelf.read()
    assert sentence in str(error.value)


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"null", b"<html>"])
def test_a_manifest_that_is_no_json_object_is_broken(data: bytes) -> None:
    with pytest.raises(ImageBroken, match="its manifest is no JSON"):
        Manifest.read("image", data, "")


@pytest.mark.parametrize("content_type", ["", "text/plain"])
def test_a_manifest_that_does_not_say_what_it_is_is_known_by_its_parts(content_type: str) -> None:
    shelf = Shelf()
    AMD64.put(shelf, "", "1")
    shelf.put_manifest("", "1", content_type, {k: v for k, v in AMD64.manifest.items() if k != "mediaType"})
    assert shelf.read().config["architecture"] == "amd64"
    with pytest.raises(NotAnImage, match=f"of the type {content_type or 'unknown'}"):
        Manifest.read("image", b"{}", content_type)
