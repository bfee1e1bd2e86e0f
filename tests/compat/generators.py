"""Tasks, bodies and set-ups that nobody thought of, as plain data; the tests put what they need into S3."""

from __future__ import annotations

import io
import json
import signal
import struct
import tarfile
import zipfile
from typing import Any, NamedTuple

from both import KEY
from comparison import OTHER_KEY
from hypothesis import strategies as st

SEGMENTS = st.sampled_from(
    [
        "a",
        "b.mha",
        "with space",
        "plus+",
        "größe",
        "日本",
        "per%2Fcent",
        "a=b&c",
        "#hash",
        "~t",
        "quote'\"",
        "emoji🎉",
        ".h",
    ]
)
NAMES = st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join)


class Input(NamedTuple):
    """One input: its place, its object, and what the task says of it."""

    relative_path: str
    key: str
    content: bytes
    more: dict[str, Any]


class Plan(NamedTuple):
    """A task before it is told which objects there are."""

    inputs: list[Input]
    told: dict[str, Any]
    more: dict[str, Any]


# -- paths, keys and prefixes


def spelled(path: str, spelling: int) -> str:
    """Write a path in one of the ways that mean the same."""
    return [path, f"./{path}", path.replace("/", "//"), path.replace("/", "/./"), f"{path}/"][spelling]


KEYS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "", "/", "//", "/x//"]),
        NAMES,
        st.sampled_from(["", "", "/", " ", "?versionId=1", "\u00a0"]),
    ),
)
PREFIXES = st.builds(
    "".join,
    st.tuples(st.sampled_from(["", "", "/", "//"]), NAMES, st.sampled_from(["", "", "/", "//", " "])),
)
TIMEOUTS = st.one_of(
    st.sampled_from(
        ["PT1M", "PT1H10M30S", "P1D", "P1Y", "PT30.5S", "P1DT1S", "00:01:00", "1 days, 00:00:10", "1 day 00:10"]
    ),
    st.integers(20, 10_000),
    st.floats(20, 1e6, allow_nan=False).map(lambda seconds: round(seconds, 3)),
)
FURTHER_KEYS: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from(["version", "Timeout", "comment", "output_path"]),
    st.sampled_from([1, None, "x", [], {"a": [1]}]),
    max_size=2,
)

# -- what the algorithm is told

PIECES = st.sampled_from(
    [
        b"line\n",
        b"\n",
        b"a\rb\r\n",
        b"nul\x00led\n",
        b"\x00",
        b"\x0b\x0c|\n",
        b"\x1c\x1d\x1e|\n",
        "\x85|\u2028|\u2029|\n".encode(),
        "Größe 🎉\n".encode(),
        b"\x1b[31mred\x1b[0m\n",
        b'{"log": "not a record"}\n',
        b'\ttab \\ "quoted"\n',
        b"x" * 4000 + b"\n",
        b"no newline",
    ]
)
OUTPUT = st.lists(PIECES, max_size=5).map(b"".join).map(bytes.hex)
FILES = st.dictionaries(
    st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join), st.text("ab\nß\x00", max_size=5), max_size=3
).filter(lambda files: no_path_is_a_folder_of_another(list(files)))
EXITS: st.SearchStrategy[dict[str, int]] = st.one_of(
    st.just({}),
    st.just({}),
    st.integers(1, 255).map(lambda code: {"exit": code}),
    st.sampled_from([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT]).map(lambda n: {"signal": int(n)}),
)


def no_path_is_a_folder_of_another(paths: list[str]) -> bool:
    """Say whether all of these files can be there together."""
    return not any(other != path and other.startswith(f"{path}/") for path in paths for other in paths)


@st.composite
def told(draw: st.DrawFn) -> dict[str, Any]:
    return {"stdout": draw(OUTPUT), "stderr": draw(OUTPUT), "files": draw(FILES), **draw(EXITS)}


# -- zips

MEMBERS = st.lists(
    st.one_of(
        NAMES,
        NAMES,
        NAMES.map(lambda name: f"top/{name}"),
        NAMES.map(lambda name: f"__MACOSX/{name}"),
        st.sampled_from(
            [".DS_Store", "top/desktop.ini", "my_desktop_ini.txt", "folder/", "./dot", "back\\slash", "a//b"]
        ),
    ),
    max_size=4,
    unique=True,
)
METHODS = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])


def zipped(names: list[str], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip whose members hold their own names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), "" if name.endswith("/") else name, compress_type=method)
    return buffer.getvalue()


