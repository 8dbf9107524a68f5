"""The exact number of label flips that a linear smoother's own prediction survives: sort what each flip can take away.

*Source*: none needed: the score of the winner minus that of a rival is a sum over training rows, and a flip changes its own term
only, so the worst r flips are the r that take most.
*Deviations*: a tie counts as a change; the sums may be off by rounding, which is held against the certificate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from subpop.certificates.chernoff import checked, in_threads
from subpop.types import Array, Ints
from subpop.victims.compiled import compiled

Doubles = NDArray[np.float64]


def pairwise_exact_radius(weights: Array, y: Ints, winner: Ints, n_classes: int) -> Ints:
    """(T,) flips, to any class, that cannot bring any rival to the winner's score. Arguments: see `pairwise_log_bounds`."""
    weights, y, winner = checked(weights, y, winner, n_classes)
    radius = np.full(len(weights), len(y), np.int64)

    def fill(rows: slice) -> None:
        for step in range(n_classes - 1):
            rival = (winner[rows] + 1 + step) % n_classes
            losses, gap = np.empty_like(weights[rows]), np.empty(len(rival))
            _fill_losses(weights[rows], y, winner[rows], rival, losses, gap)
            losses.sort(axis=1)
            _lower(losses, gap, radius[rows])

    in_threads(fill, len(weights))
    return radius


@compiled
def _fill_losses(weights: Doubles, y: Ints, winner: Ints, rival: Ints, losses: Doubles, gap: Doubles) -> None:
    """The most that a flip of each row takes off the gap between winner and rival, and the least that the gap can be."""
    for row in range(len(weights)):
        total = size = 0.0
        for i in range(len(y)):
            weight = weights[row, i]
            size += abs(weight)
            kind = 1 if y[i] == winner[row] else -1 if y[i] == rival[row] else 0
            total += kind * weight
            losses[row, i] = kind * weight + abs(weight)
        gap[row] = total - len(y) * 4.5e-16 * size


@compiled
def _lower(losses: Doubles, gap: Doubles, radius: Ints) -> None:
    """radius becomes, where that is less, the number of largest losses that stay below the gap. losses: (T, n), rows rising."""
    n = losses.shape[1]
    for row in range(len(losses)):
        taken, r = 0.0, 0
        while r < n and taken + losses[row, n - 1 - r] < gap[row]:
            taken += losses[row, n - 1 - r]
            r += 1
        radius[row] = min(radius[row], r)
