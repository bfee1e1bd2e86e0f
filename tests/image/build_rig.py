"""build_local.sh and build_and_push.sh as an author runs them, on folders of tiny programs."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from docker_rig import DEBIAN, PROJECT, Ended, build_arguments, remove_image, unique_name

BUILD_LOCAL = PROJECT / "build_local.sh"
BUILD_SECONDS = 300


def run_script(script: Path, *arguments: str | Path, environ: Mapping[str, str] | None = None) -> Ended:
    """Run one of the two scripts to its end; `environ` is added to ours."""
    done = subprocess.run(
        [script, *arguments],
        env=os.environ | {"DOCKER_BUILDKIT": "0"} | dict(environ or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def write_context(folder: Path, dockerfile: str, **programs: str) -> Path:
    """Write a Dockerfile, and executables beside it."""
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def build_local(tag: str, folder: Path, base: str = DEBIAN) -> Ended:
    arguments = build_arguments(base)
    return run_script(BUILD_LOCAL, tag, folder, environ={"LONGSHORE_BUILD_ARGS": " ".join(arguments)})


@contextmanager
def built_locally(folder: Path) -> Iterator[tuple[str, str]]:
    """Build a folder for the block; yields the image's tag and what the script said."""
    tag = unique_name()
    try:
        done = build_local(tag, folder)
        assert done.code == 0, done.stderr[-5000:]
        assert done.stdout == f"{tag}\n"
        yield tag, done.stderr
    finally:
        remove_image(tag)
