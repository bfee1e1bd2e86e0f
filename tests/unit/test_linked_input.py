"""The input folder as a link: made where it can be, gone with its task, and never a way out for a hostile program."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from model_server.errors import FoldersNotReset, StartFailed
from model_server.folder import TaskFolder
from model_server.linked_input import InputFolder, claim_task_folders
from model_server.settings import Settings

from .test_folder import ordinary_user
from .waiting import open_descriptors


def settings(root: Path, **more: str) -> Settings:
    return Settings.from_env(
        {
            "ALGORITHM_INPUT_PATH": str(root / "home" / "input"),
            "ALGORITHM_OUTPUT_PATH": str(root / "output"),
            "ALGORITHM_USE_LINKED_INPUT": "true",
            "ALGORITHM_LINKED_INPUT_PARENT": str(root / "data"),
        }
        | {f"ALGORITHM_{name}": value for name, value in more.items()}
    )


def claimed(root: Path, **more: str) -> InputFolder:
    return claim_task_folders(settings(root, **more))[0]


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of somebody else's, with the names that we use."""
    outside = tmp_path / "outside"
    for name in ("pk-input", "input"):
        (outside / name).mkdir(parents=True)
        (outside / name / "precious").touch()
    return outside


def assert_untouched(outside: Path) -> None:
    assert tree(outside) == ["input", "input/precious", "pk-input", "pk-input/precious"]


def test_the_input_is_a_link_while_a_task_has_it_and_a_folder_with_its_mode_again_after_it(tmp_path: Path) -> None:
    path = tmp_path / "home" / "input"
    path.mkdir(parents=True)
    path.chmod(0o750)
    folder = claimed(tmp_path)
    before = os.umask(0o077)
    try:
        staged_to = folder.link("pk")
        assert staged_to == tmp_path / "data" / "pk-input"
        assert path.readlink() == staged_to
        assert stat.S_IMODE(staged_to.stat().st_mode) == 0o755
        assert list(path.iterdir()) == []
        (staged_to / "deep" / "er").mkdir(parents=True)
        (staged_to / "deep" / "file").touch()
        folder.reset()
    finally:
        os.umask(before)
    assert not path.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert tree(tmp_path) == ["data", "home", "home/input", "output"]


def hold_something(root: Path) -> None:
    (root / "home" / "input" / "mounted").mkdir(parents=True)


def be_a_link(root: Path) -> None:
    (root / "elsewhere").mkdir()
    (root / "home").mkdir()
    (root / "home" / "input").symlink_to(root / "elsewhere")


def have_a_file_as_parent(root: Path) -> None:
    (root / "data").touch()


def hold_the_name_as_a_file(root: Path) -> None:
    (root / "data").mkdir()
    (root / "data" / "pk-input").touch()


def hold_the_name_as_a_full_folder(root: Path) -> None:
    (root / "data" / "pk-input" / "theirs").mkdir(parents=True)


def hold_the_name_as_a_link(root: Path) -> None:
    (root / "data").mkdir()
    (root / "data" / "pk-input").symlink_to(root)


@pytest.mark.parametrize(
    ("prepare", "more"),
    [
        (hold_something, {}),
        (be_a_link, {}),
        (have_a_file_as_parent, {}),
        (hold_the_name_as_a_file, {}),
        (hold_the_name_as_a_full_folder, {}),
        (hold_the_name_as_a_link, {}),
        (lambda root: None, {"USE_LINKED_INPUT": "false"}),
        (lambda root: None, {"LINKED_INPUT_PARENT": "/proc/nowhere"}),
    ],
)
def test_where_no_link_can_be_made_the_input_is_staged_in_place(
    tmp_path: Path, prepare: Callable[[Path], None], more: dict[str, str]
) -> None:
    prepare(tmp_path)
    before = tree(tmp_path)
    folder = claimed(tmp_path, **more)
    path = (tmp_path / "home" / "input").resolve()
    for _ in range(2):
        folder.reset()
        staged_to = folder.link("pk")
        assert staged_to == path.resolve() == path
        (staged_to / "new").touch()
        folder.reset()
    ours = {"data", "home", "home/input", "output"}
    assert set(tree(tmp_path)) | ours == set(before) | ours


