"""How the values of settings are read: from text in the environment to what the program works with."""

import json
import sys
from base64 import b64decode
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretBytes

from .s3_uri import S3Address, parse_s3_uri

NO_PLUGINS = ModuleType("pydantic.plugin._loader")
"""In the place of what looks for plugins of pydantic in the metadata of every package, at its first model."""

vars(NO_PLUGINS)["get_plugins"] = tuple
sys.modules.setdefault(NO_PLUGINS.__name__, NO_PLUGINS)

MOST_TRANSFERS = 256
"""The drop-in's are not threads: what asks for more of them than do any good is no mistake."""

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


def read_paths(text: str) -> tuple[Path, ...]:
    """Return the paths of a list with colons, as PATH is one; empty places are dropped."""
    return tuple(Path(part) for part in text.split(":") if part)


def _mode(text: Any) -> Any:
    """Read a mode by our name or the drop-in's."""
    return {"invoke": "resident"}.get(text.lower(), text.lower()) if isinstance(text, str) else text


def _object(text: str) -> S3Address:
    address = parse_s3_uri(text)
    if not address.key:
        raise ValueError("must name an object, like s3://bucket/key")
    return address


def _upper(text: Any) -> Any:
    return text.upper() if isinstance(text, str) else text


CommandSetting = Annotated[Command | None, BeforeValidator(_command)]
EncodedCommand = Annotated[Command | None, BeforeValidator(_b64_command)]
HexKey = Annotated[SecretBytes | None, BeforeValidator(_hex_key)]
Mode = Annotated[Literal["exec", "resident"], BeforeValidator(_mode)]
OnlyTrue = Annotated[bool, BeforeValidator(_only_true)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(read_paths)]
Port = Annotated[int, Field(ge=1, le=65535)]
S3Uri = Annotated[S3Address | None, BeforeValidator(_object)]
Transfers = Annotated[int, Field(ge=1), AfterValidator(lambda number: min(number, MOST_TRANSFERS))]
Upper = BeforeValidator(_upper)
