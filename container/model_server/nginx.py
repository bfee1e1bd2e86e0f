"""nginx's configuration, from the template beside the executables."""

import os
import resource
import shutil
import signal
import socket
import string
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from .errors import MethodNotAllowed, StartFailed
from .prctl import end_with_parent
from .refusals import ERRORS, LOST, error_body
from .run_folder import RunFolder
from .settings import Settings

UPSTREAM_SECONDS = 2.0
TEMPLATE = Path(__file__).parent.parent / "nginx.conf"

ERROR_PATH = "/.error/"
"""Where the answers are in the configuration; nobody can ask for them. A named location fails on a malformed URI."""

PRIVATE_CODES = {494: 431, 495: 400, 496: 400, 497: 400}
"""nginx's own codes, of headers that are too large and of TLS, and the status that each is answered with."""


class NginxTemplate(string.Template):
    """Has @{name} for placeholders, because $ is nginx's own."""

    delimiter = "@"


CONFIGURATION = "nginx/nginx.conf"

SPARE_CONNECTIONS = 990
"""Beside those of requests that wait or run: 1,024 connections with the usual queue."""


def executable(own: str = sys.prefix) -> str:
    """Return the path of nginx: the one beside our own Python, else the machine's; raises StartFailed."""
    path = os.pathsep.join([os.defpath, "/usr/local/sbin", "/usr/sbin"])
    beside = os.pathsep.join([f"{own}/bin", f"{own}/sbin"])
    found = shutil.which("nginx", path=beside) or shutil.which("nginx") or shutil.which("nginx", path=path)
    if not found:
        raise StartFailed("nginx is not installed: install the package nginx-light or nginx")
    return found


def body(settings: Settings, folder: RunFolder) -> Callable[[], None]:
    """Return what nginx's process does: it drops root's rights, if it has them, and becomes nginx."""
    (folder.path / CONFIGURATION).write_text(_render(settings, folder))
    argv = [executable(), "-e", "stderr", "-p", ".", "-c", CONFIGURATION]
    return partial(_become_nginx, argv, folder.path, folder.nginx_id)


def _become_nginx(argv: list[str], folder: Path, user: int | None) -> None:
    os.chdir(folder)  # all its paths are relative to it: it may lie where the user that nginx drops to can't go
    if user is not None:  # not by nginx itself: it looks users up by name, and an image may have no /etc/passwd
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        end_with_parent(signal.SIGQUIT)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # Without a variable of ours, which others of its user could read.
    os.execve(argv[0], argv, {})  # noqa: S606 - there is no shell in it


def upstream_answers(folder: RunFolder) -> bool:
    """Say whether gunicorn answers GET /ping on its socket as the predictor does, also before tasks can run."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(UPSTREAM_SECONDS)
        try:
            connection.connect(str(folder.socket))
            connection.sendall(b"GET /ping HTTP/1.1\r\nHost: longshore\r\nConnection: close\r\n\r\n")
            return connection.recv(12) in (b"HTTP/1.1 200", b"HTTP/1.1 503")
        except OSError:
            return False


def is_listening(folder: RunFolder) -> bool:
    """Say whether nginx has its port: it writes its pid once it has."""
    return _pid_file(folder).exists()


def unsent(port: int) -> dict[str, int]:
    """Return, by the other end of each connection to a port, how many bytes have not come there yet, if any.

    The kernel's word, which anyone may read: nginx, another user where we are root, is asked nothing.
    """
    found = {}
    with suppress(OSError), open("/proc/net/tcp") as connections:
        for line in connections:
            _, local, remote, _, queues, *_ = line.split()
            if local.endswith(f":{port:04X}") and (waiting := int(queues.partition(":")[0], 16)):
                found[remote] = waiting
    return found


def _pid_file(folder: RunFolder) -> Path:
    return folder.nginx / "nginx.pid"


def _render(settings: Settings, folder: RunFolder) -> str:
    inside = folder.bodies.is_relative_to(folder.path)
    return NginxTemplate(TEMPLATE.read_text()).substitute(
        user="user root root;" if folder.nginx_id is None and os.geteuid() == 0 else "",  # not the nobody it takes
        port=settings.port,
        connections=2 * (settings.slots + settings.queue_limit) + SPARE_CONNECTIONS,
        socket=folder.socket.relative_to(folder.path),
        pid=_pid_file(folder).relative_to(folder.path),
        temporary=folder.nginx.relative_to(folder.path),
        bodies=_quoted(os.path.relpath(folder.bodies, folder.path) if inside else folder.bodies),
        body_limit=f"{settings.body_limit_mb}m",
        error_pages="\n".join(
            f"        error_page {code} = {ERROR_PATH}{status};"
            for code, status in ({status: status for status in ERRORS} | PRIVATE_CODES).items()
        ),
        error_locations="\n".join(_location(status) for status in ERRORS),
    )


def _location(status: int) -> str:
    before = {
        MethodNotAllowed.http_status: "add_header Allow $allowed_methods always; ",
        LOST: f"if ($never_reached_gunicorn) {{ {_return(503)} }} ",
    }.get(status, "")
    return f"        location = {ERROR_PATH}{status} {{ internal; {before}{_return(status)} }}"


def _return(status: int) -> str:
    body = error_body(status).replace("'", r"\u0027")  # which would end nginx's string
    return f"return {status} '{body}';"


def _quoted(value: object) -> str:
    text = str(value)
    if any(character in text for character in '"\\\n$'):
        raise StartFailed(f"nginx can not be given the path {text!r}")
    return f'"{text}"'
