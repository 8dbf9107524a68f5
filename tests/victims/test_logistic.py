"""The exact logistic victim against scikit-learn, against its own optimality conditions, and at the edges."""

import gc
import math
import pickle
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_data import needs
from sklearn.linear_model import LogisticRegression as Reference

from subpop.datasets import data_root
from subpop.types import BadInput, FleetJob, Pool, Unsolved
from subpop.victims import logistic
from subpop.victims.counts import Columns, Design
from subpop.victims.linear_model import LinearModel
from subpop.victims.logistic import LogisticRegression
from subpop.victims.newton import DOUBLE, solve


def make_pool(n_classes=2, n_train=80, n_aux=60, d=5, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_train + n_aux, d))
    y = np.argmax(x[:, :1] * np.arange(n_classes) + rng.gumbel(size=(len(x), n_classes)), axis=1)
    return Pool((x * scale).astype(np.float32), y, n_train, n_classes)


def make_jobs(pool, n_jobs, seed=0):
    """Poisoned, thinned, weighted, relabelled and shuffled sets, some with rows outside the pool."""
    rng, jobs = np.random.default_rng(seed), []
    for j in range(n_jobs):
        kept = rng.permutation(pool.n_train)[: pool.n_train - j % 5]
        rows = np.append(kept, rng.integers(pool.n_train, len(pool), 1 + 2 * (j % 7)))
        y = np.where(np.arange(len(rows)) < len(kept), pool.y[rows], rng.integers(0, pool.n_classes, len(rows)))
        extra = None
        if j % 3 == 2:
            extra = rng.normal(size=(4, *pool.x.shape[1:])).astype(np.float32)
            rows, y = np.append(rows, len(pool) + np.arange(4)), np.append(y, rng.integers(0, pool.n_classes, 4))
        order = rng.permutation(len(rows))
        weights = rng.random(len(rows)) * 2 if j % 2 else None
        jobs.append(FleetJob(pool, rows[order], y[order], weights, extra))
    return jobs


def fit(victim, jobs):
    return victim.fit_many(jobs, [0] * len(jobs))


def design_of(job):
    x = job.x.reshape(len(job), -1).astype(np.float64)
    weights = np.ones(len(job)) if job.weights is None else job.weights
    return np.hstack([x, np.ones((len(job), 1))]), weights


def residual(model, job, victim):
    """|gradient|_inf / sum of weights of the objective, in the inputs' units, from its definition."""
    z, weights = design_of(job)
    scores = z @ model.coef
    n_columns = scores.shape[1]
    scores = np.hstack([np.zeros_like(scores), scores]) if n_columns == 1 else scores
    chance = np.exp(scores - np.logaddexp.reduce(scores, axis=1)[:, None])
    error = weights[:, None] * (chance - np.eye(job.pool.n_classes)[job.y])
    rho = victim.penalty * (weights.sum() if victim.penalty_form == "mean" else 1)
    pull = rho * model.coef
    pull[-1] *= victim.penalise_intercept
    return np.abs(z.T @ error[:, -n_columns:] + pull).max() / weights.sum()


def gradient(coef, job, victim):
    """The gradient of the objective in extended precision, (d + 1, K'), and its Hessian in double precision."""
    z, weights = (np.asarray(each, np.longdouble) for each in design_of(job))
    scores, n_columns = z @ coef, coef.shape[1]
    scores = np.hstack([np.zeros_like(scores), scores]) if n_columns == 1 else scores
    chance = np.exp(scores - scores.max(axis=1, keepdims=True))
    chance /= chance.sum(axis=1, keepdims=True)
    rho = np.full((z.shape[1], 1), victim.penalty * (weights.sum() if victim.penalty_form == "mean" else 1))
    rho[-1] *= victim.penalise_intercept
    error = weights[:, None] * (chance - np.eye(job.pool.n_classes)[job.y])
    chance, double = chance[:, -n_columns:].astype(float), z.astype(float)
    blocks = [
        [
            (double * (weights * chance[:, k] * ((k == j) - chance[:, j])).astype(float)[:, None]).T @ double
            for j in range(n_columns)
        ]
        for k in range(n_columns)
    ]
    hessian = np.block(blocks) + np.diag(np.tile(rho[:, 0], n_columns).astype(float))
    return z.T @ error[:, -n_columns:] + rho * coef, hessian


