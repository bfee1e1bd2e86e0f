"""What a fault of S3 means: whether it may pass, what to raise if not, and what the log may say of it."""

from .errors import StorageRefused

EXPIRED_CODES = {"ExpiredToken", "TokenRefreshRequired"}
PASSING_CODES = {
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "OperationAborted",
    "BadDigest",
    "NoSuchUpload",
} | EXPIRED_CODES
CREDENTIALS_CODES = {"InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
NAME_CODES = {"InvalidArgument", "InvalidURI", "KeyTooLong", "KeyTooLongError"}
"""Answers of 400 that lie in a task's bucket or key; the others lie in us, such as those of a wrong region."""


class ObjectMissing(Exception):
    """The object does not exist."""


class ObjectChanged(Exception):
    """An object was replaced by another while parts of it were fetched: it is fetched anew."""


class UploadBroken(Exception):
    """An upload that S3 does not know any more, or whose file is shorter than it was: it is begun anew."""


class BucketMissing(ObjectMissing):
    """Nor does its bucket."""


class ObjectForbidden(Exception):
    """The object does not exist, or we may not read it: without the right to list, S3 answers 403 for both."""


class NameRefused(ObjectForbidden):
    """No bucket can have this name."""


def final_error(error: Exception) -> Exception | None:
    """Return what to raise at once, or None for a fault that may pass."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        EndpointProviderError,
        MissingDependencyException,
        NoCredentialsError,
        ParamValidationError,
        PartialCredentialsError,
        UnsupportedOutpostResourceError,
        UnsupportedS3AccesspointConfigurationError,
        UnsupportedS3ArnError,
    )

    if isinstance(error, ClientError):
        return _final_answer(error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"])
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return StorageRefused()
    if isinstance(
        error,
        (
            ParamValidationError,
            EndpointProviderError,
            MissingDependencyException,  # of an access point of several regions
            UnsupportedOutpostResourceError,
            UnsupportedS3AccesspointConfigurationError,
            UnsupportedS3ArnError,
        ),
    ):
        return NameRefused()
    return None if isinstance(error, (BotoCoreError, ObjectChanged, UploadBroken)) else error


def _final_answer(status: int, code: str) -> Exception | None:
    if status >= 500 or status == 429 or code in PASSING_CODES:
        return None
    if status == 404:
        return BucketMissing() if code == "NoSuchBucket" else ObjectMissing()
    if code == "InvalidBucketName":
        return NameRefused()
    if code in NAME_CODES or (status == 403 and code not in CREDENTIALS_CODES):
        return ObjectForbidden()
    return StorageRefused()


def needs_credentials(error: Exception) -> bool:
    """Say whether other credentials than those that were used may help."""
    from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError

    if isinstance(error, ClientError):
        return error.response["Error"]["Code"] in EXPIRED_CODES | CREDENTIALS_CODES
    return isinstance(error, (NoCredentialsError, PartialCredentialsError))


def is_changed(error: Exception) -> bool:
    """Say whether S3 has refused to send more of an object because it is another one by now, or a shorter one."""
    from botocore.exceptions import ClientError

    return isinstance(error, ClientError) and error.response["ResponseMetadata"]["HTTPStatusCode"] in (412, 416)


def is_upload_gone(error: Exception) -> bool:
    """Say whether S3 does not know an upload in parts any more, or one of its parts."""
    from botocore.exceptions import ClientError

    return isinstance(error, ClientError) and error.response["Error"]["Code"] in ("NoSuchUpload", "InvalidPart")


def without_names(error: Exception) -> str:
    """Describe an error without the key and the address that its own text holds."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return f"{error.operation_name} was answered {status} {error.response['Error']['Code']}"
    return type(error).__name__
