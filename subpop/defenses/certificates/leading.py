"""The leading eigenvectors of a symmetric matrix, in little more time than LAPACK takes to make it tridiagonal.

LAPACK's solvers for some of the eigenvectors spend as much again on the tridiagonal matrix. Here its eigenvalues are bisected
together, one vector operation for all of them, and each eigenvector comes from its twisted factorisation (Dhillon and Parlett
2004, "Multiple representations to compute orthogonal eigenvectors of symmetric tridiagonal matrices"). Eigenvalues that are too
close for orthogonal vectors are left to LAPACK.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, lapack

from subpop.victims.compiled import compiled

Doubles = NDArray[np.float64]

_TINY = 1e-290
_PANEL = 32
"""Columns that LAPACK processes together."""
_ACCURACY = 1e-10
"""Largest residual relative to the largest eigenvalue, and largest product of two eigenvectors."""


def leading(products: Doubles, count: int, rank: float) -> tuple[Doubles, Doubles]:
    """The largest eigenvalues and their eigenvectors.

    Parameters
    ----------
    products
        (d, d) symmetric matrix, of which the upper triangle is read and the rest overwritten.
    count
        Number of eigenvalues, at most d.
    rank
        Eigenvalues of at most this fraction of the largest one are left out.

    Returns
    -------
    tuple[Doubles, Doubles]
        (k,) eigenvalues in descending order and (d, k) eigenvectors; k is 0 if no eigenvalue is positive.
    """
    d = len(products)
    if d >= 3:
        whole = products.copy()
        reduced, diagonal, beside, reflections, _ = lapack.dsytrd(products.T, lower=1, lwork=_PANEL * d, overwrite_a=1)
        values = bisected(diagonal, beside, count)
        values = values[values > max(0.0, rank * values[0])]
        vectors, residual = np.empty((d, len(values))), np.empty(len(values))
        twisted(diagonal, beside, values, vectors, residual)
        angles = vectors.T @ vectors - np.eye(len(values))
        if np.all(np.abs(angles) <= _ACCURACY) and np.all(residual <= _ACCURACY * values.max(initial=0)):
            vectors -= vectors @ (angles / 2)  # orthogonal up to rounding; the nearest such vectors
            rotated = np.asfortranarray(reduced[1:, :-1])
            found = lapack.dormqr("R", "T", rotated, reflections, vectors[1:].T, lwork=_PANEL * d, overwrite_c=1)[0]
            return values, np.concatenate([vectors[:1], found.T])
        products = whole
    values, vectors = eigh(products, lower=False, subset_by_index=(d - count, d - 1), check_finite=False)
    chosen = np.flatnonzero(values > max(0.0, rank * values[-1]))[::-1]
    return values[chosen], vectors[:, chosen]


@compiled
def bisected(diagonal: Doubles, beside: Doubles, count: int) -> Doubles:
    """The `count` largest eigenvalues of a tridiagonal matrix, in descending order."""
    d = len(diagonal)
    lowest, highest = diagonal[0], diagonal[0]
    for i in range(d):
        radius = (abs(beside[i - 1]) if i else 0.0) + (abs(beside[i]) if i < d - 1 else 0.0)
        lowest, highest = min(lowest, diagonal[i] - radius), max(highest, diagonal[i] + radius)
    low, high = np.full(count, lowest), np.full(count, highest)
    pivot, middle, above = np.empty(count), np.empty(count), np.empty(count, np.int64)
    for _ in range(100):
        for j in range(count):
            middle[j] = (low[j] + high[j]) / 2
            pivot[j] = 1.0
            above[j] = 0
        for i in range(d):
            square = beside[i - 1] * beside[i - 1] if i else 0.0
            for j in range(count):
                p = diagonal[i] - middle[j] - square / pivot[j]
                p = p if abs(p) > _TINY else _TINY
                pivot[j] = p
                above[j] += 1 if p > 0 else 0
        widest = 0.0
        for j in range(count):
            if above[j] > j:
                low[j] = middle[j]
            else:
                high[j] = middle[j]
            widest = max(widest, high[j] - low[j])
        if widest <= 2e-16 * max(abs(lowest), abs(highest)):
            break
    found: Doubles = (low + high) / 2
    return found


@compiled
def twisted(diagonal: Doubles, beside: Doubles, values: Doubles, vectors: Doubles, residual: Doubles) -> None:
    """Fill (d, k) unit eigenvectors of a tridiagonal matrix and the norms (k,) of their residuals."""
    d, k = vectors.shape
    down, up = np.empty((d, k)), np.empty((d, k))
    for i in range(d):
        square = beside[i - 1] * beside[i - 1] if i else 0.0
        for j in range(k):
            p = diagonal[i] - values[j] - (square / down[i - 1, j] if i else 0.0)
            down[i, j] = p if abs(p) > _TINY else _TINY
    for i in range(d - 1, -1, -1):
        square = beside[i] * beside[i] if i < d - 1 else 0.0
        for j in range(k):
            p = diagonal[i] - values[j] - (square / up[i + 1, j] if i < d - 1 else 0.0)
            up[i, j] = p if abs(p) > _TINY else _TINY
    twist, least, size = np.zeros(k, np.int64), np.full(k, np.inf), np.zeros(k)
    for i in range(d):
        for j in range(k):
            gamma = abs(down[i, j] + up[i, j] - (diagonal[i] - values[j]))
            twist[j] = i if gamma < least[j] else twist[j]
            least[j] = min(gamma, least[j])
    for i in range(d - 1, -1, -1):
        for j in range(k):
            following = -beside[i] * vectors[i + 1, j] / down[i, j] if i < d - 1 else 0.0
            vectors[i, j] = following if i < twist[j] else 1.0 if i == twist[j] else 0.0
    for i in range(1, d):
        for j in range(k):
            vectors[i, j] = -beside[i - 1] * vectors[i - 1, j] / up[i, j] if i > twist[j] else vectors[i, j]
    for i in range(d):
        for j in range(k):
            size[j] += vectors[i, j] * vectors[i, j]
    for j in range(k):
        size[j] = 1 / np.sqrt(size[j])
        residual[j] = least[j] * size[j]
    for i in range(d):
        for j in range(k):
            vectors[i, j] *= size[j]
