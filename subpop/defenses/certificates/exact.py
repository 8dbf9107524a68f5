"""The exact number of label flips that a linear smoother's own prediction survives.

*Source*: none needed: the score of the winner minus that of a rival is a sum over training rows, and a flip changes its own term
only, so the worst r flips are the r that reduce the sum most.
*Deviations*: a tie counts as a change; a bound of the rounding error is subtracted, so that a certificate is never too large.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from subpop.defenses.certificates.chernoff import checked, in_threads
from subpop.types import Array, Ints
from subpop.victims.compiled import compiled

Doubles = NDArray[np.float64]


def pairwise_exact_radius(weights: Array, y: Ints, winner: Ints, n_classes: int) -> Ints:
    """Certify the predictions of a linear smoother with several classes.

    Parameters
    ----------
    weights
        (T, n) weight of each training row for each test row.
    y
        (n,) training labels.
    winner
        (T,) predicted classes.
    n_classes
        Number of classes.

    Returns
    -------
    Ints
        (T,) number of flips, to any class, after which no rival can reach the winner's score.

    Raises
    ------
    BadInput
        If shapes do not fit together, weights are not finite or labels are outside the classes.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop.defenses.certificates import pairwise_exact_radius
    >>> pairwise_exact_radius(np.ones((1, 5)), y=np.array([0, 0, 0, 0, 1]), winner=np.array([0]), n_classes=3)
    array([1])
    """
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
    """Fill in how much a flip of each row can reduce the gap between winner and rival, and a lower bound of the gap."""
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
    """Lower radius to the number of largest losses whose sum is below the gap. losses: (T, n), ascending in each row."""
    n = losses.shape[1]
    for row in range(len(losses)):
        taken, r = 0.0, 0
        while r < n and taken + losses[row, n - 1 - r] < gap[row]:
            taken += losses[row, n - 1 - r]
            r += 1
        radius[row] = min(radius[row], r)
