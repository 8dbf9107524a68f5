"""A small world to check parts in: Gaussian classes, and scikit-learn's logistic regression."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np

from subpop.batching import PoolRows
from subpop.types import Array, Bools, Floats, Ints, Pool, TrainingSet


@dataclass(frozen=True, eq=False)
class Toy:
    """Gaussian classes. rows: (n,) pool rows in the order that the defense sees; y: their labels, poison included."""

    pool: Pool
    rows: Ints
    y: Ints
    poison: Bools
    test_x: Array
    test_y: Ints

    def reordered(self, order: Ints) -> Toy:
        return Toy(self.pool, self.rows[order], self.y[order], self.poison[order], self.test_x, self.test_y)

    def train(self) -> TrainingSet:
        return TrainingSet(PoolRows(self.pool, self.rows), np.arange(len(self.rows)), self.y)


def gaussian(n: int, n_classes: int, n_poison: int = 0, n_labels: int | None = None, seed: int = 0) -> Toy:
    """n training rows and n_poison rows of class 0 labelled 1; n_labels: classes that occur, all by default."""
    rng = np.random.default_rng(seed)
    total = n + n_poison + 100
    y = np.arange(total) % (n_labels or n_classes)
    y[n : n + n_poison] = 0
    centres = 2.5 * np.eye(max(5, n_classes))[:n_classes]
    x = (centres[y] + rng.normal(size=(total, centres.shape[1]))).astype(np.float32)
    pool = Pool(x[: n + n_poison], y[: n + n_poison], n, n_classes)
    order = rng.permutation(n + n_poison)
    labels = np.where(order < n, y[order], 1)
    return Toy(pool, order, labels, order >= n, x[n + n_poison :], y[n + n_poison :])


class ToyModel:
    """scikit-learn's logistic regression, with a column for each class; each input stands for a channel that can be masked."""

    def __init__(self, x: Array, y: Ints, n_classes: int, keep: Bools | None = None) -> None:
        from sklearn.linear_model import LogisticRegression

        self._n_classes, self._labels = n_classes, np.unique(y)
        self._keep = np.ones(x.shape[1], np.bool_) if keep is None else keep
        self._fitted = LogisticRegression(max_iter=1000).fit(self.features(x), y) if len(self._labels) > 1 else None

    def predict_proba(self, x: Array) -> Floats:
        proba = np.zeros((len(x), self._n_classes), np.float32)
        proba[:, self._labels] = 1.0 if self._fitted is None else self._fitted.predict_proba(self.features(x))
        return proba

    def features(self, x: Array) -> Floats:
        return np.asarray(x * self._keep, np.float32)

    def channel_activations(self, x: Array) -> Floats:
        return self.features(x)

    def channel_zeros(self, x: Array) -> Floats:
        return np.asarray(self.features(x) <= 0, np.float32)

    def pruned(self, keep: Bools) -> ToyModel:
        fewer = copy.copy(self)
        fewer._keep = self._keep & keep
        return fewer

    def fine_tuned(self, train: TrainingSet, *, epochs: int, learning_rate: float, batch_size: int, seed: int) -> ToyModel:
        """Fitted anew on the given rows: there are no steps of which to take a few."""
        return ToyModel(train.x, train.y, self._n_classes, self._keep)
