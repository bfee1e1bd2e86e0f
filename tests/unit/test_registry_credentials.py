"""Who we are to a registry: what `docker login` leaves, and what AWS gives for ECR."""

import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
import urllib3
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.exceptions import EndpointConnectionError, UnauthorizedSSOTokenError

from model_server.image_errors import CredentialsUnusable
from model_server.image_reference import DOCKER_HUB
from model_server.registry_credentials import ECR, HUB_KEY, Credentials, credentials_for

HOST = "registry.example.com:5000"
ECR_HOST = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
SECRET = "a secret: word"
NOT_FOUND = "credentials not found in native keychain"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


AUTH = {"auth": encoded(f"me:{SECRET}")}
ME = Credentials("me", SECRET)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Docker's, which is also the first where programs are found."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


@pytest.fixture
def logins(folder: Path) -> Callable[[Any], None]:
    """Writes what Docker keeps; its key ring `ring` has nothing but a login at `HOST`."""
    answer = json.dumps({"Username": "me", "Secret": SECRET})
    helper(folder, "ring", f"[ \"$(cat)\" = {HOST} ] && echo '{answer}' || {{ echo {NOT_FOUND}; exit 1; }}")

    def write(config: Any) -> None:
        (folder / "config.json").write_text(json.dumps(config))

    return write


def helper(folder: Path, name: str, script: str) -> None:
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def refusal_of(host: str) -> str:
    with pytest.raises(CredentialsUnusable) as error:
        credentials_for(host)
    assert SECRET not in str(error.value)
    assert error.value.__suppress_context__ or not error.value.__context__  # an error of others may hold one
    return str(error.value)


# -- Docker's file


@pytest.mark.parametrize(
    ("host", "config", "expected"),
    [
        (HOST, {}, None),
        (HOST, {"auths": {}}, None),
        (HOST, {"auths": {HOST: {}}}, None),
        (HOST, {"auths": {"other.example.com": AUTH}}, None),
        (HOST, {"auths": {"registry.example.com": AUTH}}, None),
        (HOST, {"auths": {HOST: AUTH}}, ME),
        (HOST, {"auths": {f"https://{HOST}/v1/": AUTH}}, ME),
        (HOST, {"auths": {HOST: {"username": "me", "password": SECRET}}}, ME),
        (HOST, {"auths": {HOST: {"identitytoken": "token"}}}, Credentials(identity_token="token")),
        (HOST, {"auths": {HOST: AUTH | {"identitytoken": "token"}}}, Credentials("me", SECRET, "token")),
        (DOCKER_HUB, {"auths": {HUB_KEY: AUTH}}, ME),
        (DOCKER_HUB, {"auths": {"docker.io": AUTH}}, ME),
        (DOCKER_HUB, {"auths": {HOST: AUTH}}, None),
        (HOST, {"credsStore": "ring", "auths": {HOST: {}}}, ME),
        (HOST, {"credHelpers": {HOST: "ring"}}, ME),
        (HOST, {"credHelpers": {HOST: "ring"}, "credsStore": "no-such-ring"}, ME),
        ("other.example.com", {"credsStore": "ring"}, None),
        ("other.example.com", {"credsStore": "ring", "auths": {"other.example.com": AUTH}}, ME),
        ("other.example.com", {"credHelpers": {HOST: "ring"}}, None),
        (HOST, {"auths": [], "credHelpers": 7}, None),
    ],
)
def test_a_login_is_found_where_docker_left_it(
    logins: Callable[[Any], None], host: str, config: Any, expected: Credentials | None
) -> None:
    logins(config)
    assert credentials_for(host) == expected


def test_without_docker_nobody_is_logged_in(folder: Path) -> None:
    assert credentials_for(HOST) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "config.json can not be read"),
        ("[]", "config.json is no object of JSON"),
        (json.dumps({"auths": {HOST: {"auth": "%"}}}), f"none that can be read. Log in again: docker login {HOST}"),
        (json.dumps({"auths": {HOST: {"auth": encoded("me")}}}), "none that can be read"),
        (json.dumps({"auths": {HOST: {"auth": 7}}}), "none that can be read"),
        (json.dumps({"auths": {HOST: {"username": 7, "password": []}}}), "none that can be read"),
        (json.dumps({"credsStore": "no-such-ring"}), "docker-credential-no-such-ring, which Docker's config.json"),
        (json.dumps({"credsStore": "../ring"}), "names a credential helper that can not be one"),
    ],
)
def test_a_file_that_is_damaged_is_named(folder: Path, text: str, why: str) -> None:
    (folder / "config.json").write_text(text)
    assert why in refusal_of(HOST)


def test_docker_hubs_login_is_under_another_name(logins: Callable[[Any], None]) -> None:
    logins({"auths": {HUB_KEY: {"auth": "%"}}})
    assert refusal_of(DOCKER_HUB).endswith("Log in again: docker login")


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (f"echo '{json.dumps({'Username': '<token>', 'Secret': 'token'})}'", Credentials(identity_token="token")),
        ("echo '{}'", None),
        (f"echo {NOT_FOUND} >&2; exit 1", None),
        (f"echo '{SECRET}'", "answered what is no JSON object"),
        ("echo '[]'", "answered what is no JSON object"),
        (f"echo '{SECRET}' >&2; exit 3", "ended with exit code 3"),
    ],
)
def test_what_a_key_ring_answers(
    folder: Path, logins: Callable[[Any], None], script: str, expected: Credentials | str | None
) -> None:
    helper(folder, "other", f"cat > /dev/null; {script}")
    logins({"credsStore": "other"})
    if isinstance(expected, str):
        assert expected in refusal_of(HOST)
    else:
        assert credentials_for(HOST) == expected


