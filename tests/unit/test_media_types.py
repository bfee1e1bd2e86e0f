"""Extensions of media types, and media types of extensions."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_server.media_types import EXTENSIONS, TYPES, extension_of, names_of, type_of

CONTAINER = Path(__file__).parents[2] / "container"


@pytest.mark.parametrize(
    ("kind", "extension"),
    [
        ("text/csv", "csv"),
        ("Text/CSV", "csv"),
        ("text/plain", "txt"),
        ("text/libsvm", "libsvm"),
        ("text/html", "html"),
        ("image/png", "png"),
        ("image/jpeg", "jpg"),
        ("image/tiff", "tiff"),
        ("application/octet-stream", "bin"),
        ("application/x-npy", "npy"),
        ("application/x-image", "image"),
        ("application/x-parquet", "parquet"),
        ("application/vnd.apache.parquet", "parquet"),
        ("application/vnd.longshore.payload+json", "json"),
        ("application/pdf", "pdf"),
        ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "xlsx"),
        ("application/zip", "zip"),
        ("application/xml", "xml"),
        ("text/xml", "xml"),
        ("image/x-mha", "mha"),
        ("application/vnd.acme.scan", "scan"),
        ("application/x-recordio-protobuf", "bin"),
        ("application/vnd.acme.much-too-long", "bin"),
        ("x/../../etc/passwd", "bin"),
        ("nonsense", "bin"),
        ("", "bin"),
    ],
)
def test_a_media_type_has_its_extension(kind: str, extension: str) -> None:
    assert extension_of(kind) == extension


@given(st.text() | st.text().map("application/{}".format))
def test_an_extension_is_a_plain_word_whatever_the_type(kind: str) -> None:
    assert re.fullmatch(r"[a-z0-9]{1,13}", extension_of(kind))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.csv", "text/csv"),
        ("A.CSV", "text/csv"),
        ("a.json", "application/json"),
        ("a.jsonl", "application/jsonlines"),
        ("a.xml", "application/xml"),
        ("a.jpeg", "image/jpeg"),
        ("a.jpg", "image/jpeg"),
        ("a.tif", "image/tiff"),
        ("a.npy", "application/x-npy"),
        ("a.wav", "audio/wav"),
        ("a.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("a.zip", "application/zip"),
        ("a.csv.gz", "application/gzip"),
        ("a.tar.bz2", "application/x-bzip2"),
        ("a.mha", "application/octet-stream"),
        ("a", "application/octet-stream"),
        (".csv", "application/octet-stream"),
        ("a.", "application/octet-stream"),
    ],
)
def test_a_file_has_the_type_of_its_extension(name: str, kind: str) -> None:
    assert type_of(name) == kind


def test_the_types_are_those_of_no_machine(tmp_path: Path) -> None:
    """A machine's are read when they are first asked for, so this asks in a process whose machine has an odd one."""
    (tmp_path / "mime.types").write_text("application/of-this-machine csv odd\n")
    script = (
        f"import mimetypes; mimetypes.knownfiles[:] = [{str(tmp_path / 'mime.types')!r}]\n"
        "assert mimetypes.guess_type('a.odd')[0] == 'application/of-this-machine'\n"
        "from model_server.media_types import extension_of, type_of\n"
        "print(type_of('a.csv'), type_of('a.odd'), extension_of('application/of-this-machine'))"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=CONTAINER, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["text/csv", "application/octet-stream", "bin"]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("text/csv", ["text/csv"]),
        ("image/png", ["image/png"]),
        ("image/jpeg", ["image/jpeg", "image/jpg"]),
        ("audio/wav", ["audio/wav", "audio/x-wav"]),
        ("application/octet-stream", ["application/octet-stream"]),
    ],
)
def test_a_type_is_named_with_all_its_names(kind: str, names: list[str]) -> None:
    assert names_of(kind) == names


def test_what_comes_back_as_it_went_in_has_the_type_that_it_had() -> None:
    twins = {
        "image/jpg",
        "application/x-parquet",
        "text/x-libsvm",
        "text/xml",
        "application/vnd.longshore.payload+json",
        "application/x-gzip",
        "application/x-jsonlines",
        "application/x-ndjson",
        "application/x-zip-compressed",
        "audio/x-wav",
    }
    assert {kind for kind in EXTENSIONS if type_of(f"a.{extension_of(kind)}") != kind} == twins
    assert all("/" in kind for kind in TYPES.values())
