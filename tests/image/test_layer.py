"""The runtime by itself, in an image that has nothing else: what it brings along, and what it takes of an image."""

import hashlib
import io
import json
import re
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from docker_rig import PROJECT, build, build_arguments, inspected, remove_image, run_once, serving, unique_name

from model_server import VERSION

if TYPE_CHECKING:
    from tests.conftest import Bucket

PRINTS_ENVIRONMENT = """\
import json, os, sys
print(json.dumps({name.decode("latin-1"): value.decode("latin-1") for name, value in os.environb.items()}))
"""
COPIES = """\
import os, shutil
os.mkdir("/output/images")
shutil.copyfile("/input/images/scan.mha", "/output/images/scan.mha")
"""
HIDDEN = (
    "LANG",
    "LC_ALL",
    "TZ",
    "TZDIR",
    "OPENSSL_CONF",
    "SSLKEYLOGFILE",
    "GUNICORN_CMD_ARGS",
    "FLASK_DEBUG",
    "NGINX",
    "SCRIPT_NAME",
)
PRETENDED = ("LANGUAGES", "TZX", "LCALL", "GUNICORN", "PATH_INFO")
"""Names that only look like those of variables that are hidden."""

OPTIONS = {
    "plain": [],
    "no-capabilities": ["--cap-drop", "ALL"],
    "user": ["--user", "1000"],
    "read-only": ["--read-only", "--tmpfs", "/input", "--tmpfs", "/output"],
    "read-only-user-without-capabilities": [
        *("--read-only", "--tmpfs", "/input", "--tmpfs", "/output", "--user", "1000:1000", "--cap-drop", "ALL"),
    ],
    "read-only-root-without-capabilities": [
        *("--read-only", "--tmpfs", "/input", "--tmpfs", "/output", "--cap-drop", "ALL"),
    ],
}


