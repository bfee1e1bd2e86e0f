"""A storage for one test of the engine below it, and what it wrote to the log."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s3_stand_in import Answering, Exchange, StandIn, standing_in

from model_server.storage import Storage

DATA = b"data" * 1000
MIB = 1024 * 1024


@contextmanager
def running_storage(
    endpoint: str | None, transfers: int = 4, retry_seconds: float = 60.0, region: str = "us-east-1"
) -> Iterator[Storage]:
    """Give the block a storage, and end its connections and threads."""
    storage = Storage(endpoint, transfers, retry_seconds, region=region)
    try:
        yield storage
    finally:
        storage.client.close()
        storage.pool.shutdown()


def large(mib: int) -> bytes:
    """Return so many MiB and a bit, of which no two are the same."""
    block = os.urandom(MIB - 4)
    return b"".join(number.to_bytes(4, "big") + block for number in range(mib)) + b"end"


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@contextmanager
def asking(answer: Answering, retry_seconds: float = 60.0) -> Iterator[tuple[Storage, StandIn]]:
    """Give the block a storage and the server that it asks."""
    with standing_in(answer) as server, running_storage(server.endpoint, 1, retry_seconds) as storage:
        yield storage, server


def gives(exchange: Exchange) -> None:
    exchange.body()
    exchange.reply(200, DATA if exchange.command == "GET" else b"", ETag='"1"')


def connections_of(server: StandIn) -> list[int]:
    """Return on which connection each request came."""
    return [seen.connection for seen in server.requests]
