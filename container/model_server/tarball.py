"""S3 -> the folders of the model and the ground truth: tarballs, unpacked while they are read, before the first task.

A tarball is unpacked in a hidden folder, and its members appear under their names once it came whole.
"""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from io import BufferedReader
from pathlib import Path

from .archive import NO_ROOM
from .archive_limits import ArchiveLimits
from .beneath import opened_folder
from .cancellation import Cancellation
from .errors import (
    LongshoreError,
    StorageRefused,
    StorageUnavailable,
    TarballBroken,
    TarballError,
    TarballForbidden,
    TarballMissing,
    TarballOverLimit,
    TarballTooLarge,
    TarballUnavailable,
)
from .folder import remove
from .logs import logger
from .lzma_stream import DictionaryTooLarge
from .own_files import leads_to
from .s3_faults import ObjectForbidden, ObjectMissing
from .s3_uri import S3Address
from .settings import Settings
from .storage import Storage
from .untar import FOLDER_MODE, MemberRefused, OverLimit, own, unpack
from .user import User


def fetch_all(
    settings: Settings, user: User, storage: Storage, cancellation: Cancellation, fetched: list[Path]
) -> None:
    """Fetch the model and the ground truth, as far as they are set, at the same time; note in `fetched` what is new.

    Raises as `fetch_tarball`, for the model if both fail.
    """
    tarballs = (
        (settings.model, settings.model_path, "model"),
        (settings.ground_truth, settings.ground_truth_path, "ground truth"),
    )
    with closing(Cancellation(parent=cancellation)) as together, ThreadPoolExecutor(len(tarballs)) as pool:

        def fetch(address: S3Address, folder: Path, which: str) -> None:
            try:
                fetch_tarball(address, folder, which, user, settings.archive_limits, storage, together, fetched)
            except LongshoreError as error:
                if address is settings.model:  # whose fault is told, whatever becomes of the other one
                    together.cancel(error)
                raise

        fetches = [pool.submit(fetch, address, folder, which) for address, folder, which in tarballs if address]
    for fetching in fetches:
        fetching.result()


def fetch_tarball(
    address: S3Address,
    folder: Path,
    which: str,
    user: User,
    limits: ArchiveLimits,
    storage: Storage,
    cancellation: Cancellation,
    fetched: list[Path],
) -> None:
    """Unpack a tarball into a folder, for a user to own; note in `fetched` the paths in it that were not there before.

    `which` names it in errors. Raises a TarballError, TarballUnavailable, or the cancellation's reason.
    """
    with _faults_told(which), _staging_in(folder) as staging:

        def unpack_afresh(body: BufferedReader) -> bool:
            with opened_folder(staging) as opened:
                remove(opened, os.listdir(opened))
            return unpack(body, staging, user, limits, cancellation.raise_if_set)

        if storage.get_stream(address.bucket, address.key, unpack_afresh, cancellation, _is_too_much):
            own(folder.resolve(), user)
        _merge(staging, folder, fetched)


@contextmanager
def _staging_in(folder: Path) -> Iterator[Path]:
    """Make a fresh folder in a folder, which is made too if it is missing; at the end remove what is left in it."""
    if leads_to(folder):
        raise PermissionError(errno.EPERM, "It leads to the server's own files")
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.chmod(FOLDER_MODE)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=folder))
    try:
        yield staging
    finally:
        with opened_folder(folder) as opened:
            remove(opened, [staging.name])


def _merge(staged: Path, folder: Path, new: list[Path]) -> None:
    """Move the entries of one folder into another, and note those that are new there.

    A folder that exists keeps what it is and gets more in it; anything else that exists is replaced, links as well.
    """
    for name in sorted(os.listdir(staged)):
        source, place = staged / name, folder / name
        if not os.path.lexists(place):
            new.append(place)
        elif _is_folder(source):
            if _is_folder(place):
                _merge(source, place, new)
                continue
            place.unlink()  # a folder is not renamed over a file
        source.rename(place)


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


@contextmanager
def _faults_told(which: str) -> Iterator[None]:
    """Turn what can go wrong into an error that names the tarball, and log what the storage did not log already."""
    try:
        yield
    except ObjectMissing as error:
        raise TarballMissing(which) from error
    except ObjectForbidden as error:
        raise TarballForbidden(which) from error
    except (StorageRefused, StorageUnavailable) as error:
        raise TarballUnavailable(which) from error
    except LongshoreError:  # the reason to end early
        raise
    except Exception as error:  # a broken archive makes the libraries raise all kinds
        logger.debug("The tarball of the %s: %s", which, error)
        logger.error("The tarball of the %s could not be extracted: %s", which, _without_names(error))
        raise _kind(error)(which) from error


def _is_too_much(error: Exception) -> bool:
    """Say whether a tarball has more in it than is allowed or there is room for: its rest need not be got."""
    return isinstance(error, OverLimit) or (isinstance(error, OSError) and error.errno in NO_ROOM)


def _kind(error: Exception) -> type[TarballError]:
    if isinstance(error, OverLimit):
        return TarballOverLimit
    return TarballTooLarge if _is_too_much(error) else TarballBroken


def _without_names(error: Exception) -> str:
    """Describe an error without the file names that its own text may hold."""
    if isinstance(error, (MemberRefused, DictionaryTooLarge)):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"it is broken or cut off ({type(error).__name__})"