def test_a_folder_that_held_something_is_not_replaced_when_a_task_has_removed_that(tmp_path: Path) -> None:
    hold_something(tmp_path)
    folder = claimed(tmp_path)
    (tmp_path / "home" / "input" / "mounted").rmdir()
    assert folder.link("pk") == tmp_path / "home" / "input"


def test_a_link_that_an_ordinary_user_may_not_make_leaves_the_input_in_place() -> None:
    with ordinary_user() as root:
        folder = claimed(root)
        (root / "home").chmod(0o555)
        assert folder.link("pk") == root / "home" / "input"
        assert tree(root) == ["data", "home", "home/input", "output"]
        (root / "home").chmod(0o755)
        (root / "data").chmod(0o555)
        assert folder.link("pk") == root / "home" / "input"
        (root / "data").chmod(0o755)
        assert folder.link("pk") == root / "data" / "pk-input"


def test_a_link_is_not_made_to_where_another_user_may_not_go(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    parent = str(closed / "deep" / "data")
    assert claimed(tmp_path, USER="1000", LINKED_INPUT_PARENT=parent).parent is None
    assert claimed(tmp_path, LINKED_INPUT_PARENT=parent).parent is not None


def test_an_empty_folder_of_that_name_is_used_and_stays_empty(tmp_path: Path) -> None:
    (tmp_path / "data" / "pk-input").mkdir(parents=True, mode=0o700)
    folder = claimed(tmp_path)
    for _ in range(2):
        folder.reset()
        staged_to = folder.link("pk")
        assert staged_to == tmp_path / "data" / "pk-input"
        assert stat.S_IMODE(staged_to.stat().st_mode) == 0o755
        (staged_to / "new" / "deep").mkdir(parents=True)
        folder.reset()
        assert tree(tmp_path / "data") == ["pk-input"]


def test_only_names_like_ours_that_were_not_there_are_removed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("held-input/file", "empty-input", "other/file"):
        (data / name).mkdir(parents=True)
    folder = claimed(tmp_path, GROUND_TRUTH_PATH=str(data / "truth-input"), MODEL_PATH=str(data / "model-input"))
    for name in ("held-input/new", "model-input/weights", "truth-input/truth", "later/file", "dead-input/file"):
        (data / name).mkdir(parents=True)
    (data / "file-input").touch()
    folder.reset()
    assert [name for name in tree(data) if "/" in name] == [
        "held-input/file",
        "held-input/new",
        "later/file",
        "model-input/weights",
        "other/file",
        "truth-input/truth",
    ]
    assert sorted(path.name for path in data.iterdir()) == [
        "empty-input",
        "held-input",
        "later",
        "model-input",
        "other",
        "truth-input",
    ]


@pytest.mark.parametrize("name", ["INPUT_PATH", "OUTPUT_PATH"])
def test_a_task_folder_beside_the_links_is_never_taken_for_one(tmp_path: Path, name: str) -> None:
    place = tmp_path / "data" / "pk-input"
    folder = claimed(tmp_path, **{name: str(place)})
    assert folder.link("pk") == folder.folder.path
    assert place.is_dir()
    assert not place.is_symlink()


@pytest.mark.parametrize("name", ["GROUND_TRUTH_PATH", "MODEL_PATH", "WRITABLE_DIRECTORIES", "POST_CLEAN_DIRECTORIES"])
def test_a_folder_that_is_not_a_tasks_stays_whatever_it_lies_in(tmp_path: Path, name: str) -> None:
    place = tmp_path / "data" / "theirs-input" / "inner"
    folder = claimed(tmp_path, **{name: str(place)})
    place.mkdir(parents=True)
    (place / "file").touch()
    folder.reset()
    assert (place / "file").exists()
    assert folder.link("theirs") == folder.folder.path


# -- what a program does while it runs


def replace_by_link(path: Path, target: Path) -> None:
    """Move something away and put a link in its place."""
    path.rename(path.with_name("moved"))
    path.symlink_to(target)


@pytest.mark.parametrize("target", ["", "pk-input", "pk-input/precious", "nowhere"])
@pytest.mark.parametrize("place", ["home/input", "data/pk-input"])
def test_a_link_in_the_place_of_a_folder_of_the_task_is_removed_and_never_followed(
    tmp_path: Path, outside: Path, place: str, target: str
) -> None:
    folder = claimed(tmp_path)
    (folder.link("pk") / "secret").touch()
    replace_by_link(tmp_path / place, outside / target)
    folder.reset()
    assert_untouched(outside)
    assert (tmp_path / "home" / "input").is_dir()
    assert not (tmp_path / "home" / "input").is_symlink()
    assert not os.path.lexists(tmp_path / "data" / "pk-input")
    assert folder.link("pk") == tmp_path / "data" / "pk-input"


def test_a_folder_in_the_place_of_the_link_is_emptied(tmp_path: Path) -> None:
    folder = claimed(tmp_path)
    folder.link("pk")
    path = tmp_path / "home" / "input"
    path.unlink()
    (path / "left").mkdir(parents=True)
    folder.reset()
    assert tree(tmp_path) == ["data", "home", "home/input", "output"]


def test_a_link_in_the_place_of_what_the_input_is_in_is_an_error_and_never_followed(
    tmp_path: Path, outside: Path
) -> None:
    folder = claimed(tmp_path)
    (folder.link("pk") / "secret").touch()
    replace_by_link(tmp_path / "home", outside)
    with pytest.raises(FoldersNotReset):
        folder.reset()
    assert_untouched(outside)
    assert tree(tmp_path / "data") == []
    (tmp_path / "home").unlink()
    (tmp_path / "moved").rename(tmp_path / "home")
    folder.reset()
    assert folder.link("pk") == tmp_path / "data" / "pk-input"


def test_a_link_in_the_place_of_the_parent_is_never_followed_and_the_next_task_staged_in_place(
    tmp_path: Path, outside: Path
) -> None:
    folder = claimed(tmp_path)
    (folder.link("pk") / "secret").touch()
    replace_by_link(tmp_path / "data", outside)
    folder.reset()
    assert_untouched(outside)
    assert tree(tmp_path / "moved") == []
    assert folder.link("other") == tmp_path / "home" / "input"
    assert_untouched(outside)


def test_a_parent_that_is_gone_is_no_error(tmp_path: Path) -> None:
    folder = claimed(tmp_path)
    folder.link("pk")
    shutil.rmtree(tmp_path / "data")
    folder.reset()
    assert folder.link("pk") == tmp_path / "home" / "input"


def test_inputs_that_can_not_be_removed_are_said_so() -> None:
    with ordinary_user() as root:
        folder = claimed(root)
        (folder.link("pk") / "secret").touch()
        (root / "data").chmod(0o555)
        with pytest.raises(FoldersNotReset):
            folder.reset()
        (root / "data").chmod(0o755)


# -- two servers


@pytest.mark.parametrize("state", ["idle", "linked", "after a task", "folder gone"])
def test_a_second_server_on_the_same_folders_is_refused_whatever_the_first_one_does(tmp_path: Path, state: str) -> None:
    first: tuple[InputFolder, TaskFolder] | None = claim_task_folders(settings(tmp_path))
    assert first
    if state != "idle":
        first[0].link("pk")
    if state == "after a task":
        first[0].reset()
    if state == "folder gone":
        (tmp_path / "home" / "input").unlink()
    for linked in ("true", "false"):
        with pytest.raises(StartFailed, match="in use by another server"):
            claim_task_folders(settings(tmp_path, USE_LINKED_INPUT=linked))
    if state == "folder gone":
        assert not (tmp_path / "home" / "input").exists()
    first[0].reset()
    first = None
    assert claim_task_folders(settings(tmp_path))[0].link("pk") == tmp_path / "data" / "pk-input"


def test_two_servers_with_one_parent_do_not_remove_each_others_inputs(tmp_path: Path) -> None:
    first = claimed(tmp_path / "one", LINKED_INPUT_PARENT=str(tmp_path / "data"))
    second = claimed(tmp_path / "two", LINKED_INPUT_PARENT=str(tmp_path / "data"))
    (first.link("pk") / "file").touch()
    assert second.link("pk") == tmp_path / "two" / "home" / "input"
    second.reset()
    assert tree(tmp_path / "data") == ["pk-input", "pk-input/file"]


def test_nothing_stays_open(tmp_path: Path) -> None:
    before = open_descriptors()
    folders = claim_task_folders(settings(tmp_path))
    opened = open_descriptors()
    for _ in range(3):
        folders[0].link("pk")
        folders[0].reset()
    assert open_descriptors() == opened
    del folders
    assert open_descriptors() == before
