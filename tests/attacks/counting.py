"""A victim that counts labels in cells of the line, for which the best poison is known, and attack tasks on it."""

from __future__ import annotations

import numpy as np

from subpop.attacks import AttackTask
from subpop.types import FleetJob, Pool
from subpop.types.specifications import LabelFlip


class Cells:
    """The share of label 1 among the training rows with the same x; a tie goes to label 0."""

    def __init__(self, x, y):
        self.x, self.y = np.asarray(x).ravel(), y

    def predict_proba(self, x):
        ones = np.array([self.y[self.x == each].mean() if (self.x == each).any() else 0.0 for each in np.ravel(x)])
        return np.column_stack([1 - ones, ones]).astype(np.float32)

    def features(self, x):
        return np.asarray(x, np.float32)


def pool_of(train, aux) -> Pool:
    """Rows of D and of D_aux, each given as [(x, label, how many)]."""
    rows = [(x, y) for side in (train, aux) for x, y, count in side for _ in range(count)]
    x, y = (np.array(each) for each in zip(*rows, strict=True))
    return Pool(x.astype(np.float32)[:, None], y.astype(np.int64), sum(count for *_, count in train), 2)


def task_of(pool, cells, count, *, settings=None, groups=None, seed=0, model=None, target=None) -> AttackTask:
    """An attack on the rows of D_aux whose x is one of `cells`; groups: one per x, unless given."""
    aux = pool.x[pool.n_train :].ravel()
    members = pool.n_train + np.flatnonzero(np.isin(aux, cells))
    groups = aux.astype(np.int64) if groups is None else groups
    own = settings or LabelFlip()
    return AttackTask(own, pool, members, count, target, np.random.default_rng(seed), None, groups, model)


def damage(pool, poison, cell, label=0) -> float:
    """Whether the victim predicts the wrong label in a cell after the attack."""
    job = FleetJob(
        pool, np.append(np.arange(pool.n_train), poison.rows), np.append(pool.y[: pool.n_train], poison.y), extra_x=poison.extra_x
    )
    return float(Cells(job.x, job.y).predict_proba([[cell]]).argmax(1)[0] != label)
