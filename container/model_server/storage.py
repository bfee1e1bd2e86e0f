"""S3, as far as we need it: get an object as a file or a stream, put a file, put bytes. The one seam to the storage.

Only s3:GetObject on inputs and s3:PutObject on outputs are needed: no HEAD, no list, no abort. Every request is tried
again with growing pauses, from its start, for a minute after it first failed: a body that broke off, was too short or
had a wrong checksum is fetched anew, and a file appears under its name only when it is whole. An object is asked for in
one request and never in ranges, so a file is of one version of it.
"""

import io
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeVar

from .cancellation import Cancellation
from .errors import LongshoreError, StorageUnavailable, without_frames
from .logs import logger
from .machine_limits import started_pool
from .s3_faults import cause_of, final_error, needs_credentials, without_names
from .settings import Settings

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from botocore.model import OperationModel
    from botocore.response import StreamingBody
    from types_boto3_s3 import S3Client

CHUNK_BYTES = 1024 * 1024
WHOLE_BYTES = 64 * 1024 * 1024
"""Up to this size an object is put in one request, above in parts."""

MAX_PARTS = 10_000
RETRY_SECONDS = 60.0
"""How long S3 may fail before we give up; an attempt that went on for longer than this starts the count anew."""

MAX_ATTEMPTS = 30
CONNECT_SECONDS = 5
READ_SECONDS = 20
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0

NOTHING: Mapping[str, str] = MappingProxyType({})

T = TypeVar("T")


