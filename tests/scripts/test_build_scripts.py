"""build_local.sh and build_and_push.sh where no Docker is needed: their arguments, texts and shell, and how they take
what an engine and an account say."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
BUILD_LOCAL = PROJECT / "build_local.sh"
BUILD_AND_PUSH = PROJECT / "build_and_push.sh"
SCRIPTS = [BUILD_LOCAL, BUILD_AND_PUSH]
SHELL_FILES = [*SCRIPTS, PROJECT / "local-test/log.sh"]

NOT_IN_BASH_3_2 = {
    "associative and name-reference arrays": r"\b(declare|local|typeset)\s+-[a-zA-Z]*[Angu]",
    "mapfile and readarray": r"\b(mapfile|readarray)\b",
    "case conversion": r"\$\{\w+(\[[^]]*\])?(,|\^|@[A-Za-z])",
    "coproc, wait -n and lastpipe": r"\bcoproc\b|\bwait -n\b|\blastpipe\b",
    "|& and &>>": r"\|&|&>>",
    "a time by printf": r"%\([^)]*\)T",
    "tests of variables": r"\[\[ -[vR] ",
    "negative places": r"\$\{\w+\[-|\$\{\w+: ?-?\w+: ?-\d",
    "an array that may be empty, under set -u": r'(?<!\+)"?\$\{(?!#)\w+\[[@*]\]\}',
    "newer variables": r"\b(EPOCHSECONDS|EPOCHREALTIME|SRANDOM|BASHPID|BASH_ARGV0)\b",
    "named descriptors": r"\bexec \{\w+\}",
}
NOT_IN_BSD_TOOLS = {
    "sed -i, -r and GNU's escapes": r"\bsed\s+(-\w*[ir]|--)|\bsed\b.*\\[+?|sSwW]",
    "grep -P": r"\bgrep\s+-\w*P",
    "readlink -f and realpath": r"\breadlink -[fe]|\brealpath\b",
    "mktemp with GNU's options": r"\bmktemp\s+(-\w*[pu]|--)",
    "base64, sha256sum, date and stat with GNU's options": r"\bbase64 -w|\bsha256sum\b|\bdate (-d|--)|\bstat -c",
    "timeout, tac, nproc and setsid": r"(^|[|;&]\s*)(timeout|tac|nproc|setsid)\b",
    "cp and ln with GNU's options": r"\b(cp|ln) --|\bcp -[a-zA-Z]*[aut]\b",
    "xargs -r and sort -V": r"\bxargs -r|\bsort -\w*V",
    "programs that a laptop need not have": r"(?<!/)\b(jq|python3?|perl)\b ",
}


DOCKER = """
case "$*" in
  'build '*' -') cat >"$SEEN/${6##*-}" ;;
  'build '*) echo "$*" >>"$SEEN/builds" ;;
  *'longshore.version'*-author) echo "$LONGSHORE" ;;
  *'longshore.version'*) echo 0.1.0 ;;
  *'json .Config.Entrypoint'*) echo "$ENTRYPOINT" ;;
  *'json .Config.'*) echo null ;;
  *'{{.Os}}'*) echo linux/amd64 ;;
  'image inspect longshore-build:'*-author) echo 'what docker says of it' ;;
  'run '*' dockerfile '*) echo "$*" >>"$SEEN/runs"; cat >"$SEEN/stdin"; echo FROM it ;;
  'run '*' layer') printf 'a layer'; exit $RUNS ;;
  'run '*) echo "$*" >>"$SEEN/runs" ;;
esac
"""
"""An engine that builds what the variables say and keeps what it is given."""

AWS = """
case "$*" in
  *get-caller-identity*) echo 123456789012 arn:aws:iam::123456789012:user/author ;;
  *describe-repositories*) echo "$MUTABILITY" ;;
