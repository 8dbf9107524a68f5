"""The lockstep solver: derivatives, line search and stages on small fleets with shared rows and lists."""

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.special import expit

from subpop.types import FleetJob, Pool
from subpop.victims import newton
from subpop.victims.counts import Columns, Design, count, shared_rows
from subpop.victims.logistic import LogisticRegression
from subpop.victims.margins import Lists, Margins, evaluate
from subpop.victims.newton import DOUBLE, MIXED, Newton, inverse_hessian, solve


def make_pool(n_classes=2, n_train=60, n_aux=40, d=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_train + n_aux, d)).astype(np.float32)
    y = np.argmax(x[:, :1] * np.arange(n_classes) + rng.gumbel(size=(len(x), n_classes)), axis=1)
    return Pool(x, y, n_train, n_classes)


def make_jobs(pool, n_jobs=40, seed=0):
    """Clean rows and a few others with changed labels, repeated rows, weights, and rows outside the pool."""
    rng, jobs = np.random.default_rng(seed), []
    for j in range(n_jobs):
        rows = np.append(np.arange(pool.n_train), rng.integers(pool.n_train, len(pool), 3 + j % 4))
        extra = rng.normal(size=(2, pool.x.shape[1])).astype(np.float32) if j % 3 == 0 else None
        if extra is not None:
            rows = np.append(rows, len(pool) + np.arange(2))
        y = np.append(pool.y[: pool.n_train], rng.integers(0, pool.n_classes, len(rows) - pool.n_train))
        weights = rng.random(len(rows)) * 2 if j % 2 else None
        jobs.append(FleetJob(pool, rows, y, weights, extra))
    return jobs


def objective(job, w, penalty, scale):
    """The objective of a job in scaled parameters w (K', d'), written down anew and slowly."""
    x = np.hstack([job.x, np.ones((len(job), 1))]) / scale
    scores = x @ w.T
    if scores.shape[1] == 1:
        scores = np.hstack([np.zeros_like(scores), scores])
    loss = np.logaddexp.reduce(scores, axis=1) - scores[np.arange(len(job)), job.y]
    weights = np.ones(len(job)) if job.weights is None else job.weights
    return weights @ loss + penalty / 2 * np.sum((w / scale) ** 2)


def make_fleet(n_classes, dtypes=(np.float64,), n_jobs=40):
    pool = make_pool(n_classes)
    jobs = make_jobs(pool, n_jobs)
    columns = Columns.of(pool, penalise_intercept=True)
    design = Design(jobs, columns, dtypes)
    return jobs, columns.scale, design, design.fleet(jobs, 0.7, mean_form=False)


def start(fleet, seed=1):
    shape = (len(fleet), fleet.label.shape[1], len(fleet.unit))
    return np.random.default_rng(seed).normal(size=shape) * 0.5


def placed(fleet, w):
    identity = np.eye(w[0].size)[None]
    solver = Newton(fleet, identity, DOUBLE[0])
    solver._place(w, np.arange(len(fleet)))
    return solver


def test_rows_of_few_jobs_are_listed_and_those_of_many_are_shared():
    _, _, design, fleet = make_fleet(2)
    assert np.array_equal(design.index[:60], np.arange(60))
    assert len(fleet.listed[np.float64]) > 0
    assert np.diff(fleet.lists.start).max() > 0
    assert np.allclose(fleet.total.sum(axis=1), fleet.weight)


def test_a_row_used_often_by_one_job_counts_once_in_sharing():
    pool = make_pool()
    clean = pool.clean_job()
    repeated = FleetJob(pool, np.append(clean.rows, np.full(30, 99)), np.append(clean.y, np.zeros(30, np.int64)))
    assert 99 not in shared_rows([repeated] + [clean] * 19)
    assert count(repeated)[0, 99] == 30


