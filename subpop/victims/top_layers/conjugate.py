"""Compiled conjugate gradients for many heads: an iteration is too short for separate calls of torch.

Arrays are float32 or float64; sums over rows are always in float64.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_info

from subpop.types import Array, Ints
from subpop.victims.compiled import compiled

SMALL, FEWEST = 500_000, 16
"""Some kernels of OpenBLAS compute products of up to SMALL multiplications without first copying the factors; blocks of fewer
than FEWEST rows would gain nothing."""
WITHOUT_COPIES = {"skylakex", "cooperlake", "sapphirerapids"}
"""OpenBLAS's names of the processors with such kernels. With those of others, blocks take up to three times as long."""


@lru_cache(maxsize=1)
def uncopied() -> int:
    """How many multiplications BLAS does without copying the factors; 0 if it always copies them, or if that is not known."""
    names = {str(library.get("architecture")).lower() for library in threadpool_info() if library["user_api"] == "blas"}
    return SMALL if names and names <= WITHOUT_COPIES else 0


@compiled
def times_table(rows: Array, shared: Array, small: int) -> Array:
    """rows (m, n) times shared (n, k): where BLAS does `small` multiplications without copying the factors, in blocks of these.

    For a few rows they take half of the time of one product, which would copy `shared`.
    """
    m, n = rows.shape
    size = small // (m * shared.shape[1])
    size = n if m == 1 or size < FEWEST else size
    product = np.zeros((m, shared.shape[1]), rows.dtype)
    for first in range(0, n, size):
        last = min(first + size, n)
        product += np.dot(np.ascontiguousarray(rows[:, first:last]), shared[first:last])
    return product


@compiled
def times_symmetric(rows: Array, shared: Array, small: int) -> Array:
    """rows (m, n) times a symmetric table (n, n); where BLAS copies the factors, as the table times the rows, which is faster."""
    if small or len(rows) == 1:
        return times_table(rows, shared, small)
    return np.ascontiguousarray(np.dot(shared, rows.T).T)


class System(NamedTuple):
    """The matrices I + root K root of J heads: K is that of `Products`."""

    shared: Array
    own: Array
    more: Array
    images: Ints
    root: Array


class Near(NamedTuple):
    """The approximate inverses of a `Preconditioner`."""

    inner: Array
    outer: Array
    core: Array
    directions: Array


@compiled
def conjugate_gradients(system: System, near_inverse: Near, left: Array, accuracy: Array, limit: int, small: int) -> Array:
    """(J, n) z with (I + root K root) z = left to a relative accuracy (J,), after at most `limit` steps; overwrites `left`.

    small: see `times_table`.
    """
    shared, own, more, images, root = system
    inner, outer, core, directions = near_inverse
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
        inside = np.dot(rows, directions)
        for k in range(m):
            inside[k] = np.dot(core[live[k]], inside[k])
        back = np.dot(inside, across)
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
        product = times_symmetric(rows, shared, small)
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
