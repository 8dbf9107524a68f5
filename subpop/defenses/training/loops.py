"""What training loops share: asking for the victim's recipe, log losses of batches, and models that average two networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

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


def log_loss(y: Ints, weights: Array | None = None) -> Callable[[Tensor], Tensor]:
    """The mean log loss of labels, (B,), as a function of logits; with weights, (B,), their weighted sum."""
    import torch
    from torch.nn import functional

    labels = torch.from_numpy(np.array(y, np.int64))
    if weights is None:
        return lambda logits: functional.cross_entropy(logits, labels)
    factors = torch.from_numpy(np.array(weights, np.float64))
    return lambda logits: (functional.cross_entropy(logits, labels, reduction="none") * factors).sum()


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
