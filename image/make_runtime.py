"""Make /longshore: a Python and an nginx that open no library, no configuration and no other file of an image.

Runs in the build stage of the Dockerfile, by the Python that is copied. The result is a virtual environment whose base
is a copy of that Python, with the C library and the dynamic linker too, so that it works in any image for Linux, one
that is empty included, and nothing of the image reaches it, apart from what IMAGES_OWN names:

    bin/        python3, nginx, what starts the algorithm; the launcher goes there under the names of the commands
    lib/        the dynamic linker and shared libraries; python3.X/site-packages: what requirements.txt names
    python/     the Python that the environment is made from
    etc/        what is read in place of an image's /etc
    licenses/   of the distribution's packages that parts of this come from; Python's packages have theirs with them
    sbom.cdx.json   all these packages, with their versions and licences

Nothing here names x86-64, but it has been built for nothing else.
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
from image_paths import OURS, forget_image

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"

UNUSED_MODULES = {
    *("__pycache__", "dist-packages", "test", "idlelib", "ensurepip", "lib2to3", "tkinter", "turtledemo"),
    *("pydoc_data", "sqlite3", "curses", "dbm", "venv", "distutils"),
}
UNUSED_BUILD_FOLDER = re.compile(r"config-\d")
UNUSED_EXTENSION = re.compile(r"(_tkinter|_curses|_curses_panel|_sqlite3|_?dbm|_gdbm|readline|nis|xx\w*|_test\w*)\.")
"""Of the standard library: what has big files or needs further libraries, and is not used."""

NGINX = "/usr/sbin/nginx"

AWS_SERVICES = {"s3", "sts", "sso", "sso-oidc", "ecr"}
"""What botocore needs its data for: S3, the ways to get credentials, and the registry that images are adapted in."""

LOADED_BY_GLIBC = ("libgcc_s.so.1",)
"""No program names it, but threads can't be ended without it."""

BECOME = "longshore-become"
"""The name that model_server/spawn.py knows."""

COMPILER_OPTIONS = ("-std=c11", "-Os", "-Wall", "-Wextra", "-Werror")

NSS = "passwd: files\ngroup: files\nhosts: files dns\n"
"""Where users and hosts are looked up: what each image's C library does, but with no module of the image."""


def main(build: Path, target: Path) -> None:
    copy_python(target)
    wheels = install_packages(build, target)
    shutil.copy(NGINX, target / "bin/nginx")
    loader, libraries = copy_libraries(target / "lib", list(programs(target)))
    musl = compile_static(build)
    packages = debian_packages([os.path.realpath(sys.executable), NGINX, *libraries, *copied_modules(target), musl])
    copy_licenses(target / "licenses", packages)
    write_sbom(target, packages, wheels)
    for path in list(programs(target)):
        make_independent(path, target / "lib", loader)
    shutil.copy(build / BECOME, target / "bin")  # it needs no libraries to be found
    give_users(target / "bin/nginx", build, target / "lib")
    for path in [target / "bin/nginx", *(target / "lib").glob("*.so*")]:
        forget_image(path)
    write_configuration(target)
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
    run(pip / "bin/pip", *words)
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


def programs(folder: Path) -> Iterator[Path]:
    """Yield the ELF files: programs, libraries and extension modules."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def copy_libraries(target: Path, users: list[Path]) -> tuple[str, list[str]]:
    """Copy the dynamic linker and every library that these need, directly or not, under its name there.

    Returns the name of the linker, and where all were.
    """
    linker = run("patchelf", "--print-interpreter", os.path.realpath(sys.executable)).strip()
    found = dict(re.findall(r"(\S+) => (/\S+)", run("ldd", *users))) | {os.path.basename(linker): linker}
    known = run("/sbin/ldconfig", "-p")
    found |= {name: path for name, path in re.findall(r"(\S+) .*=> (/\S+)", known) if name in LOADED_BY_GLIBC}
    for name, path in found.items():
        shutil.copy(path, target / name)
    return os.path.basename(linker), list(found.values())


def compile_static(build: Path) -> str:
    """Compile what /longshore/bin's commands are, and what starts the algorithm as its user.

    Returns where the C library is that becomes a part of both.
    """
    for name, source in (("launch", "launch.c"), (BECOME, "become.c")):
        run("musl-gcc", "-static", "-s", *COMPILER_OPTIONS, "-o", build / name, build / source)
    return f"/usr/lib/{run('gcc', '-dumpmachine').strip().replace('-gnu', '-musl')}/libc.a"


def give_users(nginx: Path, build: Path, libraries: Path) -> None:
    """Have nginx ask us for users and groups, before the C library."""
    name = "liblongshore_users.so"
    options = ("-shared", "-fPIC", "-nostdlib", "-s", *COMPILER_OPTIONS)
    run("gcc", *options, "-o", libraries / name, build / "nginx_users.c")
    run("patchelf", "--add-needed", name, nginx)


def write_configuration(target: Path) -> None:
    files = {
        b"/etc/nsswitch.conf": lambda path: path.write_text(NSS),
        # The certificates that boto3 has with it.
        b"/usr/lib/ssl/cert.pem": lambda path: path.symlink_to(f"../lib/{VERSION}/site-packages/botocore/cacert.pem"),
    }
    (target / "etc").mkdir()
    for name, path in OURS.items():
        files[name](Path(os.fsdecode(path)))


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


def make_independent(path: Path, libraries: Path, linker: str) -> None:
    """Have a program find its libraries, and the linker that finds them, in our folder only.

    As DT_RPATH: the newer DT_RUNPATH comes after LD_LIBRARY_PATH, and is not used for the libraries of libraries.
    """
    if path.name in (linker, "libc.so.6"):  # they need nobody but each other, and patchelf is not for them
        return
    run("strip", "--strip-unneeded", path)
    if path.parent.name == "bin":
        run("patchelf", "--set-interpreter", libraries / linker, path)
    run("patchelf", "--force-rpath", "--set-rpath", libraries, path)


def compile_modules(target: Path) -> None:
    """Write bytecode that is never compared with its source: nothing here changes, but the times of files do.

    In one process: what is written of a module depends on which others its process has compiled before.
    """
    folders = [target / "python/lib", target / "lib" / VERSION]
    python = target / "bin/python3"
    run(python, "-BI", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash", *folders)


def run(*command: str | Path, folder: str | None = None) -> str:
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main(Path(__file__).parent, Path("/longshore"))
