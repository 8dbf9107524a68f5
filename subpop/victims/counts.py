"""Training sets in count form: how often each row of a pool occurs with each label.

A fleet of victims that share most rows is represented by one matrix of shared rows, and a short list of other rows per victim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subpop.types import Array, BadInput, FleetJob, Ints, Pool
from subpop.victims.compiled import compiled
from subpop.victims.linear_model import flat
from subpop.victims.margins import Lists
from subpop.victims.newton import FEW, Fleet

Doubles = NDArray[np.float64]

SHARED_BY = 16
"""Rows used by at least one in this many victims are in the matrix of shared rows; for rarer ones lists are cheaper."""
_EACH: Doubles = np.empty(0)
"""Stands for weights that are all one."""


@dataclass(frozen=True, eq=False)
class Columns:
    """The features of a pool in units of their root mean square, with an intercept column of ones last.

    scale: (d',) those units; penalty: (d',) factors of the penalty of each scaled parameter; longest: see `longest_row`.
    """

    scale: Doubles
    penalty: Doubles
    longest: float

    @classmethod
    def of(cls, pool: Pool, penalise_intercept: bool) -> Columns:
        x = flat(pool.x)
        scale = np.append(np.sqrt(np.einsum("ij,ij->j", x, x, dtype=np.float64, casting="unsafe") / len(x)), 1.0)
        if not np.isfinite(scale).all():
            bad = int(np.argmin(np.isfinite(scale)))
            raise BadInput(f"feature {bad} of the pool holds NaN or infinite values; remove or impute them first")
        scale[scale == 0] = 1.0
        penalty = 1 / scale**2
        penalty[-1] = float(penalise_intercept)
        return cls(scale, penalty, longest_row(pool.x))

    def rows(self, x: Array, dtypes: Sequence[type]) -> dict[type, Array]:
        """(n, d') scaled rows in each dtype."""
        out = np.empty((len(x), len(self.scale)))
        np.divide(flat(x), self.scale[:-1], out=out[:, :-1])
        out[:, -1] = 1.0
        return {dtype: out.astype(dtype, copy=False) for dtype in dtypes}


def count(job: FleetJob) -> Doubles:
    """(C, N + e) total weight, by label, of each row of the pool, then of extra_x."""
    classes, n = job.pool.n_classes, len(job.pool) + (0 if job.extra_x is None else len(job.extra_x))
    return np.bincount(job.y * n + job.rows, job.weights, classes * n).astype(np.float64, copy=False).reshape(classes, n)


def longest_row(x: Array) -> float:
    """The largest Euclidean length of a row with a one appended."""
    rows = flat(x)
    return float(np.sqrt(1 + np.einsum("ij,ij->i", rows, rows, dtype=np.float64, casting="unsafe").max(initial=0.0)))


def shared_rows(jobs: Sequence[FleetJob]) -> Ints:
    """Row numbers of the pool that enough jobs use."""
    n = len(jobs[0].pool)
    used, last = np.zeros(n, np.int64), np.full(n, -1)
    for number, job in enumerate(jobs):
        count_job(job.rows, number, used, last)
    return np.flatnonzero(used >= max(1, len(jobs) / SHARED_BY))


class Design:
    """Shared rows of all jobs of one call, from which fleets of subsets of the jobs are made."""

    def __init__(self, jobs: Sequence[FleetJob], columns: Columns, dtypes: Sequence[type]) -> None:
        self.pool, self.columns, self.dtypes = jobs[0].pool, columns, dtypes
        self.index = shared_rows(jobs)
        self.shared = columns.rows(self.pool.x[self.index], dtypes)
        # Transposing takes as long as several products of a single problem, and serves those of all.
        few = len(jobs) < FEW or np.float32 not in dtypes
        self.turned: dict[type, Array] = {} if few else {np.float32: np.ascontiguousarray(self.shared[np.float32].T)}
        self.place = np.full(self.pool.n_classes * len(self.pool), -1)
        for label in range(self.pool.n_classes):
            self.place[label * len(self.pool) + self.index] = label * len(self.index) + np.arange(len(self.index))
        self.n_columns = 1 if self.pool.n_classes == 2 else self.pool.n_classes

    def fleet(self, jobs: Sequence[FleetJob], penalty: float, mean_form: bool) -> Fleet:
        """The problems of some jobs. penalty: of each objective; in the mean form it is multiplied by the sum of weights."""
        n, counted, listed = len(self.index), [], []
        for job in jobs:
            shared, others = self._counted(job)
            counted.append(shared)
            listed.append(others)
        label = np.zeros((len(jobs), self.n_columns, n + max(len(rows) for rows, _ in listed)))
        total = np.zeros((len(jobs), label.shape[2]))
        for j, (shared, (rows, part)) in enumerate(zip(counted, listed, strict=True)):
            for counts, place in ((shared, slice(n)), (part, slice(n, n + len(rows)))):
                counts.sum(axis=0, out=total[j, place])
                label[j, :, place] = counts[-self.n_columns :]
        weight = total.sum(axis=1)
        lists, matrix = self._lists(jobs, [rows for rows, _ in listed])
        strength = penalty * (weight if mean_form else np.ones(len(jobs)))
        penalties = np.outer(strength, self.columns.penalty)
        return Fleet(self.shared, self.turned, matrix, lists, total, label, penalties, self.columns.scale, weight)

    def _counted(self, job: FleetJob) -> tuple[Doubles, tuple[Ints, Doubles]]:
        """(C, N) weights of the shared rows in a job, by label; and its other rows, with theirs."""
        n, classes = len(self.pool), self.pool.n_classes
        key = job.y * n + job.rows
        if job.extra_x is not None:
            key[job.rows >= n] = -1
        outside, counts = np.zeros(len(key), np.bool_), np.zeros((classes, len(self.index)))
        add_counts(key, _EACH if job.weights is None else np.array(job.weights, np.float64), self.place, counts.ravel(), outside)
        own = np.flatnonzero(outside)
        rows, number = np.unique(job.rows[own], return_inverse=True)
        weights = None if job.weights is None else job.weights[own]
        part = np.bincount(job.y[own] * len(rows) + number, weights, classes * len(rows)).astype(np.float64, copy=False)
        part = part.reshape(classes, len(rows))
        used = part.any(axis=0)
        return counts, (rows[used], part[:, used])

    def _lists(self, jobs: Sequence[FleetJob], rows: list[Ints]) -> tuple[Lists, dict[type, Array]]:
        """Number the listed rows: those of the pool once, then each job's rows of extra_x."""
        n = len(self.pool)
        inside = np.unique(np.concatenate(rows))
        inside = inside[inside < n]
        place = np.zeros(n, np.int64)
        place[inside] = np.arange(len(inside))
        matrix, size, numbered = [self.pool.x[inside]], len(inside), []
        for job, own in zip(jobs, rows, strict=True):
            split = int(np.searchsorted(own, n))
            numbered.append(np.append(place[own[:split]], size + np.arange(len(own) - split)))
            if job.extra_x is not None:
                matrix.append(job.extra_x[own[split:] - n])
                size += len(own) - split
        start = np.cumsum([0, *map(len, rows)])
        return Lists(len(self.index), start, np.concatenate(numbered)), self.columns.rows(np.concatenate(matrix), self.dtypes)


@compiled
def add_counts(key: Ints, weights: Doubles, place: Ints, counts: Doubles, outside: NDArray[np.bool_]) -> None:
    """Add weights (n,), all ones if there are none, to the counts at the place of each key, and mark the keys without a place."""
    for i in range(len(key)):
        at = place[key[i]] if key[i] >= 0 else -1
        if at < 0:
            outside[i] = True
        else:
            counts[at] += weights[i] if len(weights) else 1.0


@compiled
def count_job(rows: Ints, number: int, used: Ints, last: Ints) -> None:
    """Count a job for each row of the pool that it uses, once however often it repeats it. last: the job that used a row last."""
    for row in rows:
        if row < len(used) and last[row] != number:
            last[row] = number
            used[row] += 1
