"""Directions of largest variance, and the treatment of ties between directions and between rows.

If several directions have the largest variance, as for one-hot features of groups of equal size, an eigenvalue routine returns
any one of them, depending on rounding. Therefore all directions whose variance is within SAME_VARIANCE of the largest are used
together: the length of the projection on their span does not depend on the basis. Scores are rounded to DIGITS digits of the
largest, so that scores which differ only by rounding are equal.

*Source*: Lanczos' method with full orthogonalisation and deflation, as in textbooks (Golub and Van Loan, Matrix Computations).
*Deviations*: none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from subpop.types import Array, Bools

SAME_VARIANCE = 1e-6
DIGITS = 9
DIRECT_SIZE = 256
LANCZOS_STEPS = 100
ACCURACY, CLEARLY_BELOW = 1e-8, 1e-3
"""Residual of an eigenpair relative to its eigenvalue: if it is used, and if it only has to be shown to be smaller."""

Multiply = Callable[[Array], Array]
"""Multiplication with a positive semidefinite matrix: (size,) -> (size,)."""


def top_eigenspace(columns: Array) -> Array:
    """Return (d, k), orthonormal: the right singular vectors of columns, (n, d), for the largest singular value."""
    size = columns.shape[1]
    if size > DIRECT_SIZE:
        return top_eigenspace_of(lambda vector: columns.T @ (columns @ vector), size)
    if not size:
        return np.zeros((0, 0))
    values, vectors = np.linalg.eigh(columns.T @ columns)
    return np.asarray(vectors[:, values >= (1 - SAME_VARIANCE) * values[-1]])


def top_eigenspace_of(multiply: Multiply, size: int) -> Array:
    """Return (size, k), orthonormal: the eigenvectors of the largest eigenvalue, found one by one until the next is smaller."""
    least = 0.0
    found = np.zeros((size, 0))
    while found.shape[1] < size:
        value, vector = _top_eigenpair(multiply, found, least)
        if value < least:
            break
        least = max(least, (1 - SAME_VARIANCE) * value)
        found = np.column_stack([found, vector])
        if value <= 0:  # no variance: the direction is arbitrary
            break
    return found


def steady(scores: Array) -> Array:
    """Round scores >= 0 to DIGITS digits of the largest."""
    largest = scores.max(initial=0.0)
    return np.asarray(np.round(scores / largest, DIGITS) * largest if largest > 0 else scores)


def tie_decides(scores: Array, chosen: Bools) -> bool:
    """Return whether a selected and an unselected row have the same score, so that the selection does not follow from scores
    alone."""
    return bool(chosen.any() and not chosen.all() and scores[chosen].min() == scores[~chosen].max())


def _top_eigenpair(multiply: Multiply, known: Array, least: float) -> tuple[float, Array]:
    """Find the largest eigenpair orthogonal to `known` by the Lanczos method from a start that is fixed for each k.

    known: (size, k) orthonormal eigenvectors. Stops early if the eigenvalue is clearly below `least`.
    """
    size = len(known)
    n_steps = min(size - known.shape[1], LANCZOS_STEPS)
    basis, tridiagonal = np.zeros((n_steps, size)), np.zeros((n_steps, n_steps))
    # Lanczos finds only one vector of an eigenspace, which depends on the start: each search needs a new one.
    start = _orthogonal(np.random.default_rng(known.shape[1]).standard_normal(size), known.T)
    basis[0] = start / np.linalg.norm(start)
    for step in range(n_steps):
        new = multiply(basis[step])
        tridiagonal[step, step] = new @ basis[step]
        new = _orthogonal(_orthogonal(new, known.T), basis[: step + 1])
        length = np.linalg.norm(new)
        values, vectors = np.linalg.eigh(tridiagonal[: step + 1, : step + 1])
        residual = length * abs(vectors[-1, -1])  # of the top eigenpair found so far
        below = values[-1] + residual < (1 - CLEARLY_BELOW) * least and residual <= CLEARLY_BELOW * values[-1]
        if step + 1 == n_steps or below or residual <= ACCURACY * values[-1]:
            break
        tridiagonal[step, step + 1] = tridiagonal[step + 1, step] = length
        basis[step + 1] = new / length
    return float(values[-1]), np.asarray(basis[: step + 1].T @ vectors[:, -1])


def _orthogonal(vector: Array, basis: Array) -> Array:
    """Project the vector on the orthogonal complement of the rows of `basis`, (k, size); twice, to remove rounding errors."""
    for _ in range(2):
        vector = vector - basis.T @ (basis @ vector)
    return vector
