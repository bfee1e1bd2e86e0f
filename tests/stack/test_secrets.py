"""No secret is where the algorithm can read it, also where it runs as the server's own user, nor in the log."""

import json
import os
import re
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from server import Server, serving

if TYPE_CHECKING:
    from conftest import Bucket

HUNTER = Path(__file__).parent.parent / "algorithms" / "hunts_for_secrets"
CAPABILITIES = "-sys_ptrace,-perfmon,-sys_admin"
AS_IN_DOCKER = ["setpriv", f"--bounding-set={CAPABILITIES}", f"--inh-caps={CAPABILITIES}"] if os.geteuid() == 0 else []
"""A container's root lacks the capabilities to look into other processes, unless the container is privileged."""


def found_by_a_hunt(server: Server, bucket: "Bucket", *words: bytes) -> list[str]:
    """Have the algorithm look for words in all of the server, and return what it found but for its own word."""
    hunt = {
        "words": [word.hex()[::-1] for word in words],
        "pids": [process.pid for process in server.tree()],
        "folder": str(server.folder),
    }
    bucket.put("hunt", json.dumps(hunt))
    answer = server.run(bucket.task("hunt", [bucket.item("hunt", "hunt")]))
    assert answer.json()["return_code"] == 0, answer.body
    found = bucket.get("/out/hunt/found").decode().splitlines()
    assert any(re.fullmatch(r"0 /proc/\d+/environ", line) for line in found), found
    return [line for line in found if not line.startswith("0 ")]


def test_a_program_of_the_servers_own_user_finds_no_secret(bucket: "Bucket") -> None:
    key, aws = secrets.token_hex(32), secrets.token_urlsafe(30)
    environment = {
        "ALGORITHM_ENTRYPOINT": json.dumps([sys.executable, str(HUNTER)]),
        "MODEL_SERVER_SIGNING_KEY_HEX": key,
        "AWS_SECRET_ACCESS_KEY": aws,
        "LOG_LEVEL": "DEBUG",
    }
    with serving(bucket.endpoint, *AS_IN_DOCKER, **environment) as server:
        assert found_by_a_hunt(server, bucket, key.encode(), bytes.fromhex(key), aws.encode()) == []
        assert server.stop() == 0
        assert not re.search(f"{key}|{aws}", server.log_text())
