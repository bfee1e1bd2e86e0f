"""What is different between two configs of an image, for people."""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

from .adaptation import KEPT

FIELDS = ("Entrypoint", "Cmd", "User", "WorkingDir", "StopSignal", "Healthcheck", "OnBuild")


def config_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a line for each thing that goes (-) or comes (+); what stays as it is has none."""
    old, new = before.get("config") or {}, after.get("config") or {}
    lines = [line for field in FIELDS for line in _changed(field, old.get(field), new.get(field))]
    for name, parts in (("Env", _variables), ("Labels", _labels)):
        had, has = parts(old), parts(new)
        for key in [*had, *(key for key in has if key not in had)]:
            if key not in has and has.get(KEPT + key) == had[key]:
                lines.append(f"- Env {_plain(key)}, which is for the image's program alone now")  # it may be a secret
            elif not (key.startswith(KEPT) and had.get(key.removeprefix(KEPT)) == has.get(key)):
                lines += _changed(f"{name} {_plain(key)}", had.get(key), has.get(key))
    return lines


def _plain(key: str) -> str:
    """Show a name as one that breaks no line."""
    return json.dumps(key, ensure_ascii=False)[1:-1]


def _changed(what: str, old: Any, new: Any) -> Iterator[str]:
    if (old or None) == (new or None) and (old is None) == (new is None):
        return
    if old not in (None, [], ""):
        yield f"- {what} {_shown(what, old)}"
    if new is not None:
        yield f"+ {what} {_shown(what, new)}"


def _shown(what: str, value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    plain = _decoded(value) if what.endswith("_B64J") else None
    return f"{text}, which is {plain}" if plain else text


def _decoded(value: Any) -> str | None:
    """Say what a command is that is stored as base64."""
    try:
        return json.dumps(json.loads(base64.b64decode(value, validate=True)), ensure_ascii=False)
    except (ValueError, TypeError):
        return None


def _variables(config: Mapping[str, Any]) -> dict[str, str]:
    return dict(entry.partition("=")[::2] for entry in config.get("Env") or [])


def _labels(config: Mapping[str, Any]) -> dict[str, str]:
    return dict(config.get("Labels") or {})
