"""The cell's own data as nobody has seen it: every column, chosen in secret, may be turned upside down.

Distances between rows, classes, subpopulations, splits and poison draws stay what they were, and so does what can be learned
from the rows. Tables of the public rows, however tolerant, do not fit any more. Each trial runs alone in a process of its own,
so that no trial can ask another one either, whether the defense declares chance or not. A defense that repairs a larger share
of the damage on the public rows than on these has used something else than its rows.
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
