"""What the MLP victim, its trainer and its kernel share: the numbers of the recipe, initial weights, tasks and results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from subpop.types import Floats, Ints

if TYPE_CHECKING:  # Numba takes half a second to import, and only training needs it
    from subpop.victims.batch_order import BatchOrder

LEARNING_RATE = 1e-3
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
PENALTY = 1e-4
"""Factor of |weights|^2 / 2 in a batch's summed loss; biases are not penalised."""
BATCH_SIZE = 200
TOLERANCE, PATIENCE = 1e-4, 10
"""Training stops after more than PATIENCE epochs in a row whose loss is above the best so far less TOLERANCE."""
MARGIN = float(np.finfo(np.float32).eps)
"""Probabilities enter the loss (not the gradient) clipped to [MARGIN, 1 - MARGIN]."""


class Parameters(NamedTuple):
    """Weights of one network: w1 (d, hidden), b1 (hidden,), w2 (hidden, k), b2 (k,); k = 1 for two classes, else their number."""

    w1: Floats
    b1: Floats
    w2: Floats
    b2: Floats


class Trained(NamedTuple):
    """A network after its last epoch; final_loss: that epoch's mean training loss, with the penalty."""

    parameters: Parameters
    n_epochs: int
    final_loss: float


@dataclass(frozen=True, eq=False)
class Task:
    """One network to train. rows: (n,) int64 rows of the fleet's x; labels: (n,) int32; both in canonical order."""

    rows: Ints
    labels: NDArray[np.int32]
    order: BatchOrder
    start: Parameters

    def __len__(self) -> int:
        return len(self.rows)


def initial(seed: int, inputs: int, hidden: int, outputs: int) -> Parameters:
    """Glorot uniform weights and biases, drawn from `seed` alone."""
    rng = np.random.default_rng([seed, 0])

    def draw(*shape: int, fans: int) -> Floats:
        bound = np.sqrt(6.0 / fans)
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    first, second = inputs + hidden, hidden + outputs
    return Parameters(
        w1=draw(inputs, hidden, fans=first),
        b1=draw(hidden, fans=first),
        w2=draw(hidden, outputs, fans=second),
        b2=draw(outputs, fans=second),
    )
