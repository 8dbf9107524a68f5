"""Model-targeted poisoning: the bound against all poison of tiny problems, the objective against the solver, known targets."""

from itertools import combinations_with_replacement

import numpy as np
import pytest
from test_gradient_match import rng

from subpop.attacks.model_targeted import ModelTargeted, Pursuit, advance, losses, pursue_model
from subpop.experiments.experiment import Experiment
from subpop.runtime.no_store import NoStore
from subpop.types import BadInput, FleetJob, Pool, Trial
from subpop.types.grid import grid
from subpop.victims.last_layer import LastLayer
from subpop.victims.logistic import LogisticRegression

FORMS = {
    "sum": LogisticRegression(0.5),
    "mean": LogisticRegression(0.05, "mean"),
    "free_intercept": LogisticRegression(0.5, penalise_intercept=False),
    "mean_free_intercept": LogisticRegression(0.05, "mean", penalise_intercept=False),
    "last_layer": LastLayer(),
}
TINY = 8


def tiny(victim, n_classes=2, seed=0, spread=1.0):
    """Eight rows in D and in D_aux each; three rows of D_aux of one class may become poison."""
    g = rng(seed)
    y = np.tile(np.arange(TINY) % n_classes, 2)
    x = (spread * g.normal(size=(2 * TINY, 2)) + 1.5 * np.eye(3)[y, :2]).astype(np.float32)
    pool = Pool(x, y, TINY, n_classes)
    members = TINY + np.flatnonzero(y[TINY:] == 0)[:3]
    model = victim.fit_many([FleetJob(pool, np.arange(TINY, 2 * TINY), y[TINY:])], [0])[0]
    return Pursuit.of(victim, model, pool, members, np.ones(len(members), np.int64), distinct=False)


def every_poison(pursuit, most=4):
    """All multisets of up to `most` of the possible rows, and the models that they train."""
    sets = [np.array(own, np.int64) for m in range(most + 1) for own in combinations_with_replacement(range(3), m)]
    jobs = []
    for own in sets:
        pursuit.chosen = own.tolist()
        jobs.append(pursuit.job())
    pursuit.chosen = []
    return sets, [model.coef for model in pursuit.victim.fit_many(jobs, [0] * len(jobs))]


# --- the bound ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("form", FORMS)
def test_the_objective_is_the_one_that_the_victim_minimises(form, n_classes):
    """Its gradient vanishes at every model, whatever the number of poison rows: the penalty has the right form."""
    pursuit = tiny(FORMS[form], n_classes)
    for own, w in zip(*every_poison(pursuit), strict=True):
        assert np.abs(pursuit.problem.gradient(w, own)).max() < 1e-6
    off = pursuit.problem.gradient(1.01 * w, own)
    assert np.abs(off).max() > 1e-4


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("form", FORMS)
def test_no_poison_of_a_tiny_problem_is_smaller_than_the_bound(form, n_classes):
    """Every multiset of up to four rows: the bound for its model is at most its size, and often equal to it."""
    bounds = []
    for seed in range(4):
        pursuit = tiny(FORMS[form], n_classes, seed)
        sets, models = every_poison(pursuit)
        for own, w in zip(sets, models, strict=True):
            bound = pursuit.problem.bound(w, own, models)
            assert bound <= len(own)
            reached = min(len(other) for other, v in zip(sets, models, strict=True) if np.abs(v - w).max() < 1e-7)
            assert bound <= reached
            bounds.append((bound, len(own)))
    assert sum(bound == size for bound, size in bounds) > 0.25 * len(bounds)
    assert all(bound > 0 for bound, size in bounds if size > 1)


def test_a_bound_by_hand():
    """One feature, no poison but one row repeated, sum form: the bound of its model is the number of repetitions."""
    x = np.array([-1, 1, -1, 1, -1, 1, 2.0], np.float32)[:, None]
    pool = Pool(x, np.array([0, 1, 0, 1, 0, 1, 1]), 2, 2)
    victim = LogisticRegression(1.0)
    model = victim.fit_many([FleetJob(pool, np.arange(2, 7), pool.y[2:])], [0])[0]
    pursuit = Pursuit.of(victim, model, pool, np.array([6]), np.array([0]), distinct=False)
    for m in range(1, 6):
        advance([pursuit], 1)
        assert pursuit.bound() == m


# --- the attack ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["sum", "mean", "last_layer"])
def test_a_target_that_one_row_makes_is_reached_by_that_row(form):
    """On a line, no multiset of one to three rows is nearer to the model that three copies of the outermost row train."""
    x = np.array([-1, 1, -1, -3, -2, 1, 2, 1.5], np.float32)[:, None]
    pool, victim = Pool(x, np.array([0, 1, 0, 0, 0, 1, 1, 1]), 2, 2), FORMS[form]
    model = victim.fit_many([FleetJob(pool, np.arange(2, 8), pool.y[2:])], [0])[0]
    pursuit = Pursuit.of(victim, model, pool, np.arange(2, 5), np.ones(3, np.int64), distinct=False)
    sets, models = every_poison(pursuit, most=3)
    (at,) = (i for i, own in enumerate(sets) if own.tolist() == [1, 1, 1])
    pursuit.target = models[at]
    for m in (1, 2, 3):
        advance([pursuit], 1)
        distances = {tuple(own): np.linalg.norm(w - pursuit.target) for own, w in zip(sets, models, strict=True) if len(own) == m}
        assert np.linalg.norm(pursuit.model.coef - pursuit.target) == pytest.approx(min(distances.values()), abs=1e-6)
    assert pursuit.chosen == [1, 1, 1]
    assert np.abs(pursuit.problem.gaps(pursuit.model.coef, pursuit.target)).max() < 1e-6


