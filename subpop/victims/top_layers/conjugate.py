"""Compiled conjugate gradients for many heads: an iteration is too short for separate calls of torch.

Arrays are float32 or float64; sums over rows are always in float64.
"""

from __future__ import annotations

import numpy as np

from subpop.types import Array, Ints
from subpop.victims.compiled import compiled

SMALL, FEWEST = 500_000, 16
"""BLAS computes products of up to SMALL multiplications without first copying the factors; blocks of fewer than FEWEST rows would
gain nothing."""


@compiled
def times_table(rows: Array, shared: Array) -> Array:
    """rows (m, n) times shared (n, k): for a few rows in half of the time of one product, which would copy `shared`."""
    m, n = rows.shape
    size = SMALL // (m * shared.shape[1])
    size = n if m == 1 or size < FEWEST else size
    product = np.zeros((m, shared.shape[1]), rows.dtype)
    for first in range(0, n, size):
        last = min(first + size, n)
        product += np.dot(np.ascontiguousarray(rows[:, first:last]), shared[first:last])
    return product


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
        # The preconditioned residual, and from it the next search direction.
        rows = np.empty((m, n), left.dtype)
        for k in range(m):
            for i in range(n):
                rows[k, i] = outer[live[k], i] * left[live[k], i]
        small = np.dot(rows, directions)
        for k in range(m):
            small[k] = np.dot(core[live[k]], small[k])
        back = np.dot(small, across)
        for k in range(m):
            j, size = live[k], 0.0
            for i in range(n):
                near[j, i] = inner[j, i] * left[j, i] - outer[j, i] * back[k, i]
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
        rows = np.empty((m, n), left.dtype)
        for k in range(m):
            for i in range(n):
                rows[k, i] = root[live[k], i] * search[live[k], i]
        product = times_table(rows, shared)
        for k in range(m):
            j, along, curvature = live[k], 0.0, 0.0
            image = images[j]
            for i in range(n):
                along += own[j, i] * rows[k, i]
            here = rows[k, image]
            for i in range(n):
                product[k, i] += here * more[j, i]
            product[k, image] = along
            for i in range(n):
                near[j, i] = search[j, i] + root[j, i] * product[k, i]
                curvature += search[j, i] * near[j, i]
            length = left.dtype.type(norm[j] / curvature)
            for i in range(n):
                found[j, i] += length * search[j, i]
                left[j, i] -= length * near[j, i]
    return found