@pytest.mark.parametrize("n_classes", [2, 3])
def test_gradient_is_the_difference_quotient_of_the_objective(n_classes):
    jobs, scale, _, fleet = make_fleet(n_classes)
    w = start(fleet)
    gradient = placed(fleet, w)._gradient(w, np.arange(len(fleet)))
    for j in (0, 1, 7):
        for k, c in np.ndindex(*w.shape[1:]):
            step = np.zeros(w.shape[1:])
            step[k, c] = 1e-6
            change = objective(jobs[j], w[j] + step, 0.7, scale) - objective(jobs[j], w[j] - step, 0.7, scale)
            assert gradient[j, k, c] == pytest.approx(change / 2e-6, rel=1e-6, abs=1e-6)


def test_probabilities_are_those_of_numpy_up_to_the_last_places():
    margins = np.concatenate([np.linspace(-700, 700, 100_001), [0, 1e300, -1e300, np.inf, -np.inf]])[None, None]
    empty, ones = np.zeros_like(margins), np.ones_like(margins[0])
    at = Margins(margins, empty.copy(), empty.copy(), empty.copy(), ones, empty)
    evaluate(np.arange(1), Lists(margins.size, np.zeros(2, np.int64), np.zeros(0, np.int64)), at)
    relative = np.abs(at.chance[0, 0, :100_001] / expit(margins[0, 0, :100_001]) - 1)
    assert (relative <= 2e-16 * (10 + np.abs(margins[0, 0, :100_001]))).all()
    assert np.allclose(at.chance, expit(margins), rtol=0, atol=1e-15)
    assert at.chance[0, 0, 100_001] == 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [100, 512, 1300])
@pytest.mark.parametrize("m", [1, 20])
def test_sums_over_blocks_and_products_with_turned_rows_are_the_plain_ones(n, m, dtype):
    generator = np.random.default_rng(0)
    rows, q = generator.normal(size=(n, 5)).astype(dtype), generator.normal(size=(m, n + 7)).astype(dtype)[:, :n]
    close = {"rtol": 1e-5 if dtype == np.float32 else 1e-13, "atol": 1e-4 if dtype == np.float32 else 1e-12}
    assert np.allclose(newton._in_blocks(q, rows), np.einsum("mn,nd->md", q, rows, dtype=np.float64), **close)
    _, _, _, fleet = make_fleet(2, (np.float64, np.float32), n_jobs=m)
    w = start(fleet).astype(dtype)
    products = placed(fleet, w.astype(np.float64)).products(np.arange(m), w)[:, :, : fleet.lists.shared]
    assert np.allclose(products, w @ fleet.shared[np.float64].T, **close)
    assert set(fleet.turned) == ({np.float32} if m == 20 else set())
    assert all(np.array_equal(each.T, fleet.shared[kind]) for kind, each in fleet.turned.items())


