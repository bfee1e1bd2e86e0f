"""Opening what lies beneath a folder that a stranger filled."""

import fcntl
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_server.beneath import Refused, open_file, open_folder

from .exchanging import exchanging
from .waiting import open_descriptors, wait_until


class Output:
    """A folder with a file in it and one beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path / "output"
        self.outside = path / "outside"
        for folder in (self.path / "a" / "b", self.outside):
            folder.mkdir(parents=True)
        (self.path / "file").write_text("inside")
        (self.path / "a" / "b" / "deep").write_text("inside")
        (self.outside / "secret").write_text("outside")
        self.root = os.open(self.path, os.O_RDONLY)

    def read(self, *parts: str) -> str:
        descriptor = open_file(self.root, self.path, parts)
        with os.fdopen(descriptor) as file:
            return file.read()


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Output]:
    made = Output(tmp_path)
    before = open_descriptors()
    yield made
    assert open_descriptors() == before  # no descriptor is left behind
    os.close(made.root)


@pytest.mark.parametrize("parts", [("file",), ("a", "b", "deep")])
def test_a_regular_file_is_opened(output: Output, parts: tuple[str, ...]) -> None:
    assert output.read(*parts) == "inside"


@pytest.mark.parametrize(
    "target", ["a/b/deep", "./a//b/./deep", "a/../file", "a/b/../../file", "{root}/file", "{root}/a/b/deep", "a/b/up"]
)
def test_a_link_that_stays_inside_is_followed(output: Output, target: str) -> None:
    (output.path / "a" / "b" / "up").symlink_to("../../file")
    (output.path / "link").symlink_to(target.format(root=output.path))
    assert output.read("link") == "inside"


def test_a_chain_of_links_is_followed(output: Output) -> None:
    (output.path / "0").symlink_to("file")
    for number in range(1, 30):
        (output.path / str(number)).symlink_to(str(number - 1))
    assert output.read("29") == "inside"


def test_an_absolute_link_is_followed_where_the_folder_is_reached_by_a_link_too(output: Output, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(output.path)
    (output.path / "real").symlink_to(output.path / "file")
    (output.path / "aliased").symlink_to(tmp_path / "alias" / "file")
    for name in ("real", "aliased"):
        os.close(open_file(output.root, tmp_path / "alias", (name,)))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("{out}/secret", "leaves"),
        ("../outside/secret", "leaves"),
        ("a/../../outside/secret", "leaves"),
        ("{root}/../outside/secret", "leaves"),
        ("{root}-other/x", "leaves"),
        ("/etc/passwd", "leaves"),
        ("/", "leaves"),
        ("..", "leaves"),
        ("nothing", "nothing"),
        ("file/x", "nothing"),
        ("x" * 300, "nothing"),
        ("a/" + "x" * 300, "nothing"),
        ("a", "folder"),
        (".", "folder"),
        ("{root}", "folder"),
        ("link", "itself"),
        ("fifo", "no regular file"),
    ],
)
def test_any_other_link_is_refused_with_its_reason(output: Output, target: str, reason: str) -> None:
    os.mkfifo(output.path / "fifo")
    (output.path / "link").symlink_to(target.format(root=output.path, out=output.outside))
    with pytest.raises(Refused, match=reason):
        output.read("link")


def test_a_link_to_a_folder_outside_leads_to_none_of_its_files(output: Output) -> None:
    (output.path / "way").symlink_to(output.outside)
    with pytest.raises(Refused, match="leaves"):
        output.read("way", "secret")


def test_links_that_lead_to_each_other_are_refused(output: Output) -> None:
    (output.path / "one").symlink_to("two")
    (output.path / "two").symlink_to("one")
    with pytest.raises(Refused, match="itself"):
        output.read("one")


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK])
def test_what_is_no_regular_file_is_refused_at_once(output: Output, kind: int) -> None:
    os.mknod(output.path / "odd", kind | 0o600)
    with pytest.raises(Refused, match="no regular file"):
        output.read("odd")


def seen(output: Output, *parts: str) -> str:
    """Return what is read, or why it is refused."""
    try:
        return output.read(*parts)
    except Refused as refusal:
        return str(refusal)


ATTEMPTS = 20_000
LEAVES = "it is a link that leaves the output folder"
CHANGED = "it changed while it was read"


def test_a_folder_that_is_exchanged_for_a_link_meanwhile_leads_nowhere_else(output: Output) -> None:
    with exchanging(output.path, output.outside):
        wait_until(lambda: seen(output, "one", "secret") == LEAVES)
        found = {seen(output, "one", "secret") for _ in range(ATTEMPTS)}
    assert found >= {"inside", LEAVES}
    assert "outside" not in found


def test_a_file_that_is_exchanged_for_a_fifo_or_a_link_meanwhile_is_read_or_refused(output: Output) -> None:
    (output.path / "one").write_text("inside")
    os.mkfifo(output.path / "two")
    with exchanging(output.path, output.outside):
        wait_until(lambda: seen(output, "one") == "it is no regular file")
        assert {seen(output, "one") for _ in range(ATTEMPTS)} == {"inside", "it is no regular file"}
    (output.path / "two").unlink()
    (output.path / "two").symlink_to(output.outside / "secret")
    (output.path / "one").unlink()
    (output.path / "one").write_text("inside")
    with exchanging(output.path, output.outside):
        wait_until(lambda: seen(output, "one") == LEAVES)
        assert {seen(output, "one") for _ in range(ATTEMPTS)} == {"inside", LEAVES}


def test_a_file_that_a_process_holds_does_not_hold_us_up(output: Output) -> None:
    """A lease lets whoever opens a file wait for its holder, for 45 seconds."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        with (output.path / "file").open("r+") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            assert seen(output, "file") == "a process holds it"
        assert seen(output, "file") == "inside"
    finally:
        signal.signal(signal.SIGIO, before)


def test_a_device_is_refused_without_being_opened(output: Output) -> None:
    """One by a link stands for one that only root can make."""
    (output.path / "null").symlink_to("/dev/null")
    assert seen(output, "null") == LEAVES
    root = os.open("/dev", os.O_RDONLY)
    with pytest.raises(Refused, match="no regular file"):
        open_file(root, Path("/dev"), ("null",))
    os.close(root)


@pytest.mark.parametrize("target", ["Closed/x", "a/../closed/x", "closed", "{root}/CLOSED/x"])
def test_no_link_leads_to_a_name_that_is_closed(output: Output, target: str) -> None:
    for name in ("closed", "Closed", "CLOSED"):
        (output.path / name).mkdir()
        (output.path / name / "x").write_text("forged")
    (output.path / "link").symlink_to(target.format(root=output.path))
    with pytest.raises(Refused, match="nothing may lead to closed"):
        open_file(output.root, output.path, ("link",), closed="closed")


def test_a_file_that_is_gone_is_refused(output: Output) -> None:
    with pytest.raises(Refused):
        output.read("gone")


def test_a_file_that_may_not_be_read_is_refused(output: Output) -> None:
    (output.path / "file").chmod(0o000)
    if os.geteuid() == 0:
        assert output.read("file") == "inside"
        return
    with pytest.raises(Refused, match="read"):
        output.read("file")


def test_a_folder_is_opened_step_by_step(output: Output) -> None:
    inner = open_folder(output.root, ("a", "b"))
    assert os.listdir(inner) == ["deep"]
    os.close(inner)


def test_a_link_is_no_step_to_a_folder(output: Output) -> None:
    (output.path / "way").symlink_to("a")
    with pytest.raises(OSError, match="directory"):
        open_folder(output.root, ("way", "b"))
