"""What tests of the image share: the engine, the images of this checkout, and S3 where containers reach it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from any_images_rig import IMAGES, AnyImage, any_image
from docker_rig import (
    DEBIAN,
    PROJECT,
    build,
    build_arguments,
    build_base,
    docker,
    remove_image,
    running,
    s3_options_of,
    unique_name,
)
from registry import ECR_PASSWORD, Registry, running_registry
from trace_rig import Strace, strace_at_hand

from moto_s3 import moto_s3

if TYPE_CHECKING:
    from tests.conftest import Bucket


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine has to answer."""
    assert docker("version", "--format", "{{.Server.Version}}")


@pytest.fixture(scope="session")
def base_image(engine: None) -> Iterator[str]:
    """The image of this checkout's Dockerfile, under a tag of this run alone."""
    tag = unique_name()
    build_base(tag)
    yield tag
    remove_image(tag)


@pytest.fixture(scope="session")
def sample_image(base_image: str) -> Iterator[str]:
    """The sample algorithm's image, as build_local.sh makes it from the author's Dockerfile."""
    yield from authors_image("sample-algorithm", base_image)


@pytest.fixture(scope="session")
def segmentation_image(base_image: str) -> Iterator[str]:
    """The image of the sample from the field, whose Dockerfile has an ENTRYPOINT, a USER and a WORKDIR of its own."""
    yield from authors_image("sample-segmentation", base_image)


def authors_image(sample: str, base_image: str) -> Iterator[str]:
    tag = unique_name()
    arguments = [*build_arguments(), "--build-arg", f"LONGSHORE_IMAGE={base_image}"]
    environ = os.environ | {"LONGSHORE_BUILD_ARGS": " ".join(arguments), "DOCKER_BUILDKIT": "0"}
    command = [PROJECT / "build_local.sh", tag, PROJECT / "local-test" / sample]
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
    yield tag
    remove_image(tag)


@pytest.fixture(scope="session")
def layer_image(engine: None) -> Iterator[str]:
    """The image of this checkout that has nothing but the layer."""
    tag = unique_name()
    build(tag, PROJECT, *build_arguments(), "--target", "layer")
    yield tag
    remove_image(tag)


@pytest.fixture(scope="session")
def layer_file(layer_image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layer of this checkout, which `adapt` puts on top of images."""
    file = tmp_path_factory.mktemp("layer") / "longshore-layer.tar.gz"
    with file.open("wb") as stream:
        subprocess.run(["docker", "run", "--rm", "--network", "none", layer_image, "layer"], stdout=stream, check=True)
    return file


@pytest.fixture(scope="session")
def any_images(
    registry: Registry, layer_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], AnyImage]]:
    """Makes an image that knows nothing of Longshore, and adapts it; once for each name."""
    with ExitStack() as made:

        @cache
        def make(name: str) -> AnyImage:
            return made.enter_context(any_image(name, registry, layer_file, tmp_path_factory.mktemp(name)))

        yield make


@pytest.fixture(scope="module", params=IMAGES)
def image(request: pytest.FixtureRequest, any_images: Callable[[str], AnyImage]) -> AnyImage:
    """An image of each kind, and what `adapt` made of it."""
    return any_images(request.param)


@pytest.fixture(scope="session")
def registry(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running_registry(tmp_path_factory.mktemp("registry"), "AWS", ECR_PASSWORD) as registry:
        yield registry


@pytest.fixture(scope="session")
def strace(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strace]:
    with strace_at_hand(tmp_path_factory.mktemp("strace")) as strace:
        yield strace


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with phantom.mha, a made-up scan, and truth.mha, what is to be found in it."""
    folder = tmp_path_factory.mktemp("phantoms")
    subprocess.run([sys.executable, PROJECT / "local-test/sample-segmentation/make_phantom.py", folder], check=True)
    return folder


@pytest.fixture(scope="session")
def s3_endpoint(engine: None) -> Iterator[str]:
    """The address of moto's S3 server, on the bridge's gateway: the host and its containers reach it there."""
    with running(DEBIAN, "sleep", "60") as container:
        gateway = docker("inspect", "--format", "{{.NetworkSettings.Networks.bridge.Gateway}}", container.name)
    with moto_s3(gateway) as endpoint:
        yield endpoint


@pytest.fixture
def s3_options(bucket: "Bucket") -> list[str]:
    return s3_options_of(bucket.endpoint)
