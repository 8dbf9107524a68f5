"""How badly each group of a user's data can be hurt: damage at several alphas, and m50, on the user's own estimator.

Both are numbers of ordinary cells of the benchmark: FeatureMatch by the group's columns (`grouped_by`), label flipping, a third
of the rows each for D, D_aux and D_test. A suite that writes the same cell of registered data gets the same damage; data of the
user's own has one name in all audits, so that seeds do not depend on the name of a file.

*Deviation*: m50 is found by bisection on the grid of `subpop.experiments.susceptibility`, which tries a few numbers of rows
instead of all. Where the error crosses one half once it is the same number; elsewhere it is one of the crossings, so that the
attack with this number of rows is real in any case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from subpop.attacks.drawing import draw_poison, n_poison
from subpop.attacks.label_flip import Poison
from subpop.audit.groups import Group
from subpop.datasets.stage import Stage
from subpop.experiments.experiment import Experiment
from subpop.experiments.susceptibility import HALF, grid
from subpop.results.summary.subpopulation import gather, table_row
from subpop.runtime.memo import NotStored
from subpop.runtime.seeds import draw_identity
from subpop.types import BadInput, Bools, Cell, Dataset, FleetJob, Ints, Model, Trial

if TYPE_CHECKING:
    import pandas as pd

ALPHAS = (0.5, 1.0, 2.0)
SEEDS = 5
"""Draws of poison for each damage: the fewest that give an interval."""
M50_DRAWS = 3
LEAST_AUX, LEAST_TEST, LEAST_TEST_OF_PAIRS = 5, 10, 40
"""A group is attacked if it has so many rows in D_aux and in D_test; groups by several columns, of which there are many, need
more test rows."""
NEEDED = (
    f"{LEAST_AUX} rows in the attacker's data (D_aux) and {LEAST_TEST} test rows, or {LEAST_TEST_OF_PAIRS} if it combines "
    "several columns"
)


@dataclass(frozen=True)
class GroupDamage:
    """The damage of attacks on one group."""

    damage: dict[float, float]
    """Target damage by alpha."""
    half_width: dict[float, float]
    """Half of its 95 % interval, over draws of the poison, training and test rows; NaN without one."""
    n_poison: dict[float, int]


@dataclass(frozen=True)
class M50:
    """The number of label flips that bring a group to an error of one half."""

    median: float
    low: int
    high: int
    censored: bool
    """Whether all rows of the group in D_aux were too few in at least half of the draws: m50 is larger than `median`."""
    trivial: bool
    """Whether at least half of the test rows are wrong without any poison."""


@dataclass(frozen=True, eq=False)
class Target:
    """A group as a subpopulation of cells."""

    group: Group
    cell: Cell
    """Of the clean control: with rate 0."""
    name: str
    """The name of the subpopulation."""
    n_train: int
    n_aux: int
    n_test: int

    @property
    def obstacle(self) -> str:
        """What it lacks to be attacked, such as `39 of 40 test rows`; '' if enough of its rows are on each side of the split."""
        least = LEAST_TEST_OF_PAIRS if " x " in self.group.grouping else LEAST_TEST
        if not self.n_train + self.n_aux + self.n_test:
            return "no rows on a side of the split"
        parts = ((self.n_test, least, "test rows"), (self.n_aux, LEAST_AUX, "rows in D_aux"), (self.n_train, 1, "rows in D"))
        return next((f"{n} of {needed} {what}" for n, needed, what in parts if n < needed), "")


@dataclass(frozen=True, eq=False)
class Attacks:
    """Attacks groups with the cells of one experiment, whose context was supplied with the data and the victim."""

    experiment: Experiment
    dataset: str
    victim: str
    data: Dataset

    def cell(self, grouped_by: str, rate: float, **settings: object) -> Cell:
        """The cell of a rate, for the groups by these annotations."""
        return Cell.of(
            "audit",
            "own",
            self.dataset,
            self.victim,
            "feature_match",
            rate=rate,
            grouped_by=grouped_by,
            **{"n_seeds": SEEDS, **settings},  # type: ignore[arg-type]
        )

    @cached_property
    def plain(self) -> Cell:
        """A cell for what does not depend on subpopulations."""
        return Cell.of("audit", "own", self.dataset, self.victim, "none", n_seeds=SEEDS)

    def target(self, group: Group) -> Target:
        """The subpopulation with a group's rows."""
        names = grouped_by_of(group.grouping, self.data)
        name = ",".join(f"{each}={self.data.annotations[each][group.rows[0]]}" for each in names)
        cell = self.cell(",".join(names), 0.0)
        try:
            stage = self.experiment.context.stage(cell)
            counted = int(stage.train_members(name).sum()), len(stage.aux_members(name)), int(stage.test_members(name).sum())
        except (BadInput, ValueError):  # none of its groups has a row in D_aux and in D_test, or this one has none in D_aux
            counted = 0, 0, 0
        return Target(group, cell, name, *counted)

    # --- damage -------------------------------------------------------------------------------------------------------

    def damages(self, targets: Sequence[Target], alphas: Sequence[float] = ALPHAS) -> list[GroupDamage]:
        """The damages of groups of the same grouping; trials that are not in the store are trained together."""
        found = [GroupDamage({}, {}, {}) for _ in targets]
        for alpha in alphas:
            cell = targets[0].cell.with_(rate=alpha)
            trials = [Trial(each.name, seed) for each in targets for seed in range(SEEDS)]
            results = self.experiment.stored(cell, trials)
            if results is None:
                if self.experiment.context.memo.only_reads:
                    raise NotStored(cell.id)
                results = self.experiment.timed_chunk(cell, trials)
                self.experiment.commit(cell, trials, results)
            stage, by_trial = self.stage(cell), {result.trial: result for result in results}
            for own, target in zip(found, targets, strict=True):
                row = table_row(gather(SEEDS, stage, by_trial, target.name, self.clean_right))
                own.damage[alpha] = float(row["target_damage"])
                own.half_width[alpha] = float(row["target_damage_half_width"])
                own.n_poison[alpha] = int(row["n_poison"])
        return found

    def stage(self, cell: Cell) -> Stage:
        """The cell's data, split and divided."""
        return self.experiment.context.stage(cell)

    @cached_property
    def clean_right(self) -> Bools:
        """(SEEDS, n_test) which test rows the clean victims get right."""
        return np.stack([self.experiment.context.clean_right(self.plain, seed) for seed in range(SEEDS)])

    # --- m50 ----------------------------------------------------------------------------------------------------------

    def m50(self, targets: Sequence[Target], draws: int = M50_DRAWS) -> list[M50]:
        """m50 of groups of the same grouping, from the store where it is there."""
        cell = targets[0].cell
        stage, context = self.stage(cell), self.experiment.context
        whole = cell.with_(rate=stage.n_aux / stage.pool.n_train, sampling="distinct", n_seeds=draws)
        key = context.memo.key(
            self.experiment.code(whole) | {__name__},
            draws=(draw_identity(whole), draws),
            attack=(whole.poisoning, whole.rate),
            data=(stage.fingerprint, stage.dataset.n_classes),
            victim=context.victim_identity(whole),
            names=[each.name for each in targets],
        )
        kept, _ = context.memo.arrays(key, lambda: {"m50": np.array(self._searched(whole, targets, draws))})
        return [_m50_of(each) for each in kept["m50"]]

    def _searched(self, cell: Cell, targets: Sequence[Target], draws: int) -> list[list[list[int]]]:
        """Of each group and draw: the number of rows, and 1 if all its rows were too few."""
        searches = [self._search(cell, each, seed) for each in targets for seed in range(draws)]
        clean = [self.experiment.context.clean_model(cell, seed) for seed in range(draws)]
        for i, search in enumerate(searches):
            search.trivial = search.error(clean[i % draws]) >= HALF
        while open_ := [(i, each) for i, each in enumerate(searches) if not each.is_over]:
            jobs = [each.job() for _, each in open_]
            for (_, each), model in zip(
                open_, self.experiment.context.fit(cell, jobs, [i % draws for i, _ in open_]), strict=True
            ):
                each.learn(each.error(model) >= HALF)
        found = [each.found for each in searches]
        return [[list(own) for own in found[i : i + draws]] for i in range(0, len(found), draws)]

    def _search(self, cell: Cell, target: Target, seed: int) -> _Search:
        stage = self.stage(cell)
        poison = draw_poison(stage, cell, target.name, seed, self.experiment.context.label_attacker(cell))
        return _Search(stage, poison, grid(n_poison(stage, cell, target.name)), np.flatnonzero(stage.test_members(target.name)))


