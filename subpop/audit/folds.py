"""Out-of-fold predictions: every row is predicted by a model that was trained without it, and the predictions are calibrated.

Rows with equal inputs are in one fold, so that no model is asked about inputs that it was trained on. The confidence of the
predicted class is calibrated by a logistic curve (Platt 1999) that is fitted on the other folds only; it is what a row is
expected to be right with, given everything that the model knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subpop.types import Array, BadInput, FleetJob, Ints, Pool, Victim

Doubles = NDArray[np.float64]
SMALLEST = 1e-4
"""Confidences are at least this far from 0 and 1 before their log odds are taken."""


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Predictions of every row by a model that was trained without it and without the rows of equal content.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop.audit.folds import OutOfFold
    >>> raw = np.array([[0.9, 0.1], [0.4, 0.6]])
    >>> OutOfFold(proba=raw, raw=raw, folds=np.array([0, 1])).predicted
    array([0, 1])
    """

    proba: Doubles
    """(n, C) probabilities in which that of the predicted class is calibrated; each row sums to 1."""
    raw: Doubles
    """(n, C) probabilities as the models give them."""
    folds: Ints
    """(n,) the fold of each row, from 0 on."""

    @property
    def predicted(self) -> Ints:
        """(n,) the class of the largest raw probability, the first one of equal ones."""
        return np.asarray(self.raw.argmax(axis=1), dtype=np.int64)

    @property
    def confidence(self) -> Doubles:
        """(n,) calibrated probability of the predicted class."""
        return np.asarray(self.proba[np.arange(len(self.raw)), self.predicted])


def out_of_fold(
    victim: Victim, x: Array, y: Ints, n_classes: int, *, n_folds: int = 5, seed: int = 0, names: Sequence[str] = ()
) -> OutOfFold:
    """Predict every row by a model that was trained on the other folds, and calibrate the predictions.

    Parameters
    ----------
    victim
        The learning algorithm. All folds are trained in one call of `fit_many`.
    x
        (n, ...) inputs.
    y
        (n,) labels from 0 to n_classes - 1.
    n_classes
        Number of classes.
    n_folds
        Number of folds, at least 2 and at most the number of different inputs of every label.
    seed
        Seed of the folds and of the models.
    names
        Names of the classes for error messages; by default their numbers.

    Returns
    -------
    OutOfFold
        The predictions, in the order of the rows. They do not depend on that order if the victim does not.

    Raises
    ------
    BadInput
        If the numbers of rows differ, a label is not a class, or a label has too few different inputs for the folds.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from subpop import make_victim
    >>> from subpop.audit.folds import out_of_fold
    >>> x, y = load_wine(return_X_y=True)
    >>> out = out_of_fold(make_victim("logistic_regression"), (x - x.mean(0)) / x.std(0), y, n_classes=3)
    >>> out.proba.shape, bool((out.predicted == y).mean() > 0.95)
    ((178, 3), True)
    """
    x, y = np.asarray(x), np.asarray(y)
    folds = content_folds(x, y, n_folds, seed, names)
    if y.min() < 0 or y.max() >= n_classes:
        raise BadInput(f"labels from {y.min()} to {y.max()}; with n_classes={n_classes} they must be in 0..{n_classes - 1}")
    pool = Pool(x.view(), y.astype(np.int64), len(y), n_classes)
    jobs = [FleetJob(pool, rows, pool.y[rows]) for rows in (np.flatnonzero(folds != fold) for fold in range(n_folds))]
    models = victim.fit_many(jobs, [seed] * n_folds)
    raw = np.zeros((len(y), n_classes))
    for fold, model in enumerate(models):
        raw[folds == fold] = model.predict_proba(x[folds == fold])
    return OutOfFold(calibrated(raw, pool.y, folds), raw, folds)


def content_folds(x: Array, y: Ints, n_folds: int, seed: int, names: Sequence[str] = ()) -> Ints:
    """Return the (n,) fold of each row, in nearly equal shares of every label; rows with equal inputs are in one fold.

    The folds follow from the contents of the rows and the seed, not from their order. An input with several labels counts as one
    of its smallest label. Raises BadInput if that is not possible.
    """
    if len(x) != len(y) or not len(y):
        raise BadInput(f"{len(x)} rows and {len(y)} labels: give one label per row, and at least one row")
    if n_folds < 2:
        raise BadInput(f"n_folds={n_folds} must be at least 2")
    flat = np.ascontiguousarray(x.reshape(len(x), -1))
    keys = flat.view(f"V{flat.shape[1] * flat.itemsize}").ravel()
    first, content = np.unique(keys, return_inverse=True)
    label = np.full(len(first), np.iinfo(np.int64).max)
    np.minimum.at(label, content, y)
    generator, fold = np.random.default_rng(seed), np.empty(len(first), dtype=np.int64)
    for each, size in zip(*np.unique(label, return_counts=True), strict=True):
        if size < n_folds:
            raise BadInput(
                f"class {names[each] if names else each} has {size} different inputs, fewer than the {n_folds} folds "
                "(an input with several labels counts for the first of them): merge the class with another, leave its rows "
                "out, or give more columns"
            )
        fold[label == each] = (generator.permutation(size) + generator.integers(n_folds)) % n_folds
    return np.asarray(fold[content])


def calibrated(raw: Doubles, y: Ints, folds: Ints) -> Doubles:
    """Calibrate the probability of the predicted class by a logistic curve fitted on the other folds; scale the others.

    raw: (n, C) out-of-fold probabilities; y, folds: (n,). Returns (n, C). Where all rows of the other folds are predicted right,
    or none, the expected share is that of a half more error and a half more success.
    """
    from sklearn.linear_model import LogisticRegression

    predicted = raw.argmax(axis=1)
    top = raw[np.arange(len(y)), predicted]
    right = predicted == y
    odds = np.log(np.clip(top, SMALLEST, 1 - SMALLEST) / (1 - np.clip(top, SMALLEST, 1 - SMALLEST)))[:, None]
    chance = np.empty(len(y))
    for fold in np.unique(folds):
        others, own = folds != fold, folds == fold
        if 0 < right[others].sum() < others.sum():
            chance[own] = LogisticRegression().fit(odds[others], right[others]).predict_proba(odds[own])[:, 1]
        else:
            chance[own] = (right[others].sum() + 0.5) / (others.sum() + 1)
    rest = np.where(top < 1, 1 - top, 1)
    out = raw * ((1 - chance) / rest)[:, None]
    out[top >= 1] = ((1 - chance) / max(raw.shape[1] - 1, 1))[top >= 1, None]
    out[np.arange(len(y)), predicted] = chance
    return np.asarray(out)
