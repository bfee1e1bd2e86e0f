"""A real S3 server for tests, and the variables that make clients use it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

AWS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def moto_s3(address: str) -> Iterator[str]:
    """Run moto's S3 server for the block, and yield its URL."""
    from moto.server import ThreadedMotoServer

    os.environ.update(AWS)
    server = ThreadedMotoServer(ip_address=address, port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()
