"""Where buckets are: where botocore's own client asks for them, whatever is set."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import _host_from_url
from botocore.exceptions import BotoCoreError, EndpointResolutionError, MissingDependencyException, ParamValidationError
from botocore.loaders import Loader
from botocore.session import Session

from model_server.s3_faults import NameRefused, final_error
from model_server.s3_place import Places
from model_server.s3_signature import encoded_key

PLAIN, DOTTED, ODD = "a-bucket", "a.bucket.with.dots", "Old_Bucket"
ACCESS_POINT = "arn:aws:s3:eu-central-1:123456789012:accesspoint/scans"
MULTI_REGION = "arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap"
KEY = "/leading//slash/../a+b c%~ü?#=&/./x"
EXPRESS = "scans--usw2-az1--x-s3"
LOOPBACK = "http://127.0.0.1:9000"

ALL: list[tuple[str, str | None, str | None, str]] = [
    *[(bucket, region, None, "") for bucket in (PLAIN, DOTTED) for region in ("us-east-1", "eu-north-1", None)],
    (PLAIN, "cn-north-1", None, ""),
    (PLAIN, "us-gov-west-1", None, ""),
    (ODD, "eu-north-1", None, ""),
    *[(bucket, "eu-north-1", LOOPBACK, "") for bucket in (PLAIN, DOTTED, ODD)],
    (PLAIN, None, LOOPBACK, ""),
    (PLAIN, "eu-north-1", "https://s3.example.org:9443/below/here/", ""),
    (PLAIN, "eu-north-1", "https://s3.example.org:443", ""),
    (PLAIN, "eu-north-1", "http://[::1]:9000", ""),
    (PLAIN, "eu-north-1", "http://S3.Example.org", ""),
    (PLAIN, "eu-north-1", LOOPBACK, "s3 =\n  addressing_style = virtual"),
    (PLAIN, "eu-north-1", "https://s3.example.org", "s3 =\n  addressing_style = virtual"),
    (PLAIN, "eu-north-1", "https://s3.example.org", "s3 =\n  addressing_style = path"),
    (PLAIN, "eu-north-1", None, "s3 =\n  addressing_style = path"),
    (PLAIN, "eu-north-1", None, "s3 =\n  addressing_style = virtual"),
    (PLAIN, "eu-north-1", None, "s3 =\n  addressing_style = auto"),
    (PLAIN, "eu-north-1", None, "use_dualstack_endpoint = true"),
    (PLAIN, "eu-north-1", None, "s3 =\n  use_dualstack_endpoint = true"),
    (PLAIN, "us-east-1", None, "use_fips_endpoint = true"),
    (PLAIN, "us-east-1", None, "use_fips_endpoint = true\nuse_dualstack_endpoint = true"),
    (PLAIN, "eu-north-1", LOOPBACK, "use_fips_endpoint = true\nuse_dualstack_endpoint = true"),
    (PLAIN, "us-east-1", None, "s3 =\n  us_east_1_regional_endpoint = regional"),
    (PLAIN, "us-east-1", None, "s3 =\n  us_east_1_regional_endpoint = legacy"),
    (PLAIN, "eu-north-1", None, "s3 =\n  use_accelerate_endpoint = true"),
    (PLAIN, "eu-north-1", None, "s3 =\n  use_accelerate_endpoint = false\n  use_dualstack_endpoint = false"),
    (PLAIN, "eu-north-1", None, "use_dualstack_endpoint = true\ns3 =\n  use_dualstack_endpoint = false"),
    (ACCESS_POINT, "eu-central-1", None, "s3 =\n  use_arn_region = false"),
    (ACCESS_POINT, "eu-central-1", None, ""),
    (ACCESS_POINT, "eu-north-1", None, ""),
    (ACCESS_POINT, "eu-north-1", None, "use_dualstack_endpoint = true"),
]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


LOADER = Loader()
"""Of botocore's descriptions, which are large: they are read once."""


class Sent(Exception):
    """Stops a request before it is sent."""


