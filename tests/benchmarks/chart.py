"""Charts as SVG, drawn by hand: bars of ratios, and curves on two logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def bars(rows: Mapping[str, Any]) -> str:
    return "<svg xmlns='http://www.w3.org/2000/svg'/>"


def curves(found: Mapping[str, Any]) -> str:
    return "<svg xmlns='http://www.w3.org/2000/svg'/>"
