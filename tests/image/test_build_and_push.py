"""build_and_push.sh, with a real registry, the real AWS CLI, and moto in place of AWS's STS and ECR."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from build_rig import run_script, write_context
from docker_rig import PROJECT, Ended, docker, remove_image
from registry import DOCKER_MANIFEST, ECR_PASSWORD, OCI_MANIFEST, Registry, free_port, running_registry

from moto_s3 import AWS

BUILD_AND_PUSH = PROJECT / "build_and_push.sh"
AWS_CLI_PYTHON = PROJECT / ".venv-aws/bin/python"
ACCOUNT = "123456789012"

REGION = "eu-west-1"


@dataclass
class Caller:
    """Somebody with an AWS account and a registry; `name` is a repository of one test."""

    registry: Registry
    endpoint: str
    home: Path
    name: str = field(default_factory=lambda: f"longshore-test/{uuid.uuid4().hex[:12]}")

    def ecr(self, region: str = REGION) -> Any:
        return boto3.client("ecr", endpoint_url=self.endpoint, region_name=region)

    def repositories(self) -> list[str]:
        return [repository["repositoryName"] for repository in self.ecr().describe_repositories()["repositories"]]

    def environ(self) -> dict[str, str]:
        own = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": REGION,
            "DOCKER_CONFIG": str(self.home / ".docker"),
            "HOME": str(self.home),
            "PATH": f"{self.commands}:{os.environ['PATH']}",
            "TMPDIR": str(self.home / "tmp"),
        }
        return AWS | own

    @property
    def commands(self) -> Path:
        """The folder of the AWS CLI: as it was installed, it does not start in a checkout with a space in its path."""
        assert AWS_CLI_PYTHON.exists(), f"There is no {AWS_CLI_PYTHON}: ./tests/run.sh installs it"
        aws = self.home / "bin" / "aws"
        aws.parent.mkdir(exist_ok=True)
        aws.write_text(f'#!/bin/sh\nexec {shlex.quote(str(AWS_CLI_PYTHON))} -m awscli "$@"\n')
        aws.chmod(0o755)
        return aws.parent

    def push(self, *arguments: str | Path, **environ: str) -> Ended:
        """Run the script; what is said of the registry is what a test needs who has none at Amazon."""
        return self.run("--registry", self.registry.host, *arguments, **environ)

    def run(self, *arguments: str | Path, **environ: str) -> Ended:
        ended = run_script(BUILD_AND_PUSH, *arguments, environ=self.environ() | environ)
        assert ECR_PASSWORD not in ended.stdout + ended.stderr
        assert list((self.home / "tmp").iterdir()) == []
        return ended


@pytest.fixture
def caller(registry: Registry, s3_endpoint: str, tmp_path: Path) -> Iterator[Caller]:
    """moto serves STS and ECR where it serves S3."""
    (tmp_path / "home/tmp").mkdir(parents=True)
    caller = Caller(registry, s3_endpoint, tmp_path / "home")
    yield caller
    for tag in docker("images", "--format", "{{.Repository}}:{{.Tag}}").split():
        if caller.name in tag:
            remove_image(tag)


@pytest.fixture
def folder(base_image: str, tmp_path: Path) -> Path:
    """What an author has: a program and a Dockerfile."""
    dockerfile = f"FROM {base_image}\nCOPY run /opt/algorithm/run\n"
    return write_context(tmp_path / "an author's folder", dockerfile, run="#!/bin/sh\n")


# -- what is pushed


def test_an_image_is_pushed_as_sagemaker_takes_it(caller: Caller, folder: Path) -> None:
    done = caller.push("--tag", "v1.2", caller.name, folder)
    assert done.code == 0, done.stderr[-5000:]
    uri, digest = done.stdout.splitlines()[-1].split(" ")
    assert uri == f"{caller.registry.host}/{caller.name}:v1.2"
    media_type, pushed_digest, manifest = caller.registry.manifest(caller.name, "v1.2")
    assert (media_type, pushed_digest) == (DOCKER_MANIFEST, digest)
    config = json.loads(caller.registry.blob(caller.name, manifest["config"]["digest"]))
    assert (config["os"], config["architecture"]) == ("linux", "amd64")
    (repository,) = caller.ecr().describe_repositories(repositoryNames=[caller.name])["repositories"]
    assert repository["imageScanningConfiguration"] == {"scanOnPush": True}
    assert repository["imageTagMutability"] == "MUTABLE"


def test_the_steps_are_named_in_their_order(caller: Caller, folder: Path) -> None:
    said = caller.push(caller.name, folder).stderr
    steps = ["Region", "Account", "Repository", "Login", "Build", "Push", "Check"]
    assert re.findall(rf"^==> ({'|'.join(steps)})(?:: |$)", said, re.MULTILINE) == steps


def test_a_push_leaves_no_password_behind(caller: Caller, folder: Path) -> None:
    """Neither in docker's configuration nor in a key ring that it names."""
    configuration = caller.home / ".docker/config.json"
    configuration.parent.mkdir()
    configuration.write_text('{"credsStore": "no-such-key-ring"}')
    assert caller.push(caller.name, folder).code == 0
    assert configuration.read_text() == '{"credsStore": "no-such-key-ring"}'
    assert list(configuration.parent.iterdir()) == [configuration]