def optimum(start, job, victim):
    """The optimum to about 1e-17, by Newton's method whose gradients are in extended precision."""
    coef = start.astype(np.longdouble)
    for _ in range(6):
        slope, hessian = gradient(coef, job, victim)
        coef = coef - np.linalg.solve(hessian, slope.T.ravel().astype(float)).reshape(coef.T.shape).T
    assert np.abs(slope).max() < 1e-14
    return coef


def least_curvature(coef, job, victim, rho):
    """A lower bound of the curvature where two classes have no penalty on the intercept: that of S (mu + b)^2 + rho |u|^2."""
    hessian = gradient(coef, job, victim)[1]
    total, means = hessian[-1, -1], hessian[-1, :-1] / hessian[-1, -1]
    return total * rho / (total * (1 + means @ means) + rho)


@pytest.mark.parametrize(
    ("n_classes", "form", "d"), [(2, "sum", 8), (2, "mean", 8), (3, "sum", 8), (3, "mean", 8), (2, "sum", 150)]
)
@pytest.mark.parametrize("penalised", [True, False])
def test_the_optimum_is_within_the_error_bound(n_classes, form, d, penalised):
    """With 150 features, in mixed precision. Without a penalty on the intercept there is a bound for two classes only."""
    pool = make_pool(n_classes, n_train=300, d=d, scale=3.0)
    victim = LogisticRegression(0.3 if form == "sum" else 0.002, form, penalised)
    jobs = [pool.clean_job(), *make_jobs(pool, 24)]
    models = fit(victim, jobs)
    if n_classes > 2 and not penalised:
        assert np.isnan([model.error_bound for model in models]).all()
        return
    distances = np.array([np.linalg.norm(m.coef - optimum(m.coef, j, victim)) for m, j in zip(models, jobs, strict=True)], float)
    bounds = np.array([model.error_bound for model in models])
    assert (distances <= bounds).all()
    weight = np.array([design_of(job)[1].sum() for job in jobs])
    rho = victim.penalty * (weight if form == "mean" else np.ones(len(jobs)))
    if penalised:
        slopes = [np.linalg.norm(gradient(m.coef, j, victim)[0]) for m, j in zip(models, jobs, strict=True)]
        assert (bounds * rho >= np.array(slopes, float)).all()
    assert distances.max() > 1e-12  # rounding alone is smaller
    least = rho if penalised else [least_curvature(m.coef, j, victim, own) for m, j, own in zip(models, jobs, rho, strict=True)]
    # What the victim guarantees: no entry of a gradient is above 1e-8 * weight. The last factor is for rounding.
    assert (bounds <= (1 if penalised else 2) * 1e-8 * weight * math.sqrt(d + 1) / least * 1.001).all()


def test_the_error_bound_holds_around_the_optimum_and_is_reached():
    """A coefficient of a feature that is always zero costs its penalty alone: there the bound is the distance."""
    pool = make_pool(d=6)
    pool.x.flags.writeable = True
    pool.x[:, -1] = 0
    victim, [job] = LogisticRegression(0.5), make_jobs(pool, 1)
    exact, generator = optimum(fit(victim, [job])[0].coef, job, victim), np.random.default_rng(0)
    columns = Columns.of(pool, True)

    def bound(step):
        length = float(np.linalg.norm(gradient(exact + step, job, victim)[0]))
        return victim._error(np.array([0.0, length, victim.penalty]), columns, 1.0, 1.0)

    for size in (1e-9, 1e-4, 1.0, 100.0):
        for _ in range(20):
            step = generator.normal(size=exact.shape) * np.exp(3 * generator.normal(size=exact.shape))
            step *= size / np.linalg.norm(step)
            assert bound(step) >= size * (1 - 1e-9)
        step = np.zeros(exact.shape)
        step[-2] = size
        assert bound(step) == pytest.approx(size, rel=1e-3)


