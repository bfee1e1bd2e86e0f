"""How the values of settings are read: from text in the environment to what the program works with."""

import json
from base64 import b64decode
from contextlib import suppress
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretBytes

Command = list[str] | str
"""A Dockerfile's exec form (a list) or shell form (a string)."""


def _command(text: str) -> Any:
    """Read a JSON list or JSON string; anything else is the shell form as it stands."""
    stripped = text.strip()
    if not stripped.startswith(("[", '"')):
        return text
    try:
        return json.loads(stripped)
    except (ValueError, RecursionError):
        raise ValueError("must be a JSON list of strings, or a command line") from None


def _b64_command(text: str) -> Any:
    try:
        return json.loads(b64decode(text, validate=True))
    except (ValueError, RecursionError):
        raise ValueError("must be base64 of a JSON list, a JSON string or null") from None


def _hex_key(text: str) -> bytes:
    with suppress(ValueError):
        if key := bytes.fromhex(text):  # spaces alone would be the empty key
            return key
    raise ValueError("must be hexadecimal digits, two for each byte")


def _only_true(text: Any) -> Any:
    """The drop-in's rule: `true` in any case, or not."""
    return text.lower() == "true" if isinstance(text, str) else text


def _upper(text: Any) -> Any:
    return text.upper() if isinstance(text, str) else text


CommandSetting = Annotated[Command | None, BeforeValidator(_command)]
EncodedCommand = Annotated[Command | None, BeforeValidator(_b64_command)]
HexKey = Annotated[SecretBytes | None, BeforeValidator(_hex_key)]
OnlyTrue = Annotated[bool, BeforeValidator(_only_true)]
Port = Annotated[int, Field(ge=1, le=65535)]
Upper = BeforeValidator(_upper)
