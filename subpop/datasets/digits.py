"""Handwritten digits, 8x8 pixels: is the digit odd? The digit itself is the annotated subpopulation.

*Source*: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (UCI, CC BY 4.0), the 1,797 rows that scikit-learn
carries; no download.
*Deviations*: pixels 0..16 are divided by 16.

k-means cuts 20 clusters: the 597 test rows then give 30 a cluster on average and at least 20 to about 16 of the 20 (the
minimum for worst-k); at 30 clusters only half reach it, at 10 the clusters are little more than the digits. From sizes alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from subpop.types import Dataset


def load(root: Path | None = None) -> Dataset:
    """Load the digits: x (1797, 64) float32 in [0, 1], y = digit % 2; `root` is not used."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    digit = bunch.target.astype(np.int64)
    return Dataset(
        name="digits",
        x=np.asarray(bunch.data / 16, dtype=np.float32),
        y=digit % 2,
        n_classes=2,
        annotations={"digit": digit},
        sizes=(600, 600),
        n_clusters=20,
    )
