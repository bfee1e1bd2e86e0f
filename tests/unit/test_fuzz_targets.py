"""What the fuzzer of tests/fuzz runs: each target takes its seeds without a finding, and makes one of what is wrong."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz.seeds import SEEDS
from fuzz.targets import TARGETS
from model_server import archive, task_body, untar

EVERY_SEED = [(target, number, seed) for target, seeds in SEEDS.items() for number, seed in enumerate(seeds())]


def test_every_target_has_seeds() -> None:
    assert SEEDS.keys() == TARGETS.keys()


@pytest.mark.parametrize(
    ("target", "seed"), [(t, s) for t, _, s in EVERY_SEED], ids=[f"{t} {n}" for t, n, _ in EVERY_SEED]
)
def test_a_target_finds_nothing_in_its_seeds(target: str, seed: bytes) -> None:
    TARGETS[target](seed)


@pytest.mark.parametrize("target", TARGETS)
def test_nor_in_what_some_changes_make_of_them(target: str) -> None:
    chance = random.Random(target)
    for seed in itertools.islice(itertools.cycle(SEEDS[target]()), 150):
        changed = bytearray(seed)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        TARGETS[target](bytes(changed))


def broken(*_: object) -> None:
    raise RuntimeError("a defect")


def writes_outside(archive: object, field: object, folder: Path, *_: object) -> int:
    (folder.parent / "secret").write_bytes(b"replaced")
    return 0


def writes_a_lot(archive: object, field: object, folder: Path, *_: object) -> int:
    (folder / "x").write_bytes(bytes(5 * 1024 * 1024))
    return 5 * 1024 * 1024


def leaves_a_way_out(body: object, folder: Path, *_: object) -> bool:
    (folder / "x").symlink_to("../secret")
    return False


def leaves_a_setuid_file(body: object, folder: Path, *_: object) -> bool:
    (folder / "x").touch(0o4755)
    (folder / "x").chmod(0o4755)
    return False


@pytest.mark.parametrize(
    ("target", "module", "name", "defect"),
    [
        ("tasks", task_body, "parse_task", broken),
        ("zips", archive, "unpack", broken),
        ("zips", archive, "unpack", writes_outside),
        ("zips", archive, "unpack", writes_a_lot),
        ("tarballs", untar, "unpack", leaves_a_way_out),
        ("tarballs", untar, "unpack", leaves_a_setuid_file),
    ],
)
def test_a_target_finds_a_defect(
    monkeypatch: pytest.MonkeyPatch, target: str, module: object, name: str, defect: Callable[..., object]
) -> None:
    monkeypatch.setattr(module, name, defect)
    with pytest.raises((AssertionError, RuntimeError)):
        TARGETS[target](next(iter(SEEDS[target]())))
