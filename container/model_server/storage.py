"""S3, as far as we need it: get an object as a file or a stream, put a file, put bytes. The one seam to the storage.

Only s3:GetObject on inputs and s3:PutObject on outputs are needed: no HEAD, no list. Every request is tried again with
growing pauses, for a minute after it first failed: a body that broke off, was too short or had a wrong checksum is
fetched anew, and a file appears under its name only when it is whole and of one version of its object.

What is below is botocore's where that costs little, its credentials, endpoints and errors, and our own where each
request pays for it: of the 4 ms of CPU that its client takes for a small object 0.4 are left.
"""

import io
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import cache, cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO, Self, TypeVar

from . import uncollected
from .cancellation import Cancellation
from .machine_limits import started_pool
from .retrying import RETRY_SECONDS, retried
from .s3_faults import needs_credentials
from .settings import Settings

if TYPE_CHECKING:
    from botocore.credentials import Credentials

    from .s3_client import Asked, S3Client
    from .s3_download import Source
    from .s3_upload import Target

BUFFER_BYTES = 1024 * 1024
NOTHING: Mapping[str, str] = MappingProxyType({})

T = TypeVar("T")
U = TypeVar("U")


class Storage:
    """A client of S3 and a pool of threads for it; made at first use, then shared by all threads of a process.

    `encryption` holds the headers that ask for it of every object that is put.
    """

    def __init__(
        self,
        endpoint: str | None,
        transfers: int,
        retry_seconds: float = RETRY_SECONDS,
        region: str | None = None,
        expected_owner: str | None = None,
        encryption: Mapping[str, str] = NOTHING,
    ) -> None:
        self._endpoint = endpoint
        self.transfers = transfers
        self._retry_seconds = retry_seconds
        self._region = region
        self._expected_owner = expected_owner
        self._encryption = encryption
        self._ranges = threading.Event()
        self._ranges.set()
        self._making = threading.Lock()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        encryption: dict[str, str] = {}
        if settings.output_kms_key_id:
            encryption["x-amz-server-side-encryption"] = "aws:kms"
            encryption["x-amz-server-side-encryption-aws-kms-key-id"] = settings.output_kms_key_id
        return cls(
            settings.s3_endpoint,
            settings.transfers,
            region=settings.region,
            expected_owner=settings.expected_bucket_owner,
            encryption=encryption,
        )

    @property
    def pool(self) -> ThreadPoolExecutor:
        with self._making:
            return self._pool

    def for_each(self, action: Callable[[U], T], items: Iterable[U]) -> Iterator[T]:
        """Yield what an action returns for each of some items, as it is done; it goes on for several at a time.

        For what asks S3 but transfers nothing large; one by one where the machine has no threads for it.
        """
        try:
            pool = self.pool
        except RuntimeError:
            yield from map(action, items)
            return
        going_on = [pool.submit(action, item) for item in items]
        try:
            for done in as_completed(going_on):
                yield done.result()
        finally:
            for one in going_on:
                one.cancel()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return started_pool(self.transfers, "transfer")

    @cached_property
    def client(self) -> "S3Client":
        with self._making:
            made: S3Client | None = self.__dict__.get("client")  # by another thread, which this one waited for
            return made or self._made_client()

    def _made_client(self) -> "S3Client":
        with uncollected.importing():  # the rules of endpoints, too
            from .s3_client import S3Client

            return S3Client(self._endpoint, self._region, self._expected_owner)

    def ask_ahead(self, bucket: str, key: str, connects: bool) -> "Asked | None":
        """Ask for an object that `get_file` will get, or that is closed, unless it would have to wait for that.

        It may wait for a new connection to be made if it `connects`.
        """
        _import_s3()
        from .s3_download import WITH_CHECKSUM

        return self.client.ask_ahead(bucket, key, WITH_CHECKSUM, connects)

    def get_file(
        self,
        bucket: str,
        key: str,
        path: str,
        cancellation: Cancellation,
        asked: "Asked | None" = None,
        is_one_of_many: Callable[[], bool] = lambda: False,
    ) -> int:
        """Get an object, which may have been asked for, into a new file and return its size.

        While it `is_one_of_many` that are got at the same time, a large one has no more than one connection. Raises
        ObjectMissing, ObjectForbidden and the rest.
        """
        _import_s3()
        from .s3_download import get_file

        source = self._source(bucket, key, cancellation, asked, is_one_of_many)
        size: int = source.retry(lambda: get_file(source, path, self.pool))
        return size

    def get_stream(
        self,
        bucket: str,
        key: str,
        consume: Callable[[io.BufferedReader], T],
        cancellation: Cancellation,
        is_final: Callable[[Exception], bool] = lambda error: False,
    ) -> T:
        """Return what `consume` makes of an object while it is read; raises its errors, and as `get_file`.

        It is called anew if the object is another one meanwhile. What it returned or raised counts only if the object
        came whole, but for an error that `is_final` whatever there is to come.
        """
        _import_s3()
        from .s3_download import streamed

        source = self._source(bucket, key, cancellation)

        def attempt() -> Future[T]:
            outcome: Future[T] = Future()
            with streamed(source) as stream:
                try:
                    outcome.set_result(consume(io.BufferedReader(stream, BUFFER_BYTES)))
                except Exception as error:
                    if is_final(error):
                        raise
                    outcome.set_exception(error)
                stream.read_to_end()
            return outcome

        outcome: Future[T] = source.retry(attempt)
        return outcome.result()

    def get_bytes(self, bucket: str, key: str, cancellation: Cancellation) -> bytes:
        """Return a small object; raises as `get_file`."""
        return self.get_stream(bucket, key, io.BufferedReader.read, cancellation)

    def put_file(self, file: BinaryIO, bucket: str, key: str) -> int:
        """Put an open regular file and return its size."""
        _import_s3()
        from .s3_upload import put_file

        return self._retried(lambda: put_file(self._target(bucket, key), file, self.pool, self._retried))

    def put_bytes(self, data: bytes, bucket: str, key: str, metadata: dict[str, str]) -> None:
        """Put a small object with its metadata."""
        _import_s3()
        from .s3_upload import put_bytes

        self._retried(lambda: put_bytes(self._target(bucket, key), data, metadata))

    def _source(
        self,
        bucket: str,
        key: str,
        cancellation: Cancellation,
        asked: "Asked | None" = None,
        is_one_of_many: Callable[[], bool] = lambda: False,
    ) -> "Source":
        from .s3_download import Source

        ahead = [asked] if asked else []
        retry = partial(self._retried, cancellation=cancellation, asked=ahead)
        return Source(self.client, bucket, key, retry, cancellation, self._ranges, ahead, is_one_of_many)

    def _target(self, bucket: str, key: str) -> "Target":
        from .s3_upload import Target

        return Target(self.client, bucket, key, self._encryption)

    def _retried(
        self,
        attempt: Callable[[], T],
        cancellation: Cancellation | None = None,
        asked: "Sequence[Asked]" = (),
    ) -> T:
        """Try again for as long as S3 or the way to it fails, with other credentials once those in use are refused.

        An attempt that takes the answer to what was `asked` ahead uses those of that moment.
        """
        client = self.client
        used: Credentials | None = None

        def noting() -> T:
            nonlocal used
            used = None
            used = asked[0].used if asked else client.credentials()
            return attempt()

        def on_fault(error: Exception) -> None:
            if needs_credentials(error):
                client.forget_credentials(used)

        return retried(noting, on_fault, cancellation, self._retry_seconds)


@cache
def _import_s3() -> None:
    """Import what S3 takes, with a first task: it is a fifth of a second, which /ping need not wait for."""
    with uncollected.importing():
        from . import s3_client, s3_download, s3_upload  # noqa: F401
