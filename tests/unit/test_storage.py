"""What S3's answers mean: try again, give up, or the task's own fault. Without a network."""

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    EndpointResolutionError,
    HTTPClientError,
    IncompleteReadError,
    MissingDependencyException,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
    UnsupportedOutpostResourceError,
    UnsupportedS3AccesspointConfigurationError,
    UnsupportedS3ArnError,
)
from botocore.loaders import Loader

from fake_clock import Clock
from model_server import retrying
from model_server.cancellation import Cancellation
from model_server.errors import ClientLeft, StorageRefused, StorageUnavailable
from model_server.s3_connection import READ_SECONDS
from model_server.s3_faults import NameRefused, ObjectForbidden, ObjectMissing
from model_server.s3_place import Places
from model_server.settings import Settings
from model_server.storage import Storage

from .waiting import DEADLINE_SECONDS

KEY = "patients/jane-doe.dcm"


@pytest.fixture(autouse=True)
def some_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have credentials, which are looked for before anything is asked."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "some")


def answer(status: int, code: str) -> ClientError:
    parts: Any = {
        "Error": {"Code": code, "Message": f"about {KEY}", "Key": KEY},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(parts, "GetObject")


PASSING = [
    answer(500, "InternalError"),
    answer(503, "SlowDown"),
    answer(503, "ServiceUnavailable"),
    answer(429, "TooManyRequests"),
    answer(400, "RequestTimeout"),
    answer(400, "ExpiredToken"),
    answer(403, "ExpiredToken"),
    answer(400, "TokenRefreshRequired"),
    answer(403, "RequestTimeTooSkewed"),
    answer(409, "OperationAborted"),
    EndpointConnectionError(endpoint_url=f"http://s3/{KEY}"),
    ConnectTimeoutError(endpoint_url=f"http://s3/{KEY}"),
    ReadTimeoutError(endpoint_url=f"http://s3/{KEY}"),
    HTTPClientError(error=KEY),
    ResponseStreamingError(error=KEY),
    IncompleteReadError(actual_bytes=1, expected_bytes=2),
]
FINAL = [
    (answer(404, "NoSuchKey"), ObjectMissing),
    (answer(404, "NoSuchBucket"), ObjectMissing),
    (answer(404, "404"), ObjectMissing),
    (answer(403, "AccessDenied"), ObjectForbidden),
    (answer(403, "403"), ObjectForbidden),
    (answer(400, "KeyTooLongError"), ObjectForbidden),
    (answer(403, "InvalidAccessKeyId"), StorageRefused),
    (answer(403, "SignatureDoesNotMatch"), StorageRefused),
    (answer(400, "InvalidToken"), StorageRefused),
    (answer(400, "AuthorizationHeaderMalformed"), StorageRefused),
    (answer(400, "IllegalLocationConstraintException"), StorageRefused),
    (answer(301, "PermanentRedirect"), StorageRefused),
    (answer(307, "TemporaryRedirect"), StorageRefused),
    (answer(400, "InvalidRequest"), StorageRefused),
    (answer(400, "InvalidBucketName"), NameRefused),
    (NoCredentialsError(), StorageRefused),
    (PartialCredentialsError(provider="env", cred_var="x"), StorageRefused),
    (ParamValidationError(report=KEY), NameRefused),
    (MissingDependencyException(msg=KEY), NameRefused),
    (EndpointResolutionError(msg=KEY), NameRefused),
    (UnsupportedS3ArnError(arn=KEY, msg=KEY), NameRefused),
    (UnsupportedS3AccesspointConfigurationError(msg=KEY), NameRefused),
    (UnsupportedOutpostResourceError(resource_name=KEY), NameRefused),
]


def name_of(value: Any) -> str:
    return str(value) if isinstance(value, ClientError) else getattr(value, "__name__", type(value).__name__)


class Attempts:
    """Fails with one error after another, then returns."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retrying, "time", clock)
    return clock


@pytest.mark.parametrize("error", PASSING, ids=name_of)
def test_a_fault_that_may_pass_is_tried_again(error: Exception) -> None:
    attempts = Attempts(error, error, error)
    assert Storage(None, 1)._retried(attempts) == "done"
    assert attempts.count == 4


@pytest.mark.parametrize("error", PASSING, ids=name_of)
def test_a_fault_that_does_not_pass_is_given_up_at_last(error: Exception) -> None:
    attempts = Attempts(*[error] * 100)
    with pytest.raises(StorageUnavailable):
        Storage(None, 1)._retried(attempts)
    assert 15 <= attempts.count <= 25


@pytest.mark.parametrize(("error", "meaning"), FINAL, ids=name_of)
def test_an_answer_that_will_not_change_is_taken_at_once(error: Exception, meaning: type[Exception]) -> None:
    attempts = Attempts(error)
    with pytest.raises(meaning):
        Storage(None, 1)._retried(attempts)
    assert attempts.count == 1


@pytest.mark.parametrize("error", [OSError(28, "No space left"), ClientLeft(), KeyError("x")], ids=name_of)
def test_a_fault_that_is_not_s3s_is_not_tried_again(error: Exception) -> None:
    attempts = Attempts(error)
    with pytest.raises(type(error)) as caught:
        Storage(None, 1)._retried(attempts)
    assert caught.value is error
    assert attempts.count == 1


def test_a_task_that_is_cancelled_does_not_wait_for_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_PAUSE_SECONDS", DEADLINE_SECONDS)
    cancellation = Cancellation()
    cancellation.cancel(ClientLeft())
    attempts = Attempts(answer(503, "SlowDown"))
    with pytest.raises(ClientLeft):
        Storage(None, 1)._retried(attempts, cancellation)
    assert attempts.count == 1


@pytest.mark.parametrize("error", [*PASSING, *(error for error, _ in FINAL)], ids=name_of)
def test_no_key_reaches_the_log(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    retrying.logger.setLevel("INFO")
    with pytest.raises(Exception):  # noqa: B017, PT011 - each its own
        Storage(None, 1)._retried(Attempts(*[error] * 100))
    retrying.logger.setLevel("NOTSET")
    assert caplog.records
    assert KEY not in caplog.text


def seconds_until_given_up(clock: Clock, seconds_each: float, retry_seconds: float = retrying.RETRY_SECONDS) -> float:
    """Return how long a request is tried whose every attempt fails after so many seconds."""

    def attempt() -> None:
        clock.sleep(seconds_each)
        raise answer(503, "SlowDown")

    started = clock.now
    with pytest.raises(StorageUnavailable):
        Storage(None, 1, retry_seconds)._retried(attempt)
    return clock.now - started


@pytest.mark.parametrize("seconds_each", [0.0, 0.01, 1.0, READ_SECONDS])
def test_s3_may_fail_for_a_minute_however_long_its_answers_take(clock: Clock, seconds_each: float) -> None:
    spent = seconds_until_given_up(clock, seconds_each)
    assert retrying.RETRY_SECONDS - 0.01 <= spent <= retrying.RETRY_SECONDS + 2 * seconds_each + 0.01


@pytest.mark.parametrize("retry_seconds", [0.0, 0.1, 7.0])
def test_the_deadline_can_be_set(clock: Clock, retry_seconds: float) -> None:
    assert seconds_until_given_up(clock, 0.0, retry_seconds) == pytest.approx(retry_seconds)


def test_an_attempt_that_got_far_starts_the_count_anew_but_not_for_ever(clock: Clock) -> None:
    long = retrying.RETRY_SECONDS + 1
    assert seconds_until_given_up(clock, long) >= retrying.MAX_ATTEMPTS * long


def test_the_region_is_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
        made = Storage.from_settings(Settings.from_env({name: "eu-north-1", "MODEL_SERVER_TRANSFERS": "3"}))
        place = made.client._places.of("bucket")
        assert (place.region, place.origin) == ("eu-north-1", "https://bucket.s3.eu-north-1.amazonaws.com")


def test_no_description_of_s3_in_the_image_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore takes what is in ~/.aws/models, such as the rules of which server S3 is."""
    (own,) = Path(Loader.BUILTIN_DATA_PATH, "s3").glob("*/endpoint-rule-set-1.json*")
    rules = tmp_path / "s3" / own.parent.name / "endpoint-rule-set-1.json"
    rules.parent.mkdir(parents=True)
    rules.write_text("{}")
    monkeypatch.setattr(Loader, "CUSTOMER_DATA_PATH", str(tmp_path))
    with pytest.raises(TypeError, match="RuleSet"):
        boto3.session.Session().client("s3", region_name="eu-west-1")  # which believes it
    place = Storage(None, 1, region="eu-west-1").client._places.of("bucket")
    assert place.origin == "https://bucket.s3.eu-west-1.amazonaws.com"


def test_no_keys_in_botos_old_files_are_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would go before the role of the job, which a server gives."""
    file = tmp_path / "boto.cfg"
    file.write_text("[Credentials]\naws_access_key_id = theirs\naws_secret_access_key = theirs\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("BOTO_CONFIG", str(file))
    credentials = boto3.session.Session().get_credentials()
    assert credentials
    assert credentials.access_key == "theirs"  # others believe them
    with pytest.raises(NoCredentialsError):
        Places(None, "eu-west-1").keys()


def test_an_answer_that_comes_after_the_cancellation_opens_no_file_and_keeps_no_connection(tmp_path: Path) -> None:
    cancellation, closed = Cancellation(), []

    class LateClient:
        def credentials(self) -> None:
            """Have none."""

        def request(self, *_: Any, **__: Any) -> Any:
            cancellation.cancel(ClientLeft())
            return closing(SimpleNamespace(close=lambda: closed.append(True)))

    made = Storage(None, 1)
    made.__dict__["client"] = LateClient()
    with pytest.raises(ClientLeft):
        made.get_file("bucket", KEY, str(tmp_path / "file"), cancellation)
    cancellation.close()
    assert list(tmp_path.iterdir()) == []
    assert closed


def test_nothing_is_made_before_it_is_used() -> None:
    made = Storage("http://127.0.0.1:1", 4)
    assert "_pool" not in vars(made)
    assert "client" not in vars(made)


REFUSED_CREDENTIALS = [answer(403, code) for code in ("ExpiredToken", "InvalidAccessKeyId")]


@pytest.fixture
def first_keys(monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in (("AWS_ACCESS_KEY_ID", "first"), ("AWS_SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(name, value)
    return "first"


def key_of(made: Storage) -> str:
    """Return the key that a request would be signed with now."""
    return made.client._places.keys().access_key


@pytest.mark.parametrize("error", REFUSED_CREDENTIALS, ids=name_of)
def test_credentials_that_are_refused_are_looked_for_anew(
    error: Exception, first_keys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Storage(None, 1, retry_seconds=0.0, region="eu-north-1")
    assert key_of(made) == first_keys
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "second")
    with pytest.raises((StorageRefused, StorageUnavailable)):
        made._retried(Attempts(error))
    assert key_of(made) == "second"


def test_credentials_that_were_not_there_are_looked_for_anew(first_keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Storage(None, 1, region="eu-north-1")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StorageRefused):
        made._retried(Attempts(NoCredentialsError()))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "second")
    assert key_of(made) == "second"


def test_credentials_are_kept_whatever_else_is_answered(first_keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Storage(None, 1, region="eu-north-1")
    assert key_of(made) == first_keys
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "second")
    assert made._retried(Attempts(answer(503, "SlowDown"), answer(400, "RequestTimeout"))) == "done"
    assert key_of(made) == first_keys


@pytest.mark.parametrize("is_first", [True, False])
def test_credentials_that_another_thread_found_anew_are_kept(
    first_keys: str, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    made = Storage(None, 1, region="eu-north-1")
    if not is_first:
        assert key_of(made) == first_keys

    def attempt() -> str:
        if key_of(made) != first_keys:
            return "done"
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "second")
        made.client.forget_credentials(made.client.credentials())
        assert key_of(made) == "second"  # as another thread asks
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "third")
        raise answer(403, "ExpiredToken")

    assert made._retried(attempt) == "done"
    assert key_of(made) == "second"
