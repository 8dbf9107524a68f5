"""Gradient matching: label-flipped rows are perturbed until a training step on them cancels a training step on the target.

G is the gradient, in the last layer of the attacker's model, of the mean cross-entropy of the subpopulation's D_aux rows with
their correct labels. Poison starts from the same rows and labels as label flipping, and only x is perturbed, so as to reduce the
inner product of the poison's mean gradient with G (`objective=inner`), or its cosine (`objective=cosine`), or its distance from
the vector that points against G and is as long as the mean gradient of all of the subpopulation's D_aux rows with their poison
labels (`objective=distance`). All are in the units of the inputs: in an unscaled table the columns of largest range dominate.

*Source*: the authors' released image scripts, which contain it with its call commented out: 50 steps of length .2 on the unit
range of a pixel, clipped to +-epsilon of the original. Matching by direction and magnitude: Chen et al. 2024 ("Can Targeted
Clean-Label Poisoning Attacks Generalize?"), of which we had only the abstract, so the length is our choice: that of G itself
vanishes where the model fits the subpopulation, and rows that match it would be harmless.
*Deviations*: cross-entropy of label and prediction (the released call swaps them), the target is the subpopulation (there also
all of D_aux), the cosine is ours. A step moves the entry with a row's largest gradient by .2 of its unit, the others in
proportion, so that it depends neither on how well the target is fitted nor on how many rows share a mean; on tables and
embeddings the unit is the column's range over D_aux. Boxes and rounding: `attacks/boxes.py`; steps are halved where they do not
help: `attacks/descent.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from subpop.attacks.attacker import Attacker, MovedRows, Target, drawn_and_aim, single_threaded
from subpop.attacks.descent import Values, descend, largest_one
from subpop.attacks.label_flip import AttackTask, Poison
from subpop.attacks.last_layers import Doubles
from subpop.types import Array, Ints

LENGTH = 0.2
Objective = Literal["inner", "cosine", "distance"]


@dataclass(frozen=True)
class GradientMatch(MovedRows):
    """Poison rows move until their gradient matches that of the wrong labels."""

    objective: Objective = "inner"
    """How the gradients are compared."""


def match_gradients(task: AttackTask[GradientMatch]) -> Poison:
    """The attack `gradient_match`: move the rows that label flipping draws."""
    drawn, target = drawn_and_aim(task)
    return gradient_match(drawn, target, task.optimiser, task.settings.objective)


def gradient_match(drawn: Poison, target: Target, attacker: Attacker, objective: Objective = "inner") -> Poison:
    """Perturb the poison drawn by label flipping; without poison, return it unchanged."""
    if not len(drawn):
        return drawn
    if objective != "inner":
        with single_threaded():
            values = cosine_values if objective == "cosine" else partial(distance_values, length=_length(target, attacker))
            return attacker.poison(drawn.rows, drawn.y, _moved(drawn.rows, drawn.y, target, attacker, values))
    make = lambda: _moved(target.rows, target.poison_y, target, attacker, inner_values)  # noqa: E731
    moved = attacker.once(f"gradient_match {target.sampling}", target, make)
    return attacker.poison(drawn.rows, drawn.y, moved[places(drawn.rows, target.rows)])


def _length(target: Target, attacker: Attacker) -> float:
    """The length of the mean gradient of the subpopulation's rows with their poison labels."""
    return float(np.linalg.norm(attacker.head.mean_gradient(attacker.features(attacker.pool.x[target.rows]), target.poison_y)))


def _moved(
    rows: Ints, y: Ints, target: Target, attacker: Attacker, objective: Callable[[Attacker, Ints, Doubles], Values]
) -> Array:
    wanted = objective(attacker, y, attacker.gradient(target.rows))
    return attacker.apart(descend(attacker.pool.x[rows], wanted, attacker.box, largest_one, LENGTH), rows, target)


def places(rows: Ints, members: Ints) -> Ints:
    """Return (m,) the first position in `members` of each row."""
    order = np.argsort(members, kind="stable")
    return np.asarray(order[np.searchsorted(members, rows, sorter=order)])


def inner_values(attacker: Attacker, y: Ints, direction: Doubles) -> Values:
    """The objective `inner` for rows with labels y (m,): each row's inner product with `direction`, independent of other rows."""

    def values(x: Doubles) -> tuple[Doubles, Callable[[], Doubles]]:
        features, pull = attacker.network.features(x)
        head = attacker.head
        return head.pairings(features, y, direction), lambda: pull(head.pairing_gradients(features, y, direction))

    return values


def cosine_values(attacker: Attacker, y: Ints, direction: Doubles) -> Values:
    """The objective `cosine` for rows with labels y (m,): the cosine between their mean gradient and `direction`."""

    def values(x: Doubles) -> tuple[Doubles, Callable[[], Doubles]]:
        features, pull = attacker.network.features(x)
        mean = attacker.head.mean_gradient(features, y)
        cosine, slope = cosine_and_slope(mean, direction)
        gradient = lambda: pull(attacker.head.pairing_gradients(features, y, slope) / len(y))  # noqa: E731
        return np.full(len(y), cosine), gradient

    return values


def distance_values(attacker: Attacker, y: Ints, direction: Doubles, length: float) -> Values:
    """The objective `distance` for rows with labels y (m,): how far their mean gradient is from one of this length against
    `direction`; squared."""
    size = float(np.linalg.norm(direction))
    wanted = -direction * (length / size if size else 0.0)

    def values(x: Doubles) -> tuple[Doubles, Callable[[], Doubles]]:
        features, pull = attacker.network.features(x)
        left = attacker.head.mean_gradient(features, y) - wanted
        gradient = lambda: pull(attacker.head.pairing_gradients(features, y, left) * (2 / len(y)))  # noqa: E731
        return np.full(len(y), (left**2).sum()), gradient

    return values


def cosine_and_slope(mean: Doubles, direction: Doubles) -> tuple[float, Doubles]:
    """The cosine between two gradients, and its derivative with respect to the first; 0 if either is zero."""
    size, other = float(np.linalg.norm(mean)), float(np.linalg.norm(direction))
    if size == 0 or other == 0:
        return 0.0, np.zeros_like(mean)
    cosine = float((mean * direction).sum()) / (size * other)
    return cosine, np.asarray(direction / (size * other) - cosine * mean / size**2)
