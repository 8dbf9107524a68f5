"""The linear smoother behind label-flip certificates: ridge regression on frozen, standardised principal components.

With z the components of a test row and z_i those of the training rows, which have mean 0, training row i has the weight alpha_i
= 1/n + z (Z'Z + penalty I)^-1 z_i: the intercept is not penalised, so weights sum to 1. The score of a class is the sum of its
rows' weights: for two classes, the sign of the sum of alpha_i * (label in {-1, 1}). No weight depends on a label.
*Deviations*: rows are stored multiplied with the inverse Cholesky factor, so that weights, scores and relabelled models are
products.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, solve_triangular

from subpop.defenses.remembered import Remembered
from subpop.types import Array, BadInput, Floats, Ints, Model
from subpop.victims.linear_model import flat

Doubles = NDArray[np.float64]

RANK = 1e-6
"""Components with less than this fraction of the first one's variance are float32 rounding."""
CONSTANT = "all features are constant: the ridge system is singular; grant a representation whose features vary"
_BLOCK = 1 << 20
"""Number of input values converted to float64 at a time (8 MB)."""


# --- features that do not depend on labels ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Projection:
    """Maps features to standardised principal components. centre: (d,) means; directions: (d, d'), divided by deviations."""

    representation: Model | None
    centre: Doubles
    directions: Doubles

    def __call__(self, x: Array) -> Doubles:
        """(n, d') float64 components of inputs."""
        return self.of_features(frozen_features(x, self.representation))

    def of_features(self, values: Floats) -> Doubles:
        """(n, d') float64 components of features (n, d)."""
        if values.shape[1] != len(self.centre):
            raise BadInput(f"inputs have {values.shape[1]} features; the model was trained on {len(self.centre)}: give as many")
        out = np.empty((len(values), self.directions.shape[1]))
        for block in blocks(len(values), len(self.centre), _BLOCK):
            np.matmul(values[block] - self.centre, self.directions, out=out[block])
        return out


def frozen_features(x: Array, representation: Model | None) -> Floats:
    """(n, d) float32: a representation's features, or the flattened inputs."""
    return flat(np.asarray(x if representation is None else representation.features(x))).astype(np.float32, copy=False)


def fit_projection(x: Array, representation: Model | None, rows_each: int) -> tuple[Projection, Doubles]:
    """Standardise x and fit one component per `rows_each` rows; returns the projection and the components of x."""
    values = frozen_features(x, representation)
    n, d = values.shape
    if n < 2 or d < 1:
        raise BadInput(f"ridge regression on {n} rows of {d} features has no solution; give at least 2 rows and 1 feature")
    centre = values.mean(axis=0, dtype=np.float64)
    if not np.isfinite(centre).all():
        raise BadInput(
            f"feature {int(np.argmin(np.isfinite(centre)))} contains NaN or infinite values; remove or impute them first"
        )
    scaled = values - centre
    deviation = np.sqrt(np.einsum("ij,ij->j", scaled, scaled) / n)
    inverse = inverse_deviation(deviation, centre)
    scaled *= inverse
    directions = _principal(scaled, n_components(n, d, rows_each)) * inverse[:, None]
    projection = Projection(representation, centre, directions)
    return projection, projection.of_features(values)


def n_components(n: int, d: int, rows_each: int) -> int:
    """One for every `rows_each` of n rows, at least 1 and at most d."""
    return min(d, max(1, n // rows_each))


def inverse_deviation(deviation: Doubles, centre: Doubles) -> Doubles:
    """(d,) 1 / deviation, and 0 for a constant feature: inputs are float32, so that less is rounding."""
    constant = deviation <= 1e-7 * np.abs(centre)
    return np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))


def _principal(scaled: Doubles, count: int) -> Doubles:
    """(d, count) orthonormal directions of largest variance, in descending order; fewer if the rest has no variance."""
    wide = scaled.shape[1] > scaled.shape[0]
    products = scaled @ scaled.T if wide else scaled.T @ scaled
    last = len(products) - 1
    variances, vectors = eigh(products, subset_by_index=(last - count + 1, last), overwrite_a=True, check_finite=False)
    if not variances[-1] > 0:
        raise BadInput(CONSTANT)
    chosen = np.flatnonzero(variances > RANK * variances[-1])[::-1]
    if wide:
        return np.asarray(scaled.T @ (vectors[:, chosen] / np.sqrt(variances[chosen])))
    return np.asarray(vectors[:, chosen])


