"""Two worlds that no learner can distinguish: why a subpopulation cannot be defended without clean labels for it.

2m distinct rows of a subpopulation F are divided at random into halves A and B. In world 0, D contains A with labels y, the
poison is B with labels 1 - y, and F's test rows have labels y. In world 1, D contains A with 1 - y, the poison is B with y, and
the test labels are 1 - y. All else is equal. Swapping A and B maps one training set onto the other. So if the side information
does not reveal the world (there are as many clean rows as poison rows, without duplicates, in random order), the expected errors
on F of any learner and defense sum to 1 over the two worlds, and at least one of them is 1/2 or more. Both worlds are built by
the harness itself (`prepare`: poison, shuffle, side information), so a sum far from 1 means that the harness leaks.

*Source*: the paper's impossibility claim, in the exact form for any learner; nothing is claimed at another alpha.
*Deviations*: F is known beforehand, as the argument assumes. D also contains m rows of every other subpopulation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from subpop.datasets.stage import SplitData, Stage
from subpop.defenses.dpa import dpa
from subpop.experiments.trial import Prepared
from subpop.harness.batching import PoolRows
from subpop.runtime.seeds import derived_seed
from subpop.types import Array, BadInput, Bools, Defended, Defense, Fit, Ints, Knowledge, Partition, Pool, Splits, TrainingSet

WORLDS = (0, 1)


@dataclass(frozen=True, eq=False)
class WorldRows:
    """The rows from which both worlds are built: rows of F, twice as many as D contains, and the rest of D."""

    base: Stage
    name: str
    target: Ints
    rest: Ints

    @classmethod
    def of(cls, base: Stage, name: str, m: int) -> WorldRows:
        """The first 2m rows of F in D and D_aux, and the first m rows in D of every other subpopulation."""
        if base.dataset.n_classes != 2:
            raise BadInput(f"two worlds swap two labels; {base.dataset.name} has {base.dataset.n_classes} classes")
        target = np.concatenate([np.flatnonzero(base.train_members(name)), base.aux_members(name)])
        target = target[np.sort(np.unique(base.pool.x[target].reshape(len(target), -1), axis=0, return_index=True)[1])]
        if m < 1 or len(target) < 2 * m:
            raise BadInput(f"two worlds of {m} clean rows need {2 * m} distinct rows of {name!r}; D and D_aux hold {len(target)}")
        others = [np.flatnonzero(base.train_members(other))[:m] for other in base.partition.names if other != name]
        return cls(base, name, target[: 2 * m], np.sort(np.concatenate(others)))

    def division(self, seed: int) -> Ints:
        """(2m,) the rows of F in random order: A, then B."""
        generator = np.random.default_rng(derived_seed("division", self.base.fingerprint, self.name, seed))
        return generator.permutation(self.target)

    def world(self, world: int, division: Ints) -> Stage:
        """The stage of one world: D contains the rest and A, D_aux contains B, and all of F has this world's true labels."""
        base, rows = self.base, np.concatenate([self.rest, division])
        n_train = len(self.rest) + len(division) // 2
        y = np.array(base.pool.y[rows])
        y[len(self.rest) :] ^= world
        test_y = np.where(base.test_members(self.name), base.data.test_y ^ world, base.data.test_y)
        data = SplitData(
            base.dataset,
            self._splits(rows, n_train),
            Pool(base.pool.x[rows], y, n_train, base.pool.n_classes),
            base.data.test_x,
            test_y,
            f"{base.data.fingerprint}, world {world} of {division.tolist()}",
        )
        return Stage(data, self._partition(rows, n_train))

    def _splits(self, rows: Ints, n_train: int) -> Splits:
        splits = self.base.data.splits
        origin = np.concatenate([splits.train, splits.aux])[rows]
        return replace(splits, train=origin[:n_train], aux=origin[n_train:])

    def _partition(self, rows: Ints, n_train: int) -> Partition:
        own = self.base.partition
        groups = np.concatenate([own.train, own.aux])[rows]
        return replace(own, train=groups[:n_train], aux=groups[n_train:], attacked=(own.names.index(self.name),))


def origin_of(stage: Stage, prepared: Prepared) -> Ints:
    """(n,) for each training row of a trial, its row of the data set."""
    return np.concatenate([stage.data.splits.train, stage.data.splits.aux])[prepared.rows]


