"""What would not run on SageMaker, in folders that stand for an image's."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from model_server.image_check import COMMANDS, Places, find_faults


@dataclass
class Image:
    """An image in which nothing is wrong, until a test changes it."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def places(self) -> Places:
        algorithm = self.root / "algorithm"
        return Places(
            algorithm / "run", algorithm / "train", self.root / "launch", self.root / "ml", self.root / "program"
        )

    def write(self, path: str, text: str = "#!/bin/sh\n", mode: int = 0o755) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def faults(self, with_algorithm: bool = True, by_entrypoint: bool | None = None) -> list[str]:
        return find_faults(with_algorithm, self.places, by_entrypoint)


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Image:
    image = Image(tmp_path.resolve())
    launcher = image.write("launch", "#!/bin/sh\n# ours\n")
    for name in ("bin", "ml/model", "input", "output"):
        (image.root / name).mkdir(parents=True)
    for name in COMMANDS:
        image.write(f"bin/{name}", launcher.read_text())
    image.write("algorithm/run")
    (image.root / "program").symlink_to("/opt/program")
    monkeypatch.setenv("PATH", f"{image.root}/mine:{image.root}/bin:/usr/bin:/bin")
    monkeypatch.setenv("ALGORITHM_INPUT_PATH", str(image.root / "input"))
    monkeypatch.setenv("ALGORITHM_OUTPUT_PATH", str(image.root / "output"))
    return image


def test_nothing_is_wrong_with_an_image_that_runs(image: Image) -> None:
    assert image.faults() == []


def test_every_fault_is_named_at_once(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    image.write("algorithm/run", mode=0o644)
    image.write("algorithm/train", "#!/nowhere/python\n")
    image.write("ml/model/weights.bin")
    image.write("input/left")
    image.write("mine/serve")
    monkeypatch.setenv("ALGORITHM_USER", "nobody-at-all")
    faults = "\n".join(image.faults())
    for words in (
        "/mine/serve takes the place of Longshore's `serve`",
        f"mounts its own over {image.root}/ml/model/weights.bin: put them elsewhere",
        "every task would see 'left' there",
        "USER: The user defined in the containers USER instruction does not exist (it is 'nobody-at-all')",
        "The algorithm: ",
        "/algorithm/run is not executable",
        "The training program: ",
        "/nowhere/python does not exist",
    ):
        assert words in faults


def test_a_wrong_setting_is_named_beside_the_rest(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_SERVER_WORKERS", "many")
    image.write("ml/file")
    faults = image.faults()
    assert [fault.partition(":")[0] for fault in faults] == ["MODEL_SERVER_WORKERS", faults[1].partition(":")[0]]
    assert "/ml/file" in faults[1]


def test_an_image_without_a_command_is_one_to_inherit_only(image: Image) -> None:
    (image.root / "algorithm/run").unlink()
    assert image.faults() == [
        f"The algorithm has no command: set ALGORITHM_ENTRYPOINT, or copy an executable to {image.root}/algorithm/run"
    ]
    assert image.faults(with_algorithm=False) == []


def test_an_image_may_train_only(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    (image.root / "algorithm/run").unlink()
    image.write("algorithm/train")
    assert image.faults() == []
    monkeypatch.setenv("ALGORITHM_TRAIN_ENTRYPOINT", '["/nowhere/train"]')
    assert image.faults() == [
        "The training program: /nowhere/train does not exist: copy it into the image, or correct its path"
    ]


@pytest.mark.parametrize("cmd", ['["/bin/sh"]', '["sh", "-l"]', "sh", "exec sh -i", '["env", "sh"]', '["python3.99"]'])
def test_a_command_for_a_terminal_is_no_algorithm(image: Image, monkeypatch: pytest.MonkeyPatch, cmd: str) -> None:
    """Base images have one, which an author who names no command inherits."""
    image.write("mine/python3.99")
    monkeypatch.setenv("ALGORITHM_CMD", cmd)
    (fault,) = image.faults()
    assert fault.startswith("The algorithm: ")
    assert fault.endswith(" alone does nothing for a task: name the program in the Dockerfile's ENTRYPOINT")
    image.write("algorithm/train")
    assert image.faults() == []


def test_the_algorithm_can_not_be_longshore_itself(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALGORITHM_ENTRYPOINT", '["serve"]')
    (fault,) = image.faults()
    assert fault == "The algorithm: serve is a command of Longshore's own: name the algorithm's program"


def test_a_command_that_path_no_longer_finds_is_named(image: Image) -> None:
    (image.root / "bin/serve").unlink()
    (fault,) = image.faults()
    assert fault.startswith("`serve` is not on PATH")


@pytest.mark.parametrize(
    ("program", "by_entrypoint", "looks_on_path"),
    [
        ("none", True, False),
        ("none", False, True),
        ("folder", None, False),
        ("folder", False, True),
        ("link", None, True),
        ("link", True, False),
    ],
)
def test_what_is_on_path_matters_only_where_the_entrypoint_is_not_ours(
    image: Image, program: str, by_entrypoint: bool | None, looks_on_path: bool
) -> None:
    image.write("mine/serve")
    for name in COMMANDS:
        (image.root / "bin" / name).unlink()
    (image.root / "elsewhere").mkdir()
    (image.root / "program").unlink()
    if program == "folder":
        (image.root / "program").mkdir()
    if program == "link":
        (image.root / "program").symlink_to("elsewhere")
    faults = image.faults(by_entrypoint=by_entrypoint)
    assert len(faults) == (len(COMMANDS) if looks_on_path else 0)


def test_many_files_in_sagemakers_folder_are_one_sentence(image: Image) -> None:
    for number in range(9):
        image.write(f"ml/model/{number}")
    (image.root / "ml/model/link").symlink_to("/nowhere")
    (fault,) = image.faults()
    assert fault.count("ml/model/") == 3
    assert "and more" in fault


def test_a_task_folder_that_is_none_is_named(image: Image) -> None:
    (image.root / "output").rmdir()
    assert image.faults() == []
    image.write("output")
    (fault,) = image.faults()
    assert "can not be used for tasks (Not a directory)" in fault