def test_rows_that_others_outnumber_do_no_damage():
    """The subpopulation shares its place with a hundred other rows: three flips change no prediction."""
    y = np.array([0, 1] * 100 + [0, 0, 0])
    x = np.where(y == 0, -1.0, 1.0).astype(np.float32)[:, None]
    pool = Pool(np.append(x[:2], x, axis=0), np.append(y[:2], y), 2, 2)
    victim, members = LogisticRegression(), np.arange(202, 205)
    model = victim.fit_many([FleetJob(pool, np.arange(2, 205), pool.y[2:])], [0])[0]
    pursuit = Pursuit.of(victim, model, pool, members, np.ones(3, np.int64), distinct=False)
    advance([pursuit], 3)
    assert pursuit.error() == 0
    assert len(pursuit.chosen) == 3


def test_losses_are_cross_entropies():
    w = np.array([[1.0], [0.5]])
    rows = np.array([[2.0, 1.0], [-1.0, 1.0]])
    np.testing.assert_allclose(losses(w, rows, np.array([1, 1])), np.log1p(np.exp([-2.5, 0.5])))
    three = np.array([[1.0, 0, -1], [0, 1, 0]])
    z = rows @ three
    expected = np.log(np.exp(z).sum(axis=1)) - z[[0, 1], [2, 0]]
    np.testing.assert_allclose(losses(three, rows, np.array([2, 0])), expected)


# --- in the harness -----------------------------------------------------------------------------------------------------

NAMES = {"stem": "s", "tier": "embedded", "partition": "feature_match", "attack": "model_targeted", "n_seeds": 2}


def cell(**changes):
    return grid(**{**NAMES, "dataset": "digits", "victim": "logistic_regression", "rate": 0.5, **changes})[0]


@pytest.fixture(scope="module")
def experiment():
    return Experiment.on(NoStore())


def poison_of(experiment, own, name, seed=0):
    prepared = experiment.prepare(own, Trial(name, seed))
    is_poison = prepared.rows >= experiment.context.stage(own).pool.n_train
    return prepared, np.sort(prepared.rows[is_poison])


def test_a_larger_count_goes_on(experiment):
    """No seed has a say, and half as many rows are the first of all: they are contained in them."""
    _, few = poison_of(experiment, cell(rate=0.25), "digit=3")
    prepared, many = poison_of(experiment, cell(), "digit=3")
    assert len(many) == prepared.n_poison == prepared.flipped.sum() > len(few) > 10
    values, counts = np.unique(many, return_counts=True)
    few_values, few_counts = np.unique(few, return_counts=True)
    assert set(few_values) <= set(values)
    assert all(counts[values == value][0] >= count for value, count in zip(few_values, few_counts, strict=True))
    assert np.array_equal(poison_of(experiment, cell(), "digit=3", seed=1)[1], many)
    assert np.isin(many, experiment.context.stage(cell()).aux_members("digit=3")).all()


def test_distinct_rows_are_distinct(experiment):
    _, rows = poison_of(experiment, cell(rate=1.0, sampling="distinct"), "digit=3")
    assert len(np.unique(rows)) == len(rows) == len(experiment.context.stage(cell()).aux_members("digit=3"))


def test_several_classes_are_flipped_to_one(experiment):
    own = cell(dataset="mixture_multiclass", rate=0.5)
    name = experiment.context.stage(own).attacked[0]
    prepared, rows = poison_of(experiment, own, name)
    assert prepared.flipped.sum() == prepared.n_poison == len(rows)


@pytest.mark.parametrize("victim", ["sklearn.tree:DecisionTreeClassifier", "mlp"])
def test_other_victims_are_refused(experiment, victim):
    with pytest.raises(BadInput, match="needs an exact linear victim"):
        experiment.prepare(cell(victim=victim), Trial("digit=3", 0))


def test_it_needs_a_victim_and_a_row_to_flip():
    from counting import pool_of, task_of

    pool = pool_of([(0, 0, 2), (1, 1, 2)], [(0, 0, 2), (1, 1, 2)])
    with pytest.raises(BadInput, match="give draw_poison an attacker and a victim"):
        pursue_model(task_of(pool, [0], 1, settings=ModelTargeted()))
    victim = LogisticRegression()
    model = victim.fit_many([pool.clean_job()], [0])[0]
    with pytest.raises(BadInput, match="no row can be flipped"):
        Pursuit.of(victim, model, pool, np.array([6, 7]), np.ones(2, np.int64), distinct=False)
