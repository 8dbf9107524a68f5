"""The last layer of a frozen network, solved exactly: the paper's "LL" victims on fixed features.

*Source*: a softmax head with the penalty 0.01 * sum(W^2) on its kernel, unpenalised intercepts, mean cross-entropy. For two
classes only W_1 - W_0 matters: a logistic regression with lambda = 0.01 in the mean form; for more, a softmax with lambda = 0.02.
*Deviations*: the released script runs twelve epochs of Adam, which stop before the optimum (`last_layer_as_released`); here the
optimum is reached, so that damages have no training noise. The channels of the last convolutional layer are known only through
the pooled features: the fraction of zeros of a channel is unknown, and Fine-Pruning fine-tunes only the head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from subpop.types import Array, BadInput, Bools, FleetJob, Floats, Model, TrainingSet
from subpop.types.roles import Trainable
from subpop.victims.head_training import KERNEL_PENALTY
from subpop.victims.linear_model import LinearModel
from subpop.victims.logistic import LogisticRegression


@dataclass(frozen=True, eq=False)
class LastLayerModel(LinearModel):
    """A linear head on pooled features, one per channel; keep: (d,) bool, channels that are not masked; None for all."""

    keep: Bools | None = None

    def features(self, x: Array) -> Floats:
        """(n, d) float32: the pooled features, with masked channels set to 0."""
        rows = super().features(x)
        return rows if self.keep is None else rows * self.keep

    def channel_activations(self, x: Array) -> Floats:
        """(n, d) mean activations of the channels, which are the pooled features."""
        return self.features(x)

    def channel_zeros(self, x: Array) -> Floats:
        """Raises BadInput: pooled features do not contain the number of positions at which a channel is zero."""
        raise BadInput(
            "a last layer on pooled features does not see the zeros of a channel; use a victim with a network, or fine_pruning"
        )

    def pruned(self, keep: Bools) -> LastLayerModel:
        both = keep if self.keep is None else keep & self.keep
        return replace(self, keep=both, kkt_residual=float("nan"), error_bound=float("nan"))

    def fine_tuned(self, train: TrainingSet, *, epochs: int, learning_rate: float, batch_size: int, seed: int) -> LastLayerModel:
        """A model with the head trained further; the network below it stays frozen."""
        from subpop.victims.head_training import train_head

        coef = train_head(self, train, epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, seed=seed)
        return replace(self, coef=coef, kkt_residual=float("nan"), error_bound=float("nan"))

    def state(self) -> dict[str, Array]:
        kept = np.ones(len(self.coef) - 1, bool) if self.keep is None else self.keep
        return {**super().state(), "keep": kept}

    @classmethod
    def from_state(cls, state: Mapping[str, Array]) -> LastLayerModel:
        keep = np.asarray(state["keep"], bool)
        numbers = float(state["kkt_residual"]), float(state["error_bound"])
        return cls(np.asarray(state["coef"], np.float64), *numbers, None if keep.all() else keep)


class LastLayer:
    """Last layers trained in batches on a pool of features."""

    exact = True

    def __init__(self) -> None:
        self._solvers = {two: LogisticRegression(penalty, "mean", False) for two, penalty in _PENALTIES.items()}

    def blind(self) -> LastLayer:
        """See `LogisticRegression.blind`."""
        other = LastLayer()
        other._solvers = {two: solver.blind() for two, solver in self._solvers.items()}
        return other

    def trainable(self, seed: int) -> Trainable:
        """The recipe of the victim of a trial, for defenses that train it themselves, by steps instead of exactly."""
        from subpop.victims.stepwise import LONGER, LinearSteps

        return LinearSteps(LONGER, seed, LastLayerModel)

    def fit_many(self, jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[Model]:
        """Train one LastLayerModel per job; seeds are not used."""
        if not jobs:
            return []
        models = self._solvers[jobs[0].pool.n_classes == 2].fit_many(jobs, seeds)
        return [LastLayerModel(m.coef, m.kkt_residual, m.error_bound) for m in models if isinstance(m, LinearModel)]


_PENALTIES = {True: KERNEL_PENALTY, False: 2 * KERNEL_PENALTY}
"""lambda of the mean form, with two classes and with more."""
