"""A trained linear classifier: coefficients, and their KKT residual.

*Source*: binary: one logistic unit; more classes: a softmax over one linear score per class.
*Deviations*: none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subpop.types import Array, BadInput, Floats

_BLOCK = 1 << 16
"""Number of input values converted to float64 at a time in prediction: they fit into a core's cache (512 KB)."""
_WHOLE = 64
"""Blocks are multiples of this many rows, so that no row but the last ones is at the ragged edge of a product."""


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
        scores = self.scores(x)
        if scores.shape[1] == 1:  # two classes are a softmax over the scores 0 and s
            smaller = 1 / (1 + np.exp(np.abs(scores[:, 0])))
            positive, larger = scores[:, 0] > 0, 1 - smaller
            proba = np.empty((len(scores), 2), np.float32)
            proba[:, 0], proba[:, 1] = np.where(positive, smaller, larger), np.where(positive, larger, smaller)
            return proba
        scores -= scores.max(axis=1, keepdims=True)
        weights = np.exp(scores)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)

    def state(self) -> dict[str, Array]:
        """Plain arrays that `from_state` turns back into this model."""
        return {"coef": self.coef, "kkt_residual": np.array(self.kkt_residual), "error_bound": np.array(self.error_bound)}

    @classmethod
    def from_state(cls, state: Mapping[str, Array]) -> LinearModel:
        return cls(np.asarray(state["coef"], dtype=np.float64), float(state["kkt_residual"]), float(state["error_bound"]))
