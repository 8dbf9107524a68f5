"""Exact victims as plug-in defenses meet them: no answer of `fit` tells how near a training set is to clean D."""

import warnings

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from small_projects import parse_defense

from subpop.experiments.experiment import Experiment
from subpop.harness.batching import DefenseError, DefenseTask, PoolRows, TrialBatch, job_of
from subpop.runtime.no_store import NoStore
from subpop.types import Defended, FleetJob, Knowledge, Pool, TrainingSet, Unsolved
from subpop.types.grid import grid
from subpop.victims import blind
from subpop.victims.last_layer import LastLayer
from subpop.victims.logistic import LogisticRegression
from subpop.victims.mlp import MLP
from subpop.victims.text_linear import TextLinear

N_TRAIN, N_AUX, D = 120, 60, 6
EXACT = [LogisticRegression(), LogisticRegression(0.01, "mean", False), LastLayer(), TextLinear()]


def make_pool(n_classes, seed=0, d=D):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, N_TRAIN + N_AUX)
    x = rng.normal(size=(n_classes, d))[y] + 1.5 * rng.normal(size=(len(y), d))
    return Pool(x.astype(np.float32), y, N_TRAIN, n_classes)


def attacked_job(pool, seed):
    rows = N_TRAIN + np.random.default_rng(seed).choice(N_AUX, 12, replace=False)
    y = (pool.y[rows] + 1) % pool.n_classes
    return FleetJob(pool, np.append(np.arange(N_TRAIN), rows), np.append(pool.y[:N_TRAIN], y)).canonical()


def new_rows(pool, x, y):
    return FleetJob(pool, len(pool) + np.arange(len(y)), np.asarray(y), extra_x=np.asarray(x, np.float32))


def recomputed_residual(model, job, penalty):
    """What a defense can compute from `coef` and its own rows: |gradient|_inf / n."""
    x = np.column_stack([job.x.astype(float), np.ones(len(job))])
    scores = x @ model.coef
    if scores.shape[1] == 1:
        error = 1 / (1 + np.exp(-scores[:, 0])) - job.y
        gradient = x.T @ error[:, None] + penalty * model.coef
    else:
        chance = np.exp(scores - scores.max(1, keepdims=True))
        chance /= chance.sum(1, keepdims=True)
        gradient = x.T @ (chance - np.eye(job.pool.n_classes)[job.y]) + penalty * model.coef
    return np.abs(gradient).max() / len(job)


# --- what a residual tells --------------------------------------------------------------------------------------------


def separation(make_victim, n_classes, n_pairs=60):
    """The share of pairs in which the residual of a training set that is not D is above that of D.

    Two sets that differ in three labels take turns at being D: only what the victim knows of D can tell them apart.
    """
    controls, others = [], []
    for seed in range(n_pairs):
        pool = make_pool(n_classes, seed)
        flipped = pool.y.copy()
        flipped[np.random.default_rng(seed).choice(N_TRAIN, 3, replace=False)] += 1
        labels = [pool.y, flipped % n_classes]
        for own in (0, 1):
            pool = Pool(pool.x, labels[own], N_TRAIN, n_classes)
            jobs = [FleetJob(pool, np.arange(N_TRAIN), y[:N_TRAIN]).canonical() for y in labels]
            models = make_victim().fit_many(jobs, [0, 0])
            found = [recomputed_residual(model, job, 1.0) for model, job in zip(models, jobs, strict=True)]
            controls.append(found[own])
            others.append(found[1 - own])
    return mannwhitneyu(others, controls).statistic / len(others) ** 2


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_residual_does_not_tell_clean_from_attacked(n_classes):
    assert separation(LogisticRegression, n_classes) > 0.95  # solves that start at the clean optimum are told apart
    assert 0.47 < separation(lambda: blind(LogisticRegression()), n_classes) < 0.53  # .68 to .75 without rounding


@pytest.mark.parametrize("victim", EXACT, ids=lambda victim: type(victim).__name__)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_blind_models_predict_as_the_others_do(victim, n_classes):
    pool = make_pool(n_classes)
    jobs = [pool.clean_job(), *(attacked_job(pool, i) for i in range(5))]
    for seen, unseen in zip(victim.fit_many(jobs, [0] * 6), blind(victim).fit_many(jobs, [0] * 6), strict=True):
        assert 0 < np.abs(seen.coef - unseen.coef).max() < 1e-5 * np.abs(seen.coef).max()
        assert np.array_equal(seen.predict_proba(pool.x).argmax(1), unseen.predict_proba(pool.x).argmax(1))


def test_clean_data_are_solved_like_any_other(monkeypatch):
    """The answer for D does not come from the clean optimum that a pool keeps, and leaves that optimum as it was."""
    pool = make_pool(2)
    (blind_first,) = blind(LogisticRegression()).fit_many([pool.clean_job()], [0])
    kept, again = (LogisticRegression().fit_many([pool.clean_job()], [0])[0] for _ in range(2))
    assert kept is again
    assert kept.coef.tobytes() != blind_first.coef.tobytes()
    assert recomputed_residual(kept, pool.clean_job(), 1.0) < 1e-12 < recomputed_residual(blind_first, pool.clean_job(), 1.0)


