"""Speed of exact last layers on frozen features: the fleet against scikit-learn, one victim at a time at the same residual.

The one-at-a-time side would take minutes for hundreds of victims, so it trains every 25th victim of the fleet; the ratio
compares seconds per victim. Both minimise the same objective: mean loss, with an unpenalised intercept.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np

from subpop.datasets.stage import Stage
from subpop.experiments.speed.logistic import fleet_from_nothing
from subpop.experiments.speed.roofline import of_solver
from subpop.experiments.speed.timing import RATES, ROUNDS, attacks, speed_ratio
from subpop.types import Array, Cell, FleetJob, Number
from subpop.victims import make_victim
from subpop.victims.head_training import KERNEL_PENALTY

DRAWS = 3
EVERY = 25
SOLVERS = {"sklearn lbfgs": "lbfgs", "sklearn newton-cholesky": "newton-cholesky"}


def last_layer(cell: Cell, stage: Stage) -> tuple[list[Number], int]:
    """Train all clusters at three rates in three draws as one fleet, and a sample of them one at a time."""
    jobs = [job for seed in range(DRAWS) for job, _ in attacks(cell, stage, seed, RATES)]
    sample = jobs[::EVERY]
    x = stage.pool.x
    solver = SOLVERS[cell.speed.against]
    _one_at_a_time(x, sample[:2], solver)  # start the workers and load their libraries
    make_victim(cell.victim).fit_many(jobs[:2], [0, 0])
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        started = time.perf_counter()
        ours = fleet_from_nothing(cell, jobs)
        seconds[0].append((time.perf_counter() - started) / len(jobs))
        started = time.perf_counter()
        theirs = _one_at_a_time(x, sample, solver)
        seconds[1].append((time.perf_counter() - started) / len(sample))
    mine, other = (statistics.median(own) for own in seconds)
    coefs = [model.coef[:, 0] for model in ours[::EVERY]]
    apart = max(float(np.abs(own - w).max() / np.abs(w).max()) for own, w in zip(coefs, theirs, strict=True))
    return [
        speed_ratio(*seconds),
        *of_solver(lambda: fleet_from_nothing(cell, jobs), mine * len(jobs)),
        Number("fleet_seconds", mine * len(jobs)),
        Number("fleet_seconds_a_victim", mine),
        Number("one_at_a_time_seconds_a_victim", other),
        Number("n_victims", float(len(jobs))),
        Number("n_one_at_a_time", float(len(sample))),
        Number("kkt_residual_max", max(model.kkt_residual for model in ours)),
        Number("one_at_a_time_kkt_residual_max", max(_kkt(job, w) for job, w in zip(sample, theirs, strict=True))),
        Number("coefficient_difference_max", apart),
    ], ROUNDS * (len(jobs) + len(sample))


def _one_at_a_time(x: Array, jobs: Sequence[FleetJob], solver: str) -> list[Array]:
    from joblib import Parallel, delayed

    tasks = (delayed(_solved)(x, job.rows, job.y, solver) for job in jobs)
    solved: list[Array] = Parallel(n_jobs=-1, max_nbytes="1M")(tasks)
    return solved


def _solved(x: Array, rows: Array, y: Array, solver: str) -> Array:
    """(d + 1,) coefficients, the intercept last."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    own = x[rows].astype(np.float64)
    tolerance = {"lbfgs": 1e-6, "newton-cholesky": 1e-8}[solver]
    estimator = LogisticRegression(C=1 / (len(y) * KERNEL_PENALTY), solver=solver, tol=tolerance, max_iter=2000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the residual is reported
        fitted = estimator.fit(own, y)
    return np.append(fitted.coef_[0], fitted.intercept_[0])


def _kkt(job: FleetJob, w: Array) -> float:
    x = np.column_stack([job.x.astype(np.float64), np.ones(len(job))])
    gradient = x.T @ (1 / (1 + np.exp(-(x @ w))) - job.y) / len(job)
    gradient[:-1] += KERNEL_PENALTY * w[:-1]
    return float(np.abs(gradient).max())
