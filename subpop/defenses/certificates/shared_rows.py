"""The linear smoothers of many trials whose training sets share the rows of D: what they share is computed once.

All inputs are shifted by D's means and divided by D's deviations, once. A training set is D and a added rows, so that its sums
and products are those of D plus those of the added rows. With N = n + a, mean m and products G of the set, and s the inverse
deviations, its principal directions V are the leading eigenvectors of diag(s) (G - N m m') diag(s), with eigenvalues v. So that
(v + penalty) is diagonal, rows need no second factorisation: W = diag(s) V / sqrt(v + penalty), and the weight of training row i
for a row x is alpha_i = 1/N + (x - m) W W' (b_i - m). Scores of a class need the sum of its rows only, not the rows themselves.

Memory in values of 8 bytes: n d + d^2 for D and T d for T test rows, kept for the last pool; d (3 d + 6 k) while a trial with k
components is being solved, of which d k remain until it ends.

Of the processor time of a trial on 1,024 features, about half makes the matrix tridiagonal, and a fifth is the product of the
certified rows with D. Neither can be shared: added rows change every deviation, and so every entry of the matrix.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.linalg.blas import dsyrk

from subpop.defenses.certificates.leading import leading
from subpop.defenses.certificates.smoother import (
    CONSTANT,
    RANK,
    Doubles,
    RidgeModel,
    inverse_deviation,
    n_components,
    one_hot,
    penalty_of,
)
from subpop.defenses.remembered import Remembered
from subpop.harness.batching import PoolRows
from subpop.types import Array, BadInput, Ints, Pool, TrainingSet
from subpop.victims.compiled import compiled
from subpop.victims.linear_model import flat

MOST_FEATURES = 4096
"""With more, products of features need more than 128 MB; these training sets are solved by themselves."""


def shared_learner(train: TrainingSet, rows_each: int, ridge: float) -> SharedLearner | None:
    """The learner of a training set that contains D, from what all of these share; None for any other training set."""
    source = train._source
    if not isinstance(source, PoolRows):
        return None
    rows, n = source.rows[train.ids], source.pool.n_train
    if n < 2 or not 1 <= math.prod(source.pool.x.shape[1:]) <= min(MOST_FEATURES, n):
        return None
    order = np.argsort(rows, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(rows[order]) > 0])
    if not np.array_equal(rows[order[first[:n]]], np.arange(n)):
        return None
    added = np.delete(order, first[:n])
    column = np.empty(len(rows), np.int64)
    column[order[first[:n]]], column[added] = np.arange(n), n + np.arange(len(added))
    shared = shared_rows(source.pool)
    if shared is None:
        return None
    x = shared.standardised(source.gather(train.ids[added]))
    return SharedLearner(shared, x, column, rows_each, ridge) if np.isfinite(x).all() else None


@lru_cache(maxsize=1)
def shared_rows(pool: Pool) -> SharedRows | None:
    """What training sets that contain the pool's D share, computed once for trial after trial; None if D has no finite means."""
    values = flat(pool.x[: pool.n_train]).astype(np.float32, copy=False)
    centre = values.mean(axis=0, dtype=np.float64)
    return SharedRows(pool, values, centre) if np.isfinite(centre).all() else None


class SharedRows:
    """D in units of its own means and deviations.

    rows: (n, d); products: (d, d) rows' rows; total: (d,) their sum; centre, scale: (d,) means and deviations, 1 for a feature
    that is constant.
    """

    def __init__(self, pool: Pool, values: Array, centre: Doubles) -> None:
        self.y, self.centre = pool.y[: pool.n_train], centre
        self.rows = values - centre
        deviation = np.sqrt(np.einsum("ij,ij->j", self.rows, self.rows) / len(self.rows))
        varies = inverse_deviation(deviation, centre) > 0
        self.scale = np.where(varies, deviation, 1.0)
        self.rows /= self.scale
        self.products, self.total = self.rows.T @ self.rows, self.rows.sum(axis=0)
        self.sums = one_hot(self.y, len(self.y), pool.n_classes).T @ self.rows
        """(C, d) sums of the rows of each class."""
        self.test_rows = Remembered(self.standardised)
        """(T, d) the rows that all trials predict."""

    def standardised(self, x: Array) -> Doubles:
        """(T, d) inputs in D's units."""
        values = flat(np.asarray(x)).astype(np.float32, copy=False)
        if values.shape[1] != len(self.centre):
            raise BadInput(f"inputs have {values.shape[1]} features; the model was trained on {len(self.centre)}: give as many")
        out = values - self.centre
        out /= self.scale
        return out


