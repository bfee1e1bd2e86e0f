"""Where the layer comes from that `adapt` adds: a file, or the container in which it runs."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .image_errors import LayerMissing
from .layer import can_be_packed, write_layer
from .layer_file import LayerFile
from .settings import layer_file_of

CHECKOUTS_LAYER = Path(__file__).parents[2] / "longshore-layer.tar.gz"


@contextmanager
def layer_at_hand(
    named: Path | None, say: Callable[[str], None], root: Path = Path("/"), checkouts: Path = CHECKOUTS_LAYER
) -> Iterator[LayerFile]:
    """Have a layer for the block: the one that is named, here or by LONGSHORE_LAYER, else what is in `root`.

    Raises LayerMissing and LayerInvalid.
    """
    path = named or layer_file_of()
    if path is None and can_be_packed(root):
        say("Layer: packed from here")
        with _packed(root) as layer:
            yield layer
    else:
        yield _read(path or checkouts)


def _read(path: Path) -> LayerFile:
    if not path.exists():
        raise LayerMissing(path, "there is no such file")
    return LayerFile.read(path)


@contextmanager
def _packed(root: Path) -> Iterator[LayerFile]:
    """Pack a layer into a file of memory: an image may have no folder for others, and nothing can leave it behind."""
    with os.fdopen(os.memfd_create("longshore-layer"), "w+b") as file:
        layer = write_layer(file, root)
        yield LayerFile(Path(f"/proc/self/fd/{file.fileno()}"), layer.digest, layer.size, layer.diff_id)