def truncated(archive: bytes, keep: int) -> bytes:
    return archive[: len(archive) * keep // 100]


def with_patched_headers(archive: bytes, local: int, central: int, value: int) -> bytes:
    """Overwrite two bytes in all headers of a zip's members, at their places in the two kinds."""
    patched = bytearray(archive)
    for magic, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        at = patched.find(magic)
        while at >= 0:
            patched[at + offset : at + offset + 2] = struct.pack("<H", value)
            at = patched.find(magic, at + 4)
    return bytes(patched)


def encrypted(archive: bytes) -> bytes:
    return with_patched_headers(archive, 6, 8, 1)


def of_method(archive: bytes, method: int) -> bytes:
    return with_patched_headers(archive, 8, 10, method)


GOOD_ZIPS = st.builds(zipped, MEMBERS.filter(no_path_is_a_folder_of_another), METHODS)
BAD_ZIPS = st.one_of(
    st.builds(truncated, GOOD_ZIPS, st.integers(0, 99)),
    st.sampled_from([b"", b"not a zip", b"PK\x05\x06", b"PK\x03\x04" + b"\0" * 40]),
    st.just(of_method(zipped(["a", "b"]), 97)),
    st.just(zipped(["a", "b"], zipfile.ZIP_STORED).replace(b"a", b"c", 3).replace(b"ca", b"cb")),
    st.just(zipped(["../../x", "y"])),
    st.just(zipped(["x", "y"]) + b"more"),
    st.just(b"more" + zipped(["x", "y"])),
)

# -- whole tasks


@st.composite
def plain_inputs(draw: st.DrawFn) -> list[Input]:
    paths = draw(st.lists(NAMES, max_size=4, unique=True).filter(no_path_is_a_folder_of_another))
    return [
        Input(
            spelled(path, draw(st.integers(0, 4))),
            draw(KEYS),
            draw(st.binary(max_size=8)),
            draw(st.sampled_from([{}, {"decompress": False}, {"decompress": "no"}, {"decompress": 0}])),
        )
        for path in paths
    ]


@st.composite
def zip_inputs(draw: st.DrawFn) -> list[Input]:
    """Return one to three zips, each in a folder of its own; one at most is bad: theirs names the last that fails."""
    archives = draw(st.lists(GOOD_ZIPS, max_size=2))
    archives.insert(draw(st.integers(0, len(archives))), draw(st.one_of(GOOD_ZIPS, BAD_ZIPS)))
    return [
        Input(
            f"zip {number}/{draw(NAMES)}",
            draw(KEYS),
            archive,
            draw(st.sampled_from([{"decompress": True}, {"decompress": "yes"}])),
        )
        for number, archive in enumerate(archives)
    ]


@st.composite
def plans(draw: st.DrawFn, inputs: st.SearchStrategy[list[Input]]) -> Plan:
    """Return a task that both accept, and what its algorithm is told."""
    more = {
        "pk": draw(st.one_of(SEGMENTS, st.sampled_from(["1", "job-1", "a b"]))),
        "output_prefix": draw(PREFIXES),
        "timeout": draw(TIMEOUTS),
        **draw(FURTHER_KEYS),
    }
    return Plan(draw(inputs), draw(told()), more)


# -- bodies that are no task

WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.just(1.5),
    st.sampled_from(["", " ", "x", "10", "P", "PT", "..", "no/bucket", "a" * 300, "1:2", "ten", "yes"]),
    st.lists(st.integers(0, 1), max_size=2),
    st.just({}),
    st.just({"a": 1}),
)
VALID = {
    "pk": "pk",
    "inputs": [{"relative_path": "a", "bucket_name": "inputs", "bucket_key": "missing", "decompress": False}],
    "output_bucket_name": "@out@",
    "output_prefix": "/out",
    "timeout": "PT1M",
}
FIELDS = st.sampled_from(
    [("pk",), ("inputs",), ("output_bucket_name",), ("output_prefix",), ("timeout",)]
    + [("inputs", 0, name) for name in ("relative_path", "bucket_name", "bucket_key", "decompress")]
    + [("inputs", 0)]
)
REMOVED = object()


def changed(task: dict[str, Any], path: tuple[Any, ...], value: object) -> dict[str, Any]:
    """Return a copy of a task with another value, or none, in one place."""
    copy: dict[str, Any] = json.loads(json.dumps(task))
    place: Any = copy
    for step in path[:-1]:
        try:
            place = place[step]
        except (KeyError, IndexError, TypeError):
            return copy
    try:
        if value is REMOVED:
            del place[path[-1]]
        else:
            place[path[-1]] = value
    except (KeyError, IndexError, TypeError):
        pass
    return copy


@st.composite
def faulty_tasks(draw: st.DrawFn) -> bytes:
    """Return a task with one to three wrong or missing values."""
    task = VALID
    for path in draw(st.lists(FIELDS, min_size=1, max_size=3)):
        task = changed(task, path, draw(st.one_of(WRONG, WRONG, st.just(REMOVED))))
    return json.dumps(task).encode()


