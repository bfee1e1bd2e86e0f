"""The software bill of materials of /longshore: every package that a part of it comes from, as CycloneDX 1.5.

Nothing in it is of the moment or of the machine: the same packages make the same bytes.
"""

import json
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

Component = dict[str, Any]

GNU = [(kind, version) for kind, versions in (("GPL", "1 2 3"), ("LGPL", "2 2.1 3")) for version in versions.split()]

OTHER_NAMES = {
    "Expat": "MIT",
    "MIT License": "MIT",
    "Apache Software License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Artistic": "Artistic-1.0",
    **{f"BSD-{clauses}-clause": f"BSD-{clauses}-Clause" for clauses in (2, 3, 4)},
    **{f"{kind}-{version}": f"{kind}-{float(version)}-only" for kind, version in GNU},
    **{f"{kind}-{version}+": f"{kind}-{float(version)}-or-later" for kind, version in GNU},
}
IDS = {"ISC", "PSF-2.0", "Zlib", "MPL-1.1", "MPL-2.0", "X11", *OTHER_NAMES.values()}
SPDX = OTHER_NAMES | {name: name for name in IDS}
"""The SPDX ids of licences by the names that Python's and Debian's packages have for them."""

FREE_FORM = {
    r"python3\.\d+": "PSF-2.0",
    r"gcc-\d+": "GPL-3.0-or-later WITH GCC-exception-3.1",
    r"libxcrypt": "LGPL-2.1-or-later",
    r"glibc": "LGPL-2.1-or-later",
}
"""The licences of source packages whose copyright file no program can read."""

STATED_AS = re.compile(r"^License:[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)


def document(components: Iterable[Component]) -> str:
    """Return the bill, as JSON."""
    subject = {"type": "application", "bom-ref": "longshore", "name": "longshore", "licenses": licenses(["Apache-2.0"])}
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": subject},
        "components": sorted(components, key=lambda component: component["purl"]),
    }
    return json.dumps(bill, indent=1) + "\n"


def python_components(site_packages: Path, sha256: Mapping[str, str]) -> list[Component]:
    """Return the packages in a folder; `sha256` has the digest of the wheel of each, by its normalized name."""
    return [of_python(found, sha256[normalized(found.name)]) for found in distributions(path=[str(site_packages)])]


def of_python(found: Distribution, sha256: str) -> Component:
    purl = f"pkg:pypi/{normalized(found.name)}@{quote(found.version)}"
    component = library(found.name, found.version, purl, licenses(python_licenses(found)))
    return component | {"hashes": [{"alg": "SHA-256", "content": sha256}]}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def python_licenses(found: Distribution) -> list[str]:
    """Return what the metadata say: the expression of newer ones, else a name that is known, else the classifiers."""
    metadata = found.metadata
    if expression := metadata.get("License-Expression"):
        return [expression]
    if (named := metadata.get("License")) in SPDX:
        return [named]
    classifiers = metadata.get_all("Classifier") or []
    return [text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License :: ")]


def debian_components(packages: Iterable[str], copyrights: Path) -> list[Component]:
    """Return Debian packages that are installed here; a folder has the copyright file of each under its name."""
    release = platform.freedesktop_os_release()
    told = "${Version}\t${Architecture}\t${source:Package}"
    components = []
    for package in packages:
        words = ["dpkg-query", "--show", f"--showformat={told}", package]
        answer = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
        version, architecture, source = answer.split("\t")
        qualifiers = f"arch={architecture}&distro={release['ID']}-{release['VERSION_ID']}"
        purl = f"pkg:deb/{release['ID']}/{quote(package)}@{quote(version)}?{qualifiers}"
        text = (copyrights / package).read_text()
        components.append(library(package, version, purl, licenses(debian_licenses(package, source, text))))
    return components


def debian_licenses(package: str, source: str, copyright_text: str) -> list[str]:
    """Return all licences that a copyright file names, whichever files of the source they are for, or where it is."""
    for pattern, license_of_all in FREE_FORM.items():
        if re.fullmatch(pattern, source):
            return [license_of_all]
    return sorted(set(STATED_AS.findall(copyright_text))) or [f"see licenses/{package}"]


def licenses(names: Iterable[str]) -> list[dict[str, Any]]:
    """Return what CycloneDX has for licences: one expression, or ids of SPDX, or else names."""
    names = list(names)
    if len(names) == 1 and re.search(r" (AND|OR|WITH) ", names[0]):
        return [{"expression": names[0]}]
    return [{"license": {"id": SPDX[name]} if name in SPDX else {"name": name}} for name in names]


def library(name: str, version: str, purl: str, licensed: list[dict[str, Any]]) -> Component:
    found = {"type": "library", "bom-ref": purl, "name": name, "version": version}
    return found | {"licenses": licensed, "purl": purl}
