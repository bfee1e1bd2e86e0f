"""When garbage is collected, in a process of its own."""

import subprocess
import sys
from pathlib import Path

CONTAINER = Path(__file__).parents[2] / "container"
SCRIPT = """
import gc
from model_server import uncollected
paused = not gc.isenabled()
import json
uncollected.begin()
begun = gc.isenabled() and gc.get_freeze_count() > 1000 and json not in gc.get_objects()
with uncollected.importing():
    paused_again = not gc.isenabled()
    import decimal
print(paused, begun, paused_again, gc.isenabled() and decimal not in gc.get_objects())
"""


def test_what_is_imported_at_the_start_is_never_collected_and_all_else_is() -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT], cwd=CONTAINER, stdout=subprocess.PIPE, check=True)
    assert ended.stdout.split() == [b"True"] * 4
