"""No secret is where the algorithm can read it, also where it runs as the server's own user, nor in the log."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from server import Server, eventually, serving

from faulty_s3 import FaultyS3, HeldAnswer

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


def test_nobody_looks_into_the_process_that_stores_lost_results(bucket: "Bucket") -> None:
    """It is forked and not executed: from its first moment it is as closed as PID 1."""
    warnings = "closed connection|reset by peer|was sent SIGKILL|unfinished tasks|worker_lost"
    with FaultyS3(bucket.endpoint) as s3, serving(s3.endpoint, *AS_IN_DOCKER, warnings=warnings) as server:
        session = server.gunicorn.session
        known = {process.pid for process in server.children(server.pid)}
        posted = server.post_blocking(bucket, "lost")
        held = HeldAnswer()
        s3.fault("PUT", "/out/lost/.sagemaker_shim/inference_result.json", held)
        os.kill(server.running_worker().pid, signal.SIGKILL)
        assert posted.answer().status == 502
        (reporter,) = eventually(
            lambda: [p.pid for p in server.children(server.pid) if p.pid not in known and p.session == session],
            "the process that stores the result",
        )
        assert Path(f"/proc/{reporter}/cmdline").read_bytes() == Path(f"/proc/{server.pid}/cmdline").read_bytes()
        for secret in ("environ", "mem", "maps"):
            look = subprocess.run([*AS_IN_DOCKER, "head", "-c1", f"/proc/{reporter}/{secret}"], capture_output=True)
            assert b"Permission denied" in look.stderr, (secret, look)
        held.released.set()


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