def test_credentials_are_not_shown() -> None:
    assert SECRET not in f"{ME!r} {ME}"


# -- ECR


@dataclass
class Aws:
    """What is sent to AWS, and what it answers."""

    requests: list[AWSPreparedRequest] = field(default_factory=list)
    status: int = 200
    answer: Any = field(default_factory=lambda: {"authorizationData": [{"authorizationToken": encoded("AWS:word")}]})
    fault: Exception | None = None

    def send(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        self.requests.append(request)
        if self.fault:
            raise self.fault
        raw = urllib3.HTTPResponse(io.BytesIO(json.dumps(self.answer).encode()), preload_content=False)
        return AWSResponse(request.url, self.status, {}, raw)


@pytest.fixture
def aws(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Aws:
    """AWS, as far as boto3 can tell: what it sends goes nowhere."""
    variables = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
    variables |= {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    for name, value in (variables | {"AWS_REGION": "us-west-2", "AWS_DEFAULT_REGION": "us-west-2"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    aws, session = Aws(), boto3.Session()
    session.events.register("before-send.ecr", aws.send)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)
    return aws


@pytest.mark.parametrize(
    ("host", "region", "endpoint"),
    [
        (ECR_HOST, "eu-west-1", ".eu-west-1.amazonaws.com"),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1", ".cn-north-1.amazonaws.com.cn"),
        ("123456789012.dkr.ecr.us-gov-west-1.amazonaws.com", "us-gov-west-1", ".us-gov-west-1.amazonaws.com"),
        ("123456789012.dkr.ecr-fips.us-east-1.amazonaws.com", "us-east-1", "-fips.us-east-1.amazonaws.com"),
        ("123456789012.dkr-ecr.eu-west-1.on.aws", "eu-west-1", ".eu-west-1.amazonaws.com"),
    ],
)
def test_ecr_is_asked_in_the_region_and_the_partition_of_the_registry(
    aws: Aws, host: str, region: str, endpoint: str
) -> None:
    """Not in the one that the environment names."""
    assert credentials_for(host) == Credentials("AWS", "word")
    (request,) = aws.requests
    assert str(request.url).endswith(f"ecr{endpoint}/")
    assert f"/{region}/ecr/aws4_request" in str(request.headers["Authorization"])


@pytest.mark.parametrize(
    "host",
    [
        "public.ecr.aws",
        "12345678901.dkr.ecr.eu-west-1.amazonaws.com",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com.example.com",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com:443",
        "123456789012.dkr.ecr.eu-west-1.example.com",
        "123456789012.dkr.ecr.eu.west.1.amazonaws.com",
        "example.com.123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        "123456789012.dkr.s3.eu-west-1.amazonaws.com",
        "123456789012xdkr.ecr.eu-west-1.amazonaws.com",
        HOST,
        DOCKER_HUB,
    ],
)
def test_no_other_host_is_given_what_is_ecrs(aws: Aws, host: str) -> None:
    assert not ECR.fullmatch(host)
    assert credentials_for(host) is None
    assert not aws.requests


def test_ecrs_password_is_got_from_a_real_service(
    folder: Path, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    assert credentials_for(ECR_HOST) == Credentials("AWS", "123456789012-auth-token")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("AccessDeniedException", "AWS says AccessDeniedException. You need the right ecr:GetAuthorizationToken."),
        ("ExpiredTokenException", "AWS says ExpiredTokenException. Log in by `aws configure`, `aws sso login`"),
        ("UnrecognizedClientException", "AWS says UnrecognizedClientException. Log in by"),
    ],
)
def test_what_aws_refuses_is_one_sentence_and_what_to_do(aws: Aws, code: str, sentence: str) -> None:
    aws.status, aws.answer = 400, {"__type": code, "message": f"about {SECRET}"}
    assert refusal_of(ECR_HOST).startswith(f"The credentials for {ECR_HOST} can not be had: {sentence}")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (UnauthorizedSSOTokenError(), "the AWS login has expired. Log in by `aws configure`, `aws sso login`"),
        (EndpointConnectionError(endpoint_url=SECRET), "AWS can not be asked (EndpointConnectionError)."),
    ],
)
def test_an_aws_that_can_not_be_asked_is_one_sentence(aws: Aws, fault: Exception, sentence: str) -> None:
    aws.fault = fault
    assert sentence in refusal_of(ECR_HOST)


@pytest.mark.parametrize(
    "answer", [{}, {"authorizationData": []}, {"authorizationData": [{"authorizationToken": "\xff"}]}]
)
def test_an_answer_of_aws_without_a_token_is_one_sentence(aws: Aws, answer: Any) -> None:
    aws.answer = answer
    assert "AWS can not be asked" in refusal_of(ECR_HOST)


def test_without_aws_credentials_dockers_login_has_to_do(
    aws: Aws, logins: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert "there are no AWS credentials. Log in by `aws configure`" in refusal_of(ECR_HOST)
    logins({"auths": {ECR_HOST: AUTH}})
    assert credentials_for(ECR_HOST) == ME


def test_an_aws_profile_that_is_not_there_is_one_sentence(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_PROFILE", "none")
    assert "AWS can not be asked (ProfileNotFound)" in refusal_of(ECR_HOST)