def in_order_of(stage: Stage, prepared: Prepared, origins: Ints) -> Prepared:
    """The same trial with its rows in the order of `origins`, the random order that was drawn for the other world."""
    place = np.argsort(origin_of(stage, prepared), kind="stable")
    order = place[np.argsort(np.argsort(origins, kind="stable"), kind="stable")]
    task, rows = prepared.task, prepared.rows[order]
    mask = task.know.poison_mask
    train = TrainingSet(PoolRows(stage.pool, rows), np.arange(len(rows)), task.train.y[order])
    groups = task.know.groups
    know = replace(
        task.know,
        poison_mask=None if mask is None else mask[order],
        groups=None if groups is None else groups[order],
    )
    return replace(
        prepared,
        task=replace(task, train=train, know=know),
        rows=rows,
        flipped=prepared.flipped[order],
        member=prepared.member[order],
    )


def same_for_the_defender(first: Prepared, second: Prepared) -> bool:
    """Whether all inputs of the defense are bit-identical: rows and labels in order, side information, and its seed."""
    return all(np.array_equal(one, two) for one, two in zip(_handed_out(first), _handed_out(second), strict=True))


def _handed_out(prepared: Prepared) -> list[Array]:
    task, know = prepared.task, prepared.task.know
    if know.representation is not None:
        raise BadInput("the two worlds grant no representation; leave it None in Knowledge")
    holdout = TrainingSet.of(np.zeros((0, 1)), np.zeros(0, np.int64)) if know.clean_holdout is None else know.clean_holdout
    mask = np.zeros(0, bool) if know.poison_mask is None else know.poison_mask
    n_poison = -1 if know.n_poison is None else know.n_poison
    groups = np.zeros(0, np.int64) if know.groups is None else know.groups
    return [task.train.x, task.train.y, holdout.x, holdout.y, mask, groups, np.array([n_poison, task.seed])]


def error_on(stage: Stage, scored: Bools, predicted: Ints) -> float:
    """Error rate of `predicted`, (n_scored,), on the test rows of F selected by `scored`, (n_test,) bool."""
    return float((predicted != stage.data.test_y[scored]).mean())


# --- the check --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Errors:
    """Mean errors on F over independent draws. std: sample deviation of one draw; n: draws per world."""

    means: tuple[float, float]
    stds: tuple[float, float]
    n: int

    @classmethod
    def of(cls, errors: Array) -> Errors:
        """Summarise errors, (2, n), of the two worlds."""
        means, stds = errors.mean(axis=1), errors.std(axis=1, ddof=1)
        return cls((float(means[0]), float(means[1])), (float(stds[0]), float(stds[1])), errors.shape[1])

    @property
    def total(self) -> float:
        return sum(self.means)

    @property
    def std(self) -> float:
        """Deviation of the sum of one draw in each world."""
        return float(np.hypot(*self.stds))

    @property
    def std_error(self) -> float:
        return self.std / float(np.sqrt(self.n))


def distance_allowed(std_error: float, n: int, n_pairs: int, false_alarm: float = 0.05) -> float:
    """How far from 1 a sum of errors may be without a leak, for n draws per world, in one of n_pairs checks."""
    from scipy.stats import t

    return float(t.ppf(1 - false_alarm / n_pairs / 2, n - 1)) * std_error + 1e-9


# --- a defense that clean labels of F would help --------------------------------------------------------------------------


def agrees_with_holdout(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Keep the rows whose label agrees with that of the nearest row of the clean holdout."""
    holdout = know.clean_holdout
    if holdout is None or not len(holdout):
        raise BadInput("agrees_with_holdout needs clean_holdout, at least one clean row; grant it in the cell's knowledge")
    from scipy.spatial.distance import cdist

    rows, clean = (np.asarray(own.x, np.float64).reshape(len(own), -1) for own in (train, holdout))
    keep = holdout.y[cdist(rows, clean).argmin(axis=1)] == train.y
    return Defended(fit(train[keep] if keep.any() else train), keep if keep.any() else None)


agrees_with_holdout.needs = {"clean_holdout"}  # type: ignore[attr-defined]

OWN_DEFENSES: Mapping[str, Defense] = {"agrees_with_holdout": agrees_with_holdout, "dpa_of_3": partial(dpa, k=3)}
"""Defenses of this suite only: one that could use clean labels of F if it had any, and an ensemble for few rows."""


def told_target(stage: Stage, prepared: Prepared, name: str) -> tuple[Prepared, Bools]:
    """The same trial with every second test row of F in the clean holdout, and the mask of the other test rows of F."""
    members = np.flatnonzero(stage.test_members(name))
    given = np.zeros(len(stage.data.test_y), bool)
    given[members[::2]] = True
    scored = stage.test_members(name) & ~given
    if prepared.holdout is not None:
        given |= prepared.holdout
    know = replace(prepared.task.know, clean_holdout=TrainingSet.of(stage.data.test_x[given], stage.data.test_y[given]))
    return replace(prepared, task=replace(prepared.task, know=know), holdout=given), scored