def test_the_bound_of_the_hessian_without_a_penalty_on_the_intercept():
    """It is below the smallest eigenvalue, and not much below it if the rows are alike."""
    for shift, spread in ((0.0, 1.0), (1.0, 1.0), (10.0, 1.0), (1.0, 1e-2), (3.0, 1e-2)):
        pool = make_pool(n_train=200, scale=spread)
        pool = Pool(pool.x + np.float32(shift), pool.y, 200, 2)
        victim, jobs = LogisticRegression(0.5, penalise_intercept=False), [pool.clean_job()]
        [model] = fit(victim, jobs)
        columns = Columns.of(pool, False)
        fleet = Design(jobs, columns, (np.float64,)).fleet(jobs, 0.5, False)
        found = solve(fleet, (model.coef.T * columns.scale)[None], np.eye(6)[None], DOUBLE)[0, 2]
        smallest = np.linalg.eigvalsh(gradient(model.coef, jobs[0], victim)[1])[0]
        assert found <= smallest
        assert spread == 1 or found >= 0.8 * smallest


def test_the_error_bound_without_a_penalty_on_the_intercept_holds_around_the_optimum():
    pool = make_pool(n_train=200)
    victim, [job] = LogisticRegression(0.5, penalise_intercept=False), make_jobs(pool, 1)
    exact, generator = optimum(fit(victim, [job])[0].coef, job, victim), np.random.default_rng(0)
    columns, longest, n_bounds = Columns.of(pool, False), np.linalg.norm(design_of(job)[0], axis=1).max(), 0
    for size in (1e-9, 1e-3, 1e-2, 0.1, 1.0, 10.0):
        for _ in range(20):
            step = generator.normal(size=exact.shape) * np.exp(3 * generator.normal(size=exact.shape))
            step *= size / np.linalg.norm(step)
            slope, hessian = gradient(exact + step, job, victim)
            smallest = np.linalg.eigvalsh(hessian)[0]
            bound = victim._error(np.array([0.0, float(np.linalg.norm(slope)), smallest]), columns, 1.0, longest)
            assert not bound < size
            n_bounds += not np.isnan(bound)
    assert n_bounds >= 40


def test_rounded_parameters_have_no_error_bound():
    pool = make_pool()
    models = fit(LogisticRegression().blind(), [pool.clean_job(), *make_jobs(pool, 3)])
    assert np.isnan([model.error_bound for model in models]).all()


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_agrees_with_scikit_learn(n_classes):
    pool = make_pool(n_classes)
    jobs = make_jobs(pool, 6)
    for job, model in zip(jobs, fit(LogisticRegression(0.5), jobs), strict=True):
        z, weights = design_of(job)
        solver = "newton-cholesky" if n_classes == 2 else "lbfgs"
        reference = Reference(C=2.0, solver=solver, fit_intercept=False, tol=1e-10, max_iter=10_000)
        reference.fit(z, job.y, sample_weight=weights)
        assert np.allclose(model.coef, reference.coef_.T, atol=2e-6 * np.abs(model.coef).max())
        assert np.allclose(model.predict_proba(job.x), reference.predict_proba(z), atol=1e-6)


def test_free_intercept_agrees_with_scikit_learn():
    pool = make_pool()
    victim = LogisticRegression(3.0, penalise_intercept=False)
    for job, model in zip(make_jobs(pool, 4), fit(victim, make_jobs(pool, 4)), strict=True):
        reference = Reference(C=1 / 3, solver="newton-cholesky", tol=1e-10).fit(job.x.astype(np.float64), job.y, job.weights)
        assert np.allclose(model.coef[:, 0], [*reference.coef_[0], reference.intercept_[0]], atol=1e-7)


