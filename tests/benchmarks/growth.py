"""How time and memory grow."""

from __future__ import annotations

from typing import Any

from setting import Setting


def measure(setting: Setting) -> dict[str, Any]:
    return {}


def text_of(found: dict[str, Any]) -> str:
    return ""
