"""The phantom of the segmentation sample, as a user makes it: with Python alone."""

import subprocess
import sys
from pathlib import Path

SAMPLE = Path(__file__).parent.parent.parent / "local-test/sample-segmentation"
VOXELS = 56 * 48 * 24


def make_phantom(folder: Path) -> dict[str, bytes]:
    # -S: without the packages of whoever runs this.
    subprocess.run([sys.executable, "-I", "-S", SAMPLE / "make_phantom.py", folder], check=True)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_phantom_is_the_same_each_time(tmp_path: Path) -> None:
    made = make_phantom(tmp_path / "one")
    assert sorted(made) == ["phantom.mha", "truth.mha"]
    assert made == make_phantom(tmp_path / "two")


def test_the_scan_and_the_truth_lie_in_the_same_place(tmp_path: Path) -> None:
    made = make_phantom(tmp_path / "made")
    scan, truth = (made[name].partition(b"ElementDataFile = LOCAL\n") for name in ("phantom.mha", "truth.mha"))
    assert scan[0].replace(b"MET_SHORT", b"MET_UCHAR") == truth[0]
    assert (len(scan[2]), len(truth[2])) == (2 * VOXELS, VOXELS)
    assert 0 < sum(truth[2]) < VOXELS // 20