def where_botocore_asks(bucket: str, key: str, region: str | None, endpoint: str | None) -> tuple[str, str, str]:
    """Return the address of the first request for an object, its host, and the region and service it is signed for."""
    sent: list[Any] = []

    def keep(request: Any, **_: Any) -> None:
        sent.append(request)
        raise Sent

    session = Session()
    session.register_component("data_loader", LOADER)
    client = session.create_client("s3", region_name=region, endpoint_url=endpoint)
    client.meta.events.register("before-send.s3", keep)
    with pytest.raises(Sent):
        client.get_object(Bucket=bucket, Key=key)
    (request,) = sent
    authorization = request.headers["Authorization"].decode()
    scope = authorization.partition("Credential=AKID/")[2].partition(",")[0].partition("/")[2]
    address = urlsplit(request.url)
    return f"{address.scheme}://{_host_from_url(request.url)}{address.path}", _host_from_url(request.url), scope


@pytest.fixture
def config(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the settings of AWS's tools be these."""
    file = tmp_path / "config"
    file.write_text(f"[default]\n{request.param}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))


@pytest.mark.parametrize(("bucket", "region", "endpoint", "config"), ALL, indirect=["config"])
def test_a_bucket_is_where_botocore_asks_for_it(
    bucket: str, region: str | None, endpoint: str | None, config: None
) -> None:
    place = Places(endpoint, region).of(bucket)
    address, host, scope = where_botocore_asks(bucket, KEY, region, endpoint)
    assert f"{place.origin}{place.base}/{encoded_key(KEY)}" == address
    assert place.host == host
    assert scope.split("/")[:2] == [place.region, "s3"]
    assert place.session_signer is None


def test_a_bucket_that_wants_sessions_is_where_botocore_asks_for_one() -> None:
    place = Places(None, "us-west-2").of(EXPRESS)
    address, host, scope = where_botocore_asks(EXPRESS, "key", "us-west-2", None)
    assert (f"{place.origin}/", place.host, place.base) == (address, host, "")
    assert scope.split("/")[:2] == [place.region, "s3express"]
    assert place.session_signer


@pytest.mark.parametrize(
    ("bucket", "error"),
    [
        ("", ParamValidationError),
        ("a/b", ParamValidationError),
        ("bucket?x", ParamValidationError),
        ("evil.example.org#", ParamValidationError),
        ("user:secret@host", ParamValidationError),
        ("arn:aws:sns:eu-central-1:123456789012:topic", ParamValidationError),
        ("arn:aws:s3:eu-central-1:123456789012:accesspoint/a b", ParamValidationError),
        (ACCESS_POINT.replace("eu-central-1", "cn-north-1"), EndpointResolutionError),
        (MULTI_REGION, MissingDependencyException),
    ],
)
def test_a_name_that_no_bucket_of_ours_can_have_is_refused(bucket: str, error: type[BotoCoreError]) -> None:
    with pytest.raises(error) as caught:
        Places(None, "eu-north-1").of(bucket)
    assert isinstance(final_error(caught.value), NameRefused)


@pytest.mark.parametrize("region", ["us-east-1", "eu-north-1", None])
@pytest.mark.parametrize("bucket", [PLAIN, DOTTED])
def test_a_bucket_that_moved_is_where_it_is_asked_for_in_that_region(bucket: str, region: str | None) -> None:
    places = Places(None, region)
    places.of(bucket)
    places.move(bucket, "ap-south-1")
    there = Places(None, "ap-south-1").of(bucket)
    moved = places.of(bucket)
    assert (moved.origin, moved.base, moved.region) == (there.origin, there.base, "ap-south-1")
    assert places.of("another-bucket").region != "ap-south-1"


def test_a_bucket_at_a_server_of_its_own_moves_no_further_than_its_signature() -> None:
    places = Places(LOOPBACK, "us-east-1")
    before = places.of(PLAIN)
    places.move(PLAIN, "ap-south-1")
    assert places.of(PLAIN).origin == before.origin
    assert places.of(PLAIN).region == "ap-south-1"


def test_a_name_and_password_in_an_address_are_not_part_of_the_host() -> None:
    place = Places("http://someone:secret@s3.example.org:9000", "us-east-1").of(PLAIN)
    assert (place.origin, place.host) == ("http://s3.example.org:9000", "s3.example.org:9000")


def test_a_bucket_is_looked_up_once() -> None:
    places = Places(None, "eu-north-1")
    assert places.of(PLAIN) is places.of(PLAIN)