class SharedLearner:
    """The learner of D and of added rows; see `Learner`.

    added: (a, d) rows in D's units; column: (N,) position in D, then in `added`, of each training row.
    """

    def __init__(self, shared: SharedRows, added: Doubles, column: Ints, rows_each: int, ridge: float) -> None:
        self._shared, self._added, self._column = shared, added, column
        n, d = len(column), len(shared.centre)
        self._mean = (shared.total + added.sum(axis=0)) / n
        square = np.diag(shared.products) + np.einsum("ij,ij->j", added, added) - n * self._mean**2
        deviation = np.sqrt(np.maximum(square, 0) / n)
        inverse = inverse_deviation(deviation * shared.scale, shared.centre + self._mean * shared.scale) * shared.scale
        products = np.empty((d, d))
        _fill(shared.products, n * self._mean, self._mean, inverse, products)
        if len(added):
            # The upper triangle of an array in C order is the lower one in LAPACK's.
            products = dsyrk(1.0, (added * inverse).T, beta=1.0, c=products.T, lower=1, overwrite_c=1).T
        variances, vectors = leading(products, n_components(n, d, rows_each), RANK)
        if not len(variances):
            raise BadInput(CONSTANT)
        self.penalty = penalty_of(ridge, float(variances.mean()))
        self._directions = inverse[:, None] * vectors
        self._stretch = 1 / np.sqrt(variances + self.penalty)
        self.n_components = len(variances)

    def components(self, x: Array) -> Doubles:
        """(T, d') float64 principal components of inputs."""
        return np.asarray((self._shared.standardised(x) - self._mean) @ self._directions)

    def model(self, y: Ints, n_classes: int) -> RidgeModel:
        """The ridge regression on labels y (N,)."""
        y = np.asarray(y)
        share = one_hot(y, len(self._column), n_classes).mean(axis=0)
        sums = np.zeros((n_classes, len(self._mean)))
        sums[: len(self._shared.sums)] = self._shared.sums
        own = np.empty_like(y)
        own[self._column] = y
        n = len(self._shared.y)
        other = np.flatnonzero(own[:n] != self._shared.y)
        hot = np.arange(n_classes)[:, None]
        sums += ((hot == own[other]) * 1.0 - (hot == self._shared.y[other])) @ self._shared.rows[other]
        sums += (hot == own[n:]) @ self._added
        sums -= np.outer(share * len(y), self._mean)
        return RidgeModel(self, np.asarray(y, np.int64), share, self._stretch[:, None] * (self._directions.T @ sums.T))

    def inputs(self, x: Array) -> Doubles:
        """(T, d') components divided by sqrt(variance + penalty)."""
        return self.components(x) * self._stretch

    def products(self, x: Array, coef: Doubles) -> Doubles:
        """(T, C) `inputs(x) @ coef` of a coef whose columns sum to 0."""
        slope, rows = self._directions @ (self._stretch[:, None] * coef[:, :-1]), self._shared.test_rows(x)
        found = [rows @ column - self._mean @ column for column in np.ascontiguousarray(slope.T)]
        return np.stack([*found, -np.sum(found, axis=0)], axis=1)

    def weights(self, inputs: Doubles) -> Doubles:
        """(T, N) alpha of rows in the form of `inputs`."""
        slope = (inputs * self._stretch) @ self._directions.T
        n = len(self._shared.rows)
        alpha = np.empty((len(inputs), len(self._column)))
        np.matmul(slope, self._shared.rows.T, out=alpha[:, :n])
        np.matmul(slope, self._added.T, out=alpha[:, n:])
        alpha += (1 / len(self._column) - slope @ self._mean)[:, None]
        return alpha[:, self._column]


@compiled
def _fill(products: Doubles, total: Doubles, mean: Doubles, inverse: Doubles, out: Doubles) -> None:
    """The upper triangle of diag(inverse) (products - total mean') diag(inverse)."""
    for i in range(len(out)):
        for j in range(i, len(out)):
            out[i, j] = (products[i, j] - total[i] * mean[j]) * inverse[i] * inverse[j]
