"""`adapt`, with a real registry: what it asks of it, and what it pushes there."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from any_images_rig import adapt, log_in
from docker_rig import Ended, run_once
from registry import DOCKER_MANIFEST, Registry, running_registry
from token_server import TokenServer, running_token_server

from model_server.adapt import get_image_config, get_new_env_vars, mutate_image
from small_images import SmallImage, digest_of, index_of, layer_of


@dataclass(frozen=True)
class Caller:
    """Somebody who is logged in at a registry, with a small layer; `name` begins the names of a test's repositories."""

    registry: Registry
    name: str
    folder: Path
    layer: Path

    def image(self, repository: str, tag: str = "1") -> str:
        return f"{self.registry.host}/{self.name}/{repository}:{tag}"

    def adapt(self, source: str, target: str) -> str:
        """Adapt an image, and return the digest that is printed."""
        done = adapt(source, target, self.layer, self.folder)
        assert done.code == 0, done.stderr
        name, digest = done.stdout.split()
        assert name == target
        return digest

    def pushed(self, repository: str, tag: str = "1") -> tuple[str, Any, Any]:
        """Return the digest, the manifest and the config of an image, which has to be one of Docker's."""
        media_type, digest, manifest = self.registry.manifest(f"{self.name}/{repository}", tag)
        assert media_type == manifest["mediaType"] == DOCKER_MANIFEST
        assert manifest["layers"][-1]["digest"] == digest_of(self.layer.read_bytes())
        config = self.registry.blob(f"{self.name}/{repository}", manifest["config"]["digest"])
        assert digest_of(config) == manifest["config"]["digest"]
        return digest, manifest, json.loads(config)

    def put(self, repository: str, image: SmallImage, tag: str = "1") -> dict[str, Any]:
        return image.put(self.registry, f"{self.name}/{repository}", tag)


