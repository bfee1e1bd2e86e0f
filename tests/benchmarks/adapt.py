#!/usr/bin/env python3
"""Adapt an image in a registry with `adapt`, with skopeo and umoci, and with Docker, and print what each takes.

    python tests/benchmarks/adapt.py [--beside skopeo docker] [--rounds 5] [--layers 5] [--megabytes 51] [--layer FILE]

The image and its registry are made up, on loopback. A first round goes through a relay that counts bytes; the others
are timed, the ways in turn. Exits with 1 when a way does not make of the image what `adapt` does. Needs Debian's
docker-registry, skopeo and umoci, and a Docker engine.
"""

import argparse
import gzip
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in (".", "image"))

from any_images_rig import adapt, built_layer, log_in
from docker_rig import build, docker, remove_image, unique_name
from registry import Registry, running_registry

from small_images import DOCKER_LAYER, SmallImage, described, digest_of, tar_of

SOURCE = "made-up/source"
MEGABYTE = 1_000_000
CHUNK_BYTES = 1 << 18


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="that are timed")
    parser.add_argument("--beside", nargs="*", choices=OTHERS, default=list(OTHERS), help="the other ways")
    parser.add_argument("--layers", type=int, default=5, help="of the image")
    parser.add_argument("--megabytes", type=int, default=51, help="of each of its layers, which can not be compressed")
    parser.add_argument("--layer", type=Path, help="Longshore's, of `build_local.sh --layer`; without it, it is built")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="longshore-benchmark-") as name:
        folder = Path(name)
        os.environ["DOCKER_CONFIG"] = str(folder)
        with nullcontext(options.layer) if options.layer else built_layer(folder / "layer.tar.gz") as layer:
            kinds: list[type[Way]] = [Adapt, *(OTHERS[name] for name in options.beside)]
            ways = [kind(folder, layer.absolute()) for kind in kinds]
            with registry_in(folder) as registry:
                put_noise(registry, options.layers, options.megabytes * MEGABYTE)
            return compare(ways, folder, options.rounds)


def compare(ways: Sequence["Way"], folder: Path, rounds: int) -> int:
    """Print a table, and return the exit code; the first way is what the others are compared with."""
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    traffics: dict[Way, Traffic] = {}
    made: dict[Way, Any] = {}
    try:
        for way in ways:
            way.prepare(made[ways[0]] if made else None)
            traffics[way], made[way] = counted_run(way, folder)
        for _ in range(rounds):
            for way in ways:
                seconds[way].append(timed_run(way, folder))
    finally:
        for way in ways:
            way.close()
    print(f"{'way':20} {'median':>8} {'least':>8} {'most':>8} {'ratio':>7} {'down':>8} {'up':>8}  s, MB")
    for way in ways:
        print(row(way, seconds[way], statistics.median(seconds[ways[0]]), traffics[way]))
    others = [way.name for way in ways if made[way] != made[ways[0]]]
    for name in others:
        print(f"{name} makes another image than {ways[0].name}", file=sys.stderr)
    return 1 if others else 0


def row(way: "Way", seconds: list[float], first: float, traffic: "Traffic") -> str:
    median = statistics.median(seconds)
    shown = f"{median:8.2f} {min(seconds):8.2f} {max(seconds):8.2f} {median / first:7.1f}"
    return f"{way.name:20} {shown} {traffic.down / MEGABYTE:8.2f} {traffic.up / MEGABYTE:8.2f}"


def counted_run(way: "Way", folder: Path) -> tuple["Traffic", Any]:
    """Return what went over the wire, and what came of the image."""
    target = new_repository()
    with registry_in(folder) as registry, relay_to(registry.host) as (host, traffic):
        log_in(Registry(host, registry.user, registry.password), folder)
        way.put(f"{host}/{SOURCE}:latest", f"{host}/{target}:latest")
        way.clear()
        return traffic, what_is_made(registry, target)


def timed_run(way: "Way", folder: Path) -> float:
    """Return how many seconds it took; a client knows nothing of the registry, whose address is another each time."""
    with registry_in(folder) as registry:
        log_in(registry, folder)
        started = time.monotonic()
        way.put(f"{registry.host}/{SOURCE}:latest", f"{registry.host}/{new_repository()}:latest")
        taken = time.monotonic() - started
        way.clear()
        return taken


def what_is_made(registry: Registry, repository: str) -> Any:
    """Return what an image has to be, whoever made it; its last layer is packed by each in a way of its own."""
    _, _, manifest = registry.manifest(repository, "latest")
    whole = json.loads(registry.blob(repository, manifest["config"]["digest"]))
    config = whole["config"]
    own = {name: value for name, value in config["Labels"].items() if name != "longshore.layer"}
    facts = {name: config[name] for name in ("Entrypoint", "Cmd", "User", "StopSignal")}
    return facts | {"Labels": own, "Env": sorted(config["Env"]), "layers": whole["rootfs"]["diff_ids"][:-1]}


# -- the registry


def registry_in(folder: Path) -> AbstractContextManager[Registry]:
    return running_registry(folder, "images", "open sesame")


def new_repository() -> str:
    return f"made-up/{uuid.uuid4().hex[:12]}"


