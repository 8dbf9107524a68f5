"""Influence: the poison rows that a first-order approximation finds most harmful, perturbed to be more harmful still.

With L the mean training loss plus penalty of the attacker's model on D_aux, H its Hessian in the last layer and L_F the mean
loss of the subpopulation's D_aux rows with correct labels, s = H^-1 grad L_F. Adding a point z changes L_F by about -(1 / n) s .
grad l(z): candidates are the subpopulation's D_aux rows with their poison label, the most negative s . grad l first. Moving one
by d changes L_F by -(1 / n) (grad_x [s . grad l]) . d: rows step along -sign(grad_x [s . grad l]).

*Source*: Koh and Liang 2017; the paper's abstract says that its attacks were optimised with influence functions, but we do not
have access to the details.
*Deviations*: candidates and steps are ours. 50 sign steps of a twenty-fifth of the box each (Koh and Liang's add up to 20
boxes). First order, in the last layer alone: for poison of more than a percent of D the sizes are far off; the victim is always
retrained. With `sampling=with_replacement` the ranking is repeated when it is exhausted. No seed is used: all trials of a
subpopulation have the same poison. Boxes and rounding: `attacks/boxes.py`; halved steps: `attacks/descent.py`.
"""

from __future__ import annotations

import numpy as np

from subpop.attacks.attacker import Attacker, MovedRows, Target, drawn_and_aim
from subpop.attacks.descent import descend, signs
from subpop.attacks.gradient_match import inner_values
from subpop.attacks.label_flip import AttackTask, Poison
from subpop.types import Array, BadInput, Ints

SHARE = 1 / 25
"""The length of a step, as a fraction of the box."""


def follow_influence(task: AttackTask[MovedRows]) -> Poison:
    """The attack `influence`: select and move as many rows as label flipping draws, by their influence."""
    return influence(*drawn_and_aim(task), task.optimiser)


def influence(drawn: Poison, target: Target, attacker: Attacker) -> Poison:
    """Select and perturb as many rows as label flipping drew; without poison, return it unchanged."""
    if not len(drawn):
        return drawn
    order, moved = attacker.once(f"influence {target.sampling}", target, lambda: _ranked_and_moved(target, attacker))
    chosen = order[cycled(len(drawn), len(order), target.sampling)]
    return attacker.poison(target.rows[chosen], target.poison_y[chosen], moved[chosen])


def cycled(count: int, available: int, sampling: str) -> Ints:
    """Return (count,) positions in a ranking: from its top, and again from the top if rows may repeat."""
    if sampling == "distinct" and count > available:
        raise BadInput(
            f"{count} distinct poison rows from {available} distinct rows of the subpopulation: lower the rate, give the "
            'attacker a larger sample, or use sampling "with_replacement"'
        )
    return np.arange(count) % max(1, available)


def _ranked_and_moved(target: Target, attacker: Attacker) -> tuple[Ints, Array]:
    """Return (a',) positions of distinct members, the most harmful first, and (a, ...) all perturbed members."""
    s = attacker.curvature.solve(attacker.gradient(target.rows))
    x = attacker.pool.x[target.rows]
    pairings = attacker.head.pairings(attacker.features(x), target.poison_y, s)
    distinct = np.sort(np.unique(target.rows, return_index=True)[1])
    order = distinct[np.argsort(pairings[distinct], kind="stable")]
    length = SHARE * attacker.box.width
    moved = descend(x, inner_values(attacker, target.poison_y, s), attacker.box, signs, length)
    return order, attacker.apart(moved, target.rows, target)
