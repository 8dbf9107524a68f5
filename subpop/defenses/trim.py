"""TRIM: train, remove the rows with the largest losses, train again, until a set of remaining rows repeats.

*Source*: the paper's Algorithm 4 (TRIM of Jagielski et al. 2018, for classification). It needs the number of poison rows.
*Deviations*: ties of losses are broken by row id; the loop ends if a set occurred in any earlier round, not only the last; at
most 20 rounds where the released image scripts stop after 5. For a learner that minimises the summed loss on a set of fixed size
plus a fixed regulariser exactly, no round raises the trimmed objective, so the loop terminates; the limit is for other learners.
"""

from __future__ import annotations

import numpy as np

from subpop.defenses.filters import keep_lowest, told_poison
from subpop.defenses.fits import probabilities
from subpop.types import Array, Defended, Fit, Ints, Knowledge, Model, TrainingSet

MAX_ROUNDS = 20


def trim(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int, max_rounds: int = MAX_ROUNDS) -> Defended:
    """Train on the n - n_poison rows with the smallest losses, alternating selection and training.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    max_rounds
        Largest number of trainings.

    Returns
    -------
    Defended
        With the diagnostics rounds, converged (1 or 0), tied and gap (see `keep_lowest`).

    Raises
    ------
    BadInput
        If `know.n_poison` is missing, or not below the number of training rows.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["trim"](toy.train(), toy.fit, Knowledge(n_poison=24), seed=0)
    >>> int((~defended.keep).sum())
    24
    """
    n_drop = told_poison(know, train, "trim")

    def score(model: Model) -> Array:
        return _in_order_of_loss(probabilities(fit, model, train), train.y)

    return keep_lowest(train, fit, n_drop, score, max_rounds, _loss_of)


trim.needs = {"n_poison"}  # type: ignore[attr-defined]


def given_label_loss(proba: Array, y: Ints) -> Array:
    """Return the (n,) float64 log loss of the given labels y under probabilities (n, C); always finite.

    For confident rows it is computed from the other classes' probabilities: 1 - 1e-12 is 1 in float32, but 1e-12 is not 0.
    """
    return _loss_of(_in_order_of_loss(proba, y))


def _in_order_of_loss(proba: Array, y: Ints) -> Array:
    """Return (n,) float64 numbers in the order of the log losses of the given labels y, without taking logarithms.

    Up to .5 it is the probability of the other classes; above, a quarter of the inverse probability of the given label.
    """
    if proba.shape[1] == 2:
        place = np.arange(0, 2 * len(y), 2) + y
        own, others = np.take(proba, place), np.take(proba, place ^ 1)
    else:
        rest, rows = np.array(proba, dtype=np.float64), np.arange(len(y))
        own = rest[rows, y]
        rest[rows, y] = 0
        others = rest.sum(axis=1)
    values: Array = np.minimum(others, 0.5, dtype=np.float64)
    unsure = np.flatnonzero(~(own > 0.5))
    values[unsure] = 0.25 / np.maximum(own[unsure], np.finfo(np.float64).tiny, dtype=np.float64)
    return values


def _loss_of(values: Array) -> Array:
    """Return the log losses of numbers from `_in_order_of_loss`."""
    values = np.asarray(values)
    return np.asarray(np.where(values > 0.5, np.log(4 * np.maximum(values, 0.5)), -np.log1p(-np.minimum(values, 0.5))))
