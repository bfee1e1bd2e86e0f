"""What an image is made of: no package that is not checked by its hash, none without a licence in the bill of
materials, and none with a vulnerability that is known."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
sys.path.insert(0, str(PROJECT / "image"))
import sbom  # noqa: E402

SHIPPED = re.findall(r"^([\w.-]+)==(\S+)", (PROJECT / "requirements.txt").read_text(), re.MULTILINE)
AUTHORS_OWN = {"local-test/sample-algorithm/Dockerfile", "tests/image/test_inheritance.py"}
"""Where pip is an author's, who may do as they like."""

COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: Expat

Files: debian/*
License: GPL-2+
 This program is free software.

License: Expat
 Permission is hereby granted.
"""


def tracked(*patterns: str) -> list[str]:
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    return subprocess.run(words, cwd=PROJECT, check=True, capture_output=True, text=True).stdout.splitlines()


# -- hashes


def test_pip_installs_nothing_without_a_hash() -> None:
    uses = {
        (name, line.strip())
        for name in {*tracked("*.sh", "*Dockerfile", "image/*", "tests/*.py", "local-test/*")} - AUTHORS_OWN
        for line in (PROJECT / name).read_text(errors="replace").splitlines()
        if re.search(r"\bpip['\"]?,? ['\"]?install\b", line) and not line.lstrip().startswith("#")
    }
    assert {name for name, _ in uses} >= {"local-test/setup.sh", "local-test/sample-segmentation/Dockerfile"}
    assert not [use for use in uses if "--require-hashes" not in use[1]]
    runtime = (PROJECT / "image/make_runtime.py").read_text()
    assert re.search(r'options = "[^"]*--require-hashes [^"]*"', runtime)
    assert runtime.count('"install"') == 2  # the command, and the list in pip's report of it


def test_every_environment_of_a_script_has_a_hash_for_each_package() -> None:
    scripts = [(PROJECT / name).read_text().replace("\\\n", " ") for name in tracked("*.sh")]
    uses = [line.split() for text in scripts for line in re.findall(r"need_packages (.*\.txt)", text)]
    files = {name for use in uses for name in use}
    assert {"requirements.txt", "tests/requirements.txt", "tests/audit.txt"} <= files
    for name in files:
        text = (PROJECT / name).read_text().replace("\\\n", " ")
        required = [line for line in text.splitlines() if line and not line.lstrip().startswith(("#", "--"))]
        assert required
        assert not [line for line in required if not re.search(r"==\S+.* --hash=sha256:[0-9a-f]{64}", line)], name


# -- the bill of materials


@pytest.mark.parametrize("name", [name for name, _ in SHIPPED])
def test_every_package_that_is_shipped_says_its_licence(name: str) -> None:
    component = sbom.of_python(importlib.metadata.distribution(name), "0" * 64)
    assert component["purl"] == f"pkg:pypi/{name}@{dict(SHIPPED)[name]}"
    assert component["hashes"] == [{"alg": "SHA-256", "content": "0" * 64}]
    (first, *_) = component["licenses"]
    assert first.get("expression") or first["license"].get("id") or "BSD License" in first["license"]["name"]


def test_every_package_that_is_shipped_brings_the_text_of_its_licence() -> None:
    for name, _ in SHIPPED:
        files = importlib.metadata.files(name) or []
        assert any(re.search(r"dist-info/(licenses/)?LICENSE", str(file)) for file in files), name


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("zlib", COPYRIGHT, ["Expat", "GPL-2+"]),
        ("python3.11", "This is Python.", ["PSF-2.0"]),
        ("gcc-12", "This is GCC.", ["GPL-3.0-or-later WITH GCC-exception-3.1"]),
        ("unheard-of", "Do as you like.", ["see licenses/package"]),
    ],
)
def test_a_package_of_debian_has_the_licences_that_its_copyright_file_names(
    source: str, text: str, expected: list[str]
) -> None:
    assert sbom.debian_licenses("package", source, text) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Expat", {"license": {"id": "MIT"}}),
        ("BSD-3-clause", {"license": {"id": "BSD-3-Clause"}}),
        ("GPL-2+", {"license": {"id": "GPL-2.0-or-later"}}),
        ("LGPL-2.1", {"license": {"id": "LGPL-2.1-only"}}),
        ("MIT AND PSF-2.0", {"expression": "MIT AND PSF-2.0"}),
        ("a licence of its own", {"license": {"name": "a licence of its own"}}),
    ],
)
def test_a_licence_has_its_spdx_id_where_there_is_one(name: str, expected: dict[str, Any]) -> None:
    assert sbom.licenses([name]) == [expected]


def test_the_same_packages_make_the_same_bill() -> None:
    components = [sbom.of_python(importlib.metadata.distribution(name), "0" * 64) for name, _ in SHIPPED]
    bill = sbom.document(components)
    assert bill == sbom.document(reversed(components))
    told = json.loads(bill)
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.5")
    assert {sbom.normalized(one["name"]) for one in told["components"]} == {name for name, _ in SHIPPED}
    assert not {"serialNumber", "timestamp"} & {*told, *told["metadata"]}


# -- known vulnerabilities

CLEAN = {"name": "flask", "version": "3.1.3", "vulns": []}
SKIPPED = {"name": "flask", "skip_reason": "Dependency not found on PyPI and could not be audited: flask"}
FAULT = {"id": "PYSEC-1", "fix_versions": ["3.1.4"], "description": "It lets everybody in."}


@pytest.mark.parametrize(
    ("report", "code", "said"),
    [
        ({"dependencies": [CLEAN]}, 0, "None is known in 1 packages"),
        ({"dependencies": [CLEAN, CLEAN | {"vulns": [FAULT]}]}, 1, "flask 3.1.3 has PYSEC-1, fixed in 3.1.4"),
        ({"dependencies": [SKIPPED, CLEAN | {"vulns": [FAULT]}]}, 1, "flask 3.1.3 has PYSEC-1, fixed in 3.1.4"),
        ({"dependencies": [CLEAN, SKIPPED]}, 3, "1 of 2 packages: ['Dependency not found on PyPI"),
        ({"dependencies": []}, 3, "0 of 0 packages"),
        ("no JSON", 3, "no JSON on stderr"),
    ],
)
def test_an_audit_that_learns_nothing_is_no_good_news(tmp_path: Path, report: Any, code: int, said: str) -> None:
    pip_audit = tmp_path / "pip-audit"
    text = report if isinstance(report, str) else json.dumps(report)
    pip_audit.write_text(f"#!/bin/sh\necho '{text}'\necho 'no JSON on stderr' >&2\nexit 1\n")
    pip_audit.chmod(0o755)
    words = [sys.executable, PROJECT / "tests/audit.py", pip_audit, PROJECT / "requirements.txt"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