BODIES = st.one_of(
    faulty_tasks(),
    faulty_tasks(),
    faulty_tasks(),
    faulty_tasks(),
    st.sampled_from(
        [
            b"",
            b" ",
            b"null",
            b"[]",
            b"{}",
            b'""',
            b"1",
            b"true",
            b"{",
            b"[1",
            b'{"a": }',
            b"nope",
            b"\xff",
            b'{"pk": "\xe4"}',
        ]
    ),
    st.recursive(
        st.one_of(st.none(), st.integers(), st.text(max_size=3)),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=4,
    ).map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=20),
    st.just(json.dumps([VALID]).encode()),
    st.just(json.dumps(json.dumps(VALID)).encode()),
)
CONTENT_TYPES = st.sampled_from(
    ["application/json"] * 12
    + [
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/vnd.task+json",
        "text/plain",
        "text/csv",
        "application/octet-stream",
    ]
)


# -- set-ups


class SetUp(NamedTuple):
    """An environment and a list of tasks; `commands` are the two encoded ones, with @top@ for their folder."""

    commands: dict[str, Any]
    environment: dict[str, str | None]
    exits: list[int]
    from_file: str | None
    tarballs: dict[str, bytes]


class Resident(NamedTuple):
    """How a resident server answers, and how many tasks there are."""

    answers: dict[str, Any]
    environment: dict[str, str | None]
    tasks: int


RESIDENTS = st.builds(
    Resident,
    st.fixed_dictionaries(
        {
            "health": st.sampled_from([[200], [200], [503, 200], [302]]),
            "late": st.sampled_from([0, 0, 0.3]),
            "invoke": st.sampled_from([[201], [201], [200], [500], [404], [201, 500], [0], [302]]),
        }
    ),
    st.fixed_dictionaries(
        {
            "USE_LINKED_INPUT": st.sampled_from([None, "false"]),
            "API_METHOD": st.sampled_from(["invoke", "INVOKE"]),
            "LOG_LEVEL": st.sampled_from([None, "DEBUG"]),
            "SIGNING_KEY_HEX": st.sampled_from([KEY, OTHER_KEY]),
        }
    ),
    st.integers(1, 2),
)

SHELL = 'echo "$0 $*"; id -u; id -g; id -G; echo "$HOME"; ls "$TOLD_INPUT" >&2; pwd; touch "$TOLD_OUTPUT/made"'
"""What a shell says of who and where it is; any user may run it."""

COMMANDS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.sampled_from(
        [
            {"ENTRYPOINT_B64J": SHELL},
            {"ENTRYPOINT_B64J": SHELL, "CMD_B64J": ["ignored"]},
            {"ENTRYPOINT_B64J": ["/bin/sh", "-c", SHELL], "CMD_B64J": ["zero", "one two", "größe"]},
            {"ENTRYPOINT_B64J": ["/bin/sh", "-c", SHELL, "zero"], "CMD_B64J": "exit 3"},
            {"ENTRYPOINT_B64J": ["@top@/does_as_told"], "CMD_B64J": None},
            {"ENTRYPOINT_B64J": None, "CMD_B64J": ["@top@/does_as_told"]},
            {"ENTRYPOINT_B64J": None, "CMD_B64J": SHELL},
            {"ENTRYPOINT_B64J": [], "CMD_B64J": ["@top@/does_as_told"]},
            {"ENTRYPOINT_B64J": ["sh"], "CMD_B64J": ["-c", SHELL]},
            {"ENTRYPOINT_B64J": ["no-such-program"]},
            {"ENTRYPOINT_B64J": ["/no/such/program"]},
            {"ENTRYPOINT_B64J": ["/etc/passwd"]},
            {"ENTRYPOINT_B64J": ["/etc"]},
            {"ENTRYPOINT_B64J": ["/etc/passwd/x"]},
            {"ENTRYPOINT_B64J": "no-such-program --help"},
            {"ENTRYPOINT_B64J": "exit 7"},
            {"ENTRYPOINT_B64J": "kill -9 $$"},
        ]
    ),
)
USERS = st.sampled_from(
    [
        "",
        "root",
        "0",
        "nobody",
        "65534",
        "nobody:root",
        "nobody:0",
        ":root",
        ":nogroup",
        ":12345",
        "12345:54321",
        "daemon",
    ]
    + ["no_such_user", "root:no_such_group", "bad user", "a:b:c", "-1", "user@host", "root:", ":", "www-data:daemon"]
)
EXISTING_USERS = st.sampled_from(["", "root", "nobody", "65534:daemon", ":nogroup", "12345:54321", "www-data:daemon"])
"""For set-ups with tarballs: theirs asks who the user is with the first file only, and says something else then."""

