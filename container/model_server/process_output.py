"""What nginx, gunicorn and crashing processes print: read from a pipe, and logged as lines of ours."""

import logging
import os
import re

from .logs import logger

READ_BYTES = 64 * 1024
MAX_LINE_BYTES = 64 * 1024

_QUERY = re.compile(rb'\?\S+?(?=",? |"?$|\s)')
"""What a client has put behind the path of a request, which nginx repeats between quotes: it may be a secret."""

_NGINX_LEVEL = re.compile(rb"\[(warn|error|crit|alert|emerg)\]")


class ProcessOutput:
    """One process's stdout and stderr; `reader` is the non-blocking end of its pipe."""

    def __init__(self, name: str, reader: int) -> None:
        self._name = name
        self._reader = reader
        self._open = b""

    def fileno(self) -> int:
        return self._reader

    def read(self) -> bool:
        """Log the lines that have come; return whether there may be more later."""
        try:
            chunk = os.read(self._reader, READ_BYTES)
        except BlockingIOError:
            return True
        *lines, self._open = (self._open + chunk).split(b"\n")
        if self._open and (not chunk or len(self._open) > MAX_LINE_BYTES):
            lines.append(self._open)
            self._open = b""
        for line in lines:
            line = _QUERY.sub(b"?...", line) if _NGINX_LEVEL.search(line) else line
            logger.log(_level(line), "%s: %s", self._name, line.decode(errors="replace"))
        return bool(chunk)

    def close(self) -> None:
        os.close(self._reader)


def _level(line: bytes) -> int:
    """Return the level that nginx gives a line; whatever else is printed there is a fault."""
    found = _NGINX_LEVEL.search(line)
    return logging.WARNING if found and found[1] == b"warn" else logging.ERROR
