"""The two rules of the layout: imports point downwards only, and one module reads the environment."""

import ast
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CONTAINER = Path(__file__).parents[2] / "container"

LAYERS = [
    ["model_server"],
    ["cpus", "read_ahead"],
    ["turn"],
    ["errors", "line_encoder", "log_channel", "peak_memory", "processes", "progress", "s3_uri", "held_signals"]
    + [
        "image_errors",
        "usage",
        "media_types",
        "lzma_stream",
        "prctl",
        "memory_order",
        "heap",
        "orphans",
        "archive_limits",
        "file_crew",
        "part_crew",
        "http_answer",
        "s3_signature",
        "uncollected",
    ],
    [
        "scoreboard",
        "setting_types",
        "user",
        "job_config",
        "faults",
        "zip_member",
        "s3_faults",
        "machine_limits",
        "refusals",
    ]
    + ["s3_connection", "s3_place"]
    + ["beneath", "adaptation", "image_reference", "layer_file", "own_files"],
    [
        "config_changes",
        "image_manifest",
        "registry_http",
        "settings",
        "task",
        "immutable",
        "cancellation",
        "logs",
        "slot",
        "untar",
        "spawn",
        "s3_client",
    ],
    ["retrying", "s3_checksum"],
    ["s3_download", "s3_upload"],
    [
        "registry_credentials",
        "command",
        "program",
        "folder",
        "shared_prefixes",
        "client",
        "admission",
        "storage",
        "process_output",
        "ledger",
        "algorithm_output",
    ]
    + ["loopback_call", "resident_channel", "exit_note", "shares", "training_environment"]
    + ["run_folder", "archive", "callers", "layer"],
    [
        "registry_faults",
        "registry_login",
        "layer_source",
        "children",
        "directories",
        "linked_input",
        "process",
        "stage_in",
        "stage_out",
        "tarball",
        "folder_links",
        "freeing",
        "program_check",
    ],
    [
        "registry",
        "payload",
        "payload_answer",
        "partial_outputs",
        "result",
        "nginx",
        "task_list",
        "algorithm_server",
        "passthrough",
        "stray_outputs",
        "image_check",
        "dockerfile",
    ],
    ["registry_image", "lost_tasks", "task_body", "payload_http", "resident", "runner", "set_up", "plain_job"],
    ["sending", "adapt", "inherited"],
    ["payload_run"],
    ["batch", "predictor", "training_job", "processing_job"],
    ["wsgi", "processing_tasks"],
    ["gunicorn_app"],
    ["supervisor"],
    ["cli"],
]
"""From the bottom to the top; a module imports from layers below its own, never from its own or from above."""

HEIGHT = {module: height for height, layer in enumerate(LAYERS) for module in layer}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "core", "manager", "handler", "mixin"}
ENVIRONMENT_NAMES = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
WALL_CLOCKS = {"time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.ctime", "time.strftime"} | {
    f"{owner}.{name}" for owner in ("datetime", "datetime.datetime", "date") for name in ("now", "utcnow", "today")
}
EXECUTABLES = ("serve", "train", "process", "invoke", "longshore", "adapt")
PAGE_LINES = 40

MODULES = sorted([*CONTAINER.glob("model_server/*.py"), CONTAINER / "predictor.py", CONTAINER / "wsgi.py"])
PYTHON_FILES = sorted([*CONTAINER.rglob("*.py"), *(CONTAINER / name for name in EXECUTABLES)])


def name_of(path: Path) -> str:
    return path.parent.name if path.stem == "__init__" else path.stem


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the modules of ours that a tree imports, also within functions and type-checking blocks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "model_server" if node.level else str(node.module)
            base = f"{base}.{node.module}" if node.level and node.module else base
            names = [base if base.count(".") else f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "model_server":
                inner = rest.split(".")[0]
                yield inner if (CONTAINER / "model_server" / f"{inner}.py").exists() else first
            elif first in HEIGHT:
                yield first


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downwards_only(path: Path) -> None:
    module = name_of(path)
    upwards = {name for name in imported(ast.parse(path.read_text())) if HEIGHT[name] >= HEIGHT[module]}
    assert not upwards, f"{module} may not import {sorted(upwards)}"


def test_every_module_has_its_layer_and_every_layer_its_modules() -> None:
    listed = [module for layer in LAYERS for module in layer]
    assert sorted(listed) == sorted(map(name_of, MODULES))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from .errors import A, B", ["errors", "errors"]),
        ("from . import nginx, VERSION", ["nginx", "model_server"]),
        ("from model_server.cli import main", ["cli"]),
        ("from model_server import errors", ["errors"]),
        ("import model_server.task", ["task"]),
        ("def f():\n    import wsgi", ["wsgi"]),
        ("import os\nfrom flask import Flask", []),
    ],
)
def test_no_spelling_of_an_import_escapes_the_rule(source: str, expected: list[str]) -> None:
    assert list(imported(ast.parse(source))) == expected


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: path.name)
def test_only_the_settings_read_the_environment(path: Path) -> None:
    tree = ast.parse(path.read_text())
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & ENVIRONMENT_NAMES
    read |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for alias in n.names} & (
        ENVIRONMENT_NAMES | {"*"}
    )
    assert read == ({"environ"} if path.name == "settings.py" else set()) or reads_wsgi_only(path, tree, read)


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: path.name)
def test_nothing_goes_by_the_wall_clock(path: Path) -> None:
    """It may jump; only what signs requests to S3 has to know it."""
    tree = ast.parse(path.read_text())
    named = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    named |= {f"{n.module}.{a.name}" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
    assert bool(named & WALL_CLOCKS) == (path.name == "s3_signature.py")


def reads_wsgi_only(path: Path, tree: ast.AST, read: set[str]) -> bool:
    """Say whether all that is read is Flask's `request.environ`, which is no environment but a request."""
    owners = {ast.unparse(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr in read}
    return path.name == "predictor.py" and read == {"environ"} and owners == {"request"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("cli", ["model_server.supervisor", "model_server.storage"]),
        ("supervisor", ["flask", "werkzeug", "gunicorn", "botocore", "importlib.metadata"]),
        ("gunicorn_app", ["botocore", "boto3"]),
    ],
)
def test_what_is_heavy_is_imported_where_it_is_needed(module: str, heavy: list[str]) -> None:
    """PID 1 forks as soon as it can, and /ping is answered before there is a client of S3."""
    program = f"import sys, model_server.{module}; print(*sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=CONTAINER, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: path.name)
def test_no_module_is_named_for_nothing(path: Path) -> None:
    assert not FORBIDDEN_NAMES & set(path.stem.lower().replace(".", "_").split("_"))


@pytest.mark.parametrize("name", EXECUTABLES)
def test_an_executable_has_mode_755(name: str) -> None:
    assert stat.S_IMODE((CONTAINER / name).stat().st_mode) == 0o755


def test_the_executables_are_all_the_files_without_an_extension() -> None:
    assert {path.name for path in CONTAINER.iterdir() if path.is_file() and not path.suffix} == set(EXECUTABLES)


@pytest.mark.parametrize("name", EXECUTABLES)
def test_an_executable_has_no_logic(name: str) -> None:
    source = (CONTAINER / name).read_text()
    tree = ast.parse(source)
    logic = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.Try, ast.With, ast.Assign, ast.Lambda)
    assert source.startswith("#!/usr/bin/env python3\n")
    assert len(source.splitlines()) <= PAGE_LINES
    assert not [node for node in ast.walk(tree) if isinstance(node, logic)]
    assert len([node for node in ast.walk(tree) if isinstance(node, ast.If)]) == 1  # __name__ == "__main__"