@settings(max_examples=12, deadline=None)
@given(
    n_classes=st.integers(2, 4),
    seed=st.integers(0, 10_000),
    penalty=st.sampled_from([1e-3, 1.0, 50.0]),
    form=st.sampled_from(["sum", "mean"]),
    free=st.booleans(),
    n_jobs=st.integers(1, 40),
)
def test_every_model_satisfies_the_optimality_conditions(n_classes, seed, penalty, form, free, n_jobs):
    pool = make_pool(n_classes, n_train=40, n_aux=20, d=3, seed=seed)
    jobs = make_jobs(pool, n_jobs, seed)
    victim = LogisticRegression(penalty, form, penalise_intercept=not free)
    for job, model in zip(jobs, fit(victim, jobs), strict=True):
        assert residual(model, job, victim) <= 1.01e-8
        assert model.kkt_residual == pytest.approx(residual(model, job, victim), abs=1e-12)
        assert model.coef.shape == (4, 1 if n_classes == 2 else n_classes)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("d", [5, 150])
def test_alone_and_in_a_fleet_agree(n_classes, d):
    """150 features go through the float32 stages; 40 jobs are solved in several chunks with lists, one job with neither."""
    pool = make_pool(n_classes, n_train=300, d=d)
    jobs = make_jobs(pool, 40)
    victim = LogisticRegression(0.02, "mean")
    together = fit(victim, jobs)
    assert max(model.kkt_residual for model in together) <= 1e-8
    for j in (0, 17, 39):
        alone = fit(victim, [jobs[j]])[0]
        assert np.abs(alone.coef - together[j].coef).max() <= 1e-6 * np.abs(alone.coef).max()


@pytest.mark.parametrize("d", [5, 150])
def test_same_call_gives_same_bits_whatever_the_number_of_cores(d, monkeypatch):
    bits = []
    for cores in (1, 2, 4):
        pool = make_pool(d=d)
        monkeypatch.setattr(logistic.joblib, "cpu_count", lambda cores=cores: cores)
        bits.append([model.coef.tobytes() for model in fit(LogisticRegression(0.1), make_jobs(pool, 40))])
    assert bits[0] == bits[1] == bits[2]


def test_little_memory_means_small_chunks_and_the_same_models():
    pool = make_pool()
    jobs = make_jobs(pool, 20)
    for model, small in zip(fit(LogisticRegression(), jobs), fit(LogisticRegression(memory_bytes=1), jobs), strict=True):
        assert np.allclose(model.coef, small.coef, atol=1e-6 * np.abs(model.coef).max())


def test_the_clean_training_set_gives_the_clean_optimum_bit_for_bit():
    pool = make_pool()
    clean = pool.clean_job()
    order = np.random.default_rng(0).permutation(len(clean))
    shuffled = FleetJob(pool, clean.rows[order], clean.y[order])
    weighted = FleetJob(pool, clean.rows, clean.y, np.ones(len(clean)))
    unused = FleetJob(pool, clean.rows, clean.y, extra_x=pool.x[:2])
    without = FleetJob(pool, np.append(clean.rows, 99), np.append(clean.y, 0), np.append(np.ones(len(clean)), 0.0))
    alone = fit(LogisticRegression(), [clean])[0]
    fleet = fit(LogisticRegression(), [*make_jobs(pool, 5), shuffled, shuffled.canonical(), weighted, unused, without])
    for model in fleet[5:]:
        assert model.coef.tobytes() == alone.coef.tobytes()
    assert alone.kkt_residual <= 1e-12
    assert all(model.coef.tobytes() != alone.coef.tobytes() for model in fleet[:5])


def test_swapping_the_labels_negates_the_model():
    pool = make_pool()
    jobs = make_jobs(pool, 6)
    swapped = [FleetJob(job.pool, job.rows, 1 - job.y, job.weights, job.extra_x) for job in jobs]
    for model, mirror in zip(fit(LogisticRegression(), jobs), fit(LogisticRegression(), swapped), strict=True):
        assert np.allclose(model.coef, -mirror.coef, atol=1e-7 * np.abs(model.coef).max())


def test_renaming_the_classes_permutes_the_columns():
    pool, new = make_pool(3), np.array([2, 0, 1])
    renamed = Pool(pool.x.copy(), new[pool.y], pool.n_train, 3)
    coef, permuted = (fit(LogisticRegression(), [p.clean_job()])[0].coef for p in (pool, renamed))
    assert np.allclose(coef, permuted[:, new], atol=1e-8)