def test_the_engine_is_that_of_the_users_context(caller: Caller, folder: Path) -> None:
    home = caller.home / ".docker"
    engine = docker("context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
    docker("--config", home, "context", "create", "mine", "--docker", f"host={engine}")
    (home / "config.json").write_text('{"currentContext": "mine"}')
    done = caller.push(caller.name, folder, DOCKER_HOST="")
    assert done.code == 0, done.stderr[-5000:]
    assert caller.registry.tags(caller.name) == ["latest"]


def test_a_repository_that_is_there_is_left_as_it_is(caller: Caller, folder: Path) -> None:
    caller.ecr().create_repository(repositoryName=caller.name)
    done = caller.push("--immutable-tags", caller.name, folder)
    assert done.code == 0, done.stderr[-5000:]
    assert "It is there already with tags that are MUTABLE, and is left as it is" in done.stderr
    (repository,) = caller.ecr().describe_repositories(repositoryNames=[caller.name])["repositories"]
    assert repository["imageScanningConfiguration"] == {"scanOnPush": False}
    assert repository["imageTagMutability"] == "MUTABLE"


def test_an_immutable_tag_that_is_there_ends_it_before_the_build(caller: Caller, folder: Path) -> None:
    assert caller.push("--immutable-tags", caller.name, folder).code == 0
    _, _, manifest = caller.registry.manifest(caller.name, "latest")
    caller.ecr().put_image(repositoryName=caller.name, imageManifest=json.dumps(manifest), imageTag="latest")
    done = caller.push(caller.name, folder)
    assert (done.code, done.stdout) == (1, "")
    assert "Repository: It has an image with the tag latest already, and its tags are immutable" in done.stderr
    assert "==> Build" not in done.stderr
    assert caller.push("--tag", "next", caller.name, folder).code == 0


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("eu-west-1", f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com"),
        ("cn-north-1", f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", f"{ACCOUNT}.dkr.ecr.us-gov-west-1.amazonaws.com"),
    ],
)
def test_each_partition_has_its_registry(caller: Caller, folder: Path, region: str, host: str) -> None:
    done = caller.run("--dry-run", "--region", region, caller.name, folder)
    assert (done.code, done.stdout) == (0, "")
    assert f"+ docker push {host}/{caller.name}:latest" in done.stderr


@pytest.mark.parametrize("source", ["option", "AWS_REGION", "AWS_DEFAULT_REGION", "profile"])
def test_the_region_comes_from_where_the_aws_cli_has_it(caller: Caller, folder: Path, source: str) -> None:
    (caller.home / "config").write_text("[profile mine]\nregion = us-west-2\n")
    environ = {"AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_CONFIG_FILE": str(caller.home / "config")}
    environ |= {"AWS_PROFILE": "mine"} if source == "profile" else {source: "us-west-2"}
    options = ["--region", environ.pop("option")] if source == "option" else []
    done = caller.run("--dry-run", *options, caller.name, folder, **environ)
    assert f"docker push {ACCOUNT}.dkr.ecr.us-west-2.amazonaws.com/{caller.name}:latest" in done.stderr


def test_a_dry_run_changes_nothing(caller: Caller, folder: Path) -> None:
    done = caller.push("--dry-run", "--immutable-tags", caller.name, folder)
    assert (done.code, done.stdout) == (0, "")
    for command in (
        f"+ aws ecr create-repository --repository-name {caller.name} --image-scanning-configuration scanOnPush=true "
        f"--image-tag-mutability IMMUTABLE --region {REGION}",
        f"+ aws ecr get-login-password --region {REGION} | docker login --username AWS --password-stdin ",
        "+ docker build --force-rm --platform linux/amd64",
        f"+ docker push {caller.registry.host}/{caller.name}:latest",
        f"+ curl http://{caller.registry.host}/v2/{caller.name}/manifests/latest",
    ):
        assert command in done.stderr
    assert caller.name not in caller.repositories()
    assert caller.registry.tags(caller.name) == []
    assert docker("images", "--quiet", f"{caller.name}:latest") == ""


# -- what SageMaker would refuse is refused after the push


def test_an_oci_manifest_is_refused_with_what_to_do(caller: Caller, folder: Path) -> None:
    assert caller.push(caller.name, folder).code == 0
    caller.registry.turn_into_oci(caller.name, "latest")
    done = caller.push("--check", caller.name)
    assert (done.code, done.stdout) == (1, "")
    assert f"Check: SageMaker refuses what is in the registry now: it is {OCI_MANIFEST}" in done.stderr
    assert "'Use containerd for pulling and storing images'" in done.stderr


def test_the_oci_manifest_of_a_newer_engine_is_replaced(caller: Caller, folder: Path, tmp_path: Path) -> None:
    """The engine here is older; its pushes are turned into those of a newer one before the script looks at them."""
    newer = tmp_path / "newer engine"
    newer.mkdir()
    path, python = shlex.quote(":".join(sys.path)), shlex.quote(sys.executable)
    turn = f"from registry import *; {caller.registry}.turn_into_oci({caller.name!r}, 'latest')"
    docker_program = newer / "docker"
    docker_program.write_text(
        f"""#!/bin/bash
        {shutil.which("docker")} "$@" || exit
        [[ $1 != push ]] || PYTHONPATH={path} {python} -c {shlex.quote(turn)}
        """
    )
    docker_program.chmod(0o755)
    done = caller.push(caller.name, folder, PATH=f"{newer}:{caller.environ()['PATH']}")
    assert done.code == 0, done.stderr[-5000:]
    assert f"It is {OCI_MANIFEST}, which SageMaker refuses: replacing it" in done.stderr
    media_type, digest, manifest = caller.registry.manifest(caller.name, "latest")
    assert (media_type, manifest["mediaType"]) == (DOCKER_MANIFEST, DOCKER_MANIFEST)
    assert done.stdout.endswith(f" {digest}\n")
    image = f"{caller.registry.host}/{caller.name}:latest"
    remove_image(image)
    login = ["docker", "--config", caller.home / ".docker", "login", "--username", "AWS", "--password-stdin"]
    subprocess.run([*login, caller.registry.host], input=ECR_PASSWORD, text=True, check=True, capture_output=True)
    docker("--config", caller.home / ".docker", "pull", "--quiet", image)


def test_an_image_for_another_platform_is_refused(caller: Caller, folder: Path) -> None:
    assert caller.push(caller.name, folder).code == 0
    _, _, manifest = caller.registry.manifest(caller.name, "latest")
    config = json.loads(caller.registry.blob(caller.name, manifest["config"]["digest"]))
    data = json.dumps(config | {"architecture": "arm64"}).encode()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    caller.registry.put_blob(caller.name, data, digest)
    manifest["config"] |= {"digest": digest, "size": len(data)}
    caller.registry.put_manifest(caller.name, "latest", DOCKER_MANIFEST, manifest)
    done = caller.push("--check", caller.name)
    assert (done.code, done.stdout) == (1, "")
    assert "Check: The image is not for linux/amd64" in done.stderr


def test_what_is_pushed_can_be_checked_again(caller: Caller, folder: Path) -> None:
    pushed = caller.push(caller.name, folder)
    checked = caller.push("--check", caller.name)
    assert (checked.code, checked.stdout) == (0, pushed.stdout), checked.stderr


# -- each failure says which step it was and what to do


def fails(done: Ended, step: str, *words: str) -> None:
    assert (done.code, done.stdout) == (1, "")
    assert f"build_and_push.sh: {step}: " in done.stderr
    for word in words:
        assert word in done.stderr


def test_a_missing_aws_cli_is_named(caller: Caller, folder: Path, tmp_path: Path) -> None:
    for name in ("bash", "dirname", "mktemp", "rm", "cat"):
        found = subprocess.run(["bash", "-c", f"type -P {name}"], stdout=subprocess.PIPE, text=True, check=True).stdout
        (tmp_path / name).symlink_to(found.strip())
    fails(caller.push(caller.name, folder, PATH=str(tmp_path)), "Region", "the AWS CLI is needed")


def test_a_missing_region_is_named(caller: Caller, folder: Path) -> None:
    done = caller.push(caller.name, folder, AWS_REGION="", AWS_DEFAULT_REGION="", AWS_CONFIG_FILE="/dev/null")
    fails(done, "Region", "give --region, or set AWS_REGION")


def test_missing_credentials_are_named(caller: Caller, folder: Path) -> None:
    none = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    fails(caller.push(caller.name, folder, **none), "Account", "Unable to locate credentials", "aws configure")


def test_an_aws_that_does_not_answer_is_named(caller: Caller, folder: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    fails(caller.push(caller.name, folder, AWS_ENDPOINT_URL=nowhere, AWS_MAX_ATTEMPTS="1"), "Account", nowhere)


def test_a_repository_that_can_not_be_looked_up_is_named(caller: Caller, folder: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    environ = {"AWS_ENDPOINT_URL_ECR": nowhere, "AWS_MAX_ATTEMPTS": "1"}
    fails(caller.push(caller.name, folder, **environ), "Repository", nowhere, "ecr:DescribeRepositories")


def test_a_registry_that_is_down_is_named(caller: Caller, folder: Path) -> None:
    host = f"127.0.0.1:{free_port()}"
    fails(caller.run("--registry", host, caller.name, folder), "Login", f"{host} did not let you in")


def test_a_registry_that_refuses_the_password_is_named(caller: Caller, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    with running_registry(tmp_path / "registry", "AWS", "another password") as strict:
        done = caller.run("--registry", strict.host, caller.name, folder)
    fails(done, "Login", f"{strict.host} did not let you in", "401 Unauthorized")


def test_an_engine_that_is_down_is_named(caller: Caller, folder: Path) -> None:
    fails(
        caller.push(caller.name, folder, DOCKER_HOST="unix:///nowhere.sock"),
        "Login",
        "Docker does not answer: start it",
    )


def test_an_image_that_would_not_run_is_not_pushed(caller: Caller, folder: Path) -> None:
    (folder / "run").chmod(0o644)
    done = caller.push(caller.name, folder)
    fails(done, "Build", "/opt/algorithm/run is not executable")
    assert caller.registry.tags(caller.name) == []


def test_a_push_that_fails_is_named(
    caller: Caller, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a registry that takes nothing for a while, which Docker does not try again for a minute."""
    monkeypatch.setenv("REGISTRY_STORAGE_MAINTENANCE_READONLY", "{enabled: true}")
    with running_registry(tmp_path, "AWS", ECR_PASSWORD) as closed:
        done = caller.run("--registry", closed.host, caller.name, folder)
    fails(done, "Push", "docker says why above", "ecr:PutImage")


def test_an_image_that_is_not_in_the_registry_is_named(caller: Caller) -> None:
    fails(caller.push("--check", caller.name), "Check", "The registry answers 404 for http://")
