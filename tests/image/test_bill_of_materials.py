"""What an image says it is made of: /longshore/sbom.cdx.json, against what is in the image."""

import json
import re
from pathlib import Path
from typing import Any

from build_rig import built_locally, write_context
from docker_rig import PROJECT, docker

BILL = "/longshore/sbom.cdx.json"
HASHES = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", (PROJECT / "requirements.txt").read_text()))
DOCKERFILE = 'FROM debian:bookworm-slim\nCOPY says /says\nENTRYPOINT ["/says"]\n'


def bill_of(image: str) -> str:
    return docker("run", "--rm", "--entrypoint", "cat", image, BILL)


def listed(image: str, pattern: str) -> list[str]:
    return docker("run", "--rm", image, "sh", "-c", f"ls -d /longshore/{pattern}").splitlines()


def components(image: str, kind: str) -> dict[str, dict[str, Any]]:
    """Return the components of one kind by their purl, without its qualifiers."""
    found = [one for one in json.loads(bill_of(image))["components"] if one["purl"].startswith(f"pkg:{kind}/")]
    return {one["purl"].partition("?")[0]: one for one in found}


def test_every_package_of_the_image_is_listed_with_its_licence(base_image: str) -> None:
    names = [Path(path).name.removesuffix(".dist-info") for path in listed(base_image, "lib/python3*/*/*.dist-info")]
    installed = {name.rpartition("-")[::2] for name in names} or {("", "")}
    python = components(base_image, "pypi")
    assert python.keys() == {f"pkg:pypi/{name.replace('_', '-')}@{version}" for name, version in installed}
    assert all(component["hashes"][0]["content"] in HASHES for component in python.values())

    debian = components(base_image, "deb")
    assert {one["name"] for one in debian.values()} == {Path(path).name for path in listed(base_image, "licenses/*")}
    sources = " ".join(debian)
    assert re.search(r"/nginx@.*/python3\.\d+-minimal@", sources)
    assert "/libssl3" in sources
    assert {"libc6", "musl-dev"} <= {one["name"] for one in debian.values()}

    for component in [*python.values(), *debian.values()]:
        assert component["version"]
        assert component["licenses"], component
        assert "see licenses/" not in str(component["licenses"])


def test_every_library_of_the_image_is_from_a_package_that_is_listed(base_image: str) -> None:
    """By their names: Debian's packages of libraries are called after them."""
    debian = [one["name"] for one in components(base_image, "deb").values()]
    libraries = {Path(path).name.partition(".so")[0].rstrip(".-0123456789") for path in listed(base_image, "lib/*.so*")}
    in_openssl, renamed = {"libcrypto": "libssl"}, {"libz": "zlib1g", "libgcc_s": "libgcc-s"}
    renamed |= dict.fromkeys(("libm", "libdl", "libpthread", "librt", "ld-linux-x"), "libc6")
    libraries.remove("liblongshore_users")  # from here
    for library in libraries:
        name = (in_openssl | renamed).get(library, library)
        assert any(package.startswith(name) for package in debian), (library, debian)


def test_an_image_of_build_local_says_the_same_of_what_is_added(base_image: str, tmp_path: Path) -> None:
    with built_locally(write_context(tmp_path / "author", DOCKERFILE, says="#!/bin/sh\n")) as (image, _):
        assert bill_of(image) == bill_of(base_image)
