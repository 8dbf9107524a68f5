"""A smooth victim on the plane and defenses of known faults, in the hands of an attacker."""

from __future__ import annotations

import numpy as np

from subpop.attacks import AttackTask
from subpop.attacks.best_of_list import Rehearsal
from subpop.types import Pool
from subpop.types.specifications import LabelFlip

WIDTH = 1.0


class Votes:
    """Every training row votes for its label, with a weight that falls with its distance."""

    def __init__(self, x, y):
        self.x, self.y = np.asarray(x, np.float64), np.asarray(y)

    def predict_proba(self, x):
        squares = ((np.asarray(x, np.float64)[:, None] - self.x[None]) ** 2).sum(axis=2)
        weights = np.exp(-squares / (2 * WIDTH**2)) + 1e-12
        ones = (weights * (self.y == 1)).sum(axis=1) / weights.sum(axis=1)
        return np.column_stack([1 - ones, ones])


def keep_all(x, y):
    return np.ones(len(y), bool)


def training(pool, defense, calls=None):
    """A `TrainDefended` on a pool: `Votes` on the rows that a filter keeps. Each call adds its arguments to `calls`."""

    def train(surrogate, selection, poisons, asked, seed):
        if calls is not None:
            calls.append((surrogate, selection, poisons, asked))
        found = []
        for poison in poisons:
            x = np.concatenate([pool.x[surrogate], pool.x[poison.rows]])
            y = np.concatenate([pool.y[surrogate], poison.y])
            keep = defense(x, y)
            proba = Votes(x[keep], y[keep]).predict_proba(pool.x[asked])
            found.append((proba.argmax(axis=1) != pool.y[asked], np.abs(proba[:, 1] - proba[:, 0])))
        return found

    return train


def line(n_train, n_aux, seed=0, length=10.0):
    """Rows of label 0 along a line, the subpopulation, and as many of label 1 far from it, in D and in D_aux."""
    generator = np.random.default_rng(seed)
    sides = []
    for n in (n_train, n_aux):
        own = np.column_stack([generator.uniform(0, length, n), np.zeros(n)])
        sides += [own, own + [0, 40]]
    y = np.concatenate([np.repeat([0, 1], n) for n in (n_train, n_aux)])
    return Pool(np.concatenate(sides).astype(np.float32), y, 2 * n_train, 2)


def task_on(pool, count, train, *, settings=None, seed=0, defense="none", parts=None):
    """The attack on the rows of D_aux with label 0, by an attacker whose model is `Votes` on D_aux."""
    aux = np.arange(pool.n_train, len(pool))
    members, groups = aux[pool.y[aux] == 0], pool.y[aux]
    own = settings or LabelFlip(sampling="distinct")
    model, rehearsal = Votes(pool.x[aux], pool.y[aux]), Rehearsal(defense, train, parts)
    return AttackTask(own, pool, members, count, None, np.random.default_rng(seed), rehearsal, groups, model)