@dataclass(eq=False)
class _Search:
    """A bisection on the grid: all numbers below position `low` are too few, those from `high` on are enough."""

    stage: Stage
    poison: Poison
    counts: list[int]
    members: Ints
    low: int = 0
    high: int | None = None
    censored: bool = False
    trivial: bool = False

    @property
    def is_over(self) -> bool:
        return self.trivial or self.censored or (self.high is not None and self.low >= self.high)

    @property
    def _asked(self) -> int:
        return len(self.counts) - 1 if self.high is None else (self.low + self.high) // 2

    def job(self) -> FleetJob:
        """D with the next number of poison rows."""
        count = self.counts[self._asked]
        return self.stage.attacked_job(self.poison.rows[:count], self.poison.y[:count])

    def learn(self, is_enough: bool) -> None:
        """Narrow the search by what the last number did."""
        if is_enough:
            self.high = self._asked
        elif self.high is None:
            self.censored = True
        else:
            self.low = self._asked + 1

    def error(self, model: Model) -> float:
        """The error of the group's test rows."""
        data = self.stage.data
        return float((model.predict_proba(data.test_x[self.members]).argmax(1) != data.test_y[self.members]).mean())

    @property
    def found(self) -> tuple[int, int]:
        """The number of rows, and 1 if it is not enough."""
        if self.trivial:
            return 0, 0
        return (self.counts[-1], 1) if self.high is None else (self.counts[self.high], 0)


def _m50_of(draws: Ints) -> M50:
    """The median over draws (d, 2), of which those that are censored count as largest."""
    values = np.sort(np.where(draws[:, 1] == 1, math.inf, draws[:, 0]))
    median = float(values[len(values) // 2])
    end = float(draws[:, 0].max())
    low, high = int(draws[:, 0].min()), int(draws[:, 0].max())
    return M50(end if math.isinf(median) else median, low, high, math.isinf(median), bool(median == 0))


def is_beyond_uncertainty(groups: pd.DataFrame) -> pd.Series[bool]:
    """Whether the interval of a group's damage at alpha 1 lies above 0. groups: `Audit.groups`."""
    return groups["damage_1"] > groups["half_width_1"]


def grouped_by_of(grouping: str, data: Dataset) -> tuple[str, ...]:
    """The annotations that a grouping matches: its columns, or one annotation with its own name."""
    parts = tuple(grouping.split(" x "))
    return parts if grouping not in data.annotations and all(each in data.annotations for each in parts) else (grouping,)
