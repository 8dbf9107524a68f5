"""Speed of exact logistic regressions on Adult: the fleet against scikit-learn's newton-cholesky, one victim at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from subpop.experiments.context import Context
from subpop.experiments.speed.roofline import of_solver
from subpop.experiments.speed.timing import ROUNDS, attacks, ratio_of_medians
from subpop.types import Array, Cell, FleetJob, Number
from subpop.victims import make_victim


def logistic(cell: Cell, context: Context) -> tuple[list[Number], int]:
    """Train on all FeatureMatch and ClusterMatch subpopulations at three rates, as a fleet and with newton-cholesky."""
    stages = [context.stage(cell.with_(partition=name)) for name in ("feature_match", "cluster_match")]
    jobs = [job for stage in stages for job, _ in attacks(cell, stage)]
    pool = stages[0].pool
    newton = Workers(pool.x.astype(np.float64))
    newton.solve(jobs[:4])  # start the workers and load their libraries
    make_victim(cell.victim).fit_many(jobs[:2], [0, 0])
    numbers, ours, theirs = ratio_of_medians(lambda: fleet_from_nothing(cell, jobs), lambda: newton.solve(jobs))
    fleet_seconds = next(each.value for each in numbers if each.metric == "fleet_seconds")
    numbers += of_solver(lambda: fleet_from_nothing(cell, jobs), fleet_seconds)
    apart = max(float(np.abs(model.coef[:, 0] - w).max() / np.abs(w).max()) for model, w in zip(ours, theirs, strict=True))
    numbers += [
        Number("n_victims", float(len(jobs))),
        Number("kkt_residual_max", max(model.kkt_residual for model in ours)),
        Number("one_at_a_time_kkt_residual_max", max(kkt_residual(job, w) for job, w in zip(jobs, theirs, strict=True))),
        Number("coefficient_difference_max", apart),
    ]
    return numbers, 2 * ROUNDS * len(jobs)


def fleet_from_nothing(cell: Cell, jobs: Sequence[FleetJob]) -> list[Any]:
    """Train the fleet on a pool that is new to the victim, so that solving for the clean optimum is timed too."""
    pool = replace(jobs[0].pool)
    return list(make_victim(cell.victim).fit_many([replace(job, pool=pool) for job in jobs], [0] * len(jobs)))


class Workers:
    """scikit-learn's newton-cholesky, one victim at a time in each of several processes (one per core) that share the rows."""

    def __init__(self, x: Array) -> None:
        self._x = np.column_stack([x, np.ones(len(x))])

    def solve(self, jobs: Sequence[FleetJob]) -> list[Array]:
        from joblib import Parallel, delayed

        tasks = (delayed(_newton_cholesky)(self._x, job.rows, job.y) for job in jobs)
        solved: list[Array] = Parallel(n_jobs=-1, max_nbytes="1M", batch_size=8)(tasks)
        return solved


def _newton_cholesky(x: Array, rows: Array, y: Array) -> Array:
    from sklearn.linear_model import LogisticRegression

    solver = LogisticRegression(C=1.0, solver="newton-cholesky", fit_intercept=False, tol=1e-8, max_iter=100)
    return np.asarray(solver.fit(x[rows], y).coef_[0])


def kkt_residual(job: FleetJob, w: Array) -> float:
    x = np.column_stack([job.x.astype(np.float64), np.ones(len(job))])
    gradient = x.T @ (1 / (1 + np.exp(-(x @ w))) - job.y) + w
    return float(np.abs(gradient).max() / len(job))
