"""Which extension a media type has, and which type an extension: the same on every machine.

Python's own tables are asked, never the machine's /etc/mime.types, and corrected where they are silent or odd.
"""

import mimetypes
import re

UNKNOWN = "application/octet-stream"

EXTENSIONS = {
    UNKNOWN: "bin",
    "application/dicom": "dcm",
    "application/gzip": "gz",
    "application/json": "json",
    "application/jsonlines": "jsonl",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.apache.parquet": "parquet",
    "application/vnd.longshore.payload+json": "json",
    "application/x-bzip2": "bz2",
    "application/x-gzip": "gz",
    "application/x-jsonlines": "jsonl",
    "application/x-ndjson": "jsonl",
    "application/x-npy": "npy",
    "application/x-npz": "npz",
    "application/x-parquet": "parquet",
    "application/x-xz": "xz",
    "application/xml": "xml",
    "application/zip": "zip",
    "application/x-zip-compressed": "zip",
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "image/jpeg": "jpg",
    "image/jpg": "jpg",
    "image/tiff": "tiff",
    "text/csv": "csv",
    "text/html": "html",
    "text/javascript": "js",
    "text/libsvm": "libsvm",
    "text/markdown": "md",
    "text/plain": "txt",
    "text/x-libsvm": "libsvm",
    "text/xml": "xml",
    "video/mpeg": "mpeg",
    "video/quicktime": "mov",
}
"""These go before Python's; of two types with one extension the first is the one that the extension has."""

PLAIN = re.compile(r"[a-z0-9]{1,10}")
PREFIX = re.compile(r"x-|(vnd|prs)\.([^.]+\.)?|x\.")


def _pythons() -> dict[str, str]:
    """Return the type of each extension that Python knows, registered ones before others."""
    mimetypes.knownfiles.clear()  # they would be opened, though they are not for these tables
    not_registered, registered = mimetypes.MimeTypes().types_map
    return {extension[1:]: kind for extension, kind in (not_registered | registered).items()}


TYPES = _pythons() | {extension: kind for kind, extension in reversed(EXTENSIONS.items())}


def extension_of(kind: str) -> str:
    """Return the extension, without its dot, for a media type that comes without parameters."""
    kind = kind.lower()
    if known := EXTENSIONS.get(kind) or next((extension for extension in TYPES if TYPES[extension] == kind), None):
        return known
    name = PREFIX.sub("", kind.partition("/")[2], count=1)
    return name if PLAIN.fullmatch(name) else "bin"


def type_of(name: str) -> str:
    """Return the media type of a file by its name; a compressed one is what it was compressed with."""
    stem, dot, extension = name.rpartition(".")
    return TYPES.get(extension.lower(), UNKNOWN) if stem and dot else UNKNOWN


def names_of(kind: str) -> list[str]:
    """Return a media type and all others that its extension has: names for the same."""
    extension = extension_of(kind)
    return [kind, *(other for other in EXTENSIONS if EXTENSIONS[other] == extension and other != kind)]