class Storage:
    """An S3 client and a pool of threads for it; made at first use, then shared by all threads of a process.

    `always` holds parameters for every request that knows them.
    """

    def __init__(
        self,
        endpoint: str | None,
        transfers: int,
        retry_seconds: float = RETRY_SECONDS,
        region: str | None = None,
        always: Mapping[str, str] = NOTHING,
    ) -> None:
        self._endpoint = endpoint
        self._transfers = transfers
        self._retry_seconds = retry_seconds
        self._region = region
        self._always = always
        self._making = threading.Lock()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        always: dict[str, str] = {}
        if settings.expected_bucket_owner:
            always |= {"ExpectedBucketOwner": settings.expected_bucket_owner}
        if settings.output_kms_key_id:
            always |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": settings.output_kms_key_id}
        return cls(settings.s3_endpoint, settings.transfers, region=settings.region, always=always)

    @property
    def pool(self) -> ThreadPoolExecutor:
        with self._making:
            return self._pool

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return started_pool(self._transfers, "transfer")

    @property
    def client(self) -> "S3Client":
        with self._making:
            return self._client

    @cached_property
    def _client(self) -> "S3Client":
        import boto3  # not at the top: it takes half a second, which /ping need not wait for
        from botocore.config import Config
        from botocore.loaders import Loader
        from botocore.session import Session

        config = Config(
            max_pool_connections=self._transfers + 2,
            retries={"mode": "standard", "total_max_attempts": 1},  # `_retried` does it, for bodies too
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
        )
        # Not from ~/.aws/models: an image could have a description of S3 there that names another server.
        descriptions = Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
        session = Session()
        session.register_component("data_loader", descriptions)
        # Nor keys from /etc/boto.cfg or ~/.boto, which an image could have and which would go before the job's role.
        session.get_component("credential_provider").remove("boto-config")
        client = boto3.session.Session(botocore_session=session).client(
            "s3", region_name=self._region, endpoint_url=self._endpoint, config=config
        )
        client.meta.events.register("provide-client-params.s3", self._add_always)
        return client

    def _renew(self, used: "S3Client | None") -> None:
        """Have a new client look for credentials anew, unless another thread has done so since.

        botocore refreshes them by their stated end only, and keeps those of a file or none for as long as it lives.
        """
        with self._making:
            if vars(self).get("_client") is not used or used is None:
                return
            del self._client
            used.close()  # what goes on in it may end

    def _add_always(self, params: dict[str, Any], model: "OperationModel", **_: Any) -> None:
        """Is called by botocore for each request, those of a multipart upload among them."""
        known = model.input_shape.members if model.input_shape else {}
        params.update({name: value for name, value in self._always.items() if name in known})

    def get_file(self, bucket: str, key: str, path: str, cancellation: Cancellation) -> int:
        """Get an object into a new file and return its size; raises ObjectMissing, ObjectForbidden and the rest."""
        return self._retried(lambda: self._get_file(bucket, key, path, cancellation), cancellation)

    def _get_file(self, bucket: str, key: str, path: str, cancellation: Cancellation) -> int:
        size = 0
        with closing(self._open(bucket, key)) as body:
            cancellation.raise_if_set()  # the answer may have taken long, and nobody waits for the file any more
            with open(path, "wb", buffering=0) as file:
                while chunk := body.read(CHUNK_BYTES):
                    cancellation.raise_if_set()
                    _write_all(file.fileno(), chunk)
                    size += len(chunk)
        return size

    def _open(self, bucket: str, key: str) -> "StreamingBody":
        """Return the body of an object, to be closed: before its end that closes its connection too.

        `with` on the body itself hands out the raw stream, which compares neither length nor checksum.
        """
        return self.client.get_object(Bucket=bucket, Key=key)["Body"]

    def get_stream(
        self, bucket: str, key: str, consume: Callable[[io.BufferedReader], T], cancellation: Cancellation
    ) -> T:
        """Return what `consume` makes of an object while it is read; raises its errors, and as `get_file`.

        It is called anew for each attempt. What it returned or raised counts only if the object came whole.
        """
        return self._retried(lambda: self._get_stream(bucket, key, consume, cancellation), cancellation).result()

    def _get_stream(
        self, bucket: str, key: str, consume: Callable[[io.BufferedReader], T], cancellation: Cancellation
    ) -> "Future[T]":
        outcome: Future[T] = Future()
        with closing(self._open(bucket, key)) as body:
            stream = _Body(body, cancellation)
            try:
                outcome.set_result(consume(io.BufferedReader(stream, CHUNK_BYTES)))
            except Exception as error:
                outcome.set_exception(error)
            stream.read_to_end()
        return outcome

    def get_bytes(self, bucket: str, key: str, cancellation: Cancellation) -> bytes:
        """Return a small object; raises as `get_file`."""
        return self._retried(lambda: self._get_bytes(bucket, key), cancellation)

    def _get_bytes(self, bucket: str, key: str) -> bytes:
        with closing(self._open(bucket, key)) as body:
            data: bytes = body.read()
        return data

    def put_file(self, file: BinaryIO, bucket: str, key: str) -> int:
        """Put an open regular file and return its size."""
        return self._retried(lambda: self._put_file(file, bucket, key))

    def _put_file(self, file: BinaryIO, bucket: str, key: str) -> int:
        size = os.fstat(file.fileno()).st_size
        if size <= WHOLE_BYTES:
            file.seek(0)
            self.client.put_object(Bucket=bucket, Key=key, Body=file)
            return size
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(multipart_chunksize=max(WHOLE_BYTES // 4, size // MAX_PARTS + 1), max_concurrency=4)
        # by its descriptor, not by its name: each part opens the file anew, and the name may be another file's by now
        self.client.upload_file(f"/proc/self/fd/{file.fileno()}", bucket, key, Config=config)
        return size

    def put_bytes(self, data: bytes, bucket: str, key: str, metadata: dict[str, str]) -> None:
        """Put a small object with its metadata."""
        self._retried(lambda: self.client.put_object(Bucket=bucket, Key=key, Body=data, Metadata=metadata))

    def _retried(self, attempt: Callable[[], T], cancellation: Cancellation | None = None) -> T:
        """Return what the attempt returns, trying again while S3 or the way to it fails, up to the deadline."""
        pause, deadline = FIRST_PAUSE_SECONDS, 0.0
        for attempts_left in reversed(range(MAX_ATTEMPTS)):
            started, client = time.monotonic(), vars(self).get("_client")
            try:
                return attempt()
            except LongshoreError:  # the reason to end early
                raise
            except Exception as error:
                failed, cause = time.monotonic(), cause_of(error)
                if not deadline or failed - started > RETRY_SECONDS:
                    pause, deadline = FIRST_PAUSE_SECONDS, failed + self._retry_seconds
                final = final_error(cause)
                if final is cause:  # it is not S3's, and is told by whoever takes it
                    raise
                logger.debug("S3: %s", error)
                if needs_credentials(cause):
                    self._renew(client or vars(self).get("_client"))
                if final or failed >= deadline or not attempts_left:
                    logger.error("S3: %s", without_names(cause))
                    raise final or StorageUnavailable from error
                delay = min(pause * random.uniform(0.8, 1.0), deadline - failed)  # noqa: S311 - not a secret
                logger.warning("S3: %s; trying again in %.1f s", without_names(cause), delay)
                without_frames(error)  # which hold what our callers have open, and the error: a cycle
            cancellation.wait(delay) if cancellation else time.sleep(delay)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        raise AssertionError("unreachable")


class _Body(io.RawIOBase):
    """The body of an object as a file; reading it raises the cancellation's reason once there is one.

    The body does not end with it: whoever buffers the file may close it, and there may be more to compare.
    """

    def __init__(self, body: "StreamingBody", cancellation: Cancellation) -> None:
        self._body = body
        self._cancellation = cancellation
        self._fault: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        try:
            self._cancellation.raise_if_set()
            chunk = self._body.read(len(view))
        except Exception as error:
            self._fault = error
            raise
        view[: len(chunk)] = chunk
        return len(chunk)

    def read_to_end(self) -> None:
        """Read what is left, so that length and checksum are compared; raises what reading raised before."""
        if self._fault:
            raise self._fault
        while self._body.read(CHUNK_BYTES):
            self._cancellation.raise_if_set()


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
