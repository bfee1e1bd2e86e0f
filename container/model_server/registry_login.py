"""The dance before a registry answers: its challenge, the token server that it names, and the header that it wants."""

import json
import re
import time
from collections.abc import Mapping
from threading import Lock
from typing import Any
from urllib.parse import urlencode, urlsplit

import urllib3

from .image_errors import CredentialsUnusable, RegistryFailed, RegistryUnreachable
from .registry_credentials import Credentials, credentials_for, how_to_log_in
from .registry_http import Http, content, in_words, is_confidential

DEFAULT_TOKEN_SECONDS = 60
"""How long a token is good whose server does not say so."""

SPARE_SECONDS = 10
CLIENT_ID = "longshore"

PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


class Login:
    """Knows what to say to one registry that asks who we are; a scope is what we want to do there."""

    def __init__(self, host: str, http: Http) -> None:
        self._host = host
        self._http = http
        self._lock = Lock()
        self._headers: dict[tuple[str, ...], tuple[str, float]] = {}
        self._basic = ""
        self._credentials: Credentials | None = None
        self._is_looked_up = False

    def header(self, scopes: tuple[str, ...]) -> str:
        """Return the Authorization header that is good now; without one, "" waits for the registry's challenge."""
        with self._lock:
            header, until = self._headers.get(scopes, ("", 0.0))
            return header if time.monotonic() < until else self._basic

    def answer(self, challenges: list[str], scopes: tuple[str, ...], refused: str) -> bool:
        """Find a header for a challenge of the registry, which has just refused one; say False if there is no other."""
        with self._lock:
            current, until = self._headers.get(scopes, ("", 0.0))
            if (current and current != refused and time.monotonic() < until) or (
                self._basic and self._basic != refused
            ):
                return True  # another thread has found it meanwhile
            for challenge in challenges:
                kind, _, rest = challenge.strip().partition(" ")
                if kind.lower() == "bearer":
                    token, seconds = self._token(_parameters(rest), scopes)
                    self._headers[scopes] = (f"Bearer {token}", time.monotonic() + seconds)
                    return self._headers[scopes][0] != refused
                if kind.lower() == "basic":
                    return self._answer_basic(refused)
            raise RegistryFailed(self._host, "it asks for a kind of login that is not known here")

    @property
    def is_anonymous(self) -> bool:
        """Say whether we are nobody in particular to the registry."""
        return not self._look_up()

    def _answer_basic(self, refused: str) -> bool:
        credentials = self._look_up(again=bool(refused))
        if not credentials or not credentials.user:
            return False
        self._basic = credentials.basic
        return self._basic != refused

    def _look_up(self, again: bool = False) -> Credentials | None:
        if again or not self._is_looked_up:
            self._credentials = credentials_for(self._host)
            self._is_looked_up = True
        return self._credentials

    def _token(self, challenge: Mapping[str, str], scopes: tuple[str, ...]) -> tuple[str, float]:
        """Fetch a token, and how many seconds it is good for."""
        realm = challenge.get("realm", "")
        if not is_confidential(realm):
            raise RegistryFailed(self._host, "the token server that it names is not encrypted")
        credentials = self._look_up()
        question = [("service", challenge["service"])] if "service" in challenge else []
        if credentials and credentials.identity_token:
            form = [*question, ("grant_type", "refresh_token"), ("client_id", CLIENT_ID), ("scope", " ".join(scopes))]
            body = urlencode([*form, ("refresh_token", credentials.identity_token)]).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = self._json(realm, "POST", realm, headers, body)
        else:
            question += [("scope", scope) for scope in scopes]
            if credentials:
                question.append(("account", credentials.user))
            address = f"{realm}{'&' if urlsplit(realm).query else '?'}{urlencode(question)}"
            headers = {"Authorization": credentials.basic} if credentials else {}
            answer = self._json(realm, "GET", address, headers)
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
            raise RegistryFailed(self._host, "its token server answers without a token")
        seconds = answer.get("expires_in")
        if not isinstance(seconds, (int, float)) or seconds <= 0:
            seconds = DEFAULT_TOKEN_SECONDS
        return token, max(seconds - SPARE_SECONDS, seconds / 2)

    def _json(
        self, realm: str, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> dict[str, Any]:
        """Return what a token server answers; none of it is said to the user, for it may be a token."""
        server = urlsplit(realm).netloc
        try:
            response = self._http.ask(method, url, headers, body)
            data = content(response)
        except urllib3.exceptions.HTTPError as fault:
            raise RegistryUnreachable(server, in_words(fault)) from fault
        if response.status in (400, 401, 403):
            hint = f"Log in again: {how_to_log_in(self._host)}"
            raise CredentialsUnusable(self._host, f"its token server refuses them ({response.status})", hint)
        if response.status != 200:
            raise RegistryFailed(server, f"it answers {response.status} to who wants a token")
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise RegistryFailed(server, "it answers what is no JSON object to who wants a token")
        return answer


def _parameters(text: str) -> dict[str, str]:
    """Read what a challenge says behind its kind."""
    return {name.lower(): re.sub(r"\\(.)", r"\1", quoted) or plain for name, quoted, plain in PARAMETER.findall(text)}
