"""The image as it is: what it adds to its base, and that it runs wherever SageMaker and careful people run it."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from docker_rig import DEBIAN, PROJECT, docker, eventually, inspected, run_once, running, serving

from model_server import VERSION

if TYPE_CHECKING:
    from tests.conftest import Bucket

MEGABYTE = 1_000_000
CONTAINER = PROJECT / "container"
ECHOES = [
    *("--volume", f"{PROJECT}/tests/algorithms:/algorithms:ro"),
    *("--env", 'ALGORITHM_ENTRYPOINT=["/algorithms/echoes_input"]', "--env", "MODEL_SERVER_WORKERS=2"),
]
"""The options of a container whose algorithm gives back its inputs."""

OPTIONS = {
    "read-only": ["--read-only", "--tmpfs", "/input", "--tmpfs", "/output"],
    "read-only-with-volumes": ["--read-only", "--volume", "/input", "--volume", "/output"],
    "no-capabilities": ["--cap-drop", "ALL"],
    "no-new-privileges": ["--security-opt", "no-new-privileges"],
    "user": ["--user", "1000"],
    "user-and-group": ["--user", "1000:1000"],
    "pids-limit": ["--pids-limit", "128"],
    "memory": ["--memory", "256m", "--memory-swap", "256m"],
    "small-shm": ["--shm-size", "1m"],
    "other-folder": ["--workdir", "/srv/of/the/author"],
    "all": [
        *("--read-only", "--tmpfs", "/input", "--tmpfs", "/output", "--cap-drop", "ALL", "--user", "1000:1000"),
        *("--pids-limit", "128", "--memory", "256m", "--memory-swap", "256m"),
    ],
}


def test_it_adds_at_most_80_mb_to_its_base(base_image: str) -> None:
    assert inspected(base_image)["Size"] - inspected(DEBIAN)["Size"] <= 80 * MEGABYTE


def test_its_configuration_is_the_bases_but_for_what_it_says(base_image: str) -> None:
    base, ours = inspected(DEBIAN)["Config"], inspected(base_image)["Config"]
    assert not ours["Entrypoint"]  # it would swallow `serve`
    assert ours["Cmd"] == ["longshore", "usage"]
    assert ours["User"] == "0"
    assert ours["WorkingDir"] == base["WorkingDir"]
    assert set(ours["Env"]) - set(base["Env"]) == {
        "PYTHONUNBUFFERED=1",
        "NVIDIA_VISIBLE_DEVICES=all",
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    }
    assert set(base["Env"]) <= set(ours["Env"])


def test_its_labels_say_what_it_is(base_image: str) -> None:
    labels = inspected(base_image)["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == labels["longshore.version"] == VERSION
    assert {"org.opencontainers.image.source", "org.opencontainers.image.revision"} <= labels.keys()
    assert labels["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"


def programs_on_path(image: str) -> set[str]:
    script = 'IFS=:; for folder in $PATH; do ls "$folder"; done 2>/dev/null'
    return set(docker("run", "--rm", image, "sh", "-c", script).split())


def test_nothing_appears_on_path_but_the_executables_of_the_program(base_image: str) -> None:
    executables = {path.name for path in CONTAINER.iterdir() if path.is_file() and not path.suffix}
    assert programs_on_path(base_image) - programs_on_path(DEBIAN) == executables
    assert {"serve", "train", "process", "invoke", "longshore"} <= executables


def files_of(image: str) -> set[str]:
    listing = ["find", "/", "(", "-path", "/proc", "-o", "-path", "/sys", "-o", "-path", "/dev", ")", "-prune"]
    return set(docker("run", "--rm", image, *listing, "-o", "-print").splitlines())


def test_nothing_is_added_beside_its_own_folders(base_image: str) -> None:
    bases, ours = files_of(DEBIAN), files_of(base_image)
    assert bases <= ours
    added = {path for path in ours - bases if not path.startswith(("/longshore", "/opt/program"))}
    assert {path for path in added if Path(path).parent != Path("/usr/local/bin")} == {"/input", "/output"}


@pytest.mark.parametrize("command", [[], ["longshore", "usage"]], ids=["plain", "usage"])
def test_without_a_command_it_says_how_it_is_used_and_exits_with_64(base_image: str, command: list[str]) -> None:
    ended = run_once(base_image, *command)
    assert ended.code == 64
    assert ended.stdout == ""
    for name in ("serve", "train", "process", "invoke"):
        assert f"docker run IMAGE {name}" in ended.stderr


@pytest.mark.parametrize(
    ("entrypoint", "arguments", "printed"),
    [
        ([], [], "processed"),
        (["process"], [], "processed"),
        ([], ["process", "--a"], "processed --a"),
        (["process"], ["--a"], "processed --a"),
    ],
    ids=["neither", "entrypoint", "arguments", "both"],
)
def test_a_processing_job_may_name_an_entrypoint_arguments_both_or_neither(
    base_image: str, tmp_path: Path, entrypoint: list[str], arguments: list[str], printed: str
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/processingjobconfig.json").write_text("{}")
    options = ["--volume", f"{tmp_path}:/opt/ml", "--env", 'ALGORITHM_ENTRYPOINT=["echo", "processed"]']
    options += [word for name in entrypoint for word in ("--entrypoint", name)]
    ended = run_once(base_image, *arguments, options=options)
    assert (ended.code, ended.stdout) == (0, printed + "\n"), ended.stderr


def test_the_licenses_of_what_it_is_made_of_are_in_it(base_image: str) -> None:
    licenses = docker("run", "--rm", base_image, "ls", "/longshore/licenses").split()
    assert "nginx" in licenses
    assert any(name.startswith("python3") for name in licenses)


def test_serve_without_a_program_says_what_is_missing(base_image: str) -> None:
    ended = run_once(base_image, "serve")
    assert ended.code == 78
    assert "ALGORITHM_ENTRYPOINT" in ended.stderr


def run_a_task(image: str, bucket: "Bucket", options: Sequence[str]) -> None:
    """Run one task over HTTP and S3, and stop the container as SageMaker does."""
    bucket.put("scan.mha", b"\0scan\xff")
    with serving(image, options) as container:
        container.run(bucket.task("1", [bucket.item("images/scan.mha", "scan.mha")]))
        assert bucket.get("/out/1/images/scan.mha") == b"\0scan\xff"
        assert container.stop() == 0, container.log()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_task_runs_in_a_restricted_container(
    base_image: str, bucket: "Bucket", s3_options: list[str], options: list[str]
) -> None:
    run_a_task(base_image, bucket, [*s3_options, *ECHOES, *options])


def test_memory_that_runs_out_ends_the_algorithm_and_not_the_server(
    base_image: str, bucket: "Bucket", s3_options: list[str]
) -> None:
    bucket.put("little", "")
    limits = ["--memory", "256m", "--memory-swap", "256m", "--env", "MODEL_SERVER_WORKERS=1"]
    eats_memory = ["--env", "ALGORITHM_ENTRYPOINT=test -e /input/little || head --bytes 1G /dev/zero | tail"]
    with serving(base_image, [*s3_options, *limits, *eats_memory]) as container:
        result = container.post(bucket.task("much")).json()
        assert (result["return_code"], result["error"]["code"]) == (137, "algorithm_failed"), container.log()
        assert "memory" in result["error"]["message"]
        container.run(bucket.task("little", [bucket.item("little", "little")]))
        assert container.stop() == 0, container.log()


def test_ping_is_answered_without_a_network(base_image: str) -> None:
    asks = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/ping', timeout=5).status)"
    with running(base_image, "serve", options=[*ECHOES, "--network", "none"]) as container:
        eventually(lambda: "Serving on port 8080" in container.log() or not container.state["Running"], "a start")
        assert container.execute("/longshore/bin/python3", "-Es", "-c", asks) == "200"
        assert container.stop() == 0


def test_edited_code_runs_from_a_read_only_mount(base_image: str, tmp_path: Path) -> None:
    edited = shutil.copytree(CONTAINER, tmp_path / "container", ignore=shutil.ignore_patterns("__pycache__"))
    usage = edited / "model_server/usage.py"
    usage.write_text(usage.read_text().replace("Say what this image", "Say what this edited image"))
    said = run_once(base_image, options=["--volume", f"{edited}:/opt/program:ro"]).stderr
    assert said.startswith("Say what this edited image is to do:\n")


def test_the_checkouts_code_serves_from_a_read_only_mount(
    base_image: str, bucket: "Bucket", s3_options: list[str]
) -> None:
    run_a_task(base_image, bucket, [*s3_options, *ECHOES, "--volume", f"{CONTAINER}:/opt/program:ro"])
