"""HTTP as registries need it: redirects that take no credentials along, proxies, and patience with bad days."""

import email.utils
import socket
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from urllib.parse import unquote, urljoin, urlsplit

import urllib3

from .image_errors import RegistryFailed, RegistryUnreachable
from .image_reference import is_loopback

CONNECT_SECONDS = 10
READ_SECONDS = 60
PATIENCE_SECONDS = 45
"""How long is waited, all pauses together, until a registry that fails is given up."""

FIRST_PAUSE_SECONDS = 0.5
UNANSWERED_PAUSES = 2
"""How often a connection is tried again that nobody takes."""

MAX_REDIRECTS = 5
CONNECTIONS = 8
MAX_ANSWER_BYTES = 16 << 20
"""More than any manifest, config, token or sentence has."""

PASSING_FAULTS = {408, 429, 500, 502, 503, 504}

Body = bytes | Iterable[bytes] | None
Response = urllib3.BaseHTTPResponse


class Patience:
    """Waits before something is tried again, longer each time, until it has waited long enough."""

    def __init__(self, seconds: float = PATIENCE_SECONDS, sleep: Callable[[float], None] = time.sleep) -> None:
        self._left = seconds
        self._sleep = sleep
        self._pause = FIRST_PAUSE_SECONDS
        self.pauses = 0

    def wait(self, asked_seconds: float = 0) -> bool:
        """Wait at least as long as the registry asked for; say False instead where that is longer than is left."""
        pause = max(self._pause, asked_seconds)
        if pause > self._left:
            return False
        self._left -= pause
        self._pause *= 2
        self.pauses += 1
        self._sleep(pause)
        return True


class Http:
    """Sends requests, several at a time if need be."""

    def __init__(self) -> None:
        self._timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        self._direct = urllib3.PoolManager(maxsize=CONNECTIONS, timeout=self._timeout, retries=False)
        self._proxies: dict[str, urllib3.ProxyManager] = {}
        self._lock = Lock()

    def close(self) -> None:
        for manager in (self._direct, *self._proxies.values()):
            manager.clear()

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body = None) -> Response:
        """Send a request, follow its redirects, and return the answer with its body yet to be read.

        What says who asks goes to nobody but the host of `url`. Raises urllib3's HTTPError.
        """
        home = origin(url)
        for _ in range(MAX_REDIRECTS):
            allowed = dict(headers)
            if origin(url) != home:
                allowed.pop("Authorization", None)
            response = self._manager(url).request(
                method, url, headers=allowed, body=body, redirect=False, preload_content=False, decode_content=False
            )
            place = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or method not in ("GET", "HEAD") or not place:
                return response
            discard(response)
            url = led_to(url, place)
            if not is_confidential(url):
                raise RegistryFailed(urlsplit(home).netloc, "it leads to an address that is not encrypted")
        raise RegistryFailed(urlsplit(home).netloc, "it leads from one address to the next without end")

    def ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Response:
        """Send a request, and again while the registry has a bad moment; raises RegistryUnreachable."""
        patience = Patience()
        while True:
            try:
                response = self.send(method, url, headers, body)
            except urllib3.exceptions.HTTPError as fault:
                if (is_unanswered(fault) and patience.pauses >= UNANSWERED_PAUSES) or not patience.wait():
                    raise RegistryUnreachable(urlsplit(url).netloc, in_words(fault)) from fault
                continue
            if response.status not in PASSING_FAULTS or not patience.wait(asked_pause(response)):
                return response
            discard(response)

    def _manager(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        host = parts.hostname or ""
        proxy = urllib.request.getproxies().get(parts.scheme)
        if not proxy or is_loopback(host) or urllib.request.proxy_bypass(host):
            return self._direct
        with self._lock:
            if proxy not in self._proxies:
                self._proxies[proxy] = _through(proxy, self._timeout)
            return self._proxies[proxy]


def _through(proxy: str, timeout: urllib3.Timeout) -> urllib3.ProxyManager:
    address = proxy if "://" in proxy else f"http://{proxy}"
    parts = urlsplit(address)
    headers = None
    if parts.username is not None:
        headers = urllib3.make_headers(proxy_basic_auth=unquote(f"{parts.username}:{parts.password or ''}"))
        address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return urllib3.ProxyManager(address, proxy_headers=headers, maxsize=CONNECTIONS, timeout=timeout, retries=False)


def origin(url: str) -> str:
    """Return the scheme, the host and the port of an address."""
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def led_to(url: str, place: str) -> str:
    """Return the address that an answer from another leads to; "" is for what can be none."""
    try:
        return urljoin(url, place)
    except ValueError:
        return ""


def is_confidential(url: str) -> bool:
    """Say whether what goes to an address is encrypted, or stays on this machine; no address is neither."""
    try:
        origin(url)
    except ValueError:
        return False
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))


def content(response: Response) -> bytes:
    """Read an answer that has to be small; raises urllib3's HTTPError where it breaks off."""
    data = response.read(MAX_ANSWER_BYTES + 1, decode_content=False)
    if len(data) > MAX_ANSWER_BYTES:
        response.close()
        raise urllib3.exceptions.HTTPError(f"an answer of more than {MAX_ANSWER_BYTES >> 20} MiB")
    response.release_conn()
    return data


def discard(response: Response) -> None:
    """Have done with an answer that nobody reads."""
    response.close()
    response.release_conn()


def asked_pause(response: Response) -> float:
    """Return how many seconds the registry asks us to wait: it says a number, or a time by its own clock."""
    asked = response.headers.get("Retry-After", "")
    if asked.isascii() and asked.isdigit():
        return float(asked)
    try:
        until, now = (email.utils.parsedate_to_datetime(text) for text in (asked, response.headers.get("Date", "")))
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def is_unanswered(fault: BaseException) -> bool:
    """Say whether there was nobody who took the connection."""
    kinds = urllib3.exceptions
    return isinstance(fault, (kinds.NewConnectionError, kinds.ConnectTimeoutError, kinds.SSLError, kinds.ProxyError))


def in_words(fault: BaseException) -> str:
    """Say in words why there was no answer."""
    causes = [fault]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)
    kinds = (
        (urllib3.exceptions.NameResolutionError, "its name is not known here"),
        (socket.gaierror, "its name is not known here"),
        (urllib3.exceptions.ProxyError, "the proxy does not lead there"),
        (ConnectionRefusedError, "it refuses the connection"),
        (urllib3.exceptions.SSLError, "its certificate is not trusted, or it does not speak TLS"),
        (urllib3.exceptions.TimeoutError, "it takes too long"),
        (TimeoutError, "it takes too long"),
        (urllib3.exceptions.NewConnectionError, "it can not be reached from here"),
    )
    for kind, words in kinds:
        if any(isinstance(cause, kind) for cause in causes):
            return words
    return "the connection breaks off"
