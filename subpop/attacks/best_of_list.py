"""Best of list: the worst of the fixed attacks against the defense, as the attacker measures it on rows of his own.

The attacker knows the defense. He divides D_aux into two halves, within each subpopulation and class. In his own world, the
*surrogate half* takes the place of D: the defense is trained on it together with candidate poison. The rows of the subpopulation
in the *selection half* that are not poison in any candidate tell how much harm it does. D and D_test have no part in it.

The list: `label_flip` and `proportional`, the attacks without a search whose poison may be the same (distinct rows of the
subpopulation in D_aux with another label). The poison of label flipping is that of the cell's trials of `label_flip`, so that
both attacks are compared trial by trial.

*Source*: own construction, after the practice of reporting the worst of several attacks, where the choice is made on data that
do not enter the score.
*Deviations*: harm is the number of wrong predictions, then the mean lead of the wrong class in probability, rounded to 1e-6;
ties go to the attack that is listed first. Poison may be rows of the surrogate half, which then have their own label there as
well, as no row of D has. Where D_aux is smaller than twice D, poison has a larger share in the attacker's world than in D.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from subpop.attacks.label_flip import AttackTask, Poison, flip_labels, poison_labels
from subpop.attacks.proportional import sample_in_proportion
from subpop.types import BadInput, Bools, Ints
from subpop.types.specifications import LabelFlip

Doubles = NDArray[np.float64]
LIST: Mapping[str, Callable[[AttackTask[Any]], Poison]] = {"label_flip": flip_labels, "proportional": sample_in_proportion}
"""The attacks to choose from, by name."""
DECIMALS = 6
"""Digits to which leads are rounded, so that the rounding of a processor chooses no poison."""


@dataclass(frozen=True)
class BestOfList(LabelFlip):
    """Settings of the choice among fixed attacks."""

    shares_draws: ClassVar[bool] = True
    asks_model: ClassVar[bool] = True
    asks_defense: ClassVar[bool] = True


class TrainDefended(Protocol):
    """Trains defended models in the attacker's own world."""

    def __call__(
        self, surrogate: Ints, selection: Ints, poisons: Sequence[Poison], asked: Ints, seed: int
    ) -> list[tuple[Bools, Doubles]]:
        """Train the defense on the surrogate half with each of several poisons, as one fleet.

        surrogate, selection: pool rows of the two halves of D_aux; asked: (r,) pool rows to predict; seed: of everything random.
        Returns for each poison where the prediction is wrong, (r,) bool, and by how much the predicted class leads, (r,).
        """
        ...


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """The defense in the hands of the attacker: its name, a function that trains it, and the parts into which it divides rows.

    parts: (a,) the part of each row of the subpopulation in D_aux, for defenses that partition by content; None for others.
    """

    defense: str
    train: TrainDefended
    parts: Ints | None = None


@dataclass(frozen=True, eq=False)
class Harm:
    """What defended models do with each row of the subpopulation in D_aux: where they are wrong, (n, a) bool, and by how much the
    wrong class leads, (n, a), negative where they are right. Rows of the surrogate half are not predicted: False and 0."""

    wrong: Bools
    lead: Doubles

    def on(self, rows: Bools) -> Doubles:
        """(n,) the harm on the rows of a mask (a,): the number of errors, then the mean lead of the wrong class."""
        return np.asarray(self.wrong[:, rows].sum(axis=1) + np.round(self.lead[:, rows].mean(axis=1), DECIMALS) / 4)


