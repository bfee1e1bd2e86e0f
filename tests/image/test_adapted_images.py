"""Images that nobody made for Longshore, adapted in a registry: their programs run on SageMaker as they were."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from any_images_rig import HOST_NAME, SCAN, AnyImage, Report, natural_report
from docker_rig import docker, eventually, inspected, run_once, running, s3_options_of, serving
from sdk_rig import LocalMode, local_mode

from moto_s3 import AWS

if TYPE_CHECKING:
    from tests.conftest import Bucket

WITHHELD = {b"AWS_ACCESS_KEY_ID", b"AWS_SECRET_ACCESS_KEY"}

TASK_FOLDERS = ["--tmpfs", "/input:mode=1777", "--tmpfs", "/output:mode=1777"]
OPTIONS = {
    "read-only": ["--read-only", *TASK_FOLDERS],
    "no-new-privileges": ["--security-opt", "no-new-privileges"],
    "memory": ["--memory", "256m", "--memory-swap", "256m", "--pids-limit", "128"],
}
NOT_ROOTS_OPTIONS = {
    "no-capabilities": ["--cap-drop", "ALL"],
    "user": ["--user", "1000"],
    "all": ["--read-only", *TASK_FOLDERS, "--cap-drop", "ALL", "--user", "1000:1000", "--pids-limit", "128"],
}
"""Who is not root, or has no capabilities, can't become the USER of an image."""

RESTRICTED = [
    *(
        pytest.param(image, options, id=f"{image}-{name}")
        for image in ("static", "busybox")
        for name, options in (OPTIONS | NOT_ROOTS_OPTIONS).items()
    ),
    *(
        pytest.param(image, options, id=f"{image}-{name}")
        for image in ("musl", "debian")
        for name, options in OPTIONS.items()
    ),
]


def scan_task(bucket: Bucket, pk: str) -> Any:
    bucket.put("scan.mha", SCAN)
    return bucket.task(pk, [bucket.item("scan.mha", "scan.mha")])


def report_of(bucket: Bucket, pk: str) -> Report:
    return Report.read(lambda name: bucket.get(f"/out/{pk}/{name}"))


def run_a_task(image: AnyImage, bucket: Bucket, options: Sequence[str]) -> Report:
    """Run a task over HTTP and S3, stop the container as SageMaker does, and return what the program found."""
    with serving(image.adapted, options) as container:
        container.run(scan_task(bucket, "1"))
        assert container.stop() == 0, container.log()
    return report_of(bucket, "1")


# -- what a program finds


