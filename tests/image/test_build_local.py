"""build_local.sh: any author's Dockerfile becomes an image that SageMaker can run, or is told why it can't."""

import base64
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import tarfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

from model_server.adaptation import adapted_config, get_new_env_vars

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

BUSYBOX = """
FROM debian:bookworm-slim AS parts
RUN apt-get update && apt-get install -y --no-install-recommends busybox-static
FROM scratch
COPY --from=parts /bin/busybox /bin/busybox
"""
"""One program that needs no library and does the work of many."""

WITHOUT_A_BASE = {
    "nothing but a program": BUSYBOX
    + """ENTRYPOINT ["/bin/busybox", "sh", "-c", "cp $0 /output/report"]
CMD ["/proc/self/status"]
""",
    "busybox": BUSYBOX
    + """RUN ["/bin/busybox", "--install", "-s", "/bin"]
ENV PATH=/bin
RUN mkdir -p /etc && echo 'app:x:1000:1000::/:/bin/sh' >/etc/passwd
USER app
CMD cp /proc/self/status /output/report
""",
    "a program in its usual place": BUSYBOX
    + """COPY tells /opt/algorithm/run
RUN ["/bin/busybox", "ln", "-s", "busybox", "/bin/sh"]
""",
}

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
    assert (config["Entrypoint"], config["Cmd"]) == (["/longshore/bin/longshore"], ["usage"])
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("0", "/srv/app", "SIGTERM")
    for words in (
        "does not hold Longshore, which is put on top",
        'ENTRYPOINT ["./tells","--fast"], CMD ["one","two"]',
        "Who the algorithm runs as, recorded: USER app:staff2",
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


def recorded(image: str) -> tuple[Any, Any, str]:
    """Return the ENTRYPOINT, the CMD and the USER that are recorded in an image."""
    prefix = "GRAND_CHALLENGE_COMPONENT_"
    environment = dict(line.split("=", 1) for line in inspected(image)["Config"]["Env"])
    entrypoint, cmd = (
        json.loads(base64.b64decode(environment[f"{prefix}{name}_B64J"])) for name in ("ENTRYPOINT", "CMD")
    )
    return entrypoint, cmd, environment[prefix + "USER"]


def test_an_image_that_was_built_so_can_be_inherited(base_image: str, folder: Path, tmp_path: Path) -> None:
    """A new ENTRYPOINT replaces the CMD too, and a new CMD leaves the ENTRYPOINT, as in Docker; a child's child too."""
    lines = ['ENTRYPOINT ["/opt/algorithm/run"]', 'CMD ["a"]', "USER games"]
    write_context(folder, child_of(base_image, *lines), tells=TELLS_WHO_AND_WHERE)
    run = ["/opt/algorithm/run"]

    def child(parent: str, instruction: str) -> AbstractContextManager[tuple[str, str]]:
        return built_locally(write_context(tmp_path / "child", f"FROM {parent}\n{instruction}\n"))

    with built_locally(folder) as (parent, _):
        assert recorded(parent) == (run, ["a"], "games")
        with child(parent, 'ENTRYPOINT ["/bin/true"]') as (image, _):
            assert recorded(image) == (["/bin/true"], None, "games")
        with child(parent, 'CMD ["b"]') as (image, _):
            assert recorded(image) == (run, ["b"], "games")
            with child(image, "USER daemon") as (grandchild, said):
                assert recorded(grandchild) == (run, ["b"], "daemon")
                assert "What the algorithm runs" not in said


@pytest.mark.parametrize("dockerfile", WITHOUT_A_BASE.values(), ids=WITHOUT_A_BASE)
def test_longshore_needs_nothing_of_an_image(
    engine: None, bucket: "Bucket", s3_options: list[str], folder: Path, dockerfile: str
) -> None:
    write_context(folder, dockerfile, tells="#!/bin/sh\n/bin/busybox cat /proc/self/status >/output/report\n")
    with built_locally(folder) as (image, said):
        lines = report(image, bucket, s3_options)
    assert "which is put on top" in said
    user = "1000" if "USER app" in dockerfile else "0"
    assert re.search(rf"^Uid:\t{user}\t", "\n".join(lines), re.MULTILINE)


ODD_AUTHOR = """
LABEL kept="it's" org.example="a b"
ENV ODD="a \\"quoted\\"  value" AWS_REGION=eu-west-1
WORKDIR /srv/a b
USER 1000:1000
STOPSIGNAL SIGINT
ENTRYPOINT ["/bin/busybox", "it's", "a \\"b\\"", "$HOME"]
CMD exec  'x'
"""


def test_an_image_is_the_same_as_if_adapt_had_made_it(engine: None, folder: Path, tmp_path: Path) -> None:
    write_context(folder, BUSYBOX + ODD_AUTHOR)
    (tmp_path / "plain").mkdir()
    with built(BUSYBOX + ODD_AUTHOR, tmp_path / "plain", *build_arguments()) as author:
        existing = {"config": inspected(author)["Config"]}
    adapted = adapted_config(existing, get_new_env_vars(existing, is_own=True), diff_id="sha256:0", is_own=True)[
        "config"
    ]
    with built_locally(folder) as (image, _):
        completed = inspected(image)["Config"]
    for name in ("Entrypoint", "Cmd", "User", "WorkingDir", "StopSignal"):
        assert completed[name] == adapted[name], name
    assert completed["Labels"] == {
        name: value for name, value in adapted["Labels"].items() if name != "longshore.layer"
    }
    assert sorted(completed["Env"]) == sorted(adapted["Env"])


def test_the_folders_own_dockerignore_counts(base_image: str, folder: Path) -> None:
    write_context(folder, child_of(base_image, "COPY . /srv/"), tells=TELLS_WHO_AND_WHERE, secret="password")
    (folder / ".dockerignore").write_text("secret\n")
    with built_locally(folder) as (image, _):
        assert "secret" not in run_once(image, "/srv", options=["--entrypoint", "ls"]).stdout


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
    "no such user": (["USER 12345:nobody-at-all"], "USER: The group defined in the containers USER"),
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


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("COPY tells /usr/local/sbin/serve", "takes the place of Longshore's `serve`"),
        ("COPY tells /usr/local/bin/serve", "takes the place of Longshore's `serve`"),
        ("ENV PATH=/usr/bin:/bin", "`serve` is not on PATH: keep /usr/local/bin"),
    ],
)
def test_what_is_on_path_matters_until_build_local_has_made_the_image(
    base_image: str, folder: Path, line: str, words: str
) -> None:
    write_context(folder, child_of(base_image, line), tells=TELLS_WHO_AND_WHERE)
    with built((folder / "Dockerfile").read_text(), folder) as plain:
        done = run_script(BUILD_LOCAL, "--check", plain)
    assert done.code == 1
    assert words in done.stderr
    with built_locally(folder) as (image, _):  # its ENTRYPOINT is Longshore
        assert inspected(image)["Config"]["Entrypoint"] == ["/longshore/bin/longshore"]


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
    assert done.stderr.count("+ docker build --force-rm --platform linux/amd64") == 4
    assert f"+ docker tag longshore-build:temporary-final {tag}" in done.stderr
    assert not (tmp_path / "called").exists()