@dataclass(eq=False)
class World:
    """The attacker's world in one trial. n_fits: number of defended models that were trained."""

    task: AttackTask[LabelFlip]
    rehearsal: Rehearsal
    n_fits: int = 0

    @classmethod
    def of(cls, task: AttackTask[LabelFlip]) -> World:
        """Raises BadInput for a task that has no defense, or is not about distinct rows."""
        if not isinstance(task.optimiser, Rehearsal):
            raise BadInput(f"attack {task.settings.name} trains the defense: give draw_poison a Rehearsal as its optimiser")
        if task.settings.sampling != "distinct":
            raise BadInput(
                f"attack {task.settings.name} chooses distinct rows, not sampling={task.settings.sampling}; use distinct"
            )
        return cls(task, task.optimiser)

    @cached_property
    def members(self) -> Ints:
        """(a,) pool rows of the subpopulation in D_aux, in ascending order."""
        return np.unique(self.task.members)

    @cached_property
    def labels(self) -> Ints:
        """(a,) their labels as poison."""
        return poison_labels(self.task.pool.y[self.members], self.task.target)

    @cached_property
    def halves(self) -> tuple[Ints, Ints]:
        """Pool rows of two halves of D_aux, which contain equally many rows of each subpopulation and class, give or take one."""
        aux, groups = self.task.aux, self.task.groups
        same = np.zeros(len(aux)) if groups is None else groups
        order = aux[np.lexsort((self.task.generator.random(len(aux)), self.task.pool.y[aux], same))]
        return np.sort(order[0::2]), np.sort(order[1::2])

    @cached_property
    def seed(self) -> int:
        """The seed of the attacker's trainings."""
        return int(self.task.generator.integers(2**32))

    def selection(self, turn: int) -> Bools:
        """(a,) bool: the members in the selection half. In turn 0 the first half is the surrogate half, in turn 1 the second."""
        return np.isin(self.members, self.halves[1 - turn])

    def harm(self, masks: Sequence[Bools], turn: int) -> Harm:
        """Train the defense with each poison, given as a mask over the members, and predict those in the selection half."""
        asked, shape = self.selection(turn), (len(masks), len(self.members))
        poisons = [self.poison(mask) for mask in masks]
        self.n_fits += len(masks)
        found = Harm(np.zeros(shape, bool), np.zeros(shape))
        outcomes = self.rehearsal.train(self.halves[turn], self.halves[1 - turn], poisons, self.members[asked], self.seed)
        for i, (wrong, lead) in enumerate(outcomes):
            found.wrong[i, asked] = wrong
            found.lead[i, asked] = np.where(wrong, lead, -lead)
        return found

    def poison(self, mask: Bools) -> Poison:
        """The poison of a mask over the members."""
        rows, y = self.members[mask], self.labels[mask]
        return Poison(rows, y, int((y != self.task.pool.y[rows]).sum()), n_fits=self.n_fits)


@dataclass(frozen=True, eq=False)
class Opening:
    """The chosen attack of the list: its poison, as a mask over the members too, and the harm that it does, (1, a)."""

    poison: Poison
    mask: Bools
    harm: Harm


def best_of(world: World) -> Opening:
    """Choose the attack of the list that does most harm to the defense in the attacker's world.

    Raises
    ------
    BadInput
        If every row of the selection half is poison of some attack.
    """
    task = world.task
    poisons = [attack(task) for attack in LIST.values()]
    masks = [np.isin(world.members, poison.rows) for poison in poisons]
    scored = world.selection(0) & ~np.any(masks, axis=0)
    if not scored.any():
        raise BadInput(
            f"{task.settings.name} with {task.count} poison rows leaves none of the {len(world.members)} rows of the "
            "subpopulation in D_aux to measure the harm on: use a lower rate, or protocol=reserve (a larger D_aux)"
        )
    harm = world.harm(masks, 0)
    best = int(harm.on(scored).argmax())
    return Opening(poisons[best], masks[best], Harm(harm.wrong[[best]], harm.lead[[best]]))


def choose_worst(task: AttackTask[BestOfList]) -> Poison:
    """The attack `best_of_list`.

    Raises
    ------
    BadInput
        If the task has no `Rehearsal`, asks for rows that are not distinct, or leaves no row to measure the harm on.
    """
    world = World.of(task)
    if not task.count:
        return flip_labels(task)
    return replace(best_of(world).poison, n_fits=world.n_fits)