@pytest.fixture(scope="module")
def natural(image: AnyImage, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What the program finds where its image was not adapted."""
    return natural_report(image.original, tmp_path_factory.mktemp("natural"))


@pytest.fixture(scope="module")
def served(image: AnyImage, shared_bucket: Bucket) -> Report:
    """What it finds in a task of a server."""
    return run_a_task(image, shared_bucket, [*s3_options_of(shared_bucket.endpoint), "--hostname", HOST_NAME])


def test_a_task_goes_from_s3_to_s3_in_any_image(served: Report) -> None:
    assert served.scan == SCAN


def test_the_program_is_run_with_its_arguments(served: Report, natural: Report) -> None:
    assert served.argv == natural.argv


def test_the_program_has_the_variables_of_its_image_byte_for_byte(
    served: Report, natural: Report, shared_bucket: Bucket
) -> None:
    job = AWS | {"AWS_ENDPOINT_URL_S3": shared_bucket.endpoint}
    given = {name.encode(): value.encode() for name, value in job.items() if name.encode() not in WITHHELD}
    assert served.environment == natural.environment | given


def test_the_program_is_the_user_of_its_image_in_that_users_groups(served: Report, natural: Report) -> None:
    assert served.ids == natural.ids


def test_the_program_is_in_the_folder_of_its_image(served: Report, natural: Report) -> None:
    assert served.folder == natural.folder


def test_the_program_is_run_with_the_libraries_of_its_image(served: Report, natural: Report) -> None:
    assert natural.files
    assert served.files == natural.files


# -- how images are run


def test_a_list_of_tasks_is_run_in_any_image(image: AnyImage, bucket: Bucket, s3_options: list[str]) -> None:
    tasks = [scan_task(bucket, pk) for pk in ("1", "2")]
    ended = run_once(image.adapted, "invoke", "-t", json.dumps(tasks), options=s3_options)
    assert ended.code == 0, ended.stderr
    for pk in ("1", "2"):
        assert bucket.result(f"/out/{pk}")["return_code"] == 0
        assert report_of(bucket, pk).scan == SCAN


@pytest.fixture(scope="module")
def sdk(shared_bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMode]:
    with local_mode(shared_bucket, tmp_path_factory.mktemp("sdk")) as sdk:
        yield sdk


def test_the_sagemaker_sdks_transformer_runs_any_image(image: AnyImage, sdk: LocalMode, shared_bucket: Bucket) -> None:
    """A client that no one here wrote: a batch transform over a task."""
    shared_bucket.put("models/model.tar.gz", empty_tarball())
    pk = f"transformed-{image.name}"
    shared_bucket.put(f"tasks/{image.name}/task.json", json.dumps(scan_task(shared_bucket, pk)))
    job = {
        "name": image.name,
        "input": sdk.uri("tasks", image.name),
        "output": sdk.uri("transformed"),
        "content_type": "application/json",
        "accept": "application/json",
    }
    run = sdk.run("transform.py", image=image.adapted, model=sdk.uri("models/model.tar.gz"), jobs=[job])
    result = json.loads(shared_bucket.get(f"transformed/{image.name}/task.json.out"))
    assert (result["pk"], result["return_code"]) == (pk, 0), run.log
    assert report_of(shared_bucket, pk).scan == SCAN


def empty_tarball() -> bytes:
    buffer = io.BytesIO()
    tarfile.open(fileobj=buffer, mode="w:gz").close()
    return buffer.getvalue()


@pytest.mark.parametrize(("image", "options"), RESTRICTED, indirect=["image"])
def test_a_task_runs_in_a_restricted_container_of_any_image(
    image: AnyImage, bucket: Bucket, s3_options: list[str], options: list[str]
) -> None:
    assert run_a_task(image, bucket, [*s3_options, *options]).scan == SCAN


def test_a_server_starts_in_any_image_without_a_network(image: AnyImage) -> None:
    asks = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/ping', timeout=5).status)"
    # What is executed here is started without our launcher, so the variables that it would hide are emptied.
    python = ["--env", "LD_PRELOAD=", "--env", "LD_AUDIT=", "--env", "http_proxy="]
    with running(image.adapted, "serve", options=["--network", "none"]) as container:
        eventually(lambda: "Serving on port 8080" in container.log() or not container.state["Running"], "a start")
        assert docker("exec", *python, container.name, "/longshore/bin/python3", "-Es", "-c", asks) == "200"
        assert container.stop() == 0, container.log()


# -- what an adapted image is made of


def test_one_layer_is_added(image: AnyImage) -> None:
    layers = inspected(image.original)["RootFS"]["Layers"]
    assert inspected(image.adapted)["RootFS"]["Layers"][:-1] == layers


def test_our_folder_is_the_layers_whatever_the_image_has_of_that_name(image: AnyImage, layer_file: Path) -> None:
    """One has a folder full of programs there, and one a link to another folder."""
    with tarfile.open(layer_file) as layer:
        expected = {name for name in layer.getnames() if name.startswith("longshore") and "/.wh." not in name}
    assert names_below(image.adapted, "/longshore") == expected


def names_below(image: str, folder: str) -> set[str]:
    container = docker("create", image)
    try:
        command = ["docker", "cp", f"{container}:{folder}", "-"]
        archive = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            return set(tar.getnames())
    finally:
        docker("rm", "--volumes", container)