@pytest.mark.parametrize("n_classes", [2, 3])
def test_curvature_product_is_the_difference_quotient_of_the_gradient(n_classes):
    _, _, _, fleet = make_fleet(n_classes)
    w, v, everyone = start(fleet), start(fleet, 2), np.arange(len(fleet))
    above, below = (placed(fleet, w + s * v)._gradient(w + s * v, everyone) for s in (1e-6, -1e-6))
    product, _ = placed(fleet, w)._curvature_products(everyone, v.copy(), np.ones(len(fleet)))
    assert np.allclose(product, (above - below) / 2e-6, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_conjugate_directions_solve_newtons_equations(n_classes):
    _, _, _, fleet = make_fleet(n_classes)
    w, everyone = start(fleet), np.arange(len(fleet))
    if n_classes > 2:
        w -= w.mean(axis=1, keepdims=True)  # as `run` does
    solver = placed(fleet, w)
    gradient = solver._gradient(w, everyone)
    direction = solver._directions(everyone, gradient, np.full(len(fleet), 1e-10))
    product, _ = placed(fleet, w)._curvature_products(everyone, direction.copy(), np.ones(len(fleet)))
    assert np.allclose(product, -gradient, atol=1e-8 * np.abs(gradient).max())
    # The margins moved with the direction, without a product of their own.
    n = fleet.lists.shared
    assert np.allclose(solver.at.change[:, :, :n], direction @ fleet.shared[np.float64].T, atol=1e-8)


def test_softmaxes_solved_in_float32_first_converge_before_the_last_stage():
    rng, n, d, classes = np.random.default_rng(0), 4000, 40, 4
    x = rng.standard_normal((n, d)).astype(np.float32)
    y = np.argmax(x @ rng.standard_normal((d, classes)) / d**0.5 + rng.gumbel(size=(n, classes)), axis=1)
    job = Pool(x, y, n, classes).clean_job()
    design = Design([job], Columns.of(job.pool, True), (np.float64, np.float32))
    fleet, optimum = design.fleet([job], 1.0, mean_form=False), np.zeros((1, classes, d + 1))
    solve(fleet, optimum, inverse_hessian(fleet, optimum), DOUBLE)
    w, residual, inverse = np.zeros_like(optimum), np.full((1, 3), np.inf), inverse_hessian(fleet, optimum)
    for stage in MIXED[:2]:
        left = Newton(fleet, inverse, stage).run(w, np.arange(1), residual)
    assert not len(left)
    assert np.abs(w.sum(axis=1)).max() < 1e-12


def test_parameters_with_a_mean_over_classes_lose_it():
    _, _, _, fleet = make_fleet(3)
    w = start(fleet)
    shifted, inverse = w + 100.0, np.eye(w[0].size)[None]
    for each in (w, shifted):
        solve(fleet, each, inverse, DOUBLE)
    assert np.allclose(shifted, w, rtol=0, atol=1e-7 * np.abs(w).max())


def test_inverse_hessian_inverts_the_curvature_product():
    pool = make_pool(3)
    design = Design([pool.clean_job()], Columns.of(pool, True), (np.float64,))
    fleet = design.fleet([pool.clean_job()], 0.7, mean_form=False)
    w, v = start(fleet), start(fleet, 2)
    product, _ = placed(fleet, w)._curvature_products(np.arange(1), v.copy(), np.ones(1))
    assert np.allclose(inverse_hessian(fleet, w)[0] @ product.ravel(), v.ravel())


def test_blocks_of_the_inverse_precondition_as_well_as_the_whole(monkeypatch):
    _, _, design, fleet = make_fleet(3)
    job = design.pool.clean_job()
    clean = Design([job], design.columns, (np.float64,)).fleet([job], 0.7, mean_form=False)
    w = np.zeros((1, 3, len(fleet.unit)))
    monkeypatch.setattr(newton, "FULL_CURVATURE", 1)
    blocks = inverse_hessian(clean, w)
    assert blocks.shape == (3, 5, 5)
    found = np.zeros((len(fleet), 3, 5))
    assert solve(fleet, found, blocks, DOUBLE)[:, 0].max() <= 1e-8


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("stages", [DOUBLE, MIXED])
def test_the_diagonal_leads_where_blocks_do(n_classes, stages, monkeypatch):
    _, _, design, fleet = make_fleet(n_classes, (np.float64, np.float32))
    job = design.pool.clean_job()
    clean = Design([job], design.columns, (np.float64,)).fleet([job], 0.7, mean_form=False)
    shape = fleet.label.shape[1], len(fleet.unit)
    dense = inverse_hessian(clean, np.zeros((1, *shape)))
    monkeypatch.setattr(newton, "LARGEST_BLOCK", 1)
    diagonal = inverse_hessian(clean, np.zeros((1, *shape)))
    curvature = np.linalg.inv(dense[0]).diagonal()
    np.testing.assert_allclose(diagonal[:, 0, 0], 1 / curvature, rtol=1e-9)
    by_blocks, by_diagonal = np.zeros((2, len(fleet), *shape))
    for w, inverse in ((by_blocks, dense), (by_diagonal, diagonal)):
        assert solve(fleet, w, inverse, stages)[:, 0].max() <= 1e-8
    np.testing.assert_allclose(by_diagonal, by_blocks, atol=1e-5)


def test_thousands_of_features_are_solved_without_a_dense_inverse(monkeypatch):
    """200 rows of 10,000 features took 450 s, nearly all of it in two inverses of 10,001 x 10,001."""
    pool = make_pool(n_train=60, n_aux=10, d=5000)

    def dense(matrix):
        raise AssertionError(f"inverts {matrix.shape}")

    monkeypatch.setattr(np.linalg, "inv", dense)
    jobs = make_jobs(pool, 3)
    for job, model in zip(jobs, LogisticRegression().fit_many(jobs, [0] * 3), strict=True):
        assert model.kkt_residual <= 1e-8
        x = np.hstack([job.x, np.ones((len(job), 1))]).astype(np.float64)
        weights = np.ones(len(job)) if job.weights is None else job.weights
        error = weights * (1 / (1 + np.exp(-x @ model.coef[:, 0])) - job.y)
        gradient = x.T @ error + model.coef[:, 0]
        assert np.abs(gradient).max() / weights.sum() <= 2e-8


@pytest.mark.parametrize("n_classes", [2, 3])
def test_mixed_precision_ends_where_double_precision_does(n_classes):
    _, _, design, fleet = make_fleet(n_classes, (np.float64, np.float32))
    job = design.pool.clean_job()
    clean = Design([job], design.columns, (np.float64,)).fleet([job], 0.7, mean_form=False)
    inverse = inverse_hessian(clean, np.zeros((1, *fleet.label.shape[1:2], len(fleet.unit))))
    found = []
    for stages in (DOUBLE, MIXED):
        w = np.zeros((len(fleet), fleet.label.shape[1], len(fleet.unit)))
        assert solve(fleet, w, inverse, stages)[:, 0].max() <= 1e-8
        found.append(w)
    assert np.allclose(*found, atol=1e-7 * np.abs(found[0]).max())


def test_line_search_shortens_a_step_that_overshoots_and_never_climbs():
    """From far on the wrong side the curvature is tiny and Newton's step many times too long."""
    jobs, scale, _, fleet = make_fleet(2)
    w, everyone = start(fleet) * 20, np.arange(len(fleet))
    solver = placed(fleet, w)
    before = w.copy()
    gradient = solver._gradient(w, everyone)
    direction = solver._directions(everyone, gradient, np.full(len(fleet), 1e-3))
    solver = placed(fleet, w)
    solver._step(w, everyone, gradient, np.ones(len(fleet)))
    taken = np.abs(w - before).max(axis=(1, 2)) / np.abs(direction).max(axis=(1, 2))
    assert taken.min() < 0.5
    for job, old, new in zip(jobs, before, w, strict=True):
        assert objective(job, new, 0.7, scale) < objective(job, old, 0.7, scale)
    assert not solver.at.change[:, :, : fleet.lists.shared].any()


def test_a_problem_past_its_precision_gives_up_and_says_so():
    """In float32 alone nobody reaches a residual of 1e-12: the stage ends early and returns all of them."""
    _, _, _, fleet = make_fleet(2, (np.float64, np.float32))
    w = np.zeros((len(fleet), 1, len(fleet.unit)))
    stage = newton.Precision(np.float32, np.float32, 1e-2, 1e-12, 1e-12, 1000)
    residual = np.full((len(fleet), 3), np.inf)
    left = Newton(fleet, np.eye(5)[None], stage).run(w, np.arange(len(fleet)), residual)
    assert len(left) > 0
    assert np.array_equal(left, np.unique(left))
    assert residual[:, 0].max() < 1e-4


@pytest.mark.slow
def test_code_found_on_disk_gives_the_bits_of_code_just_compiled(tmp_path):
    code = (
        "import numpy as np, hashlib; from subpop.types import Pool; from subpop.victims.logistic import LogisticRegression\n"
        "r = np.random.default_rng(0); x = r.normal(size=(3000, 30)).astype(np.float32)\n"
        "y = (x[:, 0] + r.normal(size=3000) > 0).astype(np.int64); pool = Pool(x, y, 3000, 2)\n"
        "print(hashlib.md5(LogisticRegression().fit_many([pool.clean_job()], [0])[0].coef.tobytes()).hexdigest())"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (subprocess.check_output([sys.executable, "-c", code], env=environment) for _ in range(2))
    assert first == second
