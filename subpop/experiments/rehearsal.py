"""The defense in the attacker's hands: trains it on rows of D_aux alone, for attacks with `asks_defense`.

The rows are a pool of their own, in which the surrogate half of D_aux takes the place of D, so that no row of D or D_test can
enter. The defense gets what it gets in the experiment: shuffled rows, the number of poison rows if it needs it (as the cell
tells it), and clean rows if it needs them, of the selection half and outside the subpopulation.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from inspect import signature

import numpy as np

from subpop.attacks.best_of_list import Rehearsal
from subpop.attacks.drawing import n_poison
from subpop.attacks.label_flip import Poison
from subpop.datasets.stage import Stage
from subpop.defenses import DEFENSES, RETRAIN
from subpop.defenses.ensembles import content_hash
from subpop.experiments.trial import TOLD
from subpop.harness.batching import DefenseTask, OnGreenlet, PoolRows, TrialBatch, job_of
from subpop.results.metrics import Doubles
from subpop.types import Array, BadInput, Bools, Cell, Ints, Knowledge, Model, Pool, TrainingSet, Victim

TELLS = frozenset({"n_poison", "clean_holdout"})
"""What the attacker can tell a defense in his own world."""
PARTITIONED = ("dpa", "finite_aggregation", "run_off_election")
"""Defenses that divide rows by the hash of their content."""
MOST_POISON = 0.75
"""The largest share of the subpopulation's rows in D_aux that may be poison, so that the attacker has rows to measure on."""


def rehearsal(stage: Stage, cell: Cell, name: str, victim: Victim, needs: Set[str]) -> Rehearsal:
    """What an attack with `asks_defense` on the subpopulation is handed."""
    members = stage.aux_members(name)
    train = OwnWorlds(stage, cell, members, victim, needs)
    return Rehearsal(cell.defense, train, parts_of_rows(cell.defense, stage.pool.x[np.unique(members)]))


def check_rehearsal(stage: Stage, cell: Cell, needs: Set[str]) -> None:
    """Raise BadInput for a cell whose attack cannot train its defense, before anything is trained."""
    if cell.defense != RETRAIN and cell.defense not in DEFENSES:
        raise BadInput(
            f"attack {cell.attack} trains the defense hundreds of times, which a plug-in in its child process or a matched "
            f"control cannot do: {cell.defense} is neither; use a registered defense, or another attack"
        )
    if unknown := sorted(needs - TELLS):
        raise BadInput(
            f"attack {cell.attack} cannot train {cell.defense}, since an attacker does not know {', '.join(unknown)}; use a "
            f"defense that needs at most {', '.join(sorted(TELLS))}, or another attack"
        )
    if cell.poisoning.sampling != "distinct":
        raise BadInput(f"attack {cell.attack} of {cell.id} chooses distinct rows; give the cell sampling=distinct")
    for name in stage.attacked:
        count, available = n_poison(stage, cell, name), len(stage.aux_members(name))
        if count > MOST_POISON * available:
            raise BadInput(
                f"{cell.id}: {count} of the {available} rows of {name!r} in D_aux become poison, which leaves too few on which "
                f"{cell.attack} measures harm (at most {MOST_POISON:.0%} may); use protocol=reserve (a larger D_aux) or a "
                "lower rate"
            )


def parts_of_rows(defense: str, x: Array) -> Ints | None:
    """(a,) the part into which the defense puts each of the rows x (a, ...); None for a defense without parts."""
    name = defense.partition("(")[0]
    if name not in PARTITIONED:
        return None
    settings = {each.name: each.default for each in signature(DEFENSES[name]).parameters.values()}
    settings |= getattr(DEFENSES[defense], "keywords", {})
    return (content_hash(x) % np.uint64(settings["k"] * settings.get("d", 1))).astype(np.int64)


@dataclass(eq=False)
class OwnWorlds:
    """Trains the cell's defense on halves of D_aux. members: (a,) pool rows of the subpopulation in D_aux."""

    stage: Stage
    cell: Cell
    members: Ints
    victim: Victim
    needs: Set[str]
    _pools: dict[bytes, Pool] = field(default_factory=dict)

    def __call__(
        self, surrogate: Ints, selection: Ints, poisons: Sequence[Poison], asked: Ints, seed: int
    ) -> list[tuple[Bools, Doubles]]:
        """See `subpop.attacks.best_of_list.TrainDefended`."""
        pool, place = self._pool(surrogate, selection), self._places(surrogate, selection)
        holdout = self._holdout(selection, seed)
        tasks = [self._task(pool, place[poison.rows], poison.y, holdout, seed) for poison in poisons]

        def fit_many(requests: list[tuple[int, TrainingSet]]) -> list[Model]:
            jobs = [job_of(pool, train).canonical() for _, train in requests]
            return list(self.victim.fit_many(jobs, [seed] * len(jobs)))

        rows = place[asked]
        outcomes = TrialBatch(tasks, fit_many, pool.x[rows], pool.n_classes).run(DEFENSES[self.cell.defense], carrier=OnGreenlet)
        return [(each.predictions[""] != pool.y[rows], np.asarray(each.lead, np.float64)) for each in outcomes]

    def _pool(self, surrogate: Ints, selection: Ints) -> Pool:
        """The rows of D_aux alone, those of the surrogate half first; made once, because victims keep the optimum of a pool."""
        key = surrogate.tobytes()
        if key not in self._pools:
            own, rows = self.stage.pool, np.concatenate([surrogate, selection])
            self._pools[key] = Pool(own.x[rows], own.y[rows], len(surrogate), own.n_classes)
        return self._pools[key]

    def _places(self, surrogate: Ints, selection: Ints) -> Ints:
        """(N,) where each row of the cell's pool is in the attacker's pool; rows of D are nowhere, beyond its end."""
        place = np.full(len(self.stage.pool), len(self.stage.pool))
        place[np.concatenate([surrogate, selection])] = np.arange(len(surrogate) + len(selection))
        return place

    def _task(self, pool: Pool, rows: Ints, y: Ints, holdout: TrainingSet | None, seed: int) -> DefenseTask:
        """The defense's task: the surrogate half and the poison, in the same random order for all poisons of equal size."""
        order = np.random.default_rng(seed).permutation(pool.n_train + len(rows))
        every = np.concatenate([np.arange(pool.n_train), rows])[order]
        labels = np.concatenate([pool.y[: pool.n_train], y])[order]
        granted = round(len(rows) * TOLD[self.cell.defender.n_poison_told]) if "n_poison" in self.needs else None
        know = Knowledge(n_poison=granted, clean_holdout=holdout)
        train = TrainingSet(PoolRows(pool, every), np.arange(len(every)), labels)
        return DefenseTask(train, know, seed, "the attacker's own world", certify=np.zeros(0, np.int64))

    def _holdout(self, selection: Ints, seed: int) -> TrainingSet | None:
        """As many clean rows as in the experiment, or all that there are, drawn from the selection half outside the target."""
        share = self.cell.defender.holdout
        if "clean_holdout" not in self.needs or share is None:
            return None
        others = np.setdiff1d(selection, self.members)
        chosen = np.random.default_rng(seed).permutation(others)[: round(share * len(self.stage.data.test_y))]
        return TrainingSet.of(self.stage.pool.x[chosen], self.stage.pool.y[chosen])
