"""Make /opt/model-server: a Python and an nginx that depend on nothing of the image but glibc.

Runs in the build stage of the Dockerfile, by the Python that is copied. The result is a virtual environment whose base
is a copy of that Python, so neither the image's packages, nor its environment, nor what is installed later reaches it:

    bin/        python3, nginx, launch
    lib/        shared libraries; python3.X/site-packages: what requirements.txt names
    python/     the Python that the environment is made from
    licenses/   of the distribution's packages that parts of this come from; Python's packages have theirs with them
    sbom.cdx.json   all these packages, with their versions and licences
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import sbom

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"

UNUSED_MODULES = {
    *("__pycache__", "dist-packages", "test", "idlelib", "ensurepip", "lib2to3", "tkinter", "turtledemo"),
    *("pydoc_data", "sqlite3", "curses", "dbm", "venv", "distutils"),
}
UNUSED_BUILD_FOLDER = re.compile(r"config-\d")
UNUSED_EXTENSION = re.compile(r"(_tkinter|_curses|_curses_panel|_sqlite3|_?dbm|_gdbm|readline|nis|xx\w*|_test\w*)\.")
"""Of the standard library: what has big files or needs further libraries, and is not used."""

PIP_ARGUMENTS = {"PIP_CERT", "PIP_INDEX_URL"}
"""The variables of pip that are arguments of the build."""

NGINX = "/usr/sbin/nginx"

AWS_SERVICES = {"s3", "sts", "sso", "sso-oidc"}
"""What botocore needs its data for: S3, and the ways to get credentials."""

GLIBC = re.compile(r"ld-linux|(lib(c|m|dl|rt|pthread|resolv|util|anl|mvec|nss_\w+)\.so)")
LOADED_BY_GLIBC = ("libgcc_s.so.1",)
"""No program names it, but threads can't be ended without it."""


def main(build: Path, target: Path) -> None:
    copy_python(target)
    wheels = install_packages(build, target)
    shutil.copy(NGINX, target / "bin/nginx")
    libraries = copy_libraries(target / "lib", list(programs(target)))
    packages = debian_packages([os.path.realpath(sys.executable), NGINX, *libraries, *copied_modules(target)])
    copy_licenses(target / "licenses", packages)
    write_sbom(target, packages, wheels)
    for path in list(programs(target)):
        make_independent(path, target / "lib")
    shutil.copy(build / "launch", target / "bin/launch")
    (target / "bin/launch").chmod(0o755)  # the checkout's modes may be for its owner only
    compile_modules(target)


def copy_python(target: Path) -> None:
    base = target / "python"
    for folder in (base / "bin", target / "bin", target / "lib"):
        folder.mkdir(parents=True)
    shutil.copy(os.path.realpath(sys.executable), base / "bin" / VERSION)
    shutil.copytree(sysconfig.get_path("stdlib"), base / "lib" / VERSION, ignore=unused_modules)
    (target / "bin/python3").symlink_to(f"../python/bin/{VERSION}")
    (target / "pyvenv.cfg").write_text(f"home = {base}/bin\ninclude-system-site-packages = false\n")


def unused_modules(_: str, names: list[str]) -> list[str]:
    return [
        name
        for name in names
        if name in UNUSED_MODULES or UNUSED_EXTENSION.match(name) or UNUSED_BUILD_FOLDER.match(name)
    ]


