"""Who we are to a registry: what AWS gives for ECR, and what `docker login` has left for all others."""

import base64
import binascii
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .image_errors import CredentialsUnusable
from .image_reference import DOCKER_HUB
from .settings import docker_folder_of

HUB_KEY = "https://index.docker.io/v1/"
"""What Docker Hub is called where Docker keeps its logins."""

ECR = re.compile(
    r"(?P<account>\d{12})\.dkr[.-]ecr(?P<fips>-fips)?\.(?P<region>[a-z0-9-]+)\."
    r"(?:amazonaws\.(?:com|com\.cn|eu)|on\.aws|on\.amazonwebservices\.com\.cn)"
)
AWS_LOGIN = "Log in by `aws configure`, `aws sso login` or AWS_PROFILE."

TOKEN_USER = "<token>"  # noqa: S105 - Docker's name for nobody
"""Whom a key ring names where the secret is a token and no password."""

HELPER_NAME = re.compile(r"[A-Za-z0-9_.-]+")
HELPER_SECONDS = 60
NOT_FOUND = "credentials not found"
"""What a credential helper says of a registry where nobody is logged in."""


@dataclass(frozen=True)
class Credentials:
    """A user and a password, or a token that is exchanged for others; neither is ever shown."""

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """What an Authorization header says of a user and a password."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def how_to_log_in(host: str) -> str:
    """Return the command; Docker Hub's has no host, for Docker keeps that login under another name."""
    return "docker login" if host == DOCKER_HUB else f"docker login {host}"


def credentials_for(host: str) -> Credentials | None:
    """Find who we are to a registry: None is nobody in particular. Raises CredentialsUnusable."""
    ecr = ECR.fullmatch(host)
    if ecr:
        return _of_aws(host, ecr)
    return _of_docker(host)


# --- ECR


def _of_aws(host: str, ecr: re.Match[str]) -> Credentials | None:
    """Ask AWS for a password, which is good for twelve hours; without AWS credentials Docker's login has to do."""
    import boto3  # not at the top: most registries are not AWS's
    from botocore.config import Config
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        SSOError,
        TokenRetrievalError,
    )

    config = Config(use_fips_endpoint=bool(ecr["fips"]) or None, connect_timeout=10, read_timeout=30)
    try:
        client = boto3.client("ecr", region_name=ecr["region"], config=config)
        answer = client.get_authorization_token()
        token = answer["authorizationData"][0]["authorizationToken"]
        user, _, password = base64.b64decode(token).decode().partition(":")
    except NoCredentialsError:
        login = _of_docker(host)
        if login:
            return login
        raise CredentialsUnusable(host, "there are no AWS credentials", AWS_LOGIN) from None
    except (SSOError, TokenRetrievalError):
        raise CredentialsUnusable(host, "the AWS login has expired", AWS_LOGIN) from None
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        hint = "You need the right ecr:GetAuthorizationToken." if "AccessDenied" in code else AWS_LOGIN
        raise CredentialsUnusable(host, f"AWS says {code or 'no'}", hint) from None
    except (BotoCoreError, ValueError, LookupError) as error:
        raise CredentialsUnusable(host, f"AWS can not be asked ({type(error).__name__})") from None
    return Credentials(user, password)


# --- what Docker keeps


def _of_docker(host: str) -> Credentials | None:
    file = docker_folder_of() / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CredentialsUnusable(host, f"{file} can not be read ({type(error).__name__})") from None
    if not isinstance(config, dict):
        raise CredentialsUnusable(host, f"{file} is no object of JSON")
    key = HUB_KEY if host == DOCKER_HUB else host
    helpers = _part(config, "credHelpers")
    helper = next((name for server, name in helpers.items() if _same_registry(server, key)), config.get("credsStore"))
    if helper:
        found = _of_helper(host, key, str(helper))
        if found:
            return found
    for server, entry in _part(config, "auths").items():
        if _same_registry(server, key) and isinstance(entry, dict) and (found := _of_entry(host, file, entry)):
            return found
    return None


def _part(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def _same_registry(server: str, key: str) -> bool:
    """Compare what Docker keeps logins under: old ones are addresses, with a scheme and a path."""
    hosts = [re.sub(r"^https?://", "", text).partition("/")[0] for text in (server, key)]
    return hosts[0] == hosts[1] or (key == HUB_KEY and hosts[0] == "docker.io")


def _of_entry(host: str, file: Path, entry: Mapping[str, Any]) -> Credentials | None:
    user, password, token = (entry.get(name) or "" for name in ("username", "password", "identitytoken"))
    is_readable = all(isinstance(part, str) for part in (user, password, token))
    if entry.get("auth"):
        try:
            user, colon, password = base64.b64decode(entry["auth"]).decode().partition(":")
            is_readable = is_readable and bool(colon)
        except (binascii.Error, ValueError, TypeError):
            is_readable = False
    if not is_readable:
        hint = f"Log in again: {how_to_log_in(host)}"
        raise CredentialsUnusable(host, f"{file} has none that can be read", hint)
    if not token and not user:
        return None
    return Credentials(user, password.rstrip("\0"), token)


def _of_helper(host: str, key: str, name: str) -> Credentials | None:
    """Ask a key ring through its program, docker-credential-NAME."""
    program = f"docker-credential-{name}"
    if not HELPER_NAME.fullmatch(name):
        raise CredentialsUnusable(host, "Docker's config.json names a credential helper that can not be one")
    try:
        done = subprocess.run(
            [program, "get"], input=key, capture_output=True, text=True, timeout=HELPER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = "does not end" if isinstance(error, subprocess.TimeoutExpired) else "can not be run"
        raise CredentialsUnusable(host, f"{program}, which Docker's config.json names, {why}") from None
    if done.returncode:
        if NOT_FOUND in done.stdout + done.stderr:
            return None
        raise CredentialsUnusable(host, f"{program} ended with exit code {done.returncode}")
    try:
        answer = json.loads(done.stdout)
        user, secret = str(answer.get("Username") or ""), str(answer.get("Secret") or "")
    except (ValueError, AttributeError):
        raise CredentialsUnusable(host, f"{program} answered what is no JSON object") from None
    if user == TOKEN_USER:
        return Credentials(identity_token=secret)
    return Credentials(user, secret) if user or secret else None
