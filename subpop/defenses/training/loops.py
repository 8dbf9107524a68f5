"""What training loops share: asking for the victim's recipe, log losses of batches, and models that average two networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from subpop.defenses.trim import given_label_loss
from subpop.types import Array, BadInput, Floats, Ints, Knowledge, Model
from subpop.types.roles import Trainable, Training

if TYPE_CHECKING:
    from torch import Tensor

TRAINABLE = ("conv_net", "conv_net_wide", "last_layer", "last_layer_as_released", "logistic_regression")
"""Victims that are trained step by step; `tests/defenses/test_training.py` compares them with the registry."""


def stepwise(know: Knowledge, defense: str) -> Trainable:
    """The victim's recipe; raises BadInput if it is not trained step by step."""
    if know.training is None:
        raise BadInput(
            f"{defense} trains the victim's network itself, step by step, and got no recipe (know.training is None): choose a "
            f"victim that offers one, {', '.join(TRAINABLE)}"
        )
    return know.training


@dataclass(frozen=True, eq=False)
class LogLoss:
    """The mean log loss of labels, (B,), as a `Loss`; with weights, (B,), their weighted sum."""

    y: Ints
    weights: Array | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """See `Loss`."""
        import torch
        from torch.nn import functional

        labels = torch.from_numpy(np.array(self.y, np.int64))
        if self.weights is None:
            return functional.cross_entropy(logits, labels)
        return (functional.cross_entropy(logits, labels, reduction="none") * torch.from_numpy(np.array(self.weights))).sum()

    def gradient(self, logits: Array) -> Array:
        """See `Loss`."""
        errors: Array = softmax(logits, axis=1)
        errors[np.arange(len(self.y)), self.y] -= 1
        return errors / len(self.y) if self.weights is None else errors * self.weights[:, None]


def losses(network: Training, x: Array, y: Ints) -> Array:
    """(n,) log losses of the labels under the network as it is now."""
    return given_label_loss(network.proba(x), y)


@dataclass(frozen=True, eq=False)
class Average:
    """A model whose probabilities are the mean of those of several models."""

    models: Sequence[Model]

    def predict_proba(self, x: Array) -> Floats:
        """(n, C) float32."""
        return np.asarray(np.mean([model.predict_proba(x) for model in self.models], axis=0), dtype=np.float32)

    def features(self, x: Array) -> Floats:
        """(n, d) float32 the features of all models, beside one another."""
        return np.concatenate([model.features(x) for model in self.models], axis=1)
