"""A secret view of the cell's own data: a secret selection of columns is mirrored.

Distances between rows, classes, subpopulations, splits and poison draws are unchanged, and so is what can be learned from the
rows. Tables of the public rows, however tolerant, do not fit. Each trial runs alone in a separate process, so that trials cannot
communicate, whether or not the defense declares randomness. A defense that repairs a larger fraction of the damage on the public
rows than on these has used something other than its rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from subpop.types import Array, Dataset

PROBE = "secret view"
WORDS = "does worse alone on the same data turned upside down"


def can_be_turned(x: Array) -> bool:
    """Whether rows are numbers in columns or pictures."""
    return (x.dtype == np.float32 and x.ndim == 2) or (x.dtype == np.uint8 and x.ndim == 4)


def turned(dataset: Dataset, generator: np.random.Generator) -> Dataset:
    """The data set with about half of its columns mirrored about the middle of their range; of pictures, all channels."""
    x = dataset.x
    if x.dtype == np.uint8:
        return replace(dataset, x=np.uint8(255) - x[..., ::-1])
    low, high = x.min(axis=0), x.max(axis=0)
    upside_down = generator.random(x.shape[1]) < 0.5
    return replace(dataset, x=np.where(upside_down, low + (high - x), x).astype(np.float32))
