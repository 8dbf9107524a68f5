"""The curvature of a last layer's training objective, and division by it.

*Source*: Koh and Liang 2017: H is the Hessian of the mean loss plus (lambda / 2) |w|^2 at the trained weights; H^-1 g by
Cholesky, and for last layers of many parameters by conjugate gradients. Columns are scaled to a unit diagonal first (raw tables
span 1e5).
*Deviations*: the network below is treated as frozen, whether or not the victim trains it; H is evaluated at the model's own
weights, which stochastic training leaves short of their optimum. The objective is constant when the unpenalised intercepts of a
softmax move together; the curvature in that direction is arbitrary, since gradients have no component there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from subpop.attacks.last_layers import Doubles, Head, curvature_product, with_one
from subpop.types import BadInput, Model, Victim
from subpop.victims.head_training import KERNEL_PENALTY
from subpop.victims.last_layer import LastLayerModel
from subpop.victims.logistic import LogisticRegression
from subpop.victims.torch_model import TorchModel

LARGEST = 6000
"""Up to this number of parameters H is factored; a factor of a larger one would take gigabytes."""
TOLERANCE, MOST_STEPS = 1e-10, 2000


@dataclass(frozen=True)
class Penalty:
    """lambda, for the mean loss, of the kernel and of the bias."""

    kernel: float
    bias: float


def penalty_of(victim: Victim, model: Model, n_rows: int) -> Penalty:
    """Return the victim's penalty of its last layer, trained on n_rows rows; raises BadInput if it is not known."""
    if isinstance(model, LastLayerModel):
        return Penalty(KERNEL_PENALTY * (1 if model.n_classes == 2 else 2), 0.0)
    if isinstance(victim, LogisticRegression):
        own = victim.penalty / (n_rows if victim.penalty_form == "sum" else 1)
        return Penalty(own, own * victim.penalise_intercept)
    if isinstance(model, TorchModel):
        network = model.module
        return Penalty(float(network.penalty) * (1 if network.head.out_features == 2 else 2), 0.0)  # type: ignore
    raise BadInput(
        f"influence needs a penalised last layer, which {type(victim).__name__} has not: use logistic_regression, last_layer or "
        "a convolutional victim, or attack gradient_match"
    )


class Curvature:
    """H of a head on features (n, d) float64, with a penalty. Solves for directions of shape (d + 1, K')."""

    def __init__(self, head: Head, features: Doubles, penalty: Penalty) -> None:
        self._rows, self._p = with_one(features), head.probabilities(features)
        self._penalty = np.append(np.full(features.shape[1], penalty.kernel), penalty.bias)[:, None]
        classes, self._shift = self._p.shape[1], 0.0
        if classes > 1 and penalty.bias == 0:
            self._shift = float((self._p * (1 - self._p)).mean()) / classes

    def times(self, v: Doubles) -> Doubles:
        """H v."""
        curved = self._rows.T @ curvature_product(self._p, self._rows @ v) / len(self._rows)
        curved += self._penalty * v
        curved[-1] += self._shift * v[-1].sum()
        return np.asarray(curved)

    def solve(self, g: Doubles) -> Doubles:
        """H^-1 g."""
        if g.size > LARGEST:
            return self._conjugate_gradients(g)
        from scipy.linalg import cho_solve

        scale = self._scale
        return np.asarray(scale * cho_solve((self._factor, True), (scale * g).T.ravel()).reshape(g.T.shape).T)

    @cached_property
    def _scale(self) -> Doubles:
        """(d + 1, K') one over the square root of H's diagonal. Raises BadInput if an entry is 0."""
        diagonal = (self._rows**2).T @ (self._p * (1 - self._p)) / len(self._rows) + self._penalty
        diagonal[-1] += self._shift
        if not (diagonal > 0).all():
            raise BadInput(
                "the curvature of the last layer is singular: a column is 0 throughout D_aux and has no penalty; remove it"
            )
        return np.asarray(1 / np.sqrt(diagonal))

    @cached_property
    def _factor(self) -> NDArray[np.float64]:
        """Lower Cholesky factor of the scaled H, classes outermost."""
        width, classes = self._rows.shape[1], self._p.shape[1]
        blocks = np.empty((classes, width, classes, width))
        for k in range(classes):
            for m in range(k, classes):
                weight = self._p[:, k] * ((k == m) - self._p[:, m]) / len(self._rows)
                blocks[k, :, m] = blocks[m, :, k] = (self._rows.T * weight) @ self._rows
        blocks[:, -1, :, -1] += self._shift
        square = blocks.reshape(classes * width, classes * width)
        square[np.diag_indices_from(square)] += np.tile(self._penalty[:, 0], classes)
        scale = self._scale.T.ravel()
        try:
            return np.asarray(np.linalg.cholesky(square * scale * scale[:, None]))
        except np.linalg.LinAlgError as error:
            raise BadInput("the curvature of the last layer is singular; raise the victim's penalty") from error

    def _conjugate_gradients(self, g: Doubles) -> Doubles:
        found, left = np.zeros_like(g), g.copy()
        near = search = left * self._scale**2
        size = target = float((left * near).sum())
        for _ in range(MOST_STEPS):
            if size <= TOLERANCE**2 * target:
                return found
            product = self.times(search)
            step = size / float((search * product).sum())
            found += step * search
            left -= step * product
            near = left * self._scale**2
            before, size = size, float((left * near).sum())
            search = near + size / before * search
        raise BadInput(f"H^-1 g is not there after {MOST_STEPS} steps of conjugate gradients; raise the victim's penalty")
