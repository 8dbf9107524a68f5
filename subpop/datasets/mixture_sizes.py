"""A Gaussian mixture whose subpopulations differ in size by a factor of one hundred.

*Source*: own construction: the components of `mixture`, of 45 to 4,500 rows in a geometric series. With `protocol=reserve` they
have 10 to 1,000 rows in D. Which components are large does not depend on where they are or on their class.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from subpop.datasets.mixture import MixtureSpec, make_mixture
from subpop.types import Dataset

SMALLEST, LARGEST = 45, 4500
N = 16


def load(root: Path | None = None) -> Dataset:
    """Generate the mixture: x (16,928, 20) float32; `root` is not used."""
    rows = np.random.default_rng(4).permutation(np.rint(np.geomspace(SMALLEST, LARGEST, N)).astype(int))
    return make_mixture(MixtureSpec(n_subpopulations=N, rows=tuple(rows.tolist()), seed=4), "mixture_sizes")
