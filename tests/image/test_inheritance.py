"""Images made from ours, and ours made from others: neither side can break the other."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from docker_rig import (
    DEBIAN,
    PREFIX,
    PROJECT,
    build,
    build_arguments,
    build_base,
    built,
    docker,
    inspected,
    remove_image,
    run_once,
    serving,
    tried_build,
    unique_name,
)

from model_server import VERSION

if TYPE_CHECKING:
    from tests.conftest import Bucket

ALGORITHMS = PROJECT / "tests/algorithms"

HOSTILE_BASE = r"""
FROM debian:bookworm-slim
RUN mkdir -p /broken/modules /home/author/work && useradd --uid 1234 author \
 && for name in libz.so.1 libssl.so.3 libcrypto.so.3 libexpat.so.1 libffi.so.8 libpcre2-8.so.0 libcrypt.so.1 \
      libgcc_s.so.1 libpython3.11.so.1.0; do echo broken >"/broken/$name"; done \
 && for name in json os logging sitecustomize; do echo 'raise SystemExit("broken")' >"/broken/modules/$name.py"; done \
 && for name in python python3 pip nginx; do printf '#!/bin/sh\nexit 99\n' >"/usr/local/bin/$name"; done \
 && chmod 755 /usr/local/bin/*
ENV PATH=/opt/tools/bin:/usr/local/bin:/usr/bin:/bin PYTHONHOME=/broken PYTHONPATH=/broken/modules \
    LD_LIBRARY_PATH=/broken HOME=/home/author LC_CTYPE=POSIX LANG=de_DE.ISO-8859-1 TMPDIR=/nowhere \
    PIP_USER=1 PIP_CONSTRAINT=/broken/constraints.txt VERSION=theirs \
    NVIDIA_VISIBLE_DEVICES=none ODD="a \"quoted\"  value"
USER author
WORKDIR /home/author/work
ENTRYPOINT ["/bin/false"]
CMD ["never"]
STOPSIGNAL SIGKILL
SHELL ["/bin/false", "-c"]
"""
"""A base whose own variables, libraries and programs would break any Python and nginx that looked at them."""

CLUMSY_AUTHOR = """
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip nginx-light \
 && pip install --break-system-packages flask==2.0.1 werkzeug==2.0.3 boto3==1.17.0 pydantic==1.10.13 gunicorn==20.1.0 \
 && apt-get purge -y 'python3*' 'libpython3*' nginx-light nginx && apt-get autoremove -y \
 && rm -rf /usr/lib/python3* /usr/share/nginx
"""
"""Commands of an author who installs other versions of all that the server imports, and then removes Python."""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A folder to build in, with the tiny programs of the tests."""
    for program in ALGORITHMS.iterdir():
        (tmp_path / program.name).write_bytes(program.read_bytes())
        (tmp_path / program.name).chmod(0o755)
    return tmp_path


def serves(image: str, bucket: "Bucket", options: list[str]) -> None:
    """Run a task in an image whose algorithm gives back its inputs, and stop it as SageMaker does."""
    bucket.put("scan.mha", b"\0scan\xff")
    with serving(image, options) as container:
        container.run(bucket.task("1", [bucket.item("scan.mha", "scan.mha")]))
        assert bucket.get("/out/1/scan.mha") == b"\0scan\xff"
        assert container.stop() == 0, container.log()


def test_three_lines_make_an_image_that_serves(
    base_image: str, bucket: "Bucket", s3_options: list[str], context: Path
) -> None:
    author = f"""\
FROM {base_image}
COPY echoes_input /opt/mine/echo
ENV ALGORITHM_ENTRYPOINT='["/opt/mine/echo"]'
"""
    with built(author, context) as image:
        serves(image, bucket, s3_options)


def test_a_program_in_its_usual_place_needs_no_variable(
    base_image: str, bucket: "Bucket", s3_options: list[str], context: Path
) -> None:
    with built(f"FROM {base_image}\nCOPY echoes_input /opt/algorithm/run\n", context) as image:
        serves(image, bucket, s3_options)


def test_a_child_image_may_replace_a_file_of_the_program(base_image: str, context: Path) -> None:
    """Also by one of the same size that seems older than our bytecode."""
    usage = PROJECT / "container/model_server/usage.py"
    (context / "usage.py").write_text(usage.read_text().replace("Say what this image", "SAY WHAT THIS IMAGE"))
    os.utime(context / "usage.py", (1, 1))
    with built(f"FROM {base_image}\nCOPY usage.py /opt/program/model_server/usage.py\n", context) as image:
        assert run_once(image).stderr.startswith("SAY WHAT THIS IMAGE")


def test_what_an_author_installs_and_removes_does_not_break_the_server(
    base_image: str, bucket: "Bucket", s3_options: list[str], context: Path
) -> None:
    author = f"FROM {base_image}\nARG PIP_CERT\n{CLUMSY_AUTHOR}COPY echoes_input /opt/algorithm/run\n"
    with built(author, context, *build_arguments()) as image:
        serves(image, bucket, s3_options)


def variables(image: str, *options: str) -> dict[bytes, bytes]:
    """Return the variables that a program of this image has, byte for byte."""
    printed = docker("run", "--rm", "--entrypoint", "/bin/cat", *options, image, "/proc/self/environ")
    pairs = (variable.partition("=") for variable in printed.split("\0") if variable)
    return {name.encode(): value.encode() for name, _, value in pairs}


@pytest.fixture(scope="session")
def hostile_base(engine: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """HOSTILE_BASE, which keeps its name so that what stands on it is found in the cache the next time."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "Dockerfile").write_text(HOSTILE_BASE)
    tag = f"{PREFIX}-hostile-base"
    build(tag, folder)
    return tag


@pytest.fixture(scope="session")
def image_on_hostile_base(hostile_base: str) -> Iterator[str]:
    tag = unique_name()
    build_base(tag, base=hostile_base)
    yield tag
    remove_image(tag)


def test_on_a_base_that_breaks_every_other_python_the_server_works(
    image_on_hostile_base: str, bucket: "Bucket", s3_options: list[str]
) -> None:
    entrypoint = "ALGORITHM_ENTRYPOINT=cat /input/scan.mha >/output/scan.mha"  # most else is broken there
    serves(image_on_hostile_base, bucket, [*s3_options, "--env", entrypoint])


def test_the_labels_are_longshores_whatever_the_base_calls_its_own(image_on_hostile_base: str) -> None:
    labels = inspected(image_on_hostile_base)["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == labels["longshore.version"] == VERSION


@pytest.mark.parametrize("base", ["debian", "hostile"])
def test_the_algorithm_sees_the_variables_of_its_base_byte_for_byte(
    base: str, bucket: "Bucket", s3_options: list[str], request: pytest.FixtureRequest
) -> None:
    image = request.getfixturevalue("base_image" if base == "debian" else "image_on_hostile_base")
    bases = variables(DEBIAN if base == "debian" else request.getfixturevalue("hostile_base"), "--hostname", "box")
    gpus = {b"NVIDIA_VISIBLE_DEVICES": b"all", b"NVIDIA_DRIVER_CAPABILITIES": b"compute,utility"}
    given = ["--hostname", "box", "--env", 'GREETING=grüß "dich"  \t', "--env", "EMPTY="]
    told = {b"GREETING": 'grüß "dich"  \t'.encode(), b"EMPTY": b""}
    bucket.put("scan.mha", b"\0scan\xff")
    with serving(
        image,
        [
            *(*s3_options, *given, "--volume", f"{ALGORITHMS}:/algorithms:ro"),
            *("--env", 'ALGORITHM_ENTRYPOINT=["/algorithms/prints_environment"]'),
        ],
    ) as container:
        container.run(bucket.task("1"))
        container.stop()
    seen = dict(line.split(b"=", 1) for line in bucket.get("/out/1/environ").split(b"\0") if line)
    assert {name: value for name, value in seen.items() if not name.startswith(b"AWS_")} == {
        **gpus,
        **bases,
        **told,
        b"PYTHONUNBUFFERED": b"1",
    }


@pytest.mark.parametrize(
    "dockerfile",
    ["FROM scratch\nLABEL has=nothing\n", f"FROM {DEBIAN}\nRUN rm /usr/bin/apt-get /bin/sh /etc/passwd\n"],
    ids=["empty", "without-apt-get-shell-and-users"],
)
def test_any_base_will_do(dockerfile: str, engine: None, tmp_path: Path) -> None:
    with built(dockerfile, tmp_path) as base:
        tag = unique_name()
        try:
            build_base(tag, base=base)
            with serving(tag, ["--env", 'ALGORITHM_ENTRYPOINT=["/longshore/bin/python3"]']) as container:
                assert container.stop() == 0, container.log()
        finally:
            remove_image(tag)


def test_a_base_whose_path_misses_the_commands_is_named_by_the_check(engine: None, tmp_path: Path) -> None:
    with built(f"FROM {DEBIAN}\nENV PATH=/usr/bin:/bin\n", tmp_path) as base:
        tag = unique_name()
        try:
            build_base(tag, base=base)
            checked = run_once(tag, "check", "--base", options=["--entrypoint", "/longshore/bin/longshore"])
        finally:
            remove_image(tag)
    assert checked.code != 0
    assert "`serve` is not on PATH: keep /usr/local/bin in the image's PATH" in checked.stderr


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("RUN rm /usr/bin/apt-get", "it has no apt-get"),
        ("RUN rm -rf /etc/apt/sources.list*", "it has no package of Python 3.11 or newer"),
    ],
    ids=["apt-get", "python"],
)
def test_what_can_not_build_it_is_told_why(change: str, sentence: str, engine: None, tmp_path: Path) -> None:
    with built(f"FROM {DEBIAN}\n{change}\n", tmp_path) as image:
        failed = tried_build(PROJECT, "--build-arg", f"BUILD_IMAGE={image}", *build_arguments(image))
    assert failed.returncode != 0
    assert f"BUILD_IMAGE can not be used: {sentence}" in failed.stdout
