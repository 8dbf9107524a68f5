"""Adaptive: a search for the poison that harms the subpopulation most although the defense is trained on it.

The search begins with the poison of `best_of_list`, in the same world of the attacker's own. It exchanges poison rows for other
rows of the subpopulation in D_aux: in each round up to 10 candidates are trained as one fleet with the defense, and the most
harmful one replaces the poison if it does more harm. Half of the candidates exchange random rows, the others those that the
*mechanism* for the defense suggests, of all rows or of a random half. All candidates of a search are compared on the same rows:
those of the selection half that are not poison at its beginning, which never become poison. Hence there are two searches, the
second with the halves in exchanged roles, so that every row can become poison. If its result does less harm than the poison of
`best_of_list` on the rows on which the first search measured it, or none of these rows is left, the result of the first is
taken. In all, `n_fits` defended
models are trained.

Mechanisms, the rows that they suggest, and the best countermeasure that we know:

* *low loss*, against filters by loss, gradient or influence (`trim`, `sever`, `randeigen`, `holdout_influence`, `group_roni`):
  rows whose poison label the attacker's model finds most likely, since they look clean to models of this kind. Countermeasure: a
  test that asks no such model, such as clean rows *of the subpopulation*, or the labels of neighbours while poison is a minority.
* *tight ball*, against filters by neighbours (`knn_filter`, `knn_relabel`, `deep_knn`): the rows nearest to one row, among which
  poison outvotes clean rows. Countermeasure: many more neighbours than poison rows.
* *balanced parts*, against partitions by content (`dpa`, `finite_aggregation`, `run_off_election`): equally many rows in each of
  some parts, from a bare majority to all of them. Countermeasure: more parts, and the certificate, which holds for every choice
  of poison.
* *random*, against all others: random rows. Countermeasures depend on the defense.

*Source*: own construction. That a defense must be evaluated by an attacker who knows it is the rule of Carlini et al. 2019 ("On
evaluating adversarial robustness") and Tramer et al. 2020 for evasion; for poisoning see Koh, Steinhardt and Liang 2022.
*Deviations*: only distinct rows of the subpopulation with another label, so that it can be compared with label flipping at the
same number of rows: no input is changed. The search is local, and 200 trainings are few: the worst poison does at least as much
harm. Harm in the attacker's world need not be harm to the victim; in particular, rows of the surrogate half, whose own copies
there they cancel, look more harmful than they are in D, which has no such copies, and the search drifts to them. See
`best_of_list` for that world.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from subpop.attacks.best_of_list import Doubles, Harm, World, best_of
from subpop.attacks.label_flip import AttackTask, Poison, flip_labels
from subpop.attacks.neighbours import rounded_distances
from subpop.types import Bools
from subpop.types.specifications import LabelFlip

BATCH = 10
"""Largest number of candidates in a fleet."""

Keys = Callable[[np.random.Generator], Doubles]
"""Returns (a,) how unsuitable each member is as poison, in view of a defense."""


@dataclass(frozen=True)
class Adaptive(LabelFlip):
    """Settings of the search with the defense in the loop."""

    n_fits: int = field(default=200, metadata={"least": 20})
    """Number of defended models that the attacker trains."""

    shares_draws: ClassVar[bool] = True
    asks_model: ClassVar[bool] = True
    asks_defense: ClassVar[bool] = True


def search_poison(task: AttackTask[Adaptive]) -> Poison:
    """The attack `adaptive`.

    Raises
    ------
    BadInput
        As `best_of_list`.
    """
    world = World.of(task)
    if not task.count:
        return flip_labels(task)
    opening, n_fits = best_of(world), task.settings.n_fits
    first = climb(world, 0, opening.mask, opening.harm, n_fits // 2 - world.n_fits)
    harm = world.harm([first], 1)
    second = climb(world, 1, first, harm, n_fits - 1 - world.n_fits)
    end, scored = world.harm([second], 0), world.selection(0) & ~opening.mask & ~second
    is_kept = scored.any() and end.on(scored)[0] >= opening.harm.on(scored)[0]
    found = second if is_kept else first
    poison = opening.poison if np.array_equal(found, opening.mask) else world.poison(found)
    return replace(poison, n_fits=world.n_fits)


def climb(world: World, turn: int, mask: Bools, harm: Harm, n_fits: int) -> Bools:
    """Exchange poison rows, as long as that does more harm, with `n_fits` defended models; returns (a,) bool.

    turn: which half is the surrogate half; mask: (a,) bool, the poison to begin with; harm: (1, a) what it does.
    """
    scored = world.selection(turn) & ~mask
    if not scored.any() or not (~mask & ~scored).any():
        return mask
    best, keys = harm.on(scored)[0], suggestions(world)
    for begin in range(0, n_fits, BATCH):
        tried = [candidate(world, mask, ~scored, keys, i) for i in range(begin, min(begin + BATCH, n_fits))]
        found = world.harm(tried, turn).on(scored)
        if found.max() > best:
            best, mask = found.max(), tried[int(found.argmax())]
    return mask


def candidate(world: World, mask: Bools, movable: Bools, keys: Keys, number: int) -> Bools:
    """(a,) bool: the poison with some rows exchanged for others, of the movable ones.

    The least suitable rows of the poison are exchanged for the most suitable others. The number of the candidate in its
    search says how many, from all down to one in halves and again from all, and what is suitable: odd numbers take random rows,
    and half of the even ones consider a random half of the rows.
    """
    generator = world.task.generator
    order = generator.random(len(mask)) if number % 2 else keys(generator)
    if number % 4 == 2:
        movable = movable & (generator.random(len(mask)) < 0.5)
    inside, outside = np.flatnonzero(mask & movable), np.flatnonzero(~mask & movable)
    most = min(len(inside), len(outside))
    count = max(most >> (number // 4 % max(1, most.bit_length())), min(1, most))
    moved = mask.copy()
    moved[inside[np.argsort(-order[inside], kind="stable")[:count]]] = False
    moved[outside[np.argsort(order[outside], kind="stable")[:count]]] = True
    return moved


# --- mechanisms -------------------------------------------------------------------------------------------------------


def low_loss(world: World) -> Keys:
    """Rows whose poison label the attacker's model finds likely are suitable."""
    task = world.task
    assert task.model is not None  # `best_of_list` has asked it
    proba = task.model.predict_proba(task.pool.x[world.members]).astype(np.float64)
    keys = -np.round(proba[np.arange(len(proba)), world.labels], 6)
    return lambda generator: keys


