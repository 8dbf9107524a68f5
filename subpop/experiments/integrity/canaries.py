"""Label canaries: does a defense know labels that it was not given, or which rows belong to the victim?

A second run uses training sets composed of rows of D and D_aux with canaries among them (see `canary_rows`), once with their
true labels and once flipped, on clean data and with a secret poison draw added. A canary is *contradicted* if the defense
removes it, changes its label, or returns a model that predicts another one. A defense that learns from the rows alone
contradicts the true label at least as often as the flipped one, because five learners agree on the flipped one. A defense that
looks up labels contradicts the flipped one. Each canary counts once, in an exact sign test over those that were treated
differently (`both_ways`).

The same run shows whether rows of D_aux are removed more often than rows of D, which were mixed at random (Fisher's exact test).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from subpop.datasets.stage import Stage
from subpop.experiments.integrity.canary_rows import Canaries
from subpop.experiments.integrity.findings import LEVELS, Finding, not_run, tested
from subpop.experiments.integrity.replay import Arena
from subpop.experiments.trial import Prepared
from subpop.harness.batching import DefenseTask, FitMany, PoolRows
from subpop.harness.outcome import Outcome
from subpop.results.metrics import Doubles
from subpop.types import Bools, Ints, Model, TrainingSet

TRAINING, ANSWERS, MEMBERSHIP = "label canaries: training", "label canaries: answers", "membership"


@dataclass(eq=False)
class Composed:
    """One training set with canaries. pool_rows: (n,) its rows in the pool; given: (c,) the labels of its canaries."""

    canaries: Canaries
    task: DefenseTask
    pool_rows: Ints
    positions: Ints
    given: Ints
    requests: list[TrainingSet] = field(default_factory=list)

    @property
    def train(self) -> TrainingSet:
        return self.task.train


def compose(stage: Stage, canaries: Canaries, prepared: Prepared, generator: np.random.Generator) -> tuple[Composed, Composed]:
    """The pair of a prepared trial: its rows of D make room for the composed ones, unflipped and flipped; its poison stays."""
    pool = stage.pool
    slots = np.flatnonzero(prepared.rows < pool.n_train)
    order = generator.permutation(canaries.train)
    rows, y = prepared.rows.copy(), prepared.task.train.y.copy()
    rows[slots], y[slots] = order, pool.y[order]
    place = dict(zip(order.tolist(), slots.tolist(), strict=True))
    positions = np.array([place[row] for row in canaries.rows.tolist()], np.int64)
    flipped = y.copy()
    flipped[positions] = canaries.labels
    source = prepared.task.train._source
    extra_x = source.extra_x if isinstance(source, PoolRows) else None

    def composed(labels: Ints) -> Composed:
        train = TrainingSet(PoolRows(pool, rows, extra_x), np.arange(len(rows)), labels)
        task = replace(prepared.task, train=train, certify=None, reference_y=None)
        return Composed(canaries, task, rows, positions, labels[positions])

    return composed(y), composed(flipped)


def run_canaries(
    arena: Arena, stage: Stage, pairs: Sequence[tuple[Composed, Composed]], fit_many: FitMany, generator: np.random.Generator
) -> list[Finding]:
    """Run all pairs in one child and test how the canaries were treated."""
    runs = [run for pair in pairs for run in pair]
    rows = np.unique(np.concatenate([run.canaries.rows for run in runs]))
    test_x = stage.data.test_x.copy()
    rows = generator.permutation(rows)[: len(test_x) // 2]
    slots = generator.permutation(len(test_x))[: len(rows)]
    test_x[slots] = stage.pool.x[rows]

    def noting(requests: list[tuple[int, TrainingSet]]) -> list[Model]:
        for i, train in requests:
            runs[i].requests.append(train)
        return fit_many(requests)

    outcomes = arena.run([run.task for run in runs], noting, test_x)
    answers = dict(zip(rows.tolist(), slots.tolist(), strict=True))
    trained = [_contradicted(run, outcome) for run, outcome in zip(runs, outcomes, strict=True)]
    answered = [_answered(run, outcome, answers) for run, outcome in zip(runs, outcomes, strict=True)]
    return [
        _sign_test(TRAINING, "removes or repairs labels that only a look-up shows to be flipped", runs, trained),
        _sign_test(ANSWERS, "answers with labels that it was not given", runs, answered),
        _membership(stage, runs[0], outcomes[0]),
    ]


# --- treatment of the canaries -----------------------------------------------------------------------------------------


def _contradicted(run: Composed, outcome: Outcome) -> Doubles:
    """Return (c,) how strongly each canary was contradicted in training: by the mask, and by the fraction of requests."""
    positions = run.positions
    score = np.zeros(len(positions)) if outcome.keep is None else (~outcome.keep[positions]).astype(float)
    if run.requests:
        score = score + np.mean([_contradicted_by(request, run) for request in run.requests], axis=0)
    return np.asarray(score)


def _contradicted_by(request: TrainingSet, run: Composed) -> Bools:
    """Return (c,) where a request lacks a canary or changes its label; new inputs are identified by content, others by
    position."""
    if request._source is run.train._source:
        return np.array([not np.any(request.y[request.ids == p] == y) for p, y in zip(run.positions, run.given, strict=True)])
    if request.x.shape[1:] != run.train.x.shape[1:]:
        return np.zeros(len(run.positions), bool)
    flat = request.x.reshape(len(request), -1)
    own = run.train.x[run.positions].reshape(len(run.positions), -1)
    found = [np.flatnonzero((flat == row).all(axis=1)) for row in own.astype(flat.dtype)]
    aligned = len(request) == len(run.train)
    at = [where if len(where) or not aligned else np.array([p]) for where, p in zip(found, run.positions, strict=True)]
    known = any(len(where) for where in found)  # no row of the set occurs: these are other inputs, without information
    return np.array(
        [not np.any(request.y[i] == y) if len(i) or known else False for i, y in zip(at, run.given, strict=True)], dtype=bool
    )


def _answered(run: Composed, outcome: Outcome, slots: dict[int, int]) -> Doubles:
    """(c,) 1 if the returned model's prediction differs from the canary's given label, else 0; NaN if it was not asked."""
    predicted = outcome.predictions[""]
    return np.array(
        [
            float(predicted[slots[row]] != y) if row in slots else np.nan
            for row, y in zip(run.canaries.rows.tolist(), run.given, strict=True)
        ]
    )


def _sign_test(probe: str, claim: str, runs: Sequence[Composed], scores: Sequence[Doubles]) -> Finding:
    """Are canaries contradicted more when flipped? Runs come in pairs, unflipped then flipped; a canary counts once."""
    more: dict[int, float] = {}
    up_the_classes: dict[int, bool] = {}
    for own, other, unflipped, flipped in zip(runs[::2], runs[1::2], scores[::2], scores[1::2], strict=True):
        for i, row in enumerate(own.canaries.rows.tolist()):
            if np.isfinite(flipped[i] - unflipped[i]):
                more[row] = more.get(row, 0.0) + float(flipped[i] - unflipped[i])
                up_the_classes[row] = bool(other.given[i] > own.given[i])
    ways = [[more[row] for row in more if up_the_classes[row] == way] for way in (False, True)]
    if both_ways(*((len(way), 0) for way in ways)) >= LEVELS[probe]:
        return not_run(probe, f"too few rows can carry a canary: {len(ways[0])} and {len(ways[1])} of the two ways to flip")
    counts = [(sum(value > 0 for value in way), sum(value < 0 for value in way)) for way in ways]
    ups, downs = (sum(count[i] for count in counts) for i in (0, 1))
    return tested(
        probe, both_ways(*counts), claim, f"of {len(more)} canaries, {ups} more often when flipped and {downs} less often"
    )


def both_ways(one: tuple[int, int], other: tuple[int, int]) -> float:
    """Return the p value of canaries that go up and down, for the two ways in which labels are flipped: (ups, downs) each.

    A defense that favours a class affects canaries of the two ways in opposite directions: up with probability q in one and 1 -
    q in the other. The statistic is the sum of both fractions of ups; its p value is the largest over q.
    """
    from scipy.stats import binom

    totals = [sum(one), sum(other)]
    if not all(totals):
        return 1.0
    shares = np.add.outer(*(np.arange(total + 1) / total for total in totals))
    extreme = shares >= one[0] / totals[0] + other[0] / totals[1] - 1e-9
    largest = 0.0
    for q in np.linspace(0, 1, 201):
        chances = [binom.pmf(np.arange(n + 1), n, odds) for n, odds in zip(totals, (q, 1 - q), strict=True)]
        largest = max(largest, float((np.outer(*chances) * extreme).sum()))
    return largest


def best_p_value(sets: Sequence[Canaries], y: Ints) -> float:
    """Return the p value of the sign test if all canaries of these sets went up; y: (N,) true labels of the pool's rows."""
    ways = {row: label > y[row] for each in sets for row, label in zip(each.rows.tolist(), each.labels.tolist(), strict=True)}
    up_the_classes = sum(map(bool, ways.values()))
    return both_ways((up_the_classes, 0), (len(ways) - up_the_classes, 0))


def _membership(stage: Stage, run: Composed, outcome: Outcome) -> Finding:
    """Are rows of D_aux removed more often than rows of D in a set that mixes them? Neither has canaries or the target."""
    from scipy.stats import fisher_exact

    removed = np.zeros(len(run.train), bool) if outcome.keep is None else ~outcome.keep
    own = [request for request in run.requests if request._source is run.train._source]
    if own:
        removed |= ~np.isin(np.arange(len(removed)), own[-1].ids)
    target = np.flatnonzero(stage.train_members(run.canaries.target))
    counted = ~np.isin(run.pool_rows, target)  # poison is not there: the first run is one on clean data
    counted[run.positions] = False
    from_aux = run.pool_rows >= stage.pool.n_train
    counts = [[int((counted & side & gone).sum()) for gone in (removed, ~removed)] for side in (from_aux, ~from_aux)]
    p_value = float(fisher_exact(counts, "greater").pvalue)
    words = "knows which rows are the victim's own"
    return tested(MEMBERSHIP, p_value, words, f"removed {_share(counts[0])} of D_aux and {_share(counts[1])} of D")


def _share(counts: Sequence[int]) -> str:
    return f"{counts[0]} of {sum(counts)} rows"
