"""What the fleets are worth: the same victims trained as one and one at a time, in turn, in the same run.

A ratio is one-at-a-time seconds / our seconds, each the median of several rounds, A B A B ... The other side is the best
that we know how to run it: scikit-learn's fastest solver that reaches the same optimum, a worker process a core, warm.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from subpop.batching import DefenseTask, PoolRows, job_of, run_wave
from subpop.defenses import DEFENSES
from subpop.experiment import Experiment
from subpop.stage import Stage, derived_seed, draw_poison
from subpop.types import Array, BadInput, Cell, CellResult, FleetJob, Knowledge, Model, Number, TrainingSet
from subpop.victims import make_victim
from subpop.victims.sklearn_adapter import SklearnModel

RATES = (0.5, 1.0, 2.0)
ROUNDS = 3
N_MLP = 102
"""A multiple of three, so that every rate is there equally often."""


def measure_speed(cell: Cell, experiment: Experiment) -> CellResult:
    """The speed ratio of a cell and what makes it a fair one; never served from a store."""
    started = time.perf_counter()
    measures = {"logistic_regression": _logistic, "mlp": _mlp}
    measure = _trim if cell.defense == "trim" else measures.get(cell.victim)
    if measure is None:
        raise BadInput(f"{cell.id}: no speed comparison for victim {cell.victim!r}; there are {', '.join(measures)}")
    numbers, n_fits = measure(cell, experiment)
    return CellResult(cell, tuple(numbers), exact=cell.victim != "mlp", n_fits=n_fits, seconds=time.perf_counter() - started)


def ratio_of_medians(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int = ROUNDS) -> tuple[list[Number], Any, Any]:
    """Run both in turn; the numbers and what each returned last."""
    seconds: tuple[list[float], list[float]] = ([], [])
    answers: list[Any] = [None, None]
    for _ in range(rounds):
        for side, run in enumerate((ours, theirs)):
            started = time.perf_counter()
            answers[side] = run()
            seconds[side].append(time.perf_counter() - started)
    mine, other = (statistics.median(s) for s in seconds)
    named = {"speed_ratio": other / mine, "fleet_seconds": mine, "one_at_a_time_seconds": other}
    return [Number(name, value) for name, value in named.items()], *answers


# --- logistic regression ----------------------------------------------------------------------------------------------


def _logistic(cell: Cell, experiment: Experiment) -> tuple[list[Number], int]:
    """All FeatureMatch and ClusterMatch subpopulations at three rates, against newton-cholesky on a column of ones."""
    stages = [experiment.stage(cell.with_(partition=name)) for name in ("feature_match", "cluster_match")]
    jobs = [job for stage in stages for job, _ in _attacks(cell, stage)]
    pool = stages[0].pool
    newton = _Workers(pool.x.astype(np.float64))
    newton.solve(jobs[:4])  # start the workers and load their libraries
    make_victim(cell.victim).fit_many(jobs[:2], [0, 0])
    numbers, ours, theirs = ratio_of_medians(lambda: _fleet_from_nothing(cell, jobs), lambda: newton.solve(jobs))
    apart = max(float(np.abs(model.coef[:, 0] - w).max() / np.abs(w).max()) for model, w in zip(ours, theirs, strict=True))
    numbers += [
        Number("n_victims", float(len(jobs))),
        Number("kkt_residual_max", max(model.kkt_residual for model in ours)),
        Number("one_at_a_time_kkt_residual_max", max(_kkt(job, w) for job, w in zip(jobs, theirs, strict=True))),
        Number("coefficient_difference_max", apart),
    ]
    return numbers, 2 * ROUNDS * len(jobs)


def _fleet_from_nothing(cell: Cell, jobs: Sequence[FleetJob]) -> list[Any]:
    """The fleet on a pool that no victim has seen, so that solving for the clean optimum counts."""
    pool = replace(jobs[0].pool)
    return list(make_victim(cell.victim).fit_many([replace(job, pool=pool) for job in jobs], [0] * len(jobs)))


class _Workers:
    """scikit-learn's newton-cholesky, one victim at a time in a process a core; rows are shared, not sent."""

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


def _kkt(job: FleetJob, w: Array) -> float:
    x = np.column_stack([job.x.astype(np.float64), np.ones(len(job))])
    gradient = x.T @ (1 / (1 + np.exp(-(x @ w))) - job.y) + w
    return float(np.abs(gradient).max() / len(job))


# --- the small network ------------------------------------------------------------------------------------------------