def layer_of(image: str) -> bytes:
    """Return the tarball that an image's `layer` command writes."""
    done = subprocess.run(["docker", "run", "--rm", image, "layer"], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    digest = f"sha256:{hashlib.sha256(done.stdout).hexdigest()}"
    assert done.stderr.decode().startswith(f"{digest}, {len(done.stdout)} bytes")
    return done.stdout


@pytest.fixture(scope="module")
def layer(layer_image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the layer holds."""
    folder = tmp_path_factory.mktemp("layer")
    with tarfile.open(fileobj=io.BytesIO(layer_of(layer_image))) as archive:
        archive.extractall(folder, filter="tar")
    return folder


def program(text: str) -> list[str]:
    """Return the options that make a line of our own Python the algorithm: the image has no other program."""
    return ["--env", f"ALGORITHM_ENTRYPOINT={json.dumps(['/longshore/bin/python3', '-Ec', text])}"]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_task_runs_in_an_image_that_has_nothing_else(
    layer_image: str, bucket: "Bucket", s3_options: list[str], options: list[str]
) -> None:
    """No shell, no /etc/passwd, no /tmp, no library."""
    bucket.put("scan.mha", b"\0scan\xff")
    with serving(
        layer_image, [*s3_options, *program(COPIES), "--env", "MODEL_SERVER_WORKERS=1", *options]
    ) as container:
        container.run(bucket.task("1", [bucket.item("images/scan.mha", "scan.mha")]))
        assert bucket.get("/out/1/images/scan.mha") == b"\0scan\xff"
        log = container.log()
        assert container.stop() == 0, log
    assert '"level": "ERROR"' not in log


def test_its_configuration_is_that_of_an_adapted_image(layer_image: str) -> None:
    config = inspected(layer_image)["Config"]
    assert (config["Entrypoint"], config["Cmd"]) == (["/longshore/bin/longshore"], ["usage"])
    assert (config["User"], config["StopSignal"]) == ("0", "SIGTERM")
    assert config["Labels"]["longshore.version"] == VERSION
    assert config["Labels"]["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"


def programs(layer: Path) -> list[Path]:
    """Return the ELF files of a layer, each once."""
    files = [path for path in layer.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if path.read_bytes()[:4] == b"\x7fELF"]


def told_of(path: Path) -> str:
    return subprocess.run(
        ["readelf", "--wide", "--program-headers", "--dynamic", path], capture_output=True, text=True, check=True
    ).stdout


def test_every_program_finds_its_linker_and_its_libraries_in_our_folder_only(layer: Path) -> None:
    libraries = {path.name for path in (layer / "longshore/lib").glob("*.so*")}
    c_library = {"libc.so.6"} | {name for name in libraries if name.startswith("ld-linux")}
    found = programs(layer)
    assert {"nginx", "python3.11", "libcrypto.so.3", *c_library} <= {path.name for path in found}
    for path in found:
        told = told_of(path)
        needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", told))
        assert needed <= libraries, path
        assert "(RUNPATH)" not in told, path
        if path.name in c_library:
            assert needed <= c_library  # the linker is there before it looks for anything
            continue
        for interpreter in re.findall(r"program interpreter: (.*)\]", told):
            assert interpreter in {f"/longshore/lib/{name}" for name in c_library}, path
        if needed:
            assert re.findall(r"\(RPATH\).*\[(.*)\]", told) == ["/longshore/lib"], path


def test_the_linker_and_the_c_library_know_no_file_of_an_image_but_four(layer: Path) -> None:
    known = set()
    for path in (layer / "longshore/lib").glob("*.so*"):
        known |= set(re.findall(rb"(?<=\0)/(?:etc|lib|lib64|usr|var)/[^\0]*(?=\0)", path.read_bytes()))
    assert known == {b"/etc/hosts", b"/etc/resolv.conf", b"/etc/passwd", b"/etc/group"}


def test_the_launcher_is_static_and_has_the_name_of_each_command(layer: Path) -> None:
    commands = {path.name for path in (PROJECT / "container").iterdir() if path.is_file() and not path.suffix}
    assert {path.name for path in (layer / "longshore/bin").iterdir()} == commands | {
        "python3",
        "nginx",
        "longshore-become",
    }
    for name in (*commands, "longshore-become"):
        told = told_of(layer / "longshore/bin" / name)
        assert "INTERP" not in told
        assert "NEEDED" not in told


@pytest.mark.parametrize("name", [*HIDDEN, "LD_PRELOAD", "LD_LIBRARY_PATH", "GLIBC_TUNABLES"])
def test_a_variable_that_would_change_the_runtime_is_the_algorithms_alone(layer_image: str, name: str) -> None:
    seen = json.loads(
        run_once(layer_image, "process", options=["--env", f"{name}=", *program(PRINTS_ENVIRONMENT)]).stdout
    )
    assert seen[name] == ""
    assert not any(other.startswith("LONGSHORE_") for other in seen)


def test_the_runtime_has_the_variables_of_the_image_but_for_those(layer_image: str, tmp_path: Path) -> None:
    """Under other names, and byte for byte."""
    probe = tmp_path / "probe"
    probe.write_text(PRINTS_ENVIRONMENT)
    given = dict.fromkeys((*HIDDEN, *PRETENDED), "grüß")
    options = ["--volume", f"{probe}:/longshore/program/longshore:ro"]
    options += [word for name, value in given.items() for word in ("--env", f"{name}={value}")]
    seen = json.loads(run_once(layer_image, options=options).stdout)
    value = "grüß".encode().decode("latin-1")
    renamed = {f"LONGSHORE_KEPT_{name}" if name in HIDDEN else name for name in given}
    assert {name for name in seen if seen[name] == value} == renamed  # in whatever order: Docker shuffles them
    assert not set(HIDDEN) & seen.keys()


def test_the_base_image_has_no_layer_to_give(base_image: str) -> None:
    ended = run_once(base_image, "longshore", "layer")
    assert ended.code == 1
    assert "target `layer`" in ended.stderr


def test_a_build_from_nothing_makes_the_same_layer_again(layer_file: Path) -> None:
    """The other build was the session's: on a clean machine from nothing too."""
    tag = unique_name()
    try:
        build(tag, PROJECT, *build_arguments(), "--target", "layer", "--no-cache")
        again = layer_of(tag)
    finally:
        remove_image(tag)
    assert hashlib.sha256(again).digest() == hashlib.sha256(layer_file.read_bytes()).digest()