def test_a_weight_of_two_is_the_row_twice_and_an_extra_row_is_a_row():
    pool = make_pool()
    n = pool.n_train
    rows, y = np.append(np.arange(n), [n, n]), np.append(pool.y[:n], [1, 1])
    twice = FleetJob(pool, rows, y)
    weighted = FleetJob(pool, rows[:-1], y[:-1], np.append(np.ones(n), 2.0))
    extra = FleetJob(pool, np.append(np.arange(n), [len(pool) + 1] * 2), y, extra_x=pool.x[n - 1 : n + 1])
    models = fit(LogisticRegression(), [twice, weighted, extra])
    for model in models[1:]:
        assert np.allclose(model.coef, models[0].coef, atol=1e-9)


def test_two_rows_by_hand():
    """x = +-1 with labels 1 and 0: by symmetry no intercept, and 2 / (1 + e^w) = rho * w."""
    pool = Pool(np.array([[1.0], [-1.0]], np.float32), np.array([1, 0]), 2, 2)
    w = 1.3
    model = fit(LogisticRegression(2 / (1 + np.exp(w)) / w), [pool.clean_job()])[0]
    assert model.coef[:, 0] == pytest.approx([w, 0], abs=1e-12)
    assert model.predict_proba(np.array([[2.0]]))[0] == pytest.approx([1 / (1 + np.exp(2 * w)), 1 / (1 + np.exp(-2 * w))])


def test_separable_data_have_an_optimum():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3)).astype(np.float32)
    pool = Pool(x, (x[:, 0] > 0).astype(np.int64), 80, 2)
    for penalty in (1e-6, 1e-3):
        victim = LogisticRegression(penalty)
        jobs = [pool.clean_job(), FleetJob(pool, np.arange(70), pool.y[:70])]
        for job, model in zip(jobs, fit(victim, jobs), strict=True):
            assert residual(model, job, victim) <= 1e-8
            assert (model.predict_proba(job.x).argmax(axis=1) == job.y).all()


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("penalise_intercept", [True, False])
def test_one_class_is_enough(n_classes, penalise_intercept):
    pool = make_pool(n_classes)
    rows = np.flatnonzero(pool.y[: pool.n_train] == 1)
    model = fit(LogisticRegression(penalise_intercept=penalise_intercept), [FleetJob(pool, rows, pool.y[rows])])[0]
    chance = model.predict_proba(pool.x)
    assert chance.shape == (len(pool), n_classes)
    assert (chance[rows].argmax(axis=1) == 1).all()
    one_class = Pool(pool.x.copy(), np.ones(len(pool), np.int64), pool.n_train, n_classes)
    assert fit(LogisticRegression(), [one_class.clean_job()])[0].kkt_residual <= 1e-8


@pytest.mark.parametrize("d", [5, 150])
def test_badly_scaled_and_constant_columns(d):
    scale = np.ones(d)
    scale[:3] = 1e5, 1e-4, 0.0
    pool = make_pool(d=d, n_train=400, scale=scale)
    victim = LogisticRegression()
    jobs = make_jobs(pool, 20)
    for job, model in zip(jobs, fit(victim, jobs), strict=True):
        assert residual(model, job, victim) <= 1.01e-8
        assert abs(model.coef[2, 0]) < 1e-12 or job.extra_x is not None