TARBALL_FORMATS = st.sampled_from(["w:", "w:gz", "w:bz2", "w:xz"])


def tarred(names: list[str], tar_format: str) -> bytes:
    """Return a tarball whose files hold their own names; a name with a slash at its end is a folder."""
    buffer = io.BytesIO()
    with tarfile.open(None, tar_format, buffer) as tar:  # type: ignore[call-overload]
        for name in names:
            member = tarfile.TarInfo(name)
            member.mode, member.uid, member.gid = 0o754, 1234, 1234
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
            else:
                member.size = len(name.encode())
                tar.addfile(member, io.BytesIO(name.encode()))
    return buffer.getvalue()


def tarred_link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> bytes:
    """Return a tarball of a file and of a link, or of another kind of entry."""
    buffer = io.BytesIO(tarred(["first"], "w:"))
    with tarfile.open(fileobj=buffer, mode="a:") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.mode = kind, target, 0o754
        tar.addfile(member)
    return buffer.getvalue()


GOOD_TARBALLS = st.one_of(
    st.builds(
        tarred,
        st.lists(st.one_of(NAMES, NAMES.map("./{}".format), st.just("folder/")), max_size=4, unique=True).filter(
            lambda names: no_path_is_a_folder_of_another([name.removeprefix("./") for name in names])
        ),
        TARBALL_FORMATS,
    ),
    st.just(tarred(["/absolute"], "w:gz")),
    st.just(tarred_link("link", "first")),
    st.just(tarred_link("hard", "first", tarfile.LNKTYPE)),
)
BAD_TARBALLS = st.one_of(
    st.builds(truncated, st.builds(tarred, st.just(["a" * 99, "b/c"]), TARBALL_FORMATS), st.integers(0, 60)),
    st.sampled_from([b"", b"not a tarball", b"\x1f\x8b\x08\x00", b"BZh9"]),
    st.just(tarred(["../outside"], "w:gz")),
    st.just(tarred_link("link", "/etc/passwd")),
    st.just(tarred_link("link", "../../outside")),
    st.just(tarred_link("device", "", tarfile.CHRTYPE)),
    st.just(tarred_link("fifo", "", tarfile.FIFOTYPE)),
)


@st.composite
def set_ups(draw: st.DrawFn, with_tarballs: bool = False) -> SetUp:
    """Return a set-up that both start with; of its tarballs one at most is bad, for ours reads both at once."""
    environment: dict[str, str | None] = {
        "USER": draw(EXISTING_USERS if with_tarballs else USERS),
        "SET_EXTRA_GROUPS": draw(st.sampled_from([None, "true", "True", "TRUE", "false", "no", "1"])),
        "USE_LINKED_INPUT": draw(st.sampled_from([None, "true", "True", "false", "no"])),
        "SIGNING_KEY_HEX": draw(st.sampled_from([KEY, OTHER_KEY, OTHER_KEY.upper()])),
        "LOG_LEVEL": draw(st.sampled_from([None, "INFO", "info", "DEBUG"])),
        "MAX_MEMORY_MB": draw(st.sampled_from([None, "0", "4000"])),
        "ASYNC_CONCURRENCY": draw(st.sampled_from([None, "1", "50"])),
        "BOTO_MAX_POOL_CONNECTIONS": draw(st.sampled_from([None, "1", "120"])),
        "API_METHOD": draw(st.sampled_from([None, "exec", "EXEC"])),
        "RUNTIME_OUTPUT_PREFIX": draw(PREFIXES),
        "WRITABLE_DIRECTORIES": draw(
            st.sampled_from(["", ":", "@root@/ml/model", "@root@/w/a::@root@/w/b:", "@root@/output:@root@/w"])
        ),
        "POST_CLEAN_DIRECTORIES": draw(st.sampled_from(["", ":", "@root@/ml/model", "@root@/w/a:@root@/not/there"])),
    }
    sources: dict[str, bytes] = {}
    if with_tarballs:
        first, *more = draw(st.sampled_from([["MODEL"], ["GROUND_TRUTH"], ["MODEL", "GROUND_TRUTH"]]))
        sources[first] = draw(st.one_of(GOOD_TARBALLS, GOOD_TARBALLS, BAD_TARBALLS))
        sources |= {name: draw(GOOD_TARBALLS) for name in more}
    return SetUp(
        draw(COMMANDS),
        environment,
        draw(st.sampled_from([[0], [0, 0], [0, 0, 0], [3], [0, 5, 0], [1, 0]])),
        draw(
            st.one_of(
                st.none(), st.sampled_from(["plain.json", "/invocations/app/model/pk/invocation.json", "a b/ü+.json"])
            )
        ),
        sources,
    )
