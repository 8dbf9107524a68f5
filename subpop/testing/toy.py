"""A small test problem: Gaussian classes, with scikit-learn's logistic regression as the victim."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np

from subpop.harness.batching import PoolRows
from subpop.types import Array, Bools, Floats, Ints, Model, Pool, TrainingSet


@dataclass(frozen=True, eq=False)
class Toy:
    """A test problem made by `gaussian`.

    Examples
    --------
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> len(toy.train()), int(toy.poison.sum())
    (264, 24)
    >>> toy.fit(toy.train()).predict_proba(toy.test_x).shape
    (100, 2)
    """

    pool: Pool
    """Clean rows, then poison rows, with their true labels."""
    rows: Ints
    """(n,) pool rows in the order of the training set."""
    y: Ints
    """(n,) labels of the training set; those of poison rows are wrong."""
    poison: Bools
    """(n,) True for poison rows."""
    test_x: Array
    """(m, d) test inputs."""
    test_y: Ints
    """(m,) test labels."""

    def reordered(self, order: Ints) -> Toy:
        """Reorder the training set.

        Parameters
        ----------
        order
            (n,) positions of the rows of the training set; they may repeat.

        Returns
        -------
        Toy
            The same problem with the training set in this order.
        """
        return Toy(self.pool, self.rows[order], self.y[order], self.poison[order], self.test_x, self.test_y)

    def fit(self, train: TrainingSet) -> Model:
        """Train the victim, a logistic regression: the `fit` of a defense.

        Parameters
        ----------
        train
            The rows to train on.

        Returns
        -------
        Model
            The trained model.
        """
        return ToyModel(train.x, train.y, self.pool.n_classes)

    def train(self) -> TrainingSet:
        """Return the poisoned training set."""
        return TrainingSet(PoolRows(self.pool, self.rows), np.arange(len(self.rows)), self.y)


def gaussian(n: int, n_classes: int, n_poison: int = 0, n_labels: int | None = None, seed: int = 0) -> Toy:
    """Generate Gaussian classes with label-flipped poison, to try out a defense without any data set.

    Parameters
    ----------
    n
        Number of clean training rows.
    n_classes
        Number of classes.
    n_poison
        Number of poison rows: rows of class 0 labelled 1.
    n_labels
        Number of classes that occur in the rows; None for all.
    seed
        Seed of the draw.

    Returns
    -------
    Toy
        The poisoned training set, and 100 clean test rows.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["trim"](toy.train(), toy.fit, Knowledge(n_poison=24), seed=0)
    >>> int((~defended.keep).sum())
    24
    """
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
    """scikit-learn's logistic regression, with a column for each class; each input serves as a channel that can be masked."""

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
        """Fit a new model to the given rows: the solver has no steps that could be continued."""
        return ToyModel(train.x, train.y, self._n_classes, self._keep)
