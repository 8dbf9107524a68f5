"""Compiled conjugate gradients for many heads: an iteration is too short for separate calls of torch.

Arrays are float32 or float64; sums over rows are always in float64.
"""

from __future__ import annotations

import numpy as np

from subpop.types import Array, Ints
from subpop.victims.compiled import compiled


@compiled
def conjugate_gradients(
    limit: int,
    shared: Array,
    own: Array,
    more: Array,
    images: Ints,
    root: Array,
    inner: Array,
    outer: Array,
    core: Array,
    directions: Array,
    left: Array,
    accuracy: Array,
) -> Array:
    """(J, n) z with (I + root K root) z = left; overwrites `left`. For the arguments see `Products` and `Preconditioner`."""
    heads, n = left.shape
    found, search, near, across = (
        np.zeros_like(left),
        np.zeros_like(left),
        np.empty_like(left),
        np.ascontiguousarray(directions.T),
    )
    norm, goal, live, m = np.zeros(heads), np.zeros(heads), np.arange(heads), heads
    for step in range(limit + 1):
        # The preconditioned residual, and from it the next search direction. In matrix products, heads are columns.
        columns = np.empty((n, m), left.dtype)
        for k in range(m):
            for i in range(n):
                columns[i, k] = outer[live[k], i] * left[live[k], i]
        small = np.dot(across, columns)
        for k in range(m):
            small[:, k] = np.dot(core[live[k]], np.ascontiguousarray(small[:, k]))
        back = np.dot(directions, small)
        for k in range(m):
            j, size = live[k], 0.0
            for i in range(n):
                near[j, i] = inner[j, i] * left[j, i] - outer[j, i] * back[i, k]
                size += left[j, i] * near[j, i]
            if step == 0:
                goal[j] = size * accuracy[j] * accuracy[j]
            ratio = left.dtype.type(size / norm[j] if step > 0 else 0)
            for i in range(n):
                search[j, i] = near[j, i] + ratio * search[j, i]
            norm[j] = size
        m = 0
        for j in range(heads):
            if norm[j] > goal[j]:
                live[m] = j
                m += 1
        if m == 0:
            break
        columns = np.empty((n, m), left.dtype)
        for k in range(m):
            for i in range(n):
                columns[i, k] = root[live[k], i] * search[live[k], i]
        product = np.dot(shared, columns)
        for k in range(m):
            j, along, curvature = live[k], 0.0, 0.0
            image = images[j]
            for i in range(n):
                along += own[j, i] * columns[i, k]
            here = columns[image, k]
            for i in range(n):
                product[i, k] += here * more[j, i]
            product[image, k] = along
            for i in range(n):
                near[j, i] = search[j, i] + root[j, i] * product[i, k]
                curvature += search[j, i] * near[j, i]
            length = left.dtype.type(norm[j] / curvature)
            for i in range(n):
                found[j, i] += length * search[j, i]
                left[j, i] -= length * near[j, i]
    return found
