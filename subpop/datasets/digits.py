"""Handwritten digits, 8x8 pixels: is the digit odd? The digit itself is the annotated subpopulation.

*Source*: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (UCI, CC BY 4.0), the 1,797 rows included in
scikit-learn; no download.
*Deviations*: pixels 0..16 are divided by 16; as pictures (`digits_images`: the same rows, task and subpopulations for
convolutional victims) they are multiplied by 15, since pictures are uint8.

k-means uses 20 clusters, based on sizes alone: there are 30 of the 597 test rows per cluster on average, and about 16 of the 20
clusters have at least 20 (the minimum for worst-k). Of 30 clusters only half would; 10 clusters are little more than the digits.
"""

from __future__ import annotations

import gzip
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from subpop.types import Array, Dataset, Ints

WORDS = {"y": ("even", "odd")}


def load(root: Path | None = None) -> Dataset:
    """Load the digits: x (1797, 64) float32 in [0, 1], y = digit % 2; `root` is not used."""
    pixels, digit = _pixels_and_digits()
    return Dataset(
        name="digits",
        x=np.asarray(pixels / 16, dtype=np.float32),
        y=digit % 2,
        n_classes=2,
        annotations={"digit": digit},
        sizes=(600, 600),
        n_clusters=20,
    )


def load_images(root: Path | None = None) -> Dataset:
    """Load the digits as pictures: x (1797, 1, 8, 8) uint8; otherwise as `load`."""
    pixels, _ = _pixels_and_digits()
    x = (pixels * 15).astype(np.uint8).reshape(-1, 1, 8, 8)
    return replace(load(root), name="digits_images", x=x, words=WORDS)


def _pixels_and_digits() -> tuple[Array, Ints]:
    """(1797, 64) whole numbers 0..16 as float64, and (1797,) the digit, as `sklearn.datasets.load_digits` reads them.

    scikit-learn is not imported, which would take longer than everything else that a cell from a full store needs.
    """
    package = find_spec("sklearn")
    folder = Path(str(package and package.origin)).parent  # a requirement, so that it is there
    with gzip.open(folder / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        rows = np.loadtxt(file, delimiter=",")
    return rows[:, :-1], rows[:, -1].astype(np.int64)