def blocks(n_rows: int, width: int, limit: int) -> Iterator[slice]:
    """Slices that make up all rows, each of at most `limit` values, but at least one row."""
    size = max(1, limit // max(1, width))
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


# --- the learner ------------------------------------------------------------------------------------------------------


class Solved(Protocol):
    """What a ridge regression asks of its learner."""

    penalty: float
    n_components: int

    def components(self, x: Array) -> Doubles: ...
    def model(self, y: Ints, n_classes: int) -> RidgeModel: ...
    def inputs(self, x: Array) -> Doubles: ...
    def products(self, x: Array, coef: Doubles) -> Doubles: ...
    def weights(self, inputs: Doubles) -> Doubles: ...


class Learner:
    """The part of the regression that does not depend on labels, factorised once.

    rows: (n, d') components of the training rows, Z; ridge: penalty / mean square of a component.
    """

    def __init__(self, projection: Projection, rows: Doubles, ridge: float) -> None:
        products = rows.T @ rows
        self.penalty = penalty_of(ridge, float(np.trace(products)) / len(products))
        products[np.diag_indices_from(products)] += self.penalty
        self._root = np.linalg.cholesky(products)
        self.design = self._whitened(rows)
        """(n, d') Z root^-T, root the lower Cholesky factor of Z'Z + penalty I."""
        self.n_components = rows.shape[1]
        self.components = Remembered(projection)
        """(T, d') float64 principal components of inputs."""

    def model(self, y: Ints, n_classes: int) -> RidgeModel:
        """The ridge regression on one-hot labels y (n,)."""
        hot = one_hot(y, len(self.design), n_classes)
        return RidgeModel(self, np.asarray(y, np.int64), hot.mean(axis=0), self.design.T @ hot)

    def inputs(self, x: Array) -> Doubles:
        """(T, d') test rows in the coordinates of `design`."""
        return self._whitened(self.components(x))

    def products(self, x: Array, coef: Doubles) -> Doubles:
        """(T, C) `inputs(x) @ coef` of a coef whose columns sum to 0."""
        return np.asarray(self.inputs(x) @ coef)

    def _whitened(self, rows: Doubles) -> Doubles:
        return np.ascontiguousarray(solve_triangular(self._root, rows.T, lower=True, check_finite=False).T)

    def weights(self, inputs: Doubles) -> Doubles:
        """(T, n) alpha of rows in the form of `inputs`."""
        alpha = inputs @ self.design.T
        alpha += 1 / len(self.design)
        return alpha

    def leave_one_out_error(self, y: Ints, n_classes: int) -> float:
        """Mean squared leave-one-out error of the training rows' scores. It depends on labels."""
        hot = one_hot(y, len(self.design), n_classes)
        fitted = hot.mean(axis=0) + self.design @ (self.design.T @ hot)
        own = 1 / len(hot) + np.einsum("ij,ij->i", self.design, self.design)
        return float(np.mean(((hot - fitted) / (1 - own)[:, None]) ** 2))


def penalty_of(ridge: float, mean_square: float) -> float:
    """The penalty, from its ratio to the sum of squares of a component."""
    if not 0 < ridge < math.inf:
        raise BadInput(f"ridge={ridge} must be above 0 and finite: without a penalty the system may be singular; try 0.01")
    return ridge * mean_square


def one_hot(y: Ints, n: int, n_classes: int) -> Doubles:
    """(n, C) one-hot labels."""
    y = np.asarray(y)
    if y.shape != (n,) or y.dtype.kind not in "iu" or not 0 <= y.min() <= y.max() < n_classes:
        raise BadInput(f"labels of shape {y.shape} must be {n} integers in 0..{n_classes - 1}; give one per training row")
    return np.asarray(y[:, None] == np.arange(n_classes), np.float64)


@dataclass(frozen=True, eq=False)
class RidgeModel:
    """A fitted linear smoother. y: (n,) training labels; intercept: (C,); coef: (d', C), for rows from `Learner.inputs`."""

    learner: Solved
    y: Ints
    intercept: Doubles
    coef: Doubles

    @property
    def n_classes(self) -> int:
        return len(self.intercept)

    def scores(self, x: Array) -> Doubles:
        """(T, C) sums of the weights of each class; they sum to 1."""
        return np.asarray(self.intercept + self.learner.products(x, self.coef))

    def scores_of(self, inputs: Doubles) -> Doubles:
        """(T, C) scores of rows in the form of `Learner.inputs`."""
        return np.asarray(self.intercept + inputs @ self.coef)

    def predict_proba(self, x: Array) -> Floats:
        """(T, C) softmax of the scores (for two classes, the logistic of their difference): correctly ordered, not calibrated."""
        scores = self.scores(x)
        rows, winner = np.arange(len(scores)), scores.argmax(axis=1)
        odds = np.exp(scores - scores[rows, winner][:, None])
        proba: Floats = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
        close = proba.argmax(axis=1) != winner  # scores that are equal in float32
        proba[rows[close], winner[close]] = np.nextafter(proba.max(axis=1)[close], np.float32(2))
        return proba

    def features(self, x: Array) -> Floats:
        """(T, d') float32 principal components."""
        return np.asarray(self.learner.components(x), np.float32)

    def with_labels(self, y: Ints) -> RidgeModel:
        """The same learner on the same rows with other labels (n,). Scores are linear in labels: nothing is factorised again."""
        return self.learner.model(y, self.n_classes)