def test_wide_data_beyond_float32_are_still_solved():
    """Columns equal up to 1e-5 and a small penalty: single precision cannot even tell the directions apart."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(300, 75))
    x = np.hstack([base, base + 1e-5 * rng.normal(size=base.shape)]).astype(np.float32)
    pool = Pool(x, (base[:, 0] + rng.normal(size=300) > 0).astype(np.int64), 250, 2)
    victim = LogisticRegression(1e-4)
    jobs = make_jobs(pool, 6)
    for job, model in zip(jobs, fit(victim, jobs), strict=True):
        assert residual(model, job, victim) <= 1.01e-8


def test_disjoint_parts_of_the_training_set_are_all_lists():
    """Each row in one of 40 parts: nothing is shared."""
    pool = make_pool(3, n_train=400)
    parts = np.random.default_rng(0).permutation(400).reshape(40, 10)
    victim = LogisticRegression()
    jobs = [FleetJob(pool, part, pool.y[part]) for part in parts]
    for job, model in zip(jobs, fit(victim, jobs), strict=True):
        assert residual(model, job, victim) <= 1.01e-8


def test_pictures_are_flattened():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, size=(90, 3, 4, 4)).astype(np.uint8)
    pool = Pool(x, rng.integers(0, 2, 90), 60, 2)
    extra = FleetJob(pool, np.append(np.arange(60), 90), np.append(pool.y[:60], 1), extra_x=x[:1])
    victim = LogisticRegression(10.0)
    models = fit(victim, [pool.clean_job(), extra])
    assert residual(models[1], extra, victim) <= 1e-8
    assert models[0].features(x).shape == (90, 48)
    assert models[0].predict_proba(x).dtype == np.float32


def test_what_cannot_be_reached_is_said():
    """Features of 1e12 leave rounding of more than 1e-8 in any gradient in their units."""
    pool = make_pool(scale=1e12)
    with pytest.raises(Unsolved, match=r"2 of 2 logistic regressions did not converge: residual .* rescale") as caught:
        fit(LogisticRegression(), [pool.clean_job(), pool.clean_job().canonical()])
    assert caught.value.jobs == (0, 1)


def test_the_clean_optimum_is_kept_as_long_as_the_pool_lives(monkeypatch):
    pool, victim = make_pool(), LogisticRegression()
    first = fit(victim, [pool.clean_job()])[0]
    monkeypatch.setattr(LogisticRegression, "_solve_clean", None)
    assert fit(LogisticRegression(), [pool.clean_job()])[0] is first
    gone = weakref.ref(pool)
    del pool, first
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(("n_classes", "d"), [(2, 5), (2, 1100), (4, 30)])
def test_models_that_predict_together_predict_as_each_does_alone(n_classes, d):
    generator, columns = np.random.default_rng(0), 1 if n_classes == 2 else n_classes
    x = generator.normal(size=(300, d)).astype(np.float32)
    x[200:] = x[:100]
    for n in (1, 3, 70):
        models = [LinearModel(generator.normal(size=(d + 1, columns))) for _ in range(n)]
        rows = [generator.integers(0, 300, 250) for _ in models]
        for model, own, proba in zip(models, rows, LinearModel.predict_together(models, x, rows), strict=True):
            np.testing.assert_allclose(proba, model.predict_proba(x[own]), rtol=1e-6, atol=1e-30)
            assert proba.dtype == np.float32
            for row in range(100):  # equal rows have equal probabilities: a filter must not tell them apart
                assert len(np.unique(proba[own % 200 == row], axis=0)) <= 1


def test_models_go_to_disk_and_through_pickles():
    pool = make_pool(3)
    model = fit(pickle.loads(pickle.dumps(LogisticRegression(2.0))), make_jobs(pool, 1))[0]
    for copy in (LinearModel.from_state(model.state()), pickle.loads(pickle.dumps(model))):
        assert copy.predict_proba(pool.x).tobytes() == model.predict_proba(pool.x).tobytes()
        assert copy.kkt_residual == model.kkt_residual
        assert copy.n_classes == 3
    assert np.allclose(model.predict_proba(pool.x).sum(axis=1), 1, atol=1e-6)
    assert model.predict_proba(pool.x[:0]).shape == (0, 3)
    assert fit(LogisticRegression(), []) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.full(80, 2)}, "labels"),
        ({"rows": np.arange(80) + 100}, "rows"),
        ({"rows": np.arange(80) - 1}, "rows"),
        ({"rows": np.arange(79)}, "each row"),
        ({"weights": np.full(80, -1.0)}, "weights"),
        ({"weights": np.zeros(80)}, "weights"),
        ({"weights": np.full(80, np.nan)}, "weights"),
        ({"extra_x": np.full((1, 5), np.inf)}, "extra_x"),
        ({"rows": np.arange(0), "y": np.arange(0)}, "weights"),
    ],
)
def test_bad_jobs_are_refused(change, message):
    pool = make_pool()
    with pytest.raises(BadInput, match=message):
        fit(LogisticRegression(), [FleetJob(pool, **{"rows": np.arange(80), "y": pool.y[:80], **change})])


def test_bad_pools_and_settings_are_refused():
    pool = make_pool()
    x = pool.x.copy()
    x[3, 2] = np.nan
    with pytest.raises(BadInput, match="feature 2"):
        fit(LogisticRegression(), [Pool(x, pool.y, 80, 2).clean_job()])
    with pytest.raises(BadInput, match="one pool"):
        fit(LogisticRegression(), [pool.clean_job(), make_pool().clean_job()])
    with pytest.raises(BadInput, match="n_classes=1"):
        fit(LogisticRegression(), [Pool(pool.x, np.zeros(len(pool), np.int64), 80, 1).clean_job()])
    with pytest.raises(BadInput, match="seed"):
        LogisticRegression().fit_many([pool.clean_job()], [])
    for penalty in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(BadInput, match="penalty"):
            LogisticRegression(penalty)
    with pytest.raises(BadInput, match="'sum'"):
        LogisticRegression(penalty_form="max")
    model = fit(LogisticRegression(), [pool.clean_job()])[0]
    with pytest.raises(BadInput, match="4 features"):
        model.predict_proba(pool.x[:, :4])
    with pytest.raises(BadInput, match="coef"):
        LinearModel(np.zeros((3, 2)))


# --- Adult, whose optima are known ------------------------------------------------------------------------------------

NUMERIC, CATEGORICAL = [0, 10, 11, 12], [1, 4, 5, 6, 7, 8, 9]
ADULT = data_root() / "adult"


def adult_split(as_released):
    """(x, y, rows of D) as the released script draws them: numpy's legacy generator, seed 0."""
    pandas = pytest.importorskip("pandas")
    parts = [pandas.read_csv(ADULT / name, header=None, skiprows=skip) for name, skip in (("adult.data", 0), ("adult.test", 1))]
    table = pandas.concat(parts, ignore_index=True)
    y = table[14].str.contains(">50K").to_numpy().astype(np.int64)
    levels = [pandas.get_dummies(table[c], drop_first=True).to_numpy() for c in CATEGORICAL]
    x = np.hstack([table[NUMERIC].to_numpy(), *levels]).astype(np.float32)
    rng, n = np.random.RandomState(0), len(parts[0])
    positives, negatives = np.flatnonzero(y[:n] == 1), np.flatnonzero(y[:n] == 0)
    drawn = rng.choice(len(negatives), len(positives), replace=False)
    rng.choice(np.sum(y[n:] == 0), np.sum(y[n:] == 1), replace=False)
    rows = rng.permutation(np.append(drawn if as_released else negatives[drawn], positives))
    return x, y, rows[: len(rows) // 2]


@needs("adult")
@pytest.mark.parametrize(
    ("as_released", "penalise_intercept", "optimum"),
    [(True, True, 2856.35), (False, True, 2971.38), (True, False, 2842.95), (False, False, 2959.83)],
)
def test_the_adult_optimum(as_released, penalise_intercept, optimum):
    x, y, rows = adult_split(as_released)
    assert x.shape[1] == 57
    assert len(rows) == 7841
    pool = Pool(x[rows], y[rows], len(rows), 2)
    victim = LogisticRegression(penalise_intercept=penalise_intercept)
    model = fit(victim, [pool.clean_job()])[0]
    w, scores = model.coef[:, 0], model.scores(pool.x)[:, 0]
    penalised = w if penalise_intercept else w[:-1]
    objective = np.logaddexp(0, scores).sum() - scores @ pool.y + penalised @ penalised / 2
    assert objective == pytest.approx(optimum, abs=0.005)
    assert residual(model, pool.clean_job(), victim) <= 1e-8
