"""Which layer `adapt` takes, and the one that it packs from where it runs."""

import gzip
import hashlib
import io
from pathlib import Path

import pytest

from model_server.image_errors import LayerInvalid, LayerMissing
from model_server.layer import write_layer
from model_server.layer_file import LayerFile
from model_server.layer_source import layer_at_hand
from small_images import digest_of, layer_of


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGSHORE_LAYER", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A container's root, with a layer."""
    root = tmp_path / "root"
    for folder in ("longshore/program", "input", "output"):
        (root / folder).mkdir(parents=True)
    (root / "longshore/program/adapt").write_text("a program")
    return root


def layer_file(folder: Path, name: str) -> Path:
    """Write a layer whose one file has this name."""
    path = folder / f"{name}.tar.gz"
    path.write_bytes(layer_of(name, b""))
    return path


def taken(named: Path | None, root: Path, checkouts: Path) -> tuple[LayerFile, bytes, list[str]]:
    """Return the layer, its content, and what was said."""
    said: list[str] = []
    with layer_at_hand(named, said.append, root, checkouts) as layer:
        content = b"".join(layer.chunks())
        assert b"".join(layer.chunks()) == content  # an upload may begin anew
    return layer, content, said


def test_what_is_named_goes_before_what_is_here_and_that_before_the_checkouts(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, of_environment, checkouts = (layer_file(tmp_path, name) for name in ("named", "environment", "checkout"))
    monkeypatch.setenv("LONGSHORE_LAYER", str(of_environment))
    assert taken(named, root, checkouts)[0].path == named
    assert taken(None, root, checkouts)[0].path == of_environment
    monkeypatch.delenv("LONGSHORE_LAYER")
    assert taken(None, root, checkouts)[2] == ["Layer: packed from here"]
    assert taken(None, tmp_path, checkouts)[0].path == checkouts


def test_what_is_packed_is_the_layer_of_the_container_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    layer, content, _ = taken(None, root, tmp_path / "none")
    packed = io.BytesIO()
    write_layer(packed, root)
    assert content == packed.getvalue()
    assert (layer.digest, layer.size) == (digest_of(content), len(content))
    assert layer.diff_id == f"sha256:{hashlib.sha256(gzip.decompress(content)).hexdigest()}"
    assert not layer.path.exists()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_layer_that_is_not_there_or_none_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(LayerMissing, match="there is no such file"),
        layer_at_hand(None, print, tmp_path, tmp_path / "a"),
    ):
        pass
    (tmp_path / "text").write_text("a text")
    with pytest.raises(LayerInvalid, match="gzip has not written it"), layer_at_hand(tmp_path / "text", print):
        pass