def _mlp(cell: Cell, experiment: Experiment) -> tuple[list[Number], int]:
    """FeatureMatch victims, each of its own seed, against MLPClassifier; both sides' mean target damage."""
    stage = experiment.stage(cell)
    attacks = _attacks(cell, stage)
    chosen = [attacks[i % len(attacks)] for i in range(N_MLP)]
    jobs, names = [job for job, _ in chosen], [name for _, name in chosen]
    seeds = [derived_seed("speed", i) % 2**32 for i in range(N_MLP)]
    clean = [stage.pool.clean_job().canonical()] * N_MLP
    make_victim(cell.victim).fit_many(jobs[:2], seeds[:2])  # compile
    _classifiers(jobs[:2], seeds[:2])  # start the workers
    numbers, ours, theirs = ratio_of_medians(
        lambda: make_victim(cell.victim).fit_many(jobs, seeds), lambda: _classifiers(jobs, seeds)
    )
    mine = _damages(stage, names, make_victim(cell.victim).fit_many(clean, seeds), ours)
    other = _damages(stage, names, _classifiers(clean, seeds), theirs)
    numbers += [
        Number("n_victims", float(N_MLP)),
        _mean("fleet_target_damage_mean", mine, cell),
        _mean("one_at_a_time_target_damage_mean", other, cell),
        _mean("damage_difference", mine - other, cell),
    ]
    return numbers, 2 * (ROUNDS + 1) * N_MLP


def _mean(metric: str, damages: Array, cell: Cell) -> Number:
    """A mean over victims of seeds of their own; `std` is what one of the cell's `n_seeds` would have to vary by."""
    error = float(damages.std(ddof=1) / math.sqrt(len(damages)))
    return Number(metric, float(damages.mean()), error, std=error * math.sqrt(cell.n_seeds))


def _classifiers(jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[SklearnModel]:
    from joblib import Parallel, delayed

    tasks = (delayed(_classifier)(job.x, job.y, job.pool.n_classes, seed) for job, seed in zip(jobs, seeds, strict=True))
    trained: list[SklearnModel] = Parallel(n_jobs=-1)(tasks)
    return trained


def _classifier(x: Array, y: Array, n_classes: int, seed: int) -> SklearnModel:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # both sides stop at the same number of epochs
        return SklearnModel(MLPClassifier(hidden_layer_sizes=(10,), random_state=seed).fit(x, y), n_classes)


def _damages(stage: Stage, names: Sequence[str], clean: Sequence[Model], poisoned: Sequence[Model]) -> Array:
    """(n,) target damage of each victim against the clean victim of its own seed."""
    data = stage.data
    masks = {name: stage.test_members(name) for name in set(names)}

    def accuracy(model: Model, name: str) -> float:
        rows = masks[name]
        return float((model.predict_proba(data.test_x[rows]).argmax(1) == data.test_y[rows]).mean())

    return np.array([accuracy(c, n) - accuracy(p, n) for c, p, n in zip(clean, poisoned, names, strict=True)])


# --- a defense over a whole cell --------------------------------------------------------------------------------------


def _trim(cell: Cell, experiment: Experiment) -> tuple[list[Number], int]:
    """TRIM over all trials of a cell, through the batching `fit` and one trial after another, with the same solver."""
    stage = experiment.stage(cell)
    victim = make_victim(cell.victim)
    tasks = [_task(stage, job) for seed in range(cell.n_seeds) for job, _ in _attacks(cell, stage, seed, (cell.rate,))]
    victim.fit_many([stage.pool.clean_job()], [0])  # both sides start from the clean optimum

    def fit_many(requests: Sequence[tuple[int, TrainingSet]]) -> list[Model]:
        return victim.fit_many([job_of(stage.pool, train).canonical() for _, train in requests], [0] * len(requests))

    def defend(wave: Sequence[DefenseTask]) -> list[Any]:
        return list(run_wave(DEFENSES["trim"], wave, fit_many, stage.data.test_x[:1], stage.dataset.n_classes))

    numbers, ours, theirs = ratio_of_medians(lambda: defend(tasks), lambda: [defend([task])[0] for task in tasks])
    differ = sum(not np.array_equal(a.keep, b.keep) for a, b in zip(ours, theirs, strict=True))
    numbers += [Number("n_victims", float(len(tasks))), Number("trials_that_differ", float(differ))]
    return numbers, 2 * ROUNDS * sum(outcome.n_fits for outcome in ours)


def _task(stage: Stage, job: FleetJob) -> DefenseTask:
    order = np.random.default_rng(0).permutation(len(job))
    train = TrainingSet(PoolRows(stage.pool, job.rows[order]), np.arange(len(job)), job.y[order])
    return DefenseTask(train, Knowledge(n_poison=len(job) - stage.pool.n_train), 0)


def _attacks(cell: Cell, stage: Stage, seed: int = 0, rates: Sequence[float] = RATES) -> list[tuple[FleetJob, str]]:
    """One attacked training set for each subpopulation and rate, with the subpopulation's name."""
    n = stage.pool.n_train
    attacks = []
    for name in stage.attacked:
        for rate in rates:
            poison = draw_poison(stage, cell.with_(rate=rate), name, seed, None)
            rows, y = np.concatenate([np.arange(n), poison.rows]), np.concatenate([stage.pool.y[:n], poison.y])
            attacks.append((FleetJob(stage.pool, rows, y).canonical(), name))
    return attacks
