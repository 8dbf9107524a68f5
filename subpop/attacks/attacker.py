"""The knowledge of an attacker that optimises poison: D_aux, its own model split at the last layer, and allowed perturbations.

Everything that does not depend on a trial is computed once: the curvature, the target's directions, and, if rows move
independently of each other, the moved rows of a whole subpopulation. A row is therefore the same whatever other rows are drawn.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, TypeVar

import numpy as np

from subpop.attacks.boxes import Box
from subpop.attacks.curvature import Curvature, penalty_of
from subpop.attacks.label_flip import AttackTask, Poison, flip_labels, poison_labels
from subpop.attacks.last_layers import Doubles, NoNetwork, split
from subpop.runtime.threads import one_thread
from subpop.types import Array, BadInput, Ints, Model, Pool, Victim
from subpop.types.specifications import LabelFlip, Sampling, between

T = TypeVar("T")


@dataclass(frozen=True)
class MovedRows(LabelFlip):
    """Settings of attacks that move rows by the gradients of the attacker's model."""

    epsilon: float | None = between(None, 0, math.inf, "16")
    """Farthest move of an input, in 8-bit levels; 255 levels are the range of a pixel or a column. None: the whole range."""

    shares_draws: ClassVar[bool] = True
    moves_rows: ClassVar[bool] = True
    feasible: ClassVar[str] = "rows of the subpopulation in D_aux with another label, moved by at most epsilon"


@dataclass(frozen=True, eq=False)
class Target:
    """An attacked subpopulation: rows (a,) of the pool in D_aux, poison_y (a,) the label of each row if used as poison."""

    rows: Ints
    poison_y: Ints
    sampling: Sampling = "with_replacement"


def drawn_and_aim(task: AttackTask[MovedRows]) -> tuple[Poison, Target]:
    """The rows that label flipping draws in a trial, and the target of the attack.

    Raises
    ------
    BadInput
        If the task has no optimiser, which is needed to move rows.
    """
    if task.optimiser is None:
        raise BadInput(f"attack {task.settings.name} moves rows by the attacker's model: give draw_poison an optimiser")
    return flip_labels(task), Target(task.members, poison_labels(task.y, task.target), task.settings.sampling)


class Attacker:
    """An attacker. model: trained on D_aux by `victim`; box: bounds of moved rows."""

    def __init__(self, model: Model, victim: Victim, pool: Pool, box: Box) -> None:
        self._model, self._victim, self.pool, self.box = model, victim, pool, box
        self.network, self.head = split(model)
        self._memory: dict[tuple[str, bytes, bytes], object] = {}

    @cached_property
    def curvature(self) -> Curvature:
        """The Hessian H of the model's last layer on D_aux."""
        x = self.pool.x[self.pool.n_train :]
        return Curvature(self.head, self.features(x), penalty_of(self._victim, self._model, len(x)))

    def features(self, x: Array) -> Doubles:
        """(n, d) float64 inputs of the last layer."""
        return self.network.features(x)[0] if isinstance(self.network, NoNetwork) else self._model.features(x).astype(np.float64)

    def gradient(self, rows: Ints) -> Doubles:
        """(d + 1, K') gradient of the mean cross-entropy of pool rows with their own labels."""
        return self.head.mean_gradient(self.features(self.pool.x[rows]), self.pool.y[rows])

    def poison(self, origin: Ints, y: Ints, x: Array) -> Poison:
        """Poison with inputs x (m, ...) and labels y (m,), made from the pool rows `origin` (m,)."""
        rows = len(self.pool) + np.arange(len(origin))
        return Poison(rows, y, int((y != self.pool.y[origin]).sum()), x, origin)

    def apart(self, x: Array, origin: Ints, target: Target) -> Array:
        """(m, ...) the rows; if poison must be distinct, rows equal to an earlier one are reset to their origin."""
        if target.sampling != "distinct":
            return x
        first = np.zeros(len(x), bool)
        first[np.unique(x.reshape(len(x), -1), axis=0, return_index=True)[1]] = True
        return np.where(first.reshape(len(x), *(1,) * (x.ndim - 1)), x, self.pool.x[origin])

    def once(self, what: str, target: Target, make: Callable[[], T]) -> T:
        """A result for a whole subpopulation, cached after the first call."""
        key = (what, target.rows.tobytes(), target.poison_y.tobytes())
        if key not in self._memory:
            with single_threaded():
                self._memory[key] = make()
        return self._memory[key]  # type: ignore[return-value]


@contextmanager
def single_threaded() -> Iterator[None]:
    """Make sums independent of the number of cores: the sign of a small gradient may depend on their last bits."""
    torch = sys.modules.get("torch")  # a linear attacker never loads it
    threads = 0 if torch is None else torch.get_num_threads()
    try:
        if torch is not None:
            torch.set_num_threads(1)
        with one_thread("blas"):
            yield
    finally:
        if torch is not None:
            torch.set_num_threads(threads)
