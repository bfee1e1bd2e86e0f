"""`adapt`, against a registry that has bad days."""

import base64
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from registry_stand_in import StandIn, running_stand_in

from small_images import DOCKER_MANIFEST, OCI_LAYER, SmallImage, described, digest_of, index_of, layer_of

ADAPT = Path(__file__).parents[2] / "container/adapt"
USER = "somebody:a secret word"


@pytest.fixture
def registry() -> Iterator[StandIn]:
    with running_stand_in() as registry:
        yield registry


@pytest.fixture
def other() -> Iterator[StandIn]:
    with running_stand_in() as registry:
        yield registry


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    file = tmp_path / "layer.tar.gz"
    file.write_bytes(layer_of("longshore/bin/longshore", b"a launcher"))
    return file


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Writes what `docker login` leaves."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def write(config: dict[str, Any]) -> None:
        (tmp_path / "config.json").write_text(json.dumps(config))

    return write


def logged_in(registry: StandIn) -> dict[str, Any]:
    return {"auths": {registry.host: {"auth": base64.b64encode(registry.user.encode()).decode()}}}


@pytest.fixture
def adapt(layer: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command; an error is one line and no secret is said."""

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, ADAPT, "--layer", layer, *arguments]
        environ = os.environ | {"DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path)} | environ
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
        said = done.stdout + done.stderr
        assert "Traceback" not in said
        assert "unexpected" not in said
        assert USER.partition(":")[2] not in said
        return done

    return run


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("==> ")]
    assert (done.returncode, done.stdout) == (1, "")
    return line


def pushed(registry: StandIn, repository: str, tag: str) -> Any:
    media_type, data = registry.manifests[repository, tag]
    manifest = json.loads(data)
    assert media_type == manifest["mediaType"] == DOCKER_MANIFEST
    for part in (manifest["config"], *manifest["layers"]):
        assert len(registry.blobs[repository, part["digest"]]) == part["size"]
    return manifest


def test_between_two_registries_layers_are_passed_on(registry: StandIn, other: StandIn, adapt: Any) -> None:
    SmallImage().put(registry, "an/image", "1")
    done = adapt(f"{registry.host}/an/image:1", f"{other.host}/another:2")
    assert done.returncode == 0, done.stderr
    manifest = pushed(other, "another", "2")
    digest = digest_of(other.manifests["another", "2"][1])
    assert done.stdout == f"{other.host}/another:2 {digest}\n"
    assert len(manifest["layers"]) == 2
    assert not registry.seen("PUT", "")


@pytest.mark.parametrize("method", ["GET", "PATCH"])
def test_a_transfer_that_breaks_off_is_made_again(registry: StandIn, other: StandIn, adapt: Any, method: str) -> None:
    image = SmallImage(layer=random.Random(1).randbytes(3 << 20))
    image.put(registry, "image", "1")
    (registry if method == "GET" else other).cuts[method] = 2
    assert adapt(f"{registry.host}/image:1", f"{other.host}/image:2").returncode == 0
    pushed(other, "image", "2")


def test_a_layer_that_is_not_what_its_digest_says_is_not_pushed(registry: StandIn, other: StandIn, adapt: Any) -> None:
    image = SmallImage()
    image.put(registry, "image", "1")
    registry.put_blob("image", image.blob[:-1] + b"?", digest_of(image.blob))
    said = error_of(adapt(f"{registry.host}/image:1", f"{other.host}/image:2"))
    assert f"what the registry has as {digest_of(image.blob)} is something else" in said
    assert not other.manifests


def test_a_registry_that_is_busy_is_asked_again_when_it_says(registry: StandIn, adapt: Any) -> None:
    SmallImage().put(registry, "image", "1")
    registry.answers = {method: [(429, {"Retry-After": "1"}, b""), (503, {}, b"")] for method in ("GET", "POST", "PUT")}
    assert adapt(f"{registry.host}/image:1", f"{registry.host}/image:2").returncode == 0
    pushed(registry, "image", "2")


@pytest.mark.parametrize("word", ["token", "access_token"])
def test_a_token_is_fetched_for_each_scope(registry: StandIn, adapt: Any, login: Any, word: str) -> None:
    registry.user, registry.token_key = USER, word
    login(logged_in(registry))
    SmallImage().put(registry, "image", "1")
    assert adapt(f"{registry.host}/image:1", f"{registry.host}/other:1").returncode == 0
    pushed(registry, "other", "1")
    scopes = [asked.query["scope"] for asked in registry.seen("GET", "/token")]
    assert ["repository:image:pull"] in scopes
    assert ["repository:other:pull,push", "repository:image:pull"] in scopes
    assert all(asked.query["service"] == ["stand-in"] for asked in registry.seen("GET", "/token"))


def test_a_token_that_has_expired_is_fetched_anew(registry: StandIn, adapt: Any) -> None:
    registry.token_key, registry.uses_of_a_token = "token", 3
    SmallImage().put(registry, "image", "1")
    assert adapt(f"{registry.host}/image:1", f"{registry.host}/image:2").returncode == 0
    pushed(registry, "image", "2")
    assert len(registry.seen("GET", "/token")) > 2


def test_a_registry_that_refuses_every_token_is_given_up(registry: StandIn, adapt: Any) -> None:
    registry.token_key, registry.uses_of_a_token = "token", 0
    SmallImage().put(registry, "image", "1")
    done = adapt(f"{registry.host}/image:1", f"{registry.host}/image:2")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert len(registry.seen("GET", "/token")) < 10


def test_an_identity_token_is_exchanged(registry: StandIn, adapt: Any, login: Any) -> None:
    registry.user, registry.token_key = USER, "access_token"
    login({"auths": {registry.host: {"identitytoken": USER}}})
    SmallImage().put(registry, "image", "1")
    assert adapt(f"{registry.host}/image:1", f"{registry.host}/image:2").returncode == 0
    assert registry.seen("POST", "/token")


def test_a_key_ring_is_asked_through_its_program(registry: StandIn, adapt: Any, login: Any, tmp_path: Path) -> None:
    registry.user = USER
    user, _, secret = USER.partition(":")
    program = tmp_path / "docker-credential-ring"
    answer = json.dumps({"ServerURL": registry.host, "Username": user, "Secret": secret})
    program.write_text(f"#!/bin/sh\n[ \"$1 $(cat)\" = 'get {registry.host}' ] && echo '{answer}'\n")
    program.chmod(0o755)
    login({"credHelpers": {registry.host: "ring"}})
    SmallImage().put(registry, "image", "1")
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert adapt(f"{registry.host}/image:1", f"{registry.host}/image:2", PATH=path).returncode == 0
    assert "docker-credential-ring, which Docker's config.json names, can not be run" in error_of(
        adapt(f"{registry.host}/image:1", f"{registry.host}/image:2")
    )


def test_docker_is_not_asked_who_we_are_before_a_registry_does(registry: StandIn, adapt: Any, login: Any) -> None:
    """What Docker names may not be there, as in a container of somebody else's computer."""
    login({"credsStore": "no-such-ring"})
    SmallImage().put(registry, "image", "1")
    assert "There is no image" in error_of(adapt(f"{registry.host}/image:2", f"{registry.host}/image:3"))
    assert adapt(f"{registry.host}/image:1", f"{registry.host}/image:2").returncode == 0


def test_credentials_do_not_follow_a_redirect(registry: StandIn, other: StandIn, adapt: Any, login: Any) -> None:
    """The blobs of many registries are in a store of another name."""
    image = SmallImage()
    image.put(registry, "image", "1")
    image.put(other, "image", "1")
    registry.user, registry.blob_store = USER, other.host
    login(logged_in(registry))
    assert adapt(f"{registry.host}/image:1", f"{registry.host}/image:2").returncode == 0
    assert other.seen("GET", "/blobs/")
    assert {asked.authorization for asked in other.asked} == {""}


def test_a_layer_without_compression_is_compressed_the_same_each_time(
    registry: StandIn, other: StandIn, adapt: Any
) -> None:
    SmallImage(is_oci=True, layer_type=OCI_LAYER).put(registry, "image", "1")
    first, second = (adapt(f"{registry.host}/image:1", f"{other.host}/image:1").stdout for _ in range(2))
    assert first == second != ""
    assert pushed(other, "image", "1")["layers"][0]["mediaType"].endswith(".tar.gzip")


def test_adapting_an_adapted_image_gives_the_same_digest(registry: StandIn, adapt: Any) -> None:
    SmallImage(is_oci=True).put(registry, "image", "1")
    digests = [
        adapt(f"{registry.host}/image:{tag}", f"{registry.host}/image:{tag + 1}").stdout.split()[1] for tag in (1, 2)
    ]
    assert digests[0] == digests[1]


def test_a_dry_run_says_what_would_change_and_pushes_nothing(registry: StandIn, adapt: Any) -> None:
    SmallImage(is_oci=True).put(registry, "image", "1")
    done = adapt("--dry-run", f"{registry.host}/image:1", f"{registry.host}/image:2")
    lines = done.stdout.splitlines()
    for line in (
        '+ Entrypoint ["/longshore/bin/longshore"]',
        '- Cmd ["/program"]',
        '+ Cmd ["usage"]',
        '- User "1000"',
        '+ User "0"',
        '+ StopSignal "SIGTERM"',
        '+ Env GRAND_CHALLENGE_COMPONENT_USER "1000"',
        f"+ Manifest {DOCKER_MANIFEST}",
        "Nothing was pushed",
    ):
        assert line in lines
    assert {asked.method for asked in registry.asked} == {"GET"}


def test_a_large_layer_is_never_in_memory(registry: StandIn, other: StandIn, layer: Path) -> None:
    from model_server.adapt import adapt as adapt_image

    image = SmallImage(layer=random.Random(2).randbytes(1 << 20) * 48, is_oci=True, layer_type=OCI_LAYER)
    image.put(registry, "image", "1")
    target = f"{other.host}/image:1"
    adapt_image(f"{registry.host}/image:1", target, layer=layer, dry_run=False, say=lambda _: None)
    pushed(other, "image", "1")
    assert 0 < other.largest_read <= 2 << 20


def test_what_is_wrong_is_said_in_one_line(registry: StandIn, adapt: Any) -> None:
    host = registry.host
    arm = SmallImage(architecture="arm64").put(registry, "arm", "1")
    registry.put_manifest("index", "1", "", index_of(arm))
    chart = SmallImage(is_oci=True)
    chart.put(registry, "chart", "1")
    helm = chart.manifest | {"config": described("application/vnd.cncf.helm.config.v1+json", chart.config_bytes)}
    registry.put_manifest("chart", "1", helm["mediaType"], helm)
    registry.put_manifest("old", "1", "", {"schemaVersion": 1})
    SmallImage(is_oci=True, layer_type=OCI_LAYER + "+zstd").put(registry, "zstd", "1")
    SmallImage(config={}).put(registry, "silent", "1")
    for source, sentence in {
        f"{host}/nothing:1": f"There is no image {host}/nothing:1",
        f"{host}/arm:1": "is not for linux/amd64, it is for linux/arm64",
        f"{host}/index:1": "is not for linux/amd64, it is for linux/arm64",
        f"{host}/chart:1": "it is a Helm chart",
        f"{host}/old:1": "it is a manifest of schema 1",
        f"{host}/zstd:1": "has a layer of the type application/vnd.oci.image.layer.v1.tar+zstd, which SageMaker",
        f"{host}/silent:1": "it has no ENTRYPOINT and no CMD",
        f"{host}/IMAGE:1": "'IMAGE' can not be a repository",
        f"https://{host}/image": "begins with a scheme",
        "127.0.0.1:9/image": "The registry 127.0.0.1:9 does not answer: it refuses the connection",
    }.items():
        assert sentence in error_of(adapt(source, f"{host}/target:1"))
    assert "can not be pushed to" in error_of(adapt(f"{host}/arm:1", f"{host}/arm@{digest_of(b'')}"))
    assert not registry.seen("PUT", "")
    assert not registry.seen("POST", "")


@pytest.mark.parametrize("place", ["http://[::", "http://example.com:port/", "http://example.com/", "ftp://127.0.0.1/"])
def test_a_registry_that_leads_astray_is_not_followed(registry: StandIn, adapt: Any, place: str) -> None:
    """To an address that is none, or where nothing is encrypted."""
    SmallImage().put(registry, "image", "1")
    names = f"{registry.host}/image:1", f"{registry.host}/other:1"
    registry.answers = {"GET": [(307, {"Location": place}, b"")]}
    assert "it leads to an address that is not encrypted" in error_of(adapt(*names))
    registry.answers = {"GET": [(401, {"WWW-Authenticate": f'Bearer realm="{place}"'}, b"")]}
    assert "the token server that it names is not encrypted" in error_of(adapt(*names))
    registry.answers = {"POST": [(202, {"Location": place}, b"")] * 2}
    assert "it does not say where an upload goes on" in error_of(adapt(*names))


def test_a_layer_that_is_none_is_refused(registry: StandIn, adapt: Any, tmp_path: Path) -> None:
    SmallImage().put(registry, "image", "1")
    names = f"{registry.host}/image:1", f"{registry.host}/image:2"
    assert "there is no such file" in error_of(adapt("--layer", str(tmp_path / "none"), *names))
    for name, data in {"text": b"a text", "empty": b"", "cut": layer_of("a", b"a" * 9000)[:-9]}.items():
        (tmp_path / name).write_bytes(data)
        assert f"{tmp_path / name} is no layer" in error_of(adapt("--layer", str(tmp_path / name), *names))


def test_who_may_not_push_or_move_a_tag_is_told(registry: StandIn, adapt: Any) -> None:
    SmallImage().put(registry, "image", "1")
    names = f"{registry.host}/image:1", f"{registry.host}/image:2"
    denied = json.dumps({"errors": [{"code": "DENIED", "message": "no"}]}).encode()
    registry.answers["POST"] = [(403, {}, denied)]
    assert f"You may not push to {registry.host}/image: no" in error_of(adapt(*names))
    immutable = json.dumps({"errors": [{"code": "TAG_INVALID", "message": "x"}]}).encode()
    registry.answers["PUT"] = []
    assert adapt(*names).returncode == 0
    SmallImage(config={"Cmd": ["other"]}).put(registry, "image", "1")
    registry.answers["PUT"] = [(201, {}, b""), (400, {}, immutable)]
    assert "can not be replaced" in error_of(adapt(*names))


def test_within_one_registry_no_layer_is_downloaded(registry: StandIn, adapt: Any) -> None:
    image = SmallImage()
    image.put(registry, "image", "1")
    assert adapt(f"{registry.host}/image:1", f"{registry.host}/other:1").returncode == 0
    pushed(registry, "other", "1")
    assert [asked.path for asked in registry.seen("GET", "/blobs/")] == [
        f"/v2/image/blobs/{digest_of(image.config_bytes)}"
    ]