def put_noise(registry: Registry, layers: int, size: int) -> None:
    """Push an image whose layers are noise, the same each time."""
    image = SmallImage()
    config = json.loads(image.config_bytes)
    tars = [tar_of(f"noise-{number}", Random(number).randbytes(size)) for number in range(layers)]
    config["rootfs"]["diff_ids"] = [digest_of(tar) for tar in tars]
    config["history"] = [{"created_by": f"COPY noise-{number} /"} for number in range(layers)]
    config_bytes = json.dumps(config).encode()
    blobs = [gzip.compress(tar, 1, mtime=0) for tar in tars]
    for data in (*blobs, config_bytes):
        registry.put_blob(SOURCE, data, digest_of(data))
    its_config = described(image.manifest["config"]["mediaType"], config_bytes)
    manifest = image.manifest | {"config": its_config, "layers": [described(DOCKER_LAYER, blob) for blob in blobs]}
    registry.put_manifest(SOURCE, "latest", manifest["mediaType"], manifest)


@dataclass
class Traffic:
    """Bytes from the registry and to it."""

    down: int = 0
    up: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, down: int, up: int) -> None:
        with self.lock:
            self.down += down
            self.up += up


@contextmanager
def relay_to(host: str) -> Iterator[tuple[str, Traffic]]:
    """Relay connections to the registry for the block, and count what they carry."""
    traffic = Traffic()
    name, _, port = host.partition(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):  # the end of the block
                while True:
                    client, _ = listener.accept()
                    registry = socket.create_connection((name, int(port)))
                    start(copy, client, registry, traffic, False)
                    start(copy, registry, client, traffic, True)

        start(accept)
        yield f"127.0.0.1:{listener.getsockname()[1]}", traffic
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def start(target: Any, *arguments: Any) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()


def copy(from_there: socket.socket, to_there: socket.socket, traffic: Traffic, is_down: bool) -> None:
    with suppress(OSError):  # either side may be gone
        while data := from_there.recv(CHUNK_BYTES):
            traffic.add(len(data) * is_down, len(data) * (not is_down))
            to_there.sendall(data)
    with suppress(OSError):
        to_there.shutdown(socket.SHUT_WR)


# -- the ways


class Way:
    """One way to put the layer on an image and to change its config; what is not `put` is not timed."""

    name: str

    def __init__(self, folder: Path, layer: Path) -> None:
        self.folder = folder
        self.layer = layer

    def prepare(self, made: Any) -> None:
        """Get ready to make what the first way made."""

    def put(self, source: str, target: str) -> None:
        raise NotImplementedError

    def clear(self) -> None:
        """Forget the image, as a machine that sees it for the first time."""

    def close(self) -> None:
        """Leave nothing behind."""


class Adapt(Way):
    name = "adapt"

    def put(self, source: str, target: str) -> None:
        done = adapt(source, target, self.layer, self.folder)
        assert done.code == 0, done.stderr


class SkopeoAndUmoci(Way):
    """A copy on disk, to which umoci adds; it takes a layer that is not compressed."""

    name = "skopeo and umoci"

    def prepare(self, made: Any) -> None:
        self._layout = self.folder / "layout"
        self._plain = self.folder / "layer.tar"
        with gzip.open(self.layer) as packed, self._plain.open("wb") as file:
            shutil.copyfileobj(packed, file)
        variables = [f"--config.env={variable}" for variable in made["Env"]]
        labels = [f"--config.label={name}={value}" for name, value in made["Labels"].items()]
        words = [f"--config.{name.lower()}={word}" for name in ("Entrypoint", "Cmd") for word in made[name]]
        user = [f"--config.user={made['User']}", f"--config.stopsignal={made['StopSignal']}"]
        self._config = ["--clear=config.env", *variables, *labels, *words, *user]

    def put(self, source: str, target: str) -> None:
        image = f"{self._layout}:latest"
        skopeo = ["skopeo", "--insecure-policy", "copy", "--quiet", f"--authfile={self.folder}/config.json"]
        call(*skopeo, "--src-tls-verify=false", f"docker://{source}", f"oci:{image}")
        call("umoci", "raw", "add-layer", "--image", image, self._plain)
        call("umoci", "config", "--image", image, *self._config)
        call(*skopeo, "--dest-tls-verify=false", "--format=v2s2", f"oci:{image}", f"docker://{target}")

    def clear(self) -> None:
        shutil.rmtree(self._layout)


class Docker(Way):
    """A build on top, with the layer as an image in the engine, which a build of Longshore leaves there."""

    name = "docker"
    _images: tuple[str, ...] = ()
    _layer_image = ""

    def prepare(self, made: Any) -> None:
        self._layer_image = unique_name()
        docker("import", self.layer, self._layer_image)
        self._config = [
            *(f"{name.upper()} {json.dumps(made[name])}" for name in ("Entrypoint", "Cmd")),
            *(f"{name.upper()} {made[name]}" for name in ("User", "StopSignal")),
            *assignments("ENV", (variable.split("=", 1) for variable in made["Env"])),
            *assignments("LABEL", made["Labels"].items()),
        ]

    def put(self, source: str, target: str) -> None:
        self._images = (source, target)
        place = self.folder / "build"
        place.mkdir(exist_ok=True)
        dockerfile = [f"FROM {source}", f"COPY --from={self._layer_image} / /", *self._config, ""]
        (place / "Dockerfile").write_text("\n".join(dockerfile))
        docker("pull", "--quiet", source)
        build(target, place)
        docker("push", "--quiet", target)

    def clear(self) -> None:
        for image in self._images:
            remove_image(image)

    def close(self) -> None:
        self.clear()
        if self._layer_image:
            remove_image(self._layer_image)


def assignments(instruction: str, pairs: Iterable[Sequence[str]]) -> list[str]:
    return [f"{instruction} {name}={json.dumps(value)}" for name, value in pairs]


def call(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stderr[-3000:]}"


OTHERS: dict[str, type[Way]] = {"skopeo": SkopeoAndUmoci, "docker": Docker}


if __name__ == "__main__":
    sys.exit(main())
