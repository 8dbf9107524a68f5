"""Proportional sampling: flips of the subpopulation's rows that the attacker's model nearly believes, without any gradient.

A row of the subpopulation in D_aux is drawn with probability proportional to its weight, the probability that the attacker's own
model, trained on D_aux, gives to its poison label; a hundredth of the mean weight is added, so that every row can be drawn. These
are the rows near a boundary, in the leaves of a tree that are nearly undecided, in cells whose margin is small. No gradient is
asked for, so that the attack runs on every victim.

*Source*: sampling guided by a surrogate, after Chan and Tong 2025 (proportional fairness attack, arXiv 2511.08331), of which
we had only a summary.
*Deviations*: the weights are ours. Theirs also chooses the group that is attacked; here it is given. Probabilities are rounded
to 1e-6, so that the solver's last digits decide nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from subpop.attacks.influence import cycled
from subpop.attacks.label_flip import AttackTask, Poison, poison_labels
from subpop.types import BadInput
from subpop.types.specifications import LabelFlip

NAME = "proportional"
"""Its name in the registry."""
FLOOR = 0.01
"""The share of the mean weight that is added to every weight."""
GRID = 1e-6


@dataclass(frozen=True)
class Proportional(LabelFlip):
    """Settings of proportional sampling."""

    asks_model: ClassVar[bool] = True


def sample_in_proportion(task: AttackTask[Proportional]) -> Poison:
    """The attack `proportional`. A smaller count draws the first rows of a larger one.

    Raises
    ------
    BadInput
        If the task has no attacker's model, or too few rows can be drawn.
    """
    if task.model is None:
        raise BadInput("attack proportional asks the attacker's model for probabilities: give draw_poison an attacker")
    labels = poison_labels(task.y, task.target)
    if not task.count:
        return Poison(task.members[:0], labels[:0], 0)
    believed = task.model.predict_proba(task.pool.x[task.members])[np.arange(len(labels)), labels]
    weights = np.rint(believed.astype(np.float64) / GRID) * GRID
    weights += FLOOR * (weights.mean() or 1.0)
    if task.settings.sampling == "distinct":  # the smallest of exponential times with these rates, one a row
        order = np.argsort(task.generator.exponential(size=len(weights)) / weights, kind="stable")
        order = order[np.sort(np.unique(task.members[order], return_index=True)[1])]
        chosen = order[cycled(task.count, len(order), "distinct")]
    else:
        ends = np.cumsum(weights)
        chosen = np.searchsorted(ends, task.generator.random(task.count) * ends[-1], side="right")
    y = labels[chosen]
    return Poison(task.members[chosen], y, int((y != task.y[chosen]).sum()))
