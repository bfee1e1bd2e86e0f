"""Where our own files are, which nothing of an image may lead us to write to, or to open to others."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

OURS = (Path(sys.prefix), Path(os.path.realpath(__file__)).parents[1])
"""Our Python and our program: who may write there, or rename what is on the way there, is who we are."""


def leads_to(path: Path, ours: Iterable[Path] = OURS) -> bool:
    """Say whether a folder is, by the links that an image has in its place, ours or on the way there."""
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(own) or own.is_relative_to(real) for own in ours)
