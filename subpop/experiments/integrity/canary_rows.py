"""Selects rows that can serve as label canaries, and training sets that contain them.

A canary is a row whose flipped label is plausible: logistic regression, k-NN, a forest, a kernel SVM and the cell's own victim,
all trained without the canaries, agree on the flipped label. An honest defense then has no reason to remove or repair the row
when it is flipped, and every reason when it is not. There are few such rows among neighbours of their own class, so the training
set is drawn again from D and D_aux, without those neighbours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from subpop.datasets.stage import Stage
from subpop.experiments.integrity.learners import answers_of_learners
from subpop.types import Array, Bools, Ints

MOST, SHARE = 40, 0.06
"""Largest number of canaries, and their largest fraction of the training set."""
SUPPORTERS = 45
"""Neighbours of a canary's own class that are left out of the training set."""
ROUNDS = 3

Answers = Callable[[Ints], Ints]
"""Maps rows of the pool to the predictions for all rows of the pool of a victim trained on them."""


@dataclass(frozen=True, eq=False)
class Canaries:
    """rows: (c,) the canaries in the pool; labels: (c,) their flipped labels; train: (|D|,) training rows, with canaries.

    target: the subpopulation from which they are far away.
    """

    target: str
    rows: Ints
    labels: Ints
    train: Ints


def far_rows(stage: Stage, name: str, flat: Array) -> Bools:
    """Return (N,) bool: rows of the pool outside the subpopulation, without the quarter nearest to its rows in D_aux."""
    target = stage.aux_members(name)
    own = np.zeros(len(flat), bool)
    own[target] = True
    own[: stage.pool.n_train] |= stage.train_members(name)
    distance = _nearest(flat, flat[target])
    return np.asarray(~own & (distance >= np.quantile(distance[~own], 0.25)))


def choose_canaries(
    stage: Stage, name: str, flat: Array, found: tuple[Ints, Ints], victim: Answers, generator: np.random.Generator
) -> Canaries:
    """Draw a training set of |D| rows with as many canaries as possible, far from the named subpopulation.

    flat: (N, d) `flat_inputs` of the pool; found: its `candidates`.
    """
    seed = int(generator.integers(2**31))
    free = np.ones(len(flat), bool)
    free[stage.aux_members(name)] = False  # poison is drawn from these
    order, labels = found
    allowed = far_rows(stage, name, flat) & free
    size = stage.pool.n_train
    most = min(MOST, round(SHARE * size))
    chosen = _spaced(order[allowed[order]], labels, stage.pool.y, flat, most)
    train = chosen
    for _ in range(ROUNDS):
        rest = _without_supporters(chosen, free, flat, stage.pool.y, size)
        train = generator.permutation(rest)[: size - len(chosen)]
        good = _agreed(train, chosen, flat, stage.pool.y, victim, seed) == labels[chosen]
        chosen = chosen[good]
        if good.all():
            break
    kept = chosen[:most]
    train = np.concatenate([train, chosen])  # surplus candidates keep their own labels
    spare = np.setdiff1d(np.flatnonzero(free), train)
    train = np.concatenate([train, generator.permutation(spare)[: size - len(train)]])
    return Canaries(name, kept, labels[kept], train)


def candidates(stage: Stage, flat: Array, generator: np.random.Generator) -> tuple[Ints, Ints]:
    """Rows misclassified by learners trained on the other half of the pool, by number of votes; and (N,) the voted label."""
    y, n_classes, seed = stage.pool.y, stage.pool.n_classes, int(generator.integers(2**31))
    answers = np.empty((4, len(y)), np.int64)
    halves = np.array_split(generator.permutation(len(y)), 2)
    for own, other in (halves, halves[::-1]):
        answers[:, own] = answers_of_learners(flat[other], y[other], flat[own], seed)
    votes = np.stack([(answers == label).sum(axis=0) for label in range(n_classes)])
    votes[y, np.arange(len(y))] = 0
    wrong, strength = votes.argmax(axis=0), votes.max(axis=0)
    order = generator.permutation(np.flatnonzero(strength > 0))
    return order[np.argsort(-strength[order], kind="stable")], wrong


def _spaced(order: Ints, labels: Ints, y: Ints, flat: Array, most: int) -> Ints:
    """Select candidates in order, a limited number for each pair of labels, and none among the supporters of an earlier one."""
    taken: list[int] = []
    closed = np.zeros(len(y), bool)
    ways: Counter[tuple[int, int]] = Counter()
    for row in order.tolist():
        way = (int(y[row]), int(labels[row]))
        if not closed[row] and ways[way] < most:
            ways[way] += 1
            taken.append(row)
            closed[_supporters(row, flat, y)] = True
    return np.array(taken, np.int64)


def _supporters(row: int, flat: Array, y: Ints) -> Ints:
    """The nearest other rows of the same class."""
    same = np.flatnonzero(y == y[row])
    distance = ((flat[same] - flat[row]) ** 2).sum(axis=1)
    distance[same == row] = np.inf
    return np.asarray(same[np.argsort(distance, kind="stable")[:SUPPORTERS]])


def _without_supporters(chosen: Ints, free: Bools, flat: Array, y: Ints, size: int) -> Ints:
    """Rows for the rest of the training set: without the canaries' supporters, as far as enough rows are left."""
    left = free.copy()
    left[chosen] = False
    spare = int(left.sum()) - (size - len(chosen))
    for row in chosen.tolist():
        own = _supporters(row, flat, y)
        own = own[left[own]]
        if len(own) > spare:
            break
        left[own] = False
        spare -= len(own)
    return np.flatnonzero(left)


def _agreed(train: Ints, chosen: Ints, flat: Array, y: Ints, victim: Answers, seed: int) -> Ints:
    """(c,) the label on which all five learners, trained without the canaries, agree; -1 if they disagree."""
    if not len(chosen):
        return chosen
    answers = np.vstack([answers_of_learners(flat[train], y[train], flat[chosen], seed), victim(train)[chosen]])
    return np.where((answers == answers[0]).all(axis=0), answers[0], -1)


def _nearest(x: Array, to: Array) -> Array:
    from sklearn.neighbors import NearestNeighbors

    return np.asarray(NearestNeighbors(n_neighbors=1).fit(to).kneighbors(x)[0][:, 0])
