"""A trained linear classifier: coefficients, and their KKT residual.

*Source*: binary: one logistic unit; more classes: a softmax over one linear score per class.
*Deviations*: none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subpop.runtime.threads import n_cores, on_threads, one_thread
from subpop.types import Array, BadInput, Floats, Ints

_BLOCK = 1 << 16
"""Number of input values converted to float64 at a time in prediction: they fit into a core's cache (512 KB)."""
_WHOLE = 64
"""Blocks are multiples of this many rows, so that no row but the last ones is at the ragged edge of a product."""
_TOGETHER = 32
"""Models whose scores one matrix product computes."""


def flat(x: Array) -> Array:
    """Return (n, d): one flattened input per row, also if there are none."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


@dataclass(frozen=True, eq=False)
class LinearModel:
    """Class probabilities from linear scores; the last row of `coef` is the intercept.

    coef: (d + 1, K') float64 in the units of the inputs: K' = 1 for two classes (the score of class 1), otherwise one column per
    class; kkt_residual: largest entry of the gradient of the training objective / sum of training weights; error_bound: the
    Euclidean distance between `coef` and the optimum is at most this, NaN if unknown. So the scores of an input x differ from
    those of the optimum for the same training inputs by at most error_bound * |(x, 1)|.
    """

    coef: NDArray[np.float64]
    kkt_residual: float = float("nan")
    error_bound: float = float("nan")

    def __post_init__(self) -> None:
        if self.coef.ndim != 2 or len(self.coef) < 1 or self.coef.shape[1] in (0, 2):
            raise BadInput(f"coef has shape {self.coef.shape}; give (d + 1, 1) for two classes or (d + 1, C) for C > 2")

    @property
    def n_classes(self) -> int:
        return max(2, int(self.coef.shape[1]))

    def features(self, x: Array) -> Floats:
        """(n, d) float32: the inputs themselves, flattened; raises BadInput if their width is not d."""
        rows: Floats = flat(np.asarray(x, dtype=np.float32))
        if rows.shape[1] != len(self.coef) - 1:
            raise BadInput(f"inputs have {rows.shape[1]} features a row; this model was trained on {len(self.coef) - 1}")
        return rows

    def scores(self, x: Array) -> NDArray[np.float64]:
        """(n, K') linear scores in float64 (a margin near zero must not change sign by rounding)."""
        rows = self.features(x)
        size = max(1, _BLOCK // len(self.coef) // _WHOLE) * _WHOLE
        block, scores = np.empty((min(size, len(rows)), rows.shape[1])), np.empty((len(rows), self.coef.shape[1]))
        for i in range(0, len(rows), size):
            part = block[: len(rows) - i]
            part[:] = rows[i : i + size]
            np.matmul(part, self.coef[:-1], out=scores[i : i + size])
        scores += self.coef[-1]
        return scores

    def predict_proba(self, x: Array) -> Floats:
        """(n, C) float32, rows sum to 1."""
        return _probabilities(self.scores(x))

    @staticmethod
    def predict_together(models: Sequence[LinearModel], x: Array, rows: Sequence[Ints]) -> list[Floats]:
        """For each model its `predict_proba(x[own])` of its own rows of x, by matrix products of all models.

        rows: (n_i,) int64 for each model, most of which others have, too. The models have equally many features and classes.
        """
        if len(models) == 1:
            return [models[0].predict_proba(x[rows[0]])]
        used = np.zeros(len(x), np.bool_)
        for own in rows:
            used[own] = True
        place = np.cumsum(used) - 1
        inputs = models[0].features(x[used])
        parts = np.array_split(np.arange(len(models)), -(-len(models) // _TOGETHER))

        def of_part(part: Ints) -> list[Floats]:
            proba = _on_all_rows([models[i] for i in part], inputs)
            return [np.take(each, place[rows[i]], axis=0) for each, i in zip(proba, part, strict=True)]

        with one_thread("blas"), on_threads(min(len(parts), n_cores())) as mapped:
            return [each for found in mapped(of_part, parts) for each in found]

    def state(self) -> dict[str, Array]:
        """Plain arrays that `from_state` turns back into this model."""
        return {"coef": self.coef, "kkt_residual": np.array(self.kkt_residual), "error_bound": np.array(self.error_bound)}

    @classmethod
    def from_state(cls, state: Mapping[str, Array]) -> LinearModel:
        return cls(np.asarray(state["coef"], dtype=np.float64), float(state["kkt_residual"]), float(state["error_bound"]))


def _on_all_rows(models: Sequence[LinearModel], inputs: Floats) -> Floats:
    """(m, n, C) class probabilities of inputs (n, d) under each of m models."""
    coef = np.stack([model.coef.T for model in models])
    (m, columns, d), n = coef.shape, len(inputs)
    size = max(1, _BLOCK // d // _WHOLE) * _WHOLE
    weights = np.ascontiguousarray(coef[..., :-1]).reshape(m * columns, d - 1)
    proba = np.empty((m, n, models[0].n_classes), np.float32)
    for i in range(0, n, size):
        block = inputs[i : i + size].astype(np.float64)
        scores = (weights @ block.T).reshape(m, columns, len(block)).transpose(0, 2, 1) + coef[:, None, :, -1]
        proba[:, i : i + size] = _probabilities(scores.reshape(-1, columns)).reshape(m, len(block), -1)
    return proba


def _probabilities(scores: NDArray[np.float64]) -> Floats:
    """(n, C) float32 class probabilities of scores (n, K'), which may be overwritten."""
    if scores.shape[1] == 1:  # two classes are a softmax over the scores 0 and s
        smaller = 1 / (1 + np.exp(np.abs(scores[:, 0])))
        positive, larger = scores[:, 0] > 0, 1 - smaller
        proba = np.empty((len(scores), 2), np.float32)
        proba[:, 0], proba[:, 1] = np.where(positive, smaller, larger), np.where(positive, larger, smaller)
        return proba
    scores -= scores.max(axis=1, keepdims=True)
    weights = np.exp(scores)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)
