"""When garbage is collected, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

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


NOBODY = {"AWS_ACCESS_KEY_ID": "some", "AWS_SECRET_ACCESS_KEY": "some", "AWS_REGION": "eu-west-1"}
FIRST_USE = """
import gc
from model_server import cli, uncollected
from model_server.cancellation import Cancellation
from model_server.storage import Storage
uncollected.begin()
collected = []
gc.callbacks.append(lambda phase, info: collected.append(phase))
try:
    {use}
except Exception as error:
    print(type(error).__name__)
import botocore.session
print(collected.count("start") < 5, botocore.session not in gc.get_objects())
"""


@pytest.mark.parametrize(
    "use",
    [
        "storage.put_bytes(b'', 'bucket', 'key', {})",
        "storage.put_file(open('/dev/null', 'rb'), 'bucket', 'key')",
        "storage.get_bytes('bucket', 'key', Cancellation())",
        "storage.get_file('bucket', 'key', '/dev/null', Cancellation())",
        "storage.ask_ahead('bucket', 'key', True)",
    ],
)
def test_whatever_uses_s3_first_imports_it_uncollected(use: str) -> None:
    script = FIRST_USE.format(use=f"storage = Storage('http://127.0.0.1:1', 1, retry_seconds=0); {use}")
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=CONTAINER, stdout=subprocess.PIPE, check=True, env=NOBODY
    )
    assert ended.stdout.split()[-2:] == [b"True", b"True"]
