"""What filters would delete of a user's data as it is, and what certificates promise, group by group.

Filters run on the columns of the default victim, since most of them look at distances between rows. None of them is given a
clean row. Those that need the number of poison rows are given `ASSUMED` of the rows.

*Insertions*: k copies of the user's estimator, each trained on its own part of D, preprocessing included, that vote (deep
partition aggregation, see `subpop.defenses.dpa`). The bound is about this ensemble; a single model has none. Every row of the
group counts as wrong that is wrong, or whose vote m rows can turn; the same m rows are counted against all rows of the group.

*Flips*: a ridge regression on principal components of the columns, which do not depend on labels (see
`subpop.defenses.label_flip_smoothing`). The bound counts changed labels of rows that are there, for this model only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subpop.audit.attacked import Attacks
from subpop.defenses import DEFENSES
from subpop.defenses.dpa import dpa
from subpop.defenses.ensembles import leads_of
from subpop.harness.batching import PoolRows, job_of
from subpop.types import BadInput, Bools, Ints, Knowledge, Model, TrainingSet

FILTERS = ("confident_learning", "knn_filter", "activation_clustering", "spectral_signatures", "sever", "trim")
"""Filters whose deletions are counted; the last three need a number of poison rows."""
ASSUMED = 0.02
"""The share of poison rows that is assumed for filters that need their number."""
PARTS = (25, 15, 11, 7, 5, 3)
"""Numbers of parts, of which the first is taken that leaves `PART_ROWS` rows each."""
PART_ROWS = 60
RIDGE_WEIGHTS = 1 << 28
"""Test rows times training rows up to which label flips are certified."""


@dataclass(frozen=True, eq=False)
class Deleted:
    """What one filter deletes. gone: (n_train,) bool; right: (n_test,) bool, of the model trained on the rest."""

    name: str
    n_poison: int | None
    """The number of poison rows that it is given, None for none."""
    gone: Bools
    right: Bools


@dataclass(frozen=True, eq=False)
class Certified:
    """A certificate of the test rows. right: (n_test,) bool; radius: (n_test,) changes that cannot turn the prediction."""

    model: str
    right: Bools
    radius: Ints

    def accuracy(self, rows: Bools, changes: int) -> float:
        """The share of rows that stay right whichever `changes` are made."""
        return float((self.right & (self.radius >= changes))[rows].mean())

    def survives(self, rows: Bools) -> int | None:
        """The largest number of changes after which less than half of the rows can be wrong; None if half are without any."""
        n_wrong_allowed = (int(rows.sum()) - 1) // 2
        radii = np.where(self.right[rows], self.radius[rows], -1)
        weakest = np.sort(radii)[n_wrong_allowed] if len(radii) else -1
        return None if weakest < 0 else int(weakest)


def deleted(attacks: Attacks, names: Sequence[str] = FILTERS) -> list[Deleted]:
    """What filters delete from D, from the store where it is there; a filter that cannot run here is left out."""
    found = []
    for name in names:
        try:
            found.append(_deleted(attacks, name))
        except BadInput:  # it asks for more rows or classes than there are
            continue
    return found


def _deleted(attacks: Attacks, name: str) -> Deleted:
    context, cell = attacks.experiment.context, attacks.plain
    data, own = context.data(cell), DEFENSES[name]
    n_train = data.pool.n_train
    n_poison = round(ASSUMED * n_train) if "n_poison" in getattr(own, "needs", ()) else None
    key = context.memo.key(
        context.victim_code(cell) | attacks.experiment.defense_code(cell.with_(defense=name)) | {__name__},
        filter=(name, n_poison),
        data=data.fingerprint,
        victim=context.victim_identity(cell),
    )

    def run() -> dict[str, Bools]:
        train = TrainingSet(PoolRows(data.pool, np.arange(n_train)), np.arange(n_train), data.pool.y[:n_train])
        made = own(train, lambda rows: _fitted(attacks, rows), Knowledge(n_poison=n_poison), seed=0)
        keep = np.ones(n_train, bool) if made.keep is None else made.keep
        return {"gone": ~keep, "right": _right(attacks, made.model)}

    kept, _ = context.memo.arrays(key, run)
    return Deleted(name, n_poison, np.asarray(kept["gone"], bool), np.asarray(kept["right"], bool))


def _fitted(attacks: Attacks, train: TrainingSet) -> Model:
    context = attacks.experiment.context
    return context.fit(attacks.plain, [job_of(context.data(attacks.plain).pool, train).canonical()], [0])[0]


def _right(attacks: Attacks, model: Model) -> Bools:
    data = attacks.experiment.context.data(attacks.plain)
    return np.asarray(model.predict_proba(data.test_x).argmax(1) == data.test_y)


def n_parts(n_train: int) -> int:
    """The number of parts into which so many training rows are divided; 0 if they are too few."""
    return next((k for k in PARTS if n_train >= PART_ROWS * k), 0)


def seconds_of_insertions(attacks: Attacks) -> float:
    """How long the certificate of insertions takes, from one copy of the estimator that is trained on its part and predicts."""
    data = attacks.experiment.context.data(attacks.plain)
    k, n_train = n_parts(data.pool.n_train), data.pool.n_train
    if not k:
        return 0.0
    part = np.arange(0, n_train, k)
    train = TrainingSet(PoolRows(data.pool, np.arange(n_train)), part, data.pool.y[part])
    begun = time.monotonic()
    _fitted(attacks, train).predict_proba(data.test_x)
    return k * (time.monotonic() - begun)


def insertions(attacks: Attacks) -> Certified:
    """The certificate of an ensemble of the attacked estimator; raises BadInput if D is too small for three parts."""
    context, cell = attacks.experiment.context, attacks.plain
    data = context.data(cell)
    n_train, n_classes = data.pool.n_train, data.dataset.n_classes
    train = TrainingSet(PoolRows(data.pool, np.arange(n_train)), np.arange(n_train), data.pool.y[:n_train])
    k = n_parts(n_train)
    if not k:
        raise BadInput(f"{n_train} training rows cannot be divided into {PARTS[-1]} parts of {PART_ROWS}; use more rows")
    key = context.memo.key(
        context.victim_code(cell) | attacks.experiment.defense_code(cell.with_(defense="dpa")) | {__name__},
        parts=k,
        data=data.fingerprint,
        victim=context.victim_identity(cell),
    )

    def run() -> dict[str, Ints]:
        votes = dpa(train, _Fit(attacks), Knowledge(), seed=0, k=k).votes
        assert votes is not None
        return {"votes": votes(data.test_x)}

    votes = np.asarray(context.memo.arrays(key, run)[0]["votes"])
    winner, leads = leads_of(votes, n_classes)
    return Certified(f"{k} copies of the estimator", winner == data.test_y, leads.min(axis=1) // 2)


@dataclass(frozen=True)
class _Fit:
    """`fit` of a defense, which trains the members of an ensemble in one batch."""

    attacks: Attacks

    def __call__(self, train: TrainingSet) -> Model:
        return self.many([train])[0]

    def many(self, trains: Sequence[TrainingSet]) -> list[Model]:
        context = self.attacks.experiment.context
        pool = context.data(self.attacks.plain).pool
        return context.fit(self.attacks.plain, [job_of(pool, each).canonical() for each in trains], [0] * len(trains))


def flips(attacks: Attacks) -> Certified:
    """The certificate of a ridge regression on the default columns; raises BadInput for too many rows."""
    from subpop.defenses.certificates import pairwise_exact_radius
    from subpop.defenses.certificates.smoother import Learner, blocks, fit_projection
    from subpop.defenses.label_flip_smoothing import C_RIDGE, ROWS_EACH

    context = attacks.experiment.context
    data = context.data(attacks.plain)
    n_train, n_test, n_classes = data.pool.n_train, len(data.test_y), data.dataset.n_classes
    if n_train * n_test > RIDGE_WEIGHTS:
        raise BadInput(
            f"{n_train:,} training rows and {n_test:,} test rows are too many for the certificate of label flips, whose work is "
            f"their product; at most {RIDGE_WEIGHTS:,} are certified"
        )
    key = context.memo.key({__name__, "subpop.defenses.label_flip_smoothing"}, ridge=C_RIDGE, data=data.fingerprint)

    def run() -> dict[str, Ints]:
        projection, rows = fit_projection(data.pool.x[:n_train], None, ROWS_EACH)
        model = Learner(projection, rows, C_RIDGE).model(data.pool.y[:n_train], n_classes)
        inputs = model.learner.inputs(data.test_x)
        winner = np.asarray(model.scores_of(inputs).argmax(axis=1), np.int64)
        radius = np.zeros(n_test, np.int64)
        for block in blocks(n_test, n_train, 1 << 22):
            weights = model.learner.weights(inputs[block])
            radius[block] = pairwise_exact_radius(weights, model.y, winner[block], n_classes)
        return {"winner": winner, "radius": radius}

    kept, _ = context.memo.arrays(key, run)
    return Certified("a ridge regression", kept["winner"] == data.test_y, np.asarray(kept["radius"]))


__all__ = ["Certified", "Deleted", "deleted", "flips", "insertions", "n_parts", "seconds_of_insertions"]