def copied_modules(target: Path) -> list[str]:
    """Return where the modules of the standard library were."""
    library, copy = Path(sysconfig.get_path("stdlib")), target / "python/lib" / VERSION
    return [str(library / path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()]


def install_packages(build: Path, target: Path) -> dict[str, str]:
    """Install with a pip that stays here, and leave out the data of services that are never called.

    Returns the SHA-256 of each package's wheel.
    """
    requirements, packages = build / "requirements.txt", target / "lib" / VERSION / "site-packages"
    pip = build / "pip"
    run(sys.executable, "-m", "venv", pip)
    options = "--quiet --disable-pip-version-check --no-cache-dir --no-compile --require-hashes --only-binary :all:"
    words = ["install", *options.split(), "--report", build / "report.json", "--target", packages, "-r", requirements]
    run(pip / "bin/pip", *words, environment=pips_own())
    shutil.rmtree(packages / "bin")
    for data in (packages / "botocore/data", packages / "boto3/data"):
        for folder in filter(Path.is_dir, data.iterdir()):
            if folder.name not in AWS_SERVICES:
                shutil.rmtree(folder)
    installed = json.loads((build / "report.json").read_text())["install"]
    return {
        sbom.normalized(one["metadata"]["name"]): one["download_info"]["archive_info"]["hashes"]["sha256"]
        for one in installed
    }


def pips_own() -> dict[str, str]:
    """Return the environment without the base's options for its own pip: of all there are, two are the build's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PIP_") or name in PIP_ARGUMENTS}


def programs(folder: Path) -> Iterator[Path]:
    """Yield the ELF files: programs, libraries and extension modules."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def copy_libraries(target: Path, users: list[Path]) -> list[str]:
    """Copy every library that these need, directly or not, under its name there, and return where they were."""
    found = dict(re.findall(r"(\S+) => (/\S+)", run("ldd", *users)))
    known = run("/sbin/ldconfig", "-p")
    found |= {name: path for name, path in re.findall(r"(\S+) .*=> (/\S+)", known) if name in LOADED_BY_GLIBC}
    found = {name: path for name, path in found.items() if not GLIBC.match(name)}
    for name, path in found.items():
        shutil.copy(path, target / name)
    return list(found.values())


def debian_packages(files: Iterable[str]) -> list[str]:
    """Return the packages of the distribution that files are from."""
    paths = {os.path.realpath(path) for path in files}
    found = owners(paths)
    # Some packages still say /lib where /usr/lib is meant; to look into every folder takes long.
    found |= owners(f"*/{os.path.basename(path)}" for path in paths - found.keys())
    if unknown := {os.path.basename(path) for path in paths} - {os.path.basename(path) for path in found}:
        sys.exit(f"No package has {', '.join(sorted(unknown))}, so that nobody could say under which licence it is.")
    return sorted(set(found.values()))


def owners(patterns: Iterable[str]) -> dict[str, str]:
    """Return the files that are known by these paths or patterns, with the package of each."""
    words = ["dpkg-query", "--search", *sorted(patterns)]  # fails when it knows nothing of one of them
    told = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return {path: package for package, path in re.findall(r"^([^:, ]+)(?::\w+)?: (/.+)$", told, re.MULTILINE)}


def copy_licenses(target: Path, packages: list[str]) -> None:
    """Copy what the distribution says about the rights in packages; slim images leave some out, which are fetched."""
    target.mkdir()
    for package in packages:
        copyright_file = Path("/usr/share/doc", package, "copyright")
        if copyright_file.exists():
            shutil.copy(copyright_file, target / package)
        else:
            (target / package).write_bytes(fetched_copyright(package))


def fetched_copyright(package: str) -> bytes:
    """Return the copyright file in a package of the distribution, or of the one that its documentation is a link to."""
    with tempfile.TemporaryDirectory() as folder:
        run("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package, folder=folder)
        (archive,) = Path(folder).iterdir()
        run("dpkg-deb", "--extract", archive, folder)
        documentation = Path(folder, "usr/share/doc", package)
        if documentation.is_symlink():
            return fetched_copyright(os.path.basename(os.readlink(documentation)))
        return (documentation / "copyright").read_bytes()


def write_sbom(target: Path, packages: list[str], wheels: Mapping[str, str]) -> None:
    components = sbom.python_components(target / "lib" / VERSION / "site-packages", wheels)
    components += sbom.debian_components(packages, target / "licenses")
    (target / "sbom.cdx.json").write_text(sbom.document(components))


def make_independent(path: Path, libraries: Path) -> None:
    """Have a program look for libraries in our folder first.

    As DT_RPATH: the newer DT_RUNPATH comes after LD_LIBRARY_PATH, which images set for themselves.
    """
    run("strip", "--strip-unneeded", path)
    run("patchelf", "--force-rpath", "--set-rpath", f"$ORIGIN/{os.path.relpath(libraries, path.parent)}", path)


def compile_modules(target: Path) -> None:
    """Write bytecode that is never compared with its source: nothing here changes, but the times of files do."""
    folders = [target / "python/lib", target / "lib" / VERSION]
    python = target / "bin/python3"
    run(python, "-BI", "-m", "compileall", "-q", "-f", "-j", "0", "--invalidation-mode", "unchecked-hash", *folders)


def run(*command: str | Path, environment: Mapping[str, str] | None = None, folder: str | None = None) -> str:
    return subprocess.run(command, env=environment, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main(Path(__file__).parent, Path("/opt/model-server"))
