"""build_local.sh: any author's Dockerfile becomes an image that SageMaker can run, or is told why it can't."""

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from build_rig import BUILD_LOCAL, build_local, built_locally, run_script, write_context
from docker_rig import (
    PREFIX,
    build_arguments,
    built,
    docker,
    eventually,
    inspected,
    remove_image,
    run_once,
    serving,
    unique_name,
)

if TYPE_CHECKING:
    from tests.conftest import Bucket

TELLS_WHO_AND_WHERE = r"""#!/bin/sh
{ id -un; id -gn; pwd; printf '[%s]\n' "$@"; } >/output/report
"""

ORDINARY = """
FROM debian:bookworm-slim
RUN groupadd staff2 && useradd --create-home app
COPY tells /srv/app/tells
WORKDIR /srv/app
USER app:staff2
STOPSIGNAL SIGINT
ENTRYPOINT ["./tells", "--fast"]
CMD ["one", "two"]
"""

ODD_ARGUMENTS = [
    *("it's", 'a "b"', "$HOME ${PATH} $$", "\\", "\\n", "two\nlines", "\ttab", "é ☃ 𝄞", "`x` $(y)", "%s", "# no", ""),
    *("\\u0027", "' '", "trailing\\", "<&>", "\u2028"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "an author's folder"


def child_of(base: str, *lines: str) -> str:
    return "\n".join([f"FROM {base}", "COPY tells /opt/algorithm/run", *lines, ""])


def report(image: str, bucket: "Bucket", options: list[str]) -> list[str]:
    """Run a task in an image, and return the lines of what its program found."""
    with serving(image, options) as container:
        container.run(bucket.task("1"))
    return bucket.get("/out/1/report").decode().split("\n")[:-1]


def work_images(said: str) -> str:
    """Return the images of steps that are left of a run; its name for them is in what it printed."""
    names = set(re.findall(r"longshore-build:\d+-\d+", said))
    assert names
    return "".join(docker("images", "--quiet", "--filter", f"reference={name}-*") for name in names)


# -- what authors write


def test_an_ordinary_dockerfile_runs_as_its_user_in_its_folder(
    engine: None, bucket: "Bucket", s3_options: list[str], folder: Path
) -> None:
    write_context(folder, ORDINARY, tells=TELLS_WHO_AND_WHERE)
    with built_locally(folder) as (image, said):
        assert report(image, bucket, s3_options) == ["app", "staff2", "/srv/app", "[--fast]", "[one]", "[two]"]
        config = inspected(image)["Config"]
    assert (config["Entrypoint"], config["Cmd"]) == (None, ["longshore", "usage"])
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("root", "/srv/app", "SIGTERM")
    for words in (
        "does not hold Longshore, which is put on top",
        'ENTRYPOINT ["./tells","--fast"], CMD ["one","two"]',
        "recorded as ALGORITHM_USER: USER app:staff2",
        "STOPSIGNAL SIGINT",
    ):
        assert words in said


@pytest.mark.parametrize(("lines", "home"), [(["ENV HOME=/data"], "[/data]"), ([], "[/usr/games]")])
def test_home_is_the_images_or_else_its_users(
    base_image: str, bucket: "Bucket", s3_options: list[str], folder: Path, lines: list[str], home: str
) -> None:
    instructions = [*lines, "USER games", 'CMD exec /opt/algorithm/run "$HOME"']
    write_context(folder, child_of(base_image, *instructions), tells=TELLS_WHO_AND_WHERE)
    with built_locally(folder) as (image, _):
        assert report(image, bucket, s3_options)[3:] == [home]


def test_a_few_lines_from_longshores_image_are_left_as_they_are(
    base_image: str, bucket: "Bucket", s3_options: list[str], folder: Path
) -> None:
    entrypoint = """ENV ALGORITHM_ENTRYPOINT='["/opt/algorithm/run", "x"]'"""
    write_context(folder, child_of(base_image, entrypoint), tells=TELLS_WHO_AND_WHERE)
    with built_locally(folder) as (image, said):
        assert report(image, bucket, s3_options) == ["root", "root", "/", "[x]"]
    assert "recorded" not in said
    assert "put on top" not in said


def test_every_character_of_a_command_survives(
    base_image: str, bucket: "Bucket", s3_options: list[str], folder: Path
) -> None:
    instruction = "ENTRYPOINT " + json.dumps(["/opt/algorithm/run", *ODD_ARGUMENTS])
    write_context(folder, child_of(base_image, instruction), tells=TELLS_WHO_AND_WHERE)
    with built_locally(folder) as (image, _):
        lines = report(image, bucket, s3_options)
    assert "\n".join(lines[3:]) == "\n".join(f"[{argument}]" for argument in ODD_ARGUMENTS)


def test_a_shell_form_is_run_by_the_shell(
    base_image: str, bucket: "Bucket", s3_options: list[str], folder: Path
) -> None:
    instructions = ["ENV GREETING='hello you'", 'CMD exec /opt/algorithm/run "$GREETING" "it\'s"']
    write_context(folder, child_of(base_image, *instructions), tells=TELLS_WHO_AND_WHERE)
    with built_locally(folder) as (image, _):
        assert report(image, bucket, s3_options)[3:] == ["[hello you]", "[it's]"]


def test_a_shell_form_is_said_to_take_no_arguments(base_image: str, folder: Path) -> None:
    write_context(folder, child_of(base_image, "ENTRYPOINT exec /opt/algorithm/run"), tells=TELLS_WHO_AND_WHERE)
    with built_locally(folder) as (image, _):
        done = run_once(image, "process", "one")
    assert done.code == 0, done.stderr
    assert "The arguments are not used: the ENTRYPOINT is in shell form" in done.stderr


def test_what_a_base_image_runs_does_not_hide_the_program(
    base_image: str, bucket: "Bucket", s3_options: list[str], folder: Path
) -> None:
    """CUDA's base images have an ENTRYPOINT that starts a shell where it is given no command."""
    base = 'FROM debian:bookworm-slim\nRUN ln -s /bin/true /bin/starts-a-shell\nENTRYPOINT ["starts-a-shell"]\n'
    with built(base, folder.parent) as image:
        write_context(folder, f"FROM {image}\nCOPY tells /opt/algorithm/run\n", tells=TELLS_WHO_AND_WHERE)
        with built_locally(folder) as (whole, said):
            assert report(whole, bucket, s3_options)[:2] == ["root", "root"]
        assert 'the base image says it and /opt/algorithm/run is there to be run: ENTRYPOINT ["starts-a-shell"]' in said
        write_context(folder, f"FROM {image}\nCOPY tells /somewhere\n", tells=TELLS_WHO_AND_WHERE)
        with built_locally(folder) as (_, said):
            assert "The Dockerfile has no ENTRYPOINT and no CMD; those of its base image are taken" in said


def test_variables_that_the_author_sets_win_over_instructions(base_image: str, folder: Path) -> None:
    lines = [
        """ENV ALGORITHM_ENTRYPOINT='["/opt/algorithm/run"]' ALGORITHM_USER=nobody""",
        'ENTRYPOINT ["/bin/false"]',
        "USER games",
    ]
    write_context(folder, child_of(base_image, *lines), tells=TELLS_WHO_AND_WHERE)
    with built_locally(folder) as (image, said):
        environment = inspected(image)["Config"]["Env"]
    assert 'ALGORITHM_ENTRYPOINT=["/opt/algorithm/run"]' in environment
    assert "ALGORITHM_USER=nobody" in environment
    assert 'are set: ENTRYPOINT ["/bin/false"]' in said
    assert "is set: USER games" in said


def test_an_image_that_was_built_so_can_be_inherited(base_image: str, folder: Path, tmp_path: Path) -> None:
    """A new ENTRYPOINT replaces the CMD too, and a new CMD leaves the ENTRYPOINT, as in Docker."""
    lines = ['ENTRYPOINT ["/opt/algorithm/run"]', 'CMD ["a"]', "USER games"]
    write_context(folder, child_of(base_image, *lines), tells=TELLS_WHO_AND_WHERE)

    def recorded(instruction: str) -> list[str]:
        with built_locally(write_context(tmp_path / "child", f"FROM {parent}\n{instruction}\n")) as (image, _):
            return [line for line in inspected(image)["Config"]["Env"] if line.startswith("ALGORITHM_")]

    with built_locally(folder) as (parent, _):
        assert sorted(recorded('CMD ["b"]')) == [
            'ALGORITHM_CMD=["b"]',
            'ALGORITHM_ENTRYPOINT=["/opt/algorithm/run"]',
            "ALGORITHM_USER=games",
        ]
        assert sorted(recorded('ENTRYPOINT ["/bin/true"]')) == [
            "ALGORITHM_CMD=[]",
            'ALGORITHM_ENTRYPOINT=["/bin/true"]',
            "ALGORITHM_USER=games",
        ]


def test_the_folders_own_dockerignore_counts(base_image: str, folder: Path) -> None:
    write_context(folder, child_of(base_image, "COPY . /srv/"), tells=TELLS_WHO_AND_WHERE, secret="password")
    (folder / ".dockerignore").write_text("secret\n")
    with built_locally(folder) as (image, _):
        assert "secret" not in run_once(image, "ls", "/srv").stdout


def test_without_a_folder_it_is_longshores_own_image(base_image: str, folder: Path) -> None:
    """Built with the arguments that the base image of these tests had, so that its layers are in the cache."""
    tag = unique_name()
    environ = {"LONGSHORE_BUILD_ARGS": " ".join(build_arguments())}
    try:
        done = run_script(BUILD_LOCAL, tag, environ=environ)
        assert (done.code, done.stdout) == (0, f"{tag}\n"), done.stderr[-5000:]
        labels = inspected(tag)["Config"]["Labels"]
    finally:
        remove_image(tag)
    assert labels["longshore.version"] == labels["org.opencontainers.image.version"] != ""


# -- what would not run is named, and gets no name


FAULTY = {
    "not executable": (["RUN chmod 644 /opt/algorithm/run"], "/opt/algorithm/run is not executable: add `RUN chmod"),
    "no interpreter": (
        ["RUN sed -i '1s|.*|#!/usr/bin/env python3|' /opt/algorithm/run"],
        "'python3' is in no folder of PATH: install it",
    ),
    "Windows line ends": (["RUN sed -i 's/$/\\r/' /opt/algorithm/run"], "has Windows line ends (CRLF)"),
    "files in SageMaker's folder": (["COPY tells /opt/ml/model/weights"], "mounts its own over /opt/ml/model/weights"),
    "files in /input": (["COPY tells /input/"], "/input is not empty, and every task would see 'tells' there"),
    "a serve of their own": (["COPY tells /usr/local/sbin/serve"], "takes the place of Longshore's `serve`"),
    "a serve over ours": (["RUN rm /usr/local/bin/serve", "COPY tells /usr/local/bin/serve"], "Longshore's `serve`"),
    "no way to serve": (["ENV PATH=/usr/bin:/bin"], "`serve` is not on PATH: keep /usr/local/bin"),
    "no such user": (["USER 12345:nobody-at-all"], "ALGORITHM_USER: The group defined in the containers USER"),
    "a folder closed to its user": (["RUN chmod 700 /opt/algorithm", "USER games"], "The user games may not read"),
    "a command that is not there": (['CMD ["/opt/algorithm/rnu"]'], "/opt/algorithm/rnu does not exist"),
    "the shell of a base image": (['CMD ["bash"]'], "bash alone does nothing for a task"),
    "our own command": (['ENTRYPOINT ["serve"]'], "serve is a command of Longshore's own"),
    "a wrong setting": (["ENV MODEL_SERVER_WORKERS=many"], "MODEL_SERVER_WORKERS: "),
}


@pytest.mark.parametrize(("lines", "words"), FAULTY.values(), ids=FAULTY)
def test_what_would_not_run_is_named(base_image: str, folder: Path, lines: list[str], words: str) -> None:
    tag = unique_name()
    done = build_local(tag, write_context(folder, child_of(base_image, *lines), tells=TELLS_WHO_AND_WHERE))
    assert (done.code, done.stdout) == (1, "")
    assert words in done.stderr
    assert "build_local.sh: This image would not run on SageMaker" in done.stderr
    assert docker("images", "--quiet", tag) == ""


def test_an_entrypoint_that_swallows_serve_is_named_in_an_image_that_is_there(base_image: str, tmp_path: Path) -> None:
    author = f'FROM {base_image}\nENTRYPOINT ["/bin/true"]\nUSER games\nRUN true >/input/left\n'
    with built(author, tmp_path) as image:
        done = run_script(BUILD_LOCAL, "--check", image)
    assert (done.code, done.stdout) == (1, "")
    assert 'ENTRYPOINT ["/bin/true"] swallows the `serve`' in done.stderr
    assert "USER is not root" in done.stderr
    assert "/input is not empty" in done.stderr
    assert "The algorithm has no command" in done.stderr


def test_an_image_without_longshore_fails_the_check(engine: None) -> None:
    done = run_script(BUILD_LOCAL, "--check", "debian:bookworm-slim")
    assert done.code == 1
    assert "does not hold Longshore: build it with build_local.sh" in done.stderr


def test_an_image_of_another_platform_is_named(engine: None, tmp_path: Path) -> None:
    tag = unique_name()
    docker("load", "--input", write_arm_image(tmp_path / "image.tar", tag))
    try:
        done = run_script(BUILD_LOCAL, "--check", tag)
    finally:
        remove_image(tag)
    assert done.code == 1
    assert "The image is for linux/arm64, and SageMaker's machines are linux/amd64" in done.stderr


def write_arm_image(path: Path, tag: str) -> Path:
    """Write an image for another platform as `docker save` does: no file is in it, but our label."""
    layer = bytes(1024)  # an empty tarball
    config = {
        "architecture": "arm64",
        "os": "linux",
        "config": {"Labels": {"longshore.version": "1"}},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [f"{tag}:latest"], "Layers": ["layer.tar"]}]
    members = {
        "layer.tar": layer,
        "config.json": json.dumps(config).encode(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


# -- failures and what they leave


def test_a_base_that_is_not_there_is_named_with_what_to_do(engine: None, folder: Path) -> None:
    missing = f"{PREFIX}-longshore-of-nobody"
    for dockerfile in (f"FROM {missing}\n", f"ARG LONGSHORE_IMAGE={missing}\nFROM ${{LONGSHORE_IMAGE}}\n"):
        done = build_local(unique_name(), write_context(folder, dockerfile))
        assert done.code == 1
        assert f"If it misses {missing}, build that first:\nbuild_local.sh {missing}\n" in done.stderr


def test_a_base_that_longshore_can_not_stand_on_is_named(engine: None, folder: Path) -> None:
    done = build_local(unique_name(), write_context(folder, "FROM debian:bookworm-slim\nRUN rm /usr/bin/apt-get\n"))
    assert done.code == 1
    assert "BASE_IMAGE can not be used: it has no apt-get" in done.stderr
    assert "Longshore could not be put on top" in done.stderr


def test_triggers_for_children_are_refused(base_image: str, folder: Path) -> None:
    dockerfile = child_of(base_image, "ONBUILD RUN false")
    done = build_local(unique_name(), write_context(folder, dockerfile, tells=TELLS_WHO_AND_WHERE))
    assert done.code == 1
    assert "has ONBUILD instructions, and they would run when it is completed" in done.stderr


def test_no_image_of_a_step_is_left(base_image: str, folder: Path) -> None:
    write_context(folder, child_of(base_image), tells=TELLS_WHO_AND_WHERE)
    with built_locally(folder) as (_, said):
        assert work_images(said) == ""
    of_base = ("ps", "--all", "--quiet", "--filter", f"ancestor={base_image}")
    before = docker(*of_base)
    assert build_local(unique_name(), write_context(folder, child_of(base_image, "RUN false"))).code == 1
    assert docker(*of_base) == before  # nor a container


def test_ctrl_c_leaves_nothing(base_image: str, folder: Path) -> None:
    tag = unique_name()

    def of_steps() -> set[str]:
        containers = docker("ps", "--all", "--quiet", "--filter", f"ancestor={base_image}")
        images = docker("images", "--quiet", "--filter", "dangling=true")
        return {*containers.split(), *images.split()}

    before = of_steps()
    write_context(folder, f"FROM {base_image}\nRUN echo begun; sleep 600\n")
    with subprocess.Popen(
        [BUILD_LOCAL, tag, folder],
        env=os.environ | {"DOCKER_BUILDKIT": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    ) as script:
        assert script.stdout
        assert "begun\n" in iter(script.stdout.readline, "")
        assert of_steps() - before  # the container of the step that runs
        os.killpg(script.pid, signal.SIGINT)
        said, _ = script.communicate(timeout=60)
    assert script.returncode == 130, said
    # The engine ends the step when it has seen that its client is gone.
    eventually(lambda: of_steps() <= before, "the end of the step's container")
    assert docker("images", "--quiet", "--filter", f"reference=longshore-build:{script.pid}-*") == ""
    assert docker("images", "--quiet", tag) == ""


def test_a_dry_run_calls_no_docker(folder: Path, tmp_path: Path) -> None:
    tag = unique_name()
    (tmp_path / "docker").write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    (tmp_path / "docker").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = run_script(BUILD_LOCAL, "--dry-run", tag, write_context(folder, "FROM scratch\n"), environ=path)
    assert (done.code, done.stdout) == (0, "")
    assert done.stderr.count("+ docker build --force-rm --platform linux/amd64") == 3
    assert f"+ docker tag longshore-build:temporary-final {tag}" in done.stderr
    assert not (tmp_path / "called").exists()
