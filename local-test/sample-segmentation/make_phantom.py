#!/usr/bin/env python3
"""Make a phantom, a small made-up scan, and the mask that a perfect segmentation of it would find.

    make_phantom.py FOLDER      writes FOLDER/phantom.mha and FOLDER/truth.mha

An oblique, anisotropic volume, as scanners make them: air, an ellipsoid of soft tissue, two bright ellipsoids in it,
noise, and a few bright single voxels that belong to nothing. It is the same on every machine, and needs Python alone.
"""

import random
import sys
from array import array
from itertools import product
from pathlib import Path

SIZE = (56, 48, 24)  # voxels in x, y, z
SPACING = (1.5, 1.5, 3.0)  # mm
ORIGIN = (-41.25, 12.5, 110.0)  # mm
DIRECTION = (0.96, -0.28, 0.0, 0.28, 0.96, 0.0, 0.0, 0.0, 1.0)  # turned about the z axis

AIR, TISSUE, BRIGHT = -1000, 40, 200  # Hounsfield units
NOISE = 40
SPECKS = 12

# Centre and half axes as shares of the volume.
BODY = (0.5, 0.5, 0.5), (0.45, 0.42, 0.45)
STRUCTURES = (
    ((0.36, 0.45, 0.5), (0.12, 0.14, 0.2)),
    ((0.66, 0.58, 0.4), (0.09, 0.08, 0.14)),
)

Ellipsoid = tuple[tuple[float, ...], tuple[float, ...]]
Voxel = tuple[int, int, int]


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("Usage: make_phantom.py FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    image, truth = make_phantom()
    write_mha(folder / "phantom.mha", image, "MET_SHORT")
    write_mha(folder / "truth.mha", truth, "MET_UCHAR")


def make_phantom() -> tuple["array[int]", "array[int]"]:
    """Return the voxels of the scan and of the mask, x first."""
    chance = random.Random(20)  # noqa: S311 - the same phantom each time is what is wanted
    image, truth = array("h"), array("B")
    for z, y, x in product(*map(range, reversed(SIZE))):
        bright = any(is_inside((x, y, z), structure) for structure in STRUCTURES)
        value = BRIGHT if bright else TISSUE if is_inside((x, y, z), BODY) else AIR
        image.append(round(chance.gauss(value, NOISE)))
        truth.append(bright)
    for _ in range(SPECKS):
        image[chance.randrange(len(image))] = BRIGHT
    return image, truth


def is_inside(voxel: Voxel, ellipsoid: Ellipsoid) -> bool:
    centre, half_axes = ellipsoid
    return sum(((v / n - c) / a) ** 2 for v, n, c, a in zip(voxel, SIZE, centre, half_axes, strict=True)) <= 1


def write_mha(path: Path, voxels: "array[int]", element_type: str) -> None:
    """Write a MetaImage: https://itk.org/Wiki/ITK/MetaIO/Documentation."""
    if sys.byteorder == "big":
        voxels = voxels[:]
        voxels.byteswap()
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": words(DIRECTION),
        "Offset": words(ORIGIN),
        "ElementSpacing": words(SPACING),
        "DimSize": words(SIZE),
        "ElementType": element_type,
        "ElementDataFile": "LOCAL",
    }
    header = "".join(f"{name} = {value}\n" for name, value in fields.items())
    path.write_bytes(header.encode("ascii") + voxels.tobytes())


def words(numbers: tuple[float, ...]) -> str:
    return " ".join(map(str, numbers))


if __name__ == "__main__":
    main()
