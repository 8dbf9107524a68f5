"""Speed of certifying all test rows at all noise levels, factorisation included, against one row and one level at a time.

The one-at-a-time side gets the factorisation for free and minimises the same bound with scipy, on every 50th row. The ratio
compares seconds per row.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from subpop.datasets.stage import Stage
from subpop.defenses.label_flip_smoothing import NOISE, all_radii, label_flip_smoothing
from subpop.experiments.speed.roofline import Products, peak_of, share_of
from subpop.experiments.speed.timing import ROUNDS, speed_ratio
from subpop.types import Array, Cell, Knowledge, Model, Number, TrainingSet

EVERY = 50


def certificate(cell: Cell, stage: Stage) -> tuple[list[Number], int]:
    """Seconds for the whole test set, their ratio to one at a time, and how many radii differ."""
    data = stage.data
    train = TrainingSet.of(data.pool.x[: data.pool.n_train], data.pool.y[: data.pool.n_train])
    model = _ridge(train)
    x, sample = data.test_x, data.test_x[::EVERY]
    all_radii(model, x[:64])  # type: ignore[arg-type]  # compile
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        started = time.perf_counter()
        ours = all_radii(_ridge(train), x)  # type: ignore[arg-type]
        seconds[0].append(time.perf_counter() - started)
        started = time.perf_counter()
        theirs = np.array([_one_row(model, row[None]) for row in sample])
        seconds[1].append((time.perf_counter() - started) / len(sample))
    mine, other = (statistics.median(own) for own in seconds)
    from subpop.defenses.certificates.noise import kl_radius

    differ = [int((ours[f"kl_q{q:g}"][::EVERY] != kl_radius(theirs[:, i], q)).sum()) for i, q in enumerate(NOISE)]
    return [
        speed_ratio(np.divide(seconds[0], len(x)), seconds[1]),
        Number("certificate_seconds", mine),
        *share_of(products_of(len(train), x.shape[1], model.learner.n_components, len(x)), mine),  # type: ignore[attr-defined]
        *peak_of(lambda: all_radii(_ridge(train), x)),  # type: ignore[arg-type]
        Number("one_at_a_time_seconds_a_row", other),
        Number("n_rows_certified", float(len(x))),
        Number("n_levels", float(len(NOISE))),
        Number("radii_that_differ", float(sum(differ))),
    ], 0


def products_of(n: int, d: int, kept: int, tests: int) -> Products:
    """The products of a smoother of n rows with d features that keeps some components, and of the weights of test rows.

    Eigenvectors, Cholesky factors and triangular systems are not products, and neither are the bounds.
    """
    products = Products()
    products.add((d, n, d), np.float64)  # principal components
    products.add((n + tests, d, kept), np.float64)  # the components of all rows
    products.add((kept, n, kept), np.float64)  # the ridge regression
    products.add((tests, kept, n), np.float64)  # the weights
    return products


def _ridge(train: TrainingSet) -> Model:
    """The defense's model: standardising, PCA and one factorisation."""
    return label_flip_smoothing(train, _no_fit, Knowledge(), seed=0).model


def _no_fit(train: TrainingSet) -> Model:
    raise AssertionError("the certified defense trains no victim")


def _one_row(model: object, x: Array) -> list[float]:
    """log B of one test row at each noise level, by scipy's scalar minimiser."""
    from scipy.optimize import minimize_scalar

    inputs = model.learner.inputs(x)  # type: ignore[attr-defined]
    winner = int(model.scores_of(inputs).argmax())  # type: ignore[attr-defined]
    margins = model.learner.weights(inputs)[0] * np.where(model.y == winner, 1.0, -1.0)  # type: ignore[attr-defined]
    scale = np.abs(margins).max()

    def log_bound(t: float, q: float) -> float:
        a = t * margins / scale
        return float(np.logaddexp(np.log1p(-q) - a, np.log(q) + a).sum())

    return [float(minimize_scalar(log_bound, bounds=(0.0, 60.0), args=(q,), method="bounded").fun) for q in NOISE]