def test_victims_that_start_anywhere_else_are_as_they_are():
    victim = MLP()
    assert blind(victim) is victim


CHANGES = [lambda x: 1e3 * x, lambda x: 1e-3 * x, lambda x: 1e3 * x + 50, lambda x: (x - x.mean(0)) / x.std(0)]


# --- what cannot be solved --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [LogisticRegression, LastLayer, TextLinear])
@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("unseen", [True, False])
def test_an_unconverged_solve_is_an_error_that_names_its_job(make, n_classes, unseen):
    pool = make_pool(n_classes)
    huge = np.zeros((3, D))
    huge[:, 0] = 1e30, -1e30, 1e30
    jobs = [pool.clean_job(), new_rows(pool, huge, [0, 1, 1]), attacked_job(pool, 1)]
    victim = blind(make()) if unseen else make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Unsolved, match=r"its inputs reach 1e\+30, those of the data") as caught:
            victim.fit_many(jobs, [0] * 3)
    assert caught.value.jobs == (1,)
    assert len(victim.fit_many([jobs[0], jobs[2]], [0] * 2)) == 2


@pytest.mark.parametrize("make", [LogisticRegression, LastLayer])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(
    "change", [lambda x: 1e3 * x, lambda x: 1e-3 * x, lambda x: 1e3 * x + 50, lambda x: (x - x.mean(0)) / x.std(0)]
)
def test_inputs_of_another_scale_are_solved(make, n_classes, change):
    pool = make_pool(n_classes)
    x = change(pool.x[:N_TRAIN].astype(float)).astype(np.float32)
    (model,) = blind(make()).fit_many([new_rows(pool, x, pool.y[:N_TRAIN])], [0])
    assert model.kkt_residual <= 1e-8
    own = Pool(x, pool.y[:N_TRAIN], N_TRAIN, n_classes)
    (alone,) = make().fit_many([own.clean_job()], [0])
    assert np.abs(model.predict_proba(x) - alone.predict_proba(x)).max() < 1e-4


def test_one_row_at_1e30_does_not_return_the_clean_victim():
    pool = make_pool(2)
    row = np.zeros((1, D))
    row[0, 0] = 1e30
    with pytest.raises(Unsolved):
        blind(LogisticRegression()).fit_many([new_rows(pool, row, [0])], [0])


# --- on the way to a defense ------------------------------------------------------------------------------------------


def test_a_wave_names_the_trial_that_cannot_be_solved():
    pool = make_pool(3)
    rows = np.arange(N_TRAIN)
    tasks = [
        DefenseTask(TrainingSet(PoolRows(pool, rows), rows, pool.y[rows]), Knowledge(), seed, f"seed {seed}") for seed in range(3)
    ]

    def defense(train, fit, know, *, seed):
        return Defended(fit(TrainingSet.of(train.x * np.float32(1e30 if seed == 1 else 1), train.y)))

    def fit_many(requests):
        return blind(LogisticRegression()).fit_many([job_of(pool, train) for _, train in requests], [0] * len(requests))

    with pytest.raises(DefenseError, match=r"trial 1 \(seed 1\): fit could not train on this training set: its inputs") as caught:
        list(TrialBatch(tasks, fit_many, pool.x, 3).run(defense))
    assert caught.value.task == 1


PLUGIN = """
import numpy as np
from subpop import Defended, TrainingSet

def oracle(train, fit, know, *, seed):
    x = np.zeros((1, train.x.shape[1]))
    x[0, 0] = 1e30
    return Defended(fit(TrainingSet.of(x, [0])))

def plain(train, fit, know, *, seed):
    return Defended(fit(train))
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blind")
    (folder / "mine.py").write_text(PLUGIN)
    return Experiment.on(
        NoStore(), plugins={f"mine.{name}": parse_defense(f"mine.py:{name}", folder) for name in ("oracle", "plain")}
    )


def cell(**changes):
    common = {"stem": "s", "tier": "embedded", "dataset": "digits", "partition": "feature_match", "rate": 1.0, "n_seeds": 1}
    return grid(**{**common, "victim": "logistic_regression", **changes})[0]


def test_one_huge_row_is_no_clean_victim(experiment):
    with pytest.raises(DefenseError, match=r"trial 0 \(.*\): fit could not train on this training set"):
        experiment.run(cell(defense="mine.oracle"))


def test_a_plug_in_is_answered_blindly_and_a_built_in_defense_is_not(experiment):
    stage = experiment.context.stage(cell())
    clean = TrainingSet(
        PoolRows(stage.pool, np.arange(stage.pool.n_train)), np.arange(stage.pool.n_train), stage.pool.y[: stage.pool.n_train]
    )
    (plain,) = experiment.fleet_of(cell(defense="mine.plain"), [0])([(0, clean)])
    (none,) = experiment.fleet_of(cell(defense="none"), [0])([(0, clean)])
    known = experiment.context.clean_model(cell(), 0)
    assert none.coef.tobytes() == known.coef.tobytes() != plain.coef.tobytes()
    assert np.array_equal(plain.predict_proba(stage.data.test_x).argmax(1), known.predict_proba(stage.data.test_x).argmax(1))
