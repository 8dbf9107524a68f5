"""Pictures for the default victim of an audit, which would take minutes for each training on all their pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from subpop.audit.table import Table
from subpop.runtime.threads import one_thread
from subpop.types import Dataset

COMPONENTS = 100
"""Largest number of columns."""
FITTED_ON = 2000
"""Largest number of pictures that the components are fitted on."""
WHITE = 255.0
PART = 1000
"""Pictures that are converted at once."""


def few_columns(table: Table) -> tuple[Table, Dataset]:
    """The data set of the default victim: of pictures their principal components instead of all pixels, and the table says so.

    Other data is as it is. The components are fitted once, on all or `FITTED_ON` of the pictures, without labels.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop.audit.pictures import few_columns
    >>> from subpop.audit.table import read_table
    >>> pictures = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    >>> table, data = few_columns(read_table(pictures, np.arange(40) % 2))
    >>> table.x.shape, data.x.shape
    ((40, 3, 8, 8), (40, 39))
    """
    from sklearn.decomposition import PCA

    data = table.dataset()
    if data.x.ndim != 4:
        return table, data
    pixels = data.x.reshape(len(data.x), -1)
    fitted = np.sort(np.random.default_rng(0).permutation(len(pixels))[:FITTED_ON])
    n_components = min(COMPONENTS, len(fitted) - 1, pixels.shape[1])
    with one_thread():
        components = PCA(n_components, svd_solver="randomized", random_state=0).fit(pixels[fitted] / np.float32(WHITE))
        parts = [components.transform(pixels[i : i + PART] / np.float32(WHITE)) for i in range(0, len(pixels), PART)]
    note = (
        f"filters, the ridge regression and the default estimator see {n_components} principal components of the "
        f"{pixels.shape[1]:,} pixel values of each picture, fitted once on {len(fitted):,} pictures, without labels"
    )
    x = np.ascontiguousarray(np.concatenate(parts), dtype=np.float32)
    return replace(table, notes=(*table.notes, note)), replace(data, x=x, n_components=None)