@pytest.fixture
def caller(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Caller:
    log_in(registry, tmp_path)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    layer = tmp_path / "layer.tar.gz"
    layer.write_bytes(layer_of("longshore/bin/longshore", b"a launcher"))
    return Caller(registry, f"adapt/{uuid.uuid4().hex[:12]}", tmp_path, layer)


def test_between_repositories_of_one_registry_layers_are_mounted(caller: Caller) -> None:
    image = SmallImage()
    caller.put("a", image)
    digest = caller.adapt(caller.image("a"), caller.image("b"))
    pushed_digest, manifest, config = caller.pushed("b")
    assert pushed_digest == digest
    assert manifest["layers"][0]["digest"] == digest_of(image.blob)
    assert caller.registry.blob(f"{caller.name}/b", digest_of(image.blob)) == image.blob
    assert config["config"]["Entrypoint"] == ["/longshore/bin/longshore"]


def test_nothing_of_an_image_but_its_config_is_downloaded(caller: Caller) -> None:
    """As the registry's own log has it."""
    image = SmallImage()
    caller.put("a", image)
    caller.adapt(caller.image("a"), caller.image("b"))
    config = digest_of(image.config_bytes)
    assert caller.registry.requests("GET", f"/{caller.name}/a/blobs/") == [f"/v2/{caller.name}/a/blobs/{config} 200"]
    assert caller.registry.requests("GET", f"/{caller.name}/b/blobs/") == []
    (mounted,) = caller.registry.requests("POST", f"/{caller.name}/b/blobs/uploads/?mount=")
    assert mounted.endswith(" 201")
    uploaded = caller.registry.requests("PATCH", f"/{caller.name}/b/")
    assert [request.rpartition(" ")[2] for request in uploaded] == ["202", "202"]  # our layer, and the new config


@pytest.mark.parametrize("way", ["tag", "digest"])
def test_an_index_becomes_dockers_manifest_of_its_image_for_amd64(caller: Caller, way: str) -> None:
    entries = [
        caller.put("a", SmallImage(is_oci=True, architecture=name, config={"Cmd": [name]}), name)
        for name in ("arm64", "amd64")
    ]
    index = index_of(*entries)
    caller.registry.put_manifest(f"{caller.name}/a", "1", index["mediaType"], index)
    by_digest = f"{caller.registry.host}/{caller.name}/a@{digest_of(json.dumps(index).encode())}"
    digest = caller.adapt(caller.image("a") if way == "tag" else by_digest, caller.image("b"))
    pushed_digest, manifest, config = caller.pushed("b")
    assert pushed_digest == digest
    assert {layer["mediaType"] for layer in manifest["layers"]} == {"application/vnd.docker.image.rootfs.diff.tar.gzip"}
    assert config["architecture"] == "amd64"
    assert get_new_env_vars(config) == get_new_env_vars({"config": {"Cmd": ["amd64"]}})


def test_a_second_run_pushes_nothing_and_has_the_same_digest(caller: Caller) -> None:
    caller.put("a", SmallImage())
    first = caller.adapt(caller.image("a"), caller.image("b"))
    written = {method: caller.registry.requests(method, caller.name) for method in ("PUT", "PATCH", "POST")}
    assert caller.adapt(caller.image("a"), caller.image("b")) == first
    assert {method: caller.registry.requests(method, caller.name) for method in written} == written
    assert caller.adapt(caller.image("b"), caller.image("c")) == first  # nor does it get a second layer


def test_the_functions_are_called_as_sagemaker_shims_are(caller: Caller) -> None:
    """The same three, one after another, with the arguments that its example gives them."""
    caller.put("a", SmallImage())
    config = get_image_config(repo_tag=caller.image("a"))
    assert config["config"]["User"] == "1000"
    env_vars = get_new_env_vars(existing_config=config)
    new = mutate_image(
        existing_repo_tag=caller.image("a"),
        new_repo_tag=caller.image("a", "1-adapted"),
        env_vars=env_vars,
        version="1",
        layer=caller.layer,
    )
    assert new == caller.image("a", "1-adapted")
    _, _, pushed = caller.pushed("a", "1-adapted")
    assert {f"{name}={value}" for name, value in env_vars.items()} <= set(pushed["config"]["Env"])
    assert env_vars["GRAND_CHALLENGE_COMPONENT_USER"] == "1000"
    assert caller.adapt(caller.image("a"), caller.image("b")) == caller.pushed("a", "1-adapted")[0]


@pytest.fixture
def tokens(registry: Registry) -> Iterator[TokenServer]:
    with running_token_server(registry.user, registry.password) as tokens:
        yield tokens


@pytest.fixture
def strict(registry: Registry, tokens: TokenServer, tmp_path: Path) -> Iterator[Registry]:
    """A registry of the same images that wants a token for each thing that is done."""
    folder = tmp_path / "strict"
    folder.mkdir()
    user = registry.user, registry.password
    with running_registry(folder, *user, tokens.auth(folder), registry.folder / "images") as strict:
        yield strict


def test_a_registry_that_wants_tokens_gets_no_more_than_it_needs_to_know(
    caller: Caller, strict: Registry, tokens: TokenServer
) -> None:
    """It checks what a token is good for: also a mount is let through."""
    caller.put("a", SmallImage())
    log_in(strict, caller.folder)
    strictly = replace(caller, registry=strict)
    digest = strictly.adapt(strictly.image("a"), strictly.image("b"))
    assert caller.pushed("b")[0] == digest
    mounted = [request.rpartition(" ")[2] for request in strict.requests("POST", "/uploads/?mount=")]
    assert mounted == ["401", "201"]
    source, target = (f"repository:{caller.name}/{repository}" for repository in ("a", "b"))
    scopes = [[f"{source}:pull"], [f"{target}:pull,push"], [f"{target}:pull,push", f"{source}:pull"]]
    assert sorted(tokens.asked) == sorted(scopes)  # each once


def adapt_in_container(caller: Caller, image: str, *options: str) -> Ended:
    """Run it as the README says, and so that it reaches a registry on loopback."""
    login = ["--volume", f"{caller.folder}/config.json:/config.json:ro", "--env", "DOCKER_CONFIG=/"]
    names = caller.image("a"), caller.image("b")
    return run_once(image, "adapt", *names, options=["--network", "host", *login, *options])


@pytest.mark.parametrize("options", [[], ["--read-only", "--cap-drop", "ALL", "--user", "1000"]])
def test_the_image_that_holds_the_layer_adapts_others_with_it(
    caller: Caller, layer_image: str, layer_file: Path, options: list[str]
) -> None:
    """It needs no file, nor a folder to write to."""
    caller.put("a", SmallImage())
    done = adapt_in_container(caller, layer_image, *options)
    assert done.code == 0, done.stderr
    assert "==> Layer: packed from here" in done.stderr
    real = Caller(caller.registry, caller.name, caller.folder, layer_file)
    digest, _, _ = real.pushed("b")
    assert done.stdout == f"{caller.image('b')} {digest}\n"
    assert real.adapt(caller.image("a"), caller.image("c")) == digest


def test_the_image_to_inherit_from_has_no_layer_to_add(caller: Caller, base_image: str) -> None:
    caller.put("a", SmallImage())
    done = adapt_in_container(caller, base_image)
    assert (done.code, done.stdout) == (1, "")
    assert "can not be read: there is no such file. Make one by `./build_local.sh --layer FILE`" in done.stderr
