"""Near neighbours: flips of rows of D_aux outside the subpopulation that are nearest to it.

Candidates are rows of D_aux that do not belong to the subpopulation and have its most frequent label; they get the label of its
poison. They are taken in the order of their Euclidean distance, in the inputs that the victim sees, to the nearest row of the
subpopulation. The attack finds out whether a filter that knows the subpopulation's rows could be avoided, and how far damage
spreads to a neighbourhood.

*Source*: own construction, after anchoring near a target row as in Mehrabi et al. 2021 (AAAI; of which we had a summary only).
*Deviations*: no seed is used: all trials of a subpopulation have the same poison. Distances are rounded to a relative 1e-9, and
equal ones are ordered by row, so that rounding decides nothing. With `sampling=with_replacement` the order is repeated when it
is exhausted. Columns are not scaled: in an unscaled table those of largest range dominate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from subpop.attacks.influence import cycled
from subpop.attacks.label_flip import AttackTask, Poison
from subpop.types import Array, BadInput, Ints
from subpop.types.specifications import LabelFlip
from subpop.victims.linear_model import flat

DIGITS = 9
"""Significant digits of a distance."""


@dataclass(frozen=True)
class NearNeighbours(LabelFlip):
    """Settings of the attack on the neighbourhood of a subpopulation."""

    feasible: ClassVar[str] = "rows of D_aux outside the subpopulation with another label"


def flip_neighbours(task: AttackTask[NearNeighbours]) -> Poison:
    """The attack `near_neighbours`: flip the rows outside the subpopulation that are nearest to it.

    Raises
    ------
    BadInput
        If rows are texts, or if D_aux holds too few candidates.
    """
    y, label = task.pool.y, _most_frequent(task)
    target = 1 - label if task.target is None else task.target
    outside = np.setdiff1d(task.aux, task.members)
    candidates = outside[y[outside] == label]
    if target == label or not len(candidates):
        raise BadInput(
            f"near_neighbours finds no row of D_aux with label {label} outside the subpopulation that label {target} would flip: "
            "use label_flip, or label_rule=common"
        )
    order = candidates[np.lexsort((candidates, rounded_distances(task.pool.x, candidates, task.members).min(axis=1)))]
    rows = order[cycled(task.count, len(order), task.settings.sampling)]
    return Poison(rows, np.full(task.count, target), task.count)


def _most_frequent(task: AttackTask[NearNeighbours]) -> int:
    """The subpopulation's most frequent label other than the target label; ties go to the lowest."""
    counts = np.bincount(task.y, minlength=task.pool.n_classes)
    if task.target is not None:
        counts[task.target] = -1
    return int(counts.argmax())


def rounded_distances(x: Array, rows: Ints, others: Ints) -> Array:
    """(n, m) Euclidean distances between rows of x, rounded so that those that should be equal are.

    Raises
    ------
    BadInput
        If the rows are texts.
    """
    from scipy.spatial.distance import cdist

    if x.dtype.kind not in "fu":
        raise BadInput(f"rows are {x.dtype}: distances of texts are not defined; use label_flip")
    found = cdist(flat(x[rows]).astype(np.float64), flat(x[others]).astype(np.float64))
    scale = 10.0 ** np.floor(np.log10(np.maximum(found, np.finfo(np.float64).tiny)))
    return np.asarray(np.round(found / scale, DIGITS - 1) * scale)
