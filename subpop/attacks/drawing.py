"""Drawing the poison of a trial: the number of rows, their label, and the attack that makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from subpop.attacks import ATTACKS
from subpop.attacks.attackers_sample import check_sample, known_members
from subpop.attacks.boxes import Box
from subpop.attacks.label_flip import AttackTask, Poison, least_likely_label, poison_count, rarest_label
from subpop.datasets.partitions import in_words
from subpop.datasets.stage import Stage
from subpop.runtime.seeds import poison_seed
from subpop.types import BadInput, Cell, Model, Pool, Victim

NO_POISON = Poison(np.zeros(0, np.int64), np.zeros(0, np.int64), 0)
MOST_POISON = 10
"""Maximum number of poison rows per row of D; more would only fill memory."""


def base_size(stage: Stage, cell: Cell, name: str) -> float:
    """The number of rows that is multiplied by alpha, scaled to a set as large as D.

    `aux`: the subpopulation's rows in D_aux, scaled by |D| / |D_aux| if D_aux is larger than D; `train`: its rows in D itself,
    as in the released code for Adult, although no attacker can know them.
    """
    if cell.poisoning.alpha_base == "train":
        return float(stage.train_members(name).sum())
    return len(stage.aux_members(name)) * stage.pool.n_train / stage.n_aux


def n_poison(stage: Stage, cell: Cell, name: str) -> int:
    """The number of poison rows of a trial that attacks the subpopulation."""
    return poison_count(cell.rate, base_size(stage, cell, name))


def draw_poison(
    stage: Stage,
    cell: Cell,
    name: str,
    seed: int,
    attacker: Model | None,
    *,
    optimiser: Any = None,
    victim: Victim | None = None,
    attack: Callable[[AttackTask[Any]], Poison] | None = None,
) -> Poison:
    """Draw the poison rows of one trial.

    attacker: the model whose least likely label the label rule `common` uses, and which attacks with `asks_model` ask;
    optimiser: see `AttackTask`; victim: trains models of an attack; attack: a user-supplied attack, None for a registered one.
    """
    members = known_members(stage, cell, name)
    rule, target = label_rule(cell, stage.dataset.n_classes), None
    if rule == "rarest":
        target = rarest_label(stage.pool.y[members], stage.dataset.n_classes)
    elif rule == "common":
        if attacker is None:
            raise BadInput(f"label_rule=common of {cell.id} asks the attacker's model for a label: give draw_poison an attacker")
        target = least_likely_label(attacker.predict_proba(stage.pool.x[members]))
    count = n_poison(stage, cell, name)
    generator = np.random.default_rng(poison_seed(cell, name, seed))
    own, groups = cell.poisoning, stage.partition.aux
    task = AttackTask(own, stage.pool, members, count, target, generator, optimiser, groups, attacker, victim)
    return (attack or ATTACKS[cell.attack])(task)


def box(cell: Cell, pool: Pool) -> Box:
    """The bounds of the cell's moved rows: `epsilon` levels, of which 255 are the range of a pixel or a column."""
    return Box.of(pool, cell.epsilon)


def label_rule(cell: Cell, n_classes: int) -> str:
    """The cell's label rule; by default, "own" for two classes and "common" for more."""
    return cell.poisoning.label_rule or ("own" if n_classes == 2 else "common")


def check_attack(stage: Stage, cell: Cell, *, is_own: bool = False) -> None:
    """Compute the poison counts of all trials, so that unusable rates raise BadInput before anything is trained."""
    if not is_own and cell.attack not in ATTACKS:
        raise BadInput(f"unknown attack {cell.attack!r}; use one of {', '.join(ATTACKS)}")
    _check_attack_suits(stage, cell)
    for name in stage.attacked:
        try:
            count = n_poison(stage, cell, name)
        except BadInput as error:
            named = in_words(stage.dataset, cell.subpopulations.grouped_by, name)
            fewer = ", or name fewer annotations in grouped_by" if cell.partition == "feature_match" else ""
            raise BadInput(f"{cell.id}: {named!r}: {error}{fewer}") from error
        available = len(known_members(stage, cell, name))
        if count > MOST_POISON * stage.pool.n_train:
            raise BadInput(
                f"{cell.id}: rate {cell.rate:g} asks for {count} poison rows of {name!r}, more than {MOST_POISON} times the "
                f"{stage.pool.n_train} rows of D; use a lower rate"
            )
        if cell.poisoning.sampling == "distinct" and count > available:
            raise BadInput(
                f"{cell.id}: rate {cell.rate:g} asks for {count} distinct poison rows of {name!r} but the attacker sees "
                f"{available}; use protocol=reserve (a larger D_aux), a lower rate or sampling=with_replacement"
            )


def _check_attack_suits(stage: Stage, cell: Cell) -> None:
    if label_rule(cell, stage.dataset.n_classes) == "own" and stage.dataset.n_classes != 2:
        raise BadInput(
            f"label_rule=own of {cell.id} flips between two classes, and {stage.dataset.name} has {stage.dataset.n_classes}; use "
            "common or rarest"
        )
    check_sample(cell, stage.dataset.n_classes)
    if cell.poisoning.moves_rows:
        box(cell, stage.pool)
