"""The sample from the field: a medical image in, a mask and results.json out, by tasks and by `process`."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from docker_rig import Container, run_once, serving

from moto_s3 import AWS

if TYPE_CHECKING:
    from tests.conftest import Bucket

COLOUR_IMAGE = (
    b"ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementNumberOfChannels = 3\nElementType = MET_UCHAR\n"
    b"ElementDataFile = LOCAL\n"
) + bytes(24)


class Volume(NamedTuple):
    """A MetaImage of bytes, read by other means than the program's: its header's numbers, and its voxels."""

    size: list[float]
    spacing: list[float]
    origin: list[float]
    axes: list[float]
    voxels: bytes


@pytest.fixture(scope="module")
def truth(phantoms: Path) -> Volume:
    return read_mha((phantoms / "truth.mha").read_bytes())


@pytest.fixture(scope="module")
def server(segmentation_image: str, s3_endpoint: str) -> Iterator[Container]:
    variables = AWS | {"AWS_ENDPOINT_URL_S3": s3_endpoint}
    options = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    with serving(segmentation_image, options) as container:
        yield container


def test_a_task_makes_a_mask_that_is_where_the_truth_is(
    server: Container, bucket: Bucket, phantoms: Path, truth: Volume
) -> None:
    bucket.put("phantom.mha", (phantoms / "phantom.mha").read_bytes())
    server.run(bucket.task("scan", [bucket.item("images/phantom.mha", "phantom.mha", decompress=False)]))
    mask = read_mha(bucket.get("/out/scan/mask.mha"))
    assert dice(mask, truth) > 0.98
    assert (mask.size, mask.spacing) == (truth.size, truth.spacing)
    assert mask.origin == pytest.approx(truth.origin)
    assert mask.axes == pytest.approx(truth.axes)


def test_process_measures_in_millilitres_and_in_the_patients_coordinates(
    segmentation_image: str, phantoms: Path, truth: Volume, tmp_path: Path
) -> None:
    scans, found = tmp_path / "scans", tmp_path / "found"
    for folder in (scans, found):
        folder.mkdir()
        folder.chmod(0o755)
    shutil.copy(phantoms / "phantom.mha", scans)
    mounts = [f"--volume={scans}:/opt/ml/processing/input:ro", f"--volume={found}:/opt/ml/processing/output"]
    ended = run_once(segmentation_image, "process", options=["--network", "none", *mounts])
    assert ended.code == 0, ended

    results = json.loads((found / "results.json").read_text())
    mask = read_mha((found / "mask.mha").read_bytes())
    assert dice(mask, truth) > 0.98
    assert results["number_of_components"] == len(results["components"]) == 2
    assert 40 < results["threshold"] < 200  # between tissue and bright
    assert results["version"]
    assert results["volume_ml"] == pytest.approx(millilitres(mask), abs=0.001)
    assert results["volume_ml"] == pytest.approx(millilitres(truth), rel=0.02)
    assert sum(one["volume_ml"] for one in results["components"]) == pytest.approx(results["volume_ml"], abs=0.002)
    middle = weighted_middle(results["components"])
    assert middle == pytest.approx(middle_of(truth), abs=0.5)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "There must be exactly one image in /input, and there are no files."),
        ({"a.mha": b"", "b.mha": b""}, "There must be exactly one image in /input, and there are 2 files."),
        ({"letter.mha": b"Dear colleague,\n"}, "letter.mha is not an image of a format that SimpleITK reads."),
        ({"photo.mha": COLOUR_IMAGE}, "photo.mha has 3 values a pixel: it must be grey, not in colour."),
    ],
    ids=["nothing", "two", "no image", "colour"],
)
def test_an_input_that_can_not_be_segmented_is_refused_in_a_sentence(
    server: Container, bucket: Bucket, files: dict[str, bytes], sentence: str
) -> None:
    for name, content in files.items():
        bucket.put(name, content)
    items = [bucket.item(name, name, decompress=False) for name in files]
    result = server.post(bucket.task("bad", items)).json()
    assert result["return_code"] == 1
    assert result["user_process_last_stderr_lines"][-1] == sentence + "\n"
    assert result["outputs"] == []


def read_mha(data: bytes) -> Volume:
    header, _, rest = data.partition(b"ElementDataFile = LOCAL\n")
    fields = dict(line.split(" = ", 1) for line in header.decode("ascii").splitlines())
    voxels = zlib.decompress(rest) if fields["CompressedData"] == "True" else rest
    names = ("DimSize", "ElementSpacing", "Offset", "TransformMatrix")
    return Volume(*([float(word) for word in fields[name].split()] for name in names), voxels)


def dice(one: Volume, other: Volume) -> float:
    """Return how much of two masks is common: 1 when they are the same, 0 when they share nothing."""
    common = sum(a and b for a, b in zip(one.voxels, other.voxels, strict=True))
    return 2 * common / (sum(one.voxels) + sum(other.voxels))


def millilitres(mask: Volume) -> float:
    x, y, z = mask.spacing
    return sum(mask.voxels) * x * y * z / 1000


def middle_of(mask: Volume) -> list[float]:
    """Return the mean position of a mask's voxels, in mm in the patient's coordinates."""
    places = product(*(range(int(n)) for n in reversed(mask.size)))
    inside = [place[::-1] for place, voxel in zip(places, mask.voxels, strict=True) if voxel]
    index = [sum(axis) / len(inside) for axis in zip(*inside, strict=True)]
    steps = [i * step for i, step in zip(index, mask.spacing, strict=True)]
    return [mask.origin[k] + sum(steps[axis] * mask.axes[3 * axis + k] for axis in range(3)) for k in range(3)]


def weighted_middle(components: list[dict[str, Any]]) -> list[float]:
    total = sum(one["volume_ml"] for one in components)
    return [sum(one["volume_ml"] * one["centroid_mm"][k] for one in components) / total for k in range(3)]