esac
"""
"""An account whose repository has an image with every tag."""


def run(
    script: Path, *arguments: str | Path, environ: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [script, *arguments], env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An author's folder."""
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Variables with which the scripts find an engine and an account that are made up, and no HOME."""
    commands, seen = tmp_path / "commands", tmp_path / "seen"
    for made in (commands, seen):
        made.mkdir()
    for name, text in {"docker": DOCKER, "aws": AWS, "curl": "exit 1"}.items():
        (commands / name).write_text(f"#!/bin/sh\n{text}")
        (commands / name).chmod(0o755)
    path = {"PATH": f"{commands}:{os.environ['PATH']}", "SEEN": str(seen)}
    return path | {"LONGSHORE": "", "ENTRYPOINT": '["/longshore/bin/longshore"]', "MUTABILITY": "MUTABLE", "RUNS": "0"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_is_on_stdout_and_fits_a_terminal(script: Path) -> None:
    done = run(script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: {script.name} [")
    assert max(map(len, done.stdout.splitlines())) <= 120
    for option in re.findall(r"^\s+(--[\w-]+)\)|^\s+-h \| (--help)\)", script.read_text(), re.MULTILINE):
        assert "".join(option) in done.stdout
    assert run(script, "-h").stdout == done.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        (BUILD_LOCAL, [], "The name of the image is missing."),
        (BUILD_LOCAL, ["--fast", "name"], "There is no option --fast."),
        (BUILD_LOCAL, ["name", ".", "third"], "There is one argument too many: third"),
        (BUILD_LOCAL, ["--check", "name", "."], "There is one argument too many: ."),
        (BUILD_LOCAL, ["Name"], "Name can not be the name of an image"),
        (BUILD_LOCAL, ["foo/Bar"], "foo/Bar can not be the name of an image"),
        (BUILD_LOCAL, ["fooBar"], "fooBar can not be the name of an image"),
        (BUILD_LOCAL, ["foo/"], "foo/ can not be the name of an image"),
        (BUILD_LOCAL, ["foo:"], "foo: can not be the name of an image"),
        (BUILD_LOCAL, ["a::b"], "a::b can not be the name of an image"),
        (BUILD_LOCAL, ["--layer"], "The name of the file is missing."),
        (BUILD_LOCAL, ["--layer", "file", "."], "There is one argument too many: ."),
        (BUILD_LOCAL, ["a name"], "a name can not be the name of an image"),
        (BUILD_AND_PUSH, [], "The name of the repository is missing."),
        (BUILD_AND_PUSH, ["--fast", "name"], "There is no option --fast."),
        (BUILD_AND_PUSH, ["name", ".", "third"], "There is one argument too many: third"),
        (BUILD_AND_PUSH, ["--check", "name", "."], "There is one argument too many: ."),
        (BUILD_AND_PUSH, ["name:tag"], "name:tag can not be the name of a repository"),
        (BUILD_AND_PUSH, ["--tag", "a b", "name"], "a b can not be a tag."),
        (BUILD_AND_PUSH, ["name", "--tag"], "--tag needs a value."),
        (BUILD_AND_PUSH, ["--region"], "--region needs a value."),
    ],
)
def test_a_wrong_argument_is_refused_with_the_usage(script: Path, arguments: list[str], words: str) -> None:
    usage = run(script, "--help").stdout
    done = run(script, *arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith(f"{script.name}: {words}")
    assert done.stderr.endswith(usage)


def test_a_folder_without_a_dockerfile_is_named(tmp_path: Path) -> None:
    for folder, words in (
        (tmp_path, f"There is no Dockerfile {tmp_path}/Dockerfile."),
        (tmp_path / "x", "There is no folder"),
    ):
        done = run(BUILD_LOCAL, "name", folder)
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr


def test_a_missing_docker_is_named(tmp_path: Path) -> None:
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    done = subprocess.run(
        ["/bin/bash", BUILD_LOCAL, "name"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "Docker is needed, and there is no command of that name on PATH: install it." in done.stderr


DOCKERFILES = {
    "nothing": ("FROM x\nRUN true\n", False),
    "a list": ('FROM x\nENTRYPOINT ["y"]\n', True),
    "lower case": ("from x\n  cmd \\\n  y\n", True),
    "a check of health": ("FROM x\nHEALTHCHECK --interval=1s \\\n  CMD true\n", False),
    "one with an empty line and a comment in it": ("FROM x\nHEALTHCHECK \\\n\n# why\n  CMD true\n", False),
    "an earlier stage": ("FROM x AS a\nCMD y\nFROM z\nCOPY --from=a /a /a\n", False),
    "a later stage": ("FROM x AS a\nRUN true\nFROM z\nCMD y\n", True),
    "after a command of several lines": ("FROM x\nRUN a && \\\n  # why\n  b\nCMD y\n", True),
    "Windows line ends": ("FROM x\r\nRUN a && \\\r\n  CMD\r\nENTRYPOINT y\r\n", True),
    "a comment": ("FROM x\n# CMD y\n", False),
}


@pytest.mark.parametrize(("dockerfile", "states"), DOCKERFILES.values(), ids=DOCKERFILES)
def test_only_an_instruction_of_the_last_stage_is_the_authors_own(
    environ: dict[str, str], folder: Path, dockerfile: str, states: bool
) -> None:
    (folder / "Dockerfile").write_bytes(dockerfile.encode())
    done = run(BUILD_LOCAL, "name", folder, environ=environ)
    assert (done.returncode, done.stdout) == (0, "name\n"), done.stderr
    asked = Path(environ["SEEN"], "runs").read_text().splitlines()[0]
    assert (" --inherited " in asked) != states


@pytest.mark.parametrize("holds_longshore", [False, True])
def test_an_image_is_completed_as_the_longshore_in_it_says(
    environ: dict[str, str], folder: Path, holds_longshore: bool
) -> None:
    (folder / "Dockerfile").write_text("FROM x\nCMD y\n")
    done = run(BUILD_LOCAL, "name", folder, environ=environ | {"LONGSHORE": "0.1.0" if holds_longshore else ""})
    assert done.returncode == 0, done.stderr
    seen = Path(environ["SEEN"])
    asked, checked = (seen / "runs").read_text().splitlines()
    options = "--network none --platform linux/amd64 --user 0 --entrypoint /longshore/bin/longshore"
    assert re.fullmatch(rf"run --rm --interactive {options} (longshore-build:\S+-whole) dockerfile \1", asked)
    assert (seen / "stdin").read_text() == "what docker says of it\n"
    assert (seen / "final").read_text() == "FROM it\n"
    assert re.fullmatch(rf"run --rm {options} longshore-build:\S+-final check --by-entrypoint", checked)
    put_on_top = re.compile(r"FROM (longshore-build:\d+-\d+)-author\nCOPY --from=\1-layer / /\n")
    assert (seen / "whole").exists() != holds_longshore
    assert holds_longshore or put_on_top.fullmatch((seen / "whole").read_text())


@pytest.mark.parametrize(
    ("entrypoint", "option", "words"),
    [
        ('["/longshore/bin/longshore"]', "--by-entrypoint", ""),
        ("null", "--by-name", ""),
        ('["x"]', "--by-name", 'ENTRYPOINT ["x"] swallows the `serve`'),
    ],
)
def test_the_check_is_told_how_sagemaker_starts_the_image(
    environ: dict[str, str], entrypoint: str, option: str, words: str
) -> None:
    done = run(BUILD_LOCAL, "--check", "name", environ=environ | {"ENTRYPOINT": entrypoint})
    assert done.returncode == (1 if words else 0)
    assert words in done.stderr
    assert Path(environ["SEEN"], "runs").read_text().endswith(f" name check {option}\n")


def test_only_arguments_that_fit_are_used_when_longshore_is_put_on_top(
    environ: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").write_text("FROM x\n")
    own = f"--file {tmp_path}/other --target a --pull --label b=c"
    both = "--build-arg A=1 --build-arg=B=2 --network host --no-cache"
    done = run(BUILD_LOCAL, "name", folder, environ=environ | {"LONGSHORE_BUILD_ARGS": f"{own} {both}"})
    assert done.returncode == 0, done.stderr
    authors, longshores = Path(environ["SEEN"], "builds").read_text().splitlines()
    assert authors.endswith(f"-author {own} {both} {folder}")
    assert f"-layer {both} --target layer --build-arg LONGSHORE_VERSION=" in longshores
    assert longshores.endswith(f" {PROJECT}")


@pytest.mark.parametrize("code", ["0", "1"])
def test_a_layer_has_its_name_only_when_it_is_whole(environ: dict[str, str], tmp_path: Path, code: str) -> None:
    file = tmp_path / "made" / "a layer.tar.gz"
    file.parent.mkdir()
    file.write_text("of before")
    given = environ | {"RUNS": code, "LONGSHORE_BUILD_ARGS": "--network host"}
    done = run(BUILD_LOCAL, "--layer", file, environ=given)
    assert done.returncode == int(code)
    assert [path.name for path in file.parent.iterdir()] == ["a layer.tar.gz"]
    assert file.read_text() == ("of before" if done.returncode else "a layer")
    assert done.stdout == ("" if done.returncode else f"{file}\n")
    assert "-layer --network host --target layer " in Path(environ["SEEN"], "builds").read_text()


def test_a_dockerfile_that_is_named_has_to_be_there(environ: dict[str, str], folder: Path) -> None:
    for option in ("--file nowhere", "--file=nowhere", "-f nowhere"):
        done = run(BUILD_LOCAL, "name", folder, environ=environ | {"LONGSHORE_BUILD_ARGS": option})
        assert (done.returncode, done.stdout) == (1, "")
        assert "There is no Dockerfile nowhere." in done.stderr


@pytest.mark.parametrize(
    ("mutability", "code"),
    [("MUTABLE", 0), ("MUTABLE_WITH_EXCLUSION", 0), ("IMMUTABLE", 1), ("IMMUTABLE_WITH_EXCLUSION", 0)],
)
def test_only_where_no_tag_can_be_moved_a_tag_that_is_there_ends_the_push(
    environ: dict[str, str], mutability: str, code: int
) -> None:
    there = environ | {"MUTABILITY": mutability, "AWS_REGION": "eu-west-1"}
    done = run(BUILD_AND_PUSH, "--dry-run", "name", environ=there)
    assert done.returncode == code, done.stderr
    assert ("its tags are immutable" in done.stderr) == bool(code)


@pytest.mark.parametrize("path", SHELL_FILES, ids=lambda path: path.name)
def test_nothing_is_newer_than_bash_3_2_or_gnus_alone(path: Path) -> None:
    """What Apple ships; no such bash is at hand here, so what it lacks is looked for by its spelling."""
    found = [
        f"{number}: {what}: {line.strip()}"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for what, pattern in (NOT_IN_BASH_3_2 | NOT_IN_BSD_TOOLS).items()
        if not line.lstrip().startswith("#") and re.search(pattern, line)
    ]
    assert found == []


@pytest.mark.parametrize("what", NOT_IN_BASH_3_2 | NOT_IN_BSD_TOOLS)
def test_what_is_looked_for_would_be_found(what: str) -> None:
    examples = {
        "associative and name-reference arrays": "local -A places",
        "mapfile and readarray": "mapfile -t lines",
        "case conversion": "${name,,}",
        "coproc, wait -n and lastpipe": "wait -n",
        "|& and &>>": "a |& b",
        "a time by printf": "printf '%(%s)T'",
        "tests of variables": "[[ -v name ]]",
        "negative places": "${list[-1]}",
        "an array that may be empty, under set -u": '"${list[@]}"',
        "newer variables": "$EPOCHSECONDS",
        "named descriptors": "exec {lock}>file",
        "sed -i, -r and GNU's escapes": "sed -r 's/a/b/'",
        "grep -P": "grep -qP a",
        "readlink -f and realpath": "readlink -f .",
        "mktemp with GNU's options": "mktemp --tmpdir",
        "base64, sha256sum, date and stat with GNU's options": "base64 -w 0",
        "timeout, tac, nproc and setsid": "timeout 3 true",
        "cp and ln with GNU's options": "cp -a a b",
        "xargs -r and sort -V": "sort -V",
        "programs that a laptop need not have": "jq .",
    }
    assert re.search((NOT_IN_BASH_3_2 | NOT_IN_BSD_TOOLS)[what], examples[what])
