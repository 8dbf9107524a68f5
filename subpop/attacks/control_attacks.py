"""Control attacks: what of the damage of label flipping is due to wrong labels, and to wrong labels in the subpopulation.

`own_label` adds the rows that label flipping draws with their own labels: the damage of more rows alone, which may be negative.
`scattered_flips` draws, for each of those rows, a row of all of D_aux with the same label at random, and gives it the same new
label: as many flips of each kind, spread over the data. `other_group` flips as many rows of another subpopulation: the one whose
number of rows that can be flipped is nearest to the target's, the first of these in the partition's order. Damage is measured
on the target. The damage of label flipping net of a control is the negative of the control's `gain_over_label_flip`.

*Source*: own construction.
*Deviations*: with `sampling=distinct`, only subpopulations with enough rows qualify for `other_group`. For more than two
classes the label of all poison rows is that of the target's attack, and rows that have it already cannot be flipped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from subpop.attacks.label_flip import AttackTask, Poison, flip_labels, poison_labels
from subpop.types import BadInput, Bools, Ints
from subpop.types.specifications import LabelFlip


@dataclass(frozen=True)
class Control(LabelFlip):
    """Settings of control attacks."""

    shares_draws: ClassVar[bool] = True
    feasible: ClassVar[str] = "a control: not compared with attacks"


def keep_labels(task: AttackTask[Control]) -> Poison:
    """The attack `own_label`: the rows that label flipping draws, with their own labels."""
    drawn = flip_labels(task)
    return Poison(drawn.rows, task.pool.y[drawn.rows], 0)


def scatter_flips(task: AttackTask[Control]) -> Poison:
    """The attack `scattered_flips`: the same flips, of random rows of D_aux. A smaller count draws the first of a larger one."""
    drawn, y = flip_labels(task), task.pool.y
    rows = drawn.rows.copy()
    for label, generator in enumerate(task.generator.spawn(task.pool.n_classes)):
        places, alike = np.flatnonzero(y[drawn.rows] == label), task.aux[y[task.aux] == label]
        if task.settings.sampling == "distinct":
            rows[places] = generator.permutation(alike)[: len(places)]
        elif len(places):
            rows[places] = alike[generator.integers(0, len(alike), size=len(places))]
    return Poison(rows, drawn.y, drawn.n_flipped)


def flip_another_group(task: AttackTask[Control]) -> Poison:
    """The attack `other_group`: label flips of the subpopulation of nearest size.

    Raises
    ------
    BadInput
        If there is no other subpopulation with enough rows.
    """
    return flip_labels(replace(task, members=_nearest_group(task)))


def _nearest_group(task: AttackTask[Control]) -> Ints:
    """(b,) pool rows that can be flipped of the other subpopulation with the nearest number of them."""
    groups = np.full(len(task.aux), -1) if task.groups is None else task.groups
    own, free = groups[task.members - task.pool.n_train], _can_be_flipped(task)
    sizes = np.bincount(groups[(groups >= 0) & free], minlength=1)
    wanted = int(free[task.members - task.pool.n_train].sum())
    sizes[own] = 0
    least = task.count if task.settings.sampling == "distinct" else 1
    large = np.flatnonzero(sizes >= max(1, least))
    if not len(large):
        raise BadInput(
            f"other_group needs a second subpopulation with {max(1, least)} rows in D_aux that can be flipped, and there is "
            "none: lower the rate, use sampling=with_replacement, or a partition with more subpopulations"
        )
    chosen = large[np.abs(sizes[large] - wanted).argmin()]
    return np.asarray(task.aux[(groups == chosen) & free])


def _can_be_flipped(task: AttackTask[Control]) -> Bools:
    """(n_aux,) bool: rows of D_aux whose poison label differs from their own."""
    y = task.pool.y[task.aux]
    return np.asarray(poison_labels(y, task.target) != y)
