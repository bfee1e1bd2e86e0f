#!/usr/bin/env python3
"""Run many tasks through one server, and print what it holds before and after: nothing may pile up.

    python tests/stack/soak.py [--sequential 500] [--at-once 200] [--workers 2] [--queue 16]

moto's S3 server stands in for AWS, in a process of its own. Exits with 1 when a task failed or something was left.
"""

import argparse
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
from server import Server, eventually, free_port, serving

BUCKET = "soak"
SCRIPT = """
cat "$ALGORITHM_INPUT_PATH/do" > "$ALGORITHM_OUTPUT_PATH/copy"
echo a line on stdout
echo a line on stderr >&2
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sequential", type=int, default=500, help="tasks one after another")
    parser.add_argument("--at-once", type=int, default=200, help="tasks posted at once")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--queue", default="16")
    options = parser.parse_args()
    with s3_server() as (endpoint, client):
        settings = {"MODEL_SERVER_WORKERS": options.workers, "MODEL_SERVER_QUEUE": options.queue}
        with serving(endpoint, **settings) as server:
            client.put_object(Bucket=BUCKET, Key="do", Body=SCRIPT)
            run_sequentially(server, 10, "warm-up")
            post_at_once(server, 40, "warm-up")
            first = settled(server)
            show("after a warm-up of 50 tasks", first)

            seconds, answers = run_sequentially(server, options.sequential, "sequential")
            show(f"after {options.sequential} one after another", settled(server))
            print(f"    {seconds:.1f} s, {seconds / max(1, options.sequential) * 1000:.1f} ms a task, {dict(answers)}")
            failed = options.sequential - answers[200]

            seconds, answers = post_at_once(server, options.at_once, "at-once")
            last = settled(server)
            show(f"after {options.at_once} at once", last)
            print(f"    {seconds:.1f} s, {dict(answers)}")
            failed += options.at_once - answers[200] - answers[503]
            print(f"    {results_stored(client, 'at-once')} results are stored")
            failed += abs(answers[200] - results_stored(client, "at-once"))
            started = time.monotonic()
            server.stop_if_running()
            print(f"stopped in {time.monotonic() - started:.2f} s")
    same = counted(first) == counted(last)
    sys.exit(0 if same and not failed else 1)


@contextmanager
def s3_server() -> Iterator[tuple[str, Any]]:
    """Run moto's S3 server on loopback, with a bucket."""
    port = free_port()
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: answers(port), "moto's S3 server")
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=BUCKET)
        yield f"http://127.0.0.1:{port}", client
    finally:
        process.terminate()
        process.wait(10)


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def task(pk: str) -> dict[str, Any]:
    return {
        "pk": pk,
        "inputs": [{"relative_path": "do", "bucket_name": BUCKET, "bucket_key": "do"}],
        "output_bucket_name": BUCKET,
        "output_prefix": f"/out/{pk}",
    }


def run_sequentially(server: Server, number: int, name: str) -> tuple[float, Counter[int]]:
    """Return the seconds that the tasks took together, and how many answers had which status."""
    started = time.monotonic()
    statuses = Counter(server.run(task(f"{name}-{index}")).status for index in range(number))
    return time.monotonic() - started, statuses


def post_at_once(server: Server, number: int, name: str) -> tuple[float, Counter[int]]:
    started = time.monotonic()
    posted = [server.post(task(f"{name}-{index}")) for index in range(number)]
    statuses = Counter(request.answer().status for request in posted)
    return time.monotonic() - started, statuses


def results_stored(client: Any, name: str) -> int:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"/out/{name}-")
    return sum(item["Key"].endswith("result.json") for page in pages for item in page.get("Contents", []))


def held(server: Server) -> dict[str, Any]:
    """Return what the server holds: processes, descriptors of each, files, and memory in KiB."""
    tree = server.tree()
    return {
        "processes": len(tree),
        "descriptors": [len(process.descriptors()) for process in tree],
        "files": len(server.files()),
        "pss": sum(proportional_set_size(process.pid) for process in tree),
    }


def counted(what: dict[str, Any]) -> tuple[int, int, int]:
    return what["processes"], sum(what["descriptors"]), what["files"]


def settled(server: Server) -> dict[str, Any]:
    """Return what the server holds once that does not change any more."""
    time.sleep(1)
    return held(server)


def proportional_set_size(pid: int) -> int:
    """Return the KiB of a process, with its share of what it shares."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


def show(when: str, what: dict[str, Any]) -> None:
    print(
        f"{when}: {what['processes']} processes, {sum(what['descriptors'])} descriptors {what['descriptors']}, "
        f"{what['files']} files, {what['pss'] / 1024:.1f} MiB (PSS)",
        flush=True,
    )


if __name__ == "__main__":
    main()
