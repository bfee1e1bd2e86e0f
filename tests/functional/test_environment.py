"""What the algorithm is given of the environment, seen from a process of its own, as its start changes it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

CONTAINER = Path(__file__).parent.parent.parent / "container"
PRINTS = "from model_server.settings import Settings; print(ascii(Settings.from_env().environment))"


@pytest.mark.parametrize(
    "variables", [{"PATH": "/bin"}, {"LC_CTYPE": "POSIX"}, {"LC_CTYPE": "C.UTF-8", "LANG": "C"}, {"A": "\udcff=\n"}]
)
def test_what_python_does_to_its_own_environment_is_kept_from_the_algorithm(variables: dict[str, str]) -> None:
    command = [sys.executable, "-c", PRINTS]
    printed = subprocess.run(command, env=variables, cwd=CONTAINER, capture_output=True, text=True, check=True).stdout
    assert ast.literal_eval(printed) == variables
