"""Jobs in Docker, each in a container of its own that does not outlive the script."""

import contextlib
import ipaddress
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from subprocess import Popen
from typing import IO, NamedTuple
from urllib.parse import urlsplit

from job import Job
from ml_folder import Mount
from running import Failure, end_if_asked, running

SAMPLE_IMAGE = "longshore-sample"
HOW_TO_BUILD = {
    SAMPLE_IMAGE: "./build_local.sh longshore && ./build_local.sh longshore-sample local-test/sample-algorithm",
    "longshore": "./build_local.sh longshore",
}
LABEL = "longshore.version"
ML = PurePosixPath("/opt/ml")
NAME_OF_THIS_MACHINE = "host.docker.internal"

PYTHON = "/longshore/bin/python3"
"""Of every image that holds Longshore, which may have no other program that can be counted on."""

ADDRESS_OF = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"
GIVE_TO = """
import os, sys
user, group, *roots = sys.argv[1:]
for root in roots:
    for path, folders, files in os.walk(root):
        for name in (".", *folders, *files):
            os.chown(os.path.join(path, name), int(user), int(group), follow_symlinks=False)
"""


class Owner(NamedTuple):
    """A user and a group, by their numbers."""

    user: int
    group: int


class Docker:
    """Runs jobs as containers of one image."""

    def __init__(self, image: str, owner: Owner) -> None:
        self.image = image
        self._owner = owner
        need_docker()
        need_image(image)
        self._gateway = gateway()
        # On a Mac the bridge is inside a virtual machine: containers reach this machine by a name, even its loopback.
        self.s3_bind = self._gateway or "127.0.0.1"

    def s3_url(self, url: str) -> str:
        """Return the URL that containers find this machine's S3 server at.

        It has a number and no name: with a name, S3's clients would put the bucket's name in front of it.
        """
        if self._gateway:
            return url
        option = ["--add-host", f"{NAME_OF_THIS_MACHINE}:host-gateway"]
        found = self._run_python(option, ADDRESS_OF, NAME_OF_THIS_MACHINE)
        return f"http://{found.strip()}:{urlsplit(url).port}"

    @contextlib.contextmanager
    def started(self, job: Job, root: Path, output: IO[bytes] | None) -> Iterator["Popen[bytes]"]:
        """Keep a container running; in the end it is stopped as SageMaker does, and removed."""
        name = f"{root.name}-{job.command[0]}"
        options = [f"--name={name}", *map(bind, job.mounts)]
        if job.program:
            options.append(bind(Mount(job.program, "/longshore/program", read_only=True)))
        model = {"ALGORITHM_MODEL_PATH": f"/opt/ml/{job.model}"} if job.model else {}
        options += [f"--env={variable}={value}" for variable, value in (model | job.environment).items()]
        if job.port:
            options += [f"--publish=127.0.0.1:{job.port}:8080"]
        try:
            docker("create", *options, self.image, *job.command)
            end_if_asked()
            # The client has the user's own environment: it may need DOCKER_HOST or a context.
            client = ["docker", "start", "--attach", name]
            with running(client, dict(os.environ), output, cwd="/", stop_seconds=job.stop_seconds) as process:
                try:
                    yield process
                finally:
                    self._stop(process, name, job.stop_seconds)
            self._give_back(job)
        finally:
            with contextlib.suppress(Failure):
                docker("rm", "--force", "--volumes", name)

    def _stop(self, client: "Popen[bytes]", name: str, seconds: int) -> None:
        if client.poll() is None:
            docker("stop", "-t", str(seconds), name)
            with contextlib.suppress(subprocess.TimeoutExpired):
                client.wait(seconds)

    def _give_back(self, job: Job) -> None:
        """Make what the job made as root its owner's, where Docker has not done so; what it was given stays."""
        made = [mount for mount in job.mounts if mount.is_made]
        paths = [path for mount in made for path in (mount.source, *mount.source.rglob("*"))]
        if all(path.lstat().st_uid == self._owner.user for path in paths):
            return
        inside = [str(ML / mount.path) for mount in made]
        options = ["--network=none", *map(bind, made)]
        self._run_python(options, GIVE_TO, str(self._owner.user), str(self._owner.group), *inside)

    def _run_python(self, options: list[str], code: str, *arguments: str) -> str:
        """Run some lines as root in a container of its own, and return what they print."""
        command = ["--user=0", f"--entrypoint={PYTHON}", self.image, "-Es", "-c", code, *arguments]
        return docker("run", "--rm", *options, *command)


def owner_of(test_dir: Path) -> Owner:
    """Return whose is to be what a job makes there: this user's, but with sudo that of whoever has the folder."""
    if os.getuid() != 0:
        return Owner(os.getuid(), os.getgid())
    status = test_dir.stat()
    return Owner(status.st_uid, status.st_gid)


def bind(mount: Mount) -> str:
    """Return the option that mounts a folder; its fields are in quotes, so that a path may have a comma or a colon."""
    fields = ["type=bind", f"source={mount.source}", f"target={ML / mount.path}"]
    if mount.read_only:
        fields.append("readonly")
    return "--mount=" + ",".join('"{}"'.format(field.replace('"', '""')) for field in fields)


def need_docker() -> None:
    if not shutil.which("docker"):
        raise Failure("Docker is not installed. With --host no Docker is needed.")
    try:
        docker("version", "--format", "{{.Server.Version}}")
    except Failure as failure:
        raise Failure(f"Docker does not answer; start it, or use --host, which needs none. {failure}") from failure


def need_image(image: str) -> None:
    try:
        described = json.loads(docker("image", "inspect", image))
    except Failure as failure:
        how = f" Build it: {HOW_TO_BUILD[image]}" if image in HOW_TO_BUILD else ""
        raise Failure(f"This machine has no image {image}.{how}") from failure
    if LABEL not in (described[0]["Config"]["Labels"] or {}):
        raise Failure(f"There is no Longshore in {image}: ./build_local.sh NAME DIR adds it to what DIR builds.")


def gateway() -> str | None:
    """Return the address of this machine that containers reach, or None where it is not this machine's."""
    for network in json.loads(docker("network", "inspect", "bridge")):
        for config in network["IPAM"]["Config"] or []:
            subnet = ipaddress.ip_network(config["Subnet"])
            # Docker leaves the gateway out where it is the usual one.
            address = config.get("Gateway") or str(next(subnet.hosts()))
            if subnet.version == 4 and is_own(address):
                return address
    return None


def is_own(address: str) -> bool:
    try:
        with socket.create_server((address, 0)):
            return True
    except OSError:
        return False


def docker(*arguments: str) -> str:
    """Run one of Docker's commands and return what it prints; a signal to this script ends it only as it starts."""
    command = ["docker", *arguments]
    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, process_group=0, check=False
    )
    if ended.returncode != 0:
        end_if_asked()
        raise Failure(f"docker {arguments[0]} failed: {ended.stderr.strip()}")
    return ended.stdout