def tight_ball(world: World) -> Keys:
    """Rows near a random row of the subpopulation are suitable."""
    distances = rounded_distances(world.task.pool.x, world.members, world.members)
    return lambda generator: np.asarray(distances[generator.integers(len(distances))])


def balanced_parts(world: World) -> Keys:
    """The first rows, in random order, of each of some parts are suitable: of a bare majority of the parts, or of more."""
    parts = world.rehearsal.parts
    if parts is None:
        return at_random(world)
    names, part = np.unique(parts, return_inverse=True)

    def keys(generator: np.random.Generator) -> Doubles:
        n_chosen = int(generator.integers(len(names) // 2 + 1, len(names) + 1))
        is_chosen = np.isin(part, generator.permutation(len(names))[:n_chosen])
        order = np.lexsort((generator.random(len(part)), part))
        place = np.empty(len(part))
        place[order] = np.arange(len(part)) - np.searchsorted(part[order], part[order])
        return np.where(is_chosen, place, place + len(part))

    return keys


def at_random(world: World) -> Keys:
    """No row is more suitable than another."""
    return lambda generator: generator.random(len(world.members))


BY_LOSS = ("trim", "sever", "sever_per_label", "sever_as_released", "randeigen", "holdout_influence")
MECHANISMS: Mapping[str, Callable[[World], Keys]] = {
    **dict.fromkeys((*BY_LOSS, "group_roni", "group_roni_with_holdout"), low_loss),
    **dict.fromkeys(("knn_filter", "knn_relabel", "deep_knn"), tight_ball),
    **dict.fromkeys(("dpa", "finite_aggregation", "run_off_election"), balanced_parts),
}
"""The mechanism for each defense, by its name without settings; `at_random` for others."""


def suggestions(world: World) -> Keys:
    """What the mechanism for the defense of this world suggests."""
    return MECHANISMS.get(world.rehearsal.defense.partition("(")[0], at_random)(world)
