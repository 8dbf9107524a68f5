"""Influence: the formulas against retraining, the curvature against itself computed another way, and the attack's choices."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from test_gradient_match import attacker_of, aux_model, drawn, members_of, picture_pool, rng, table_pool

from subpop.attacks import curvature as curvature_module
from subpop.attacks import label_flip
from subpop.attacks.attacker import Attacker, Target
from subpop.attacks.boxes import Box
from subpop.attacks.curvature import Curvature, Penalty, penalty_of
from subpop.attacks.gradient_match import inner_values
from subpop.attacks.influence import cycled, influence
from subpop.attacks.last_layers import Head, split
from subpop.types import BadInput, FleetJob, Pool
from subpop.victims.conv_net import ConvNet
from subpop.victims.last_layer import LastLayer
from subpop.victims.logistic import LogisticRegression
from subpop.victims.mlp import MLP


def cross_entropy(model, x, y):
    _, head = split(model)
    p = head.probabilities(x.reshape(len(x), -1).astype(np.float64))
    p = np.concatenate([1 - p, p], axis=1) if p.shape[1] == 1 else p
    return float(-np.log(p[np.arange(len(y)), y]).mean())


# --- what the attack ranks and moves rows by, against retraining -----------------------------------------------------


class Convex:
    """A small convex problem: a target in D_aux, s at the optimum, and true changes of its loss by exact solves."""

    def __init__(self, n_classes: int, victim) -> None:
        g = rng(5)
        n, d = 150, 4
        y = g.integers(0, n_classes, 2 * n)
        x = (g.normal(size=(2 * n, d)) + 1.2 * np.eye(d)[y]).astype(np.float32)
        self.pool, self.victim, self.n = Pool(x, y, n, n_classes), victim, n
        self.aux = np.arange(n, 2 * n)
        self.model = self.trained([self.job()])[0]
        self.attacker = Attacker(self.model, victim, self.pool, Box.of(self.pool, None))
        self.target = self.aux[(y[self.aux] == 0) & (x[self.aux, 1] > 0)]
        self.s = self.attacker.curvature.solve(self.attacker.gradient(self.target))
        self.before = self.loss(self.model)

    def pairings(self, y):
        """(n,) s . grad l of the rows of D_aux with labels y, and the gradient of each in its row."""
        found, gradient = inner_values(self.attacker, y, self.s)(self.pool.x[self.aux].astype(np.float64))
        return found, gradient()

    def job(self, rows=None, y=None, extra=None):
        rows = self.aux if rows is None else rows
        return FleetJob(self.pool, rows, self.pool.y[rows] if y is None else y, extra_x=extra)

    def trained(self, jobs):
        return self.victim.fit_many(jobs, [0] * len(jobs))

    def loss(self, model):
        return cross_entropy(model, self.pool.x[self.target], self.pool.y[self.target])

    def changes(self, jobs):
        return np.array([self.loss(model) - self.before for model in self.trained(jobs)])


@pytest.fixture(scope="module", params=["binary", "softmax", "last_layer"])
def convex(request):
    return Convex(3 if request.param == "softmax" else 2, LastLayer() if request.param == "last_layer" else LogisticRegression())


def agree(predicted, true, slope=0.1):
    assert pearsonr(predicted, true)[0] > 0.95
    assert spearmanr(predicted, true)[0] > 0.95
    assert np.polyfit(predicted, true, 1)[0] == pytest.approx(1, abs=slope)


def test_leaving_one_out(convex):
    pairings, _ = convex.pairings(convex.pool.y[convex.aux])
    agree(pairings / convex.n, convex.changes([convex.job(np.delete(convex.aux, i)) for i in range(convex.n)]))


def test_adding_one(convex):
    """A row of D_aux once more, with a wrong label."""
    y = (convex.pool.y[convex.aux] + 1) % convex.pool.n_classes
    pairings, _ = convex.pairings(y)
    jobs = [
        convex.job(np.append(convex.aux, row), np.append(convex.pool.y[convex.aux], own))
        for row, own in zip(convex.aux, y, strict=True)
    ]
    agree(-pairings / convex.n, convex.changes(jobs), slope=0.15)


def test_moving_one(convex):
    """Every training row by a small random step, one at a time."""
    x = convex.pool.x[convex.aux].astype(np.float64)
    steps = 0.05 * rng(6).normal(size=x.shape)
    _, slopes = convex.pairings(convex.pool.y[convex.aux])
    jobs = []
    for i in range(convex.n):
        rows = convex.aux.copy()
        rows[i] = len(convex.pool)
        moved = (x[[i]] + steps[[i]]).astype(np.float32)
        jobs.append(convex.job(rows, convex.pool.y[convex.aux], moved))
    agree(-(slopes * steps).sum(axis=1) / convex.n, convex.changes(jobs))


def test_one_feature_by_hand():
    """n rows at 1, w = 0: p = 1/2, H = 1/4 + lambda without an intercept's part; s and its uses follow."""
    head = Head(np.zeros((1, 1)), np.zeros(1))
    features = np.array([[1.0], [-1.0]])  # their mean is 0: kernel and bias do not mix
    curvature = Curvature(head, features, Penalty(0.75, 0.25))
    g = head.mean_gradient(np.array([[1.0]]), np.array([1]))
    assert g.ravel().tolist() == [-0.5, -0.5]
    s = curvature.solve(g)
    np.testing.assert_allclose(s.ravel(), [-0.5, -1.0], rtol=1e-14)
    row, label = np.array([[1.0]]), np.array([0])  # its gradient is (1/2, 1/2)
    assert head.pairings(row, label, s) == pytest.approx([-0.75])
    # grad_f = (p - y) s + p (1 - p) (s . f) w, and w is 0.
    assert head.pairing_gradients(row, label, s)[0] == pytest.approx([-0.25])


# --- the curvature ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 3])
def test_the_curvature_is_the_slope_of_the_gradient(columns):
    g = rng(7)
    features, y = g.normal(size=(30, 3)), g.integers(0, max(2, columns), 30)
    weights, v = g.normal(size=(4, columns)), g.normal(size=(4, columns))

    def gradient(t):
        w = weights + t * v
        return Head(w[:-1], w[-1]).mean_gradient(features, y) + np.array([0.3, 0.3, 0.3, 0.1])[:, None] * w

    own = Curvature(Head(weights[:-1], weights[-1]), features, Penalty(0.3, 0.1))
    np.testing.assert_allclose(own.times(v), (gradient(1e-5) - gradient(-1e-5)) / 2e-5, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(own.times(own.solve(v)), v, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
def test_conjugate_gradients_agree_with_the_factor(classes, monkeypatch):
    pool = table_pool(classes)
    x = pool.x.astype(np.float64) * np.array([1, 100, 1, 1e-3, 1, 1])
    _, head = split(aux_model(pool, LastLayer()))
    own = Curvature(head, x, Penalty(0.02, 0.0))
    g = head.mean_gradient(x[:9], pool.y[:9])
    exact = own.solve(g)
    monkeypatch.setattr(curvature_module, "LARGEST", 1)
    np.testing.assert_allclose(own.solve(g), exact, rtol=1e-6, atol=1e-9 * np.abs(exact).max())
    np.testing.assert_allclose(own.times(exact), g, atol=1e-10)
    monkeypatch.setattr(curvature_module, "MOST_STEPS", 1)
    with pytest.raises(BadInput, match="1 steps of conjugate gradients"):
        own.solve(g)


def test_a_singular_curvature_is_refused():
    head = Head(np.zeros((2, 1)), np.zeros(1))
    with pytest.raises(BadInput, match="singular: a column is 0"):
        Curvature(head, np.array([[1.0, 0.0], [2.0, 0.0]]), Penalty(0, 0)).solve(np.ones((3, 1)))
    with pytest.raises(BadInput, match="raise the victim's penalty"):
        Curvature(head, np.array([[1.0, 1.0], [2.0, 2.0]]), Penalty(0, 0)).solve(np.ones((3, 1)))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(
    "victim", [LogisticRegression(), LogisticRegression(0.1, "mean", False), LogisticRegression(3.0, "sum", False), LastLayer()]
)
def test_the_penalty_is_the_one_of_the_optimum(n_classes, victim):
    """At the optimum the mean loss's gradient and the penalty's cancel: an independent look at what was penalised."""
    wide = table_pool(n_classes)
    pool = Pool(wide.x[:, :4], wide.y, wide.n_train, n_classes)
    model = aux_model(pool, victim)
    _, head = split(model)
    aux = slice(pool.n_train, None)
    g = head.mean_gradient(pool.x[aux].astype(np.float64), pool.y[aux])
    penalty = penalty_of(victim, model, len(pool) - pool.n_train)
    pull = np.concatenate([penalty.kernel * head.kernel, penalty.bias * head.bias[None]])
    assert np.abs(g).max() > 1e-4
    np.testing.assert_allclose(g, -pull, atol=1e-6)


def test_a_victim_without_a_penalty_is_refused():
    pool = table_pool()
    victim = MLP(hidden=3, max_epochs=2)
    with pytest.raises(BadInput, match=r"MLP.*gradient_match"):
        penalty_of(victim, aux_model(pool, victim), 60)


# --- the attack -------------------------------------------------------------------------------------------------------


def run(pool, count, epsilon=None, sampling="with_replacement", victim=None, rows=None):
    attacker = attacker_of(pool, epsilon, victim)
    rows = members_of(pool) if rows is None else rows
    plain = label_flip(rows, pool.y[rows], count, n_classes=2, rule="own", target=None, sampling=sampling, generator=rng())
    return attacker, rows, influence(plain, Target(rows, 1 - pool.y[rows], sampling), attacker)


def test_the_most_harmful_rows_are_chosen():
    """Ranked as true retraining ranks them, one at a time."""
    pool = table_pool()
    _, rows, poison = run(pool, 12, sampling="distinct")
    assert sorted(poison.origin) == sorted(rows)
    aux = np.arange(pool.n_train, len(pool))
    jobs = [FleetJob(pool, np.append(aux, row), np.append(pool.y[aux], 1 - pool.y[row])) for row in poison.origin]
    harm = [cross_entropy(m, pool.x[rows], pool.y[rows]) for m in LogisticRegression().fit_many(jobs, [0] * 12)]
    assert spearmanr(harm, -np.arange(12))[0] > 0.95
    few = run(pool, 3, sampling="distinct")[2]
    assert np.array_equal(few.origin, poison.origin[:3])
    assert np.array_equal(few.extra_x, poison.extra_x[:3])


def test_a_moved_row_hurts_more_than_the_row_it_was():
    """One row at a time, by true retraining, in a small box where first order holds."""
    pool = table_pool()
    _, rows, poison = run(pool, 12, epsilon=8.0, sampling="distinct")
    aux = np.arange(pool.n_train, len(pool))

    def harm(row, extra, label):
        jobs = [FleetJob(pool, np.append(aux, row), np.append(pool.y[aux], label), extra_x=extra)]
        return cross_entropy(LogisticRegression().fit_many(jobs, [0])[0], pool.x[rows], pool.y[rows])

    for i in range(12):
        plain = harm(poison.origin[i], None, poison.y[i])
        assert harm(len(pool), poison.extra_x[[i]], poison.y[i]) > plain


def test_the_ranking_is_gone_through_again():
    pool = table_pool()
    _, _, poison = run(pool, 30)
    assert np.array_equal(poison.origin[:12], poison.origin[12:24])
    assert np.array_equal(poison.origin[:6], poison.origin[24:])
    assert len(set(poison.origin[:12])) == 12
    assert poison.n_flipped == 30
    assert cycled(5, 2, "with_replacement").tolist() == [0, 1, 0, 1, 0]
    with pytest.raises(BadInput, match="3 distinct poison rows from 2"):
        cycled(3, 2, "distinct")


def test_a_row_that_the_split_repeats_is_chosen_once():
    pool = table_pool()
    rows = np.repeat(members_of(pool)[:4], 2)
    _, _, poison = run(pool, 4, sampling="distinct", rows=rows)
    assert len(set(poison.origin)) == 4


def test_boxes_hold_and_categories_stay():
    pool = table_pool()
    _, _, poison = run(pool, 12)
    aux = pool.x[pool.n_train :]
    assert (poison.extra_x >= aux.min(0)).all()
    assert (poison.extra_x <= aux.max(0)).all()
    assert np.array_equal(poison.extra_x[:, 5], pool.x[poison.origin][:, 5])
    assert np.array_equal(poison.extra_x[:, 4], np.rint(poison.extra_x[:, 4]))
    _, _, near = run(pool, 12, epsilon=16.0)
    reach = (aux.max(0).astype(float) - aux.min(0)) * 16 / 255
    assert (np.abs(near.extra_x.astype(float) - pool.x[near.origin]) <= reach * (1 + 1e-6)).all()


def test_pictures_through_a_network():
    pool = picture_pool()
    attacker, rows, poison = run(pool, 8, epsilon=12.0, sampling="distinct", victim=ConvNet(width=4, epochs=3))
    far = np.abs(poison.extra_x.astype(int) - pool.x[poison.origin])
    assert poison.extra_x.dtype == np.uint8
    assert 1 <= far.max() <= 12
    s = attacker.curvature.solve(attacker.gradient(rows))
    before, after = (attacker.head.pairings(attacker.features(x), poison.y, s) for x in (pool.x[poison.origin], poison.extra_x))
    assert after.sum() < before.sum()


def test_no_poison_stays_none():
    pool = table_pool()
    none = run(pool, 0)[2]
    assert (len(none), none.n_flipped, none.extra_x) == (0, 0, None)


def test_what_no_trial_changes_is_computed_once(monkeypatch):
    pool = table_pool()
    attacker, rows = attacker_of(pool), members_of(pool)
    target, solves = Target(rows, 1 - pool.y[rows]), []
    original = Curvature.solve
    monkeypatch.setattr(Curvature, "solve", lambda self, g: solves.append(1) or original(self, g))
    for count in (3, 7, 12):
        influence(drawn(pool, rows, count), target, attacker)
    assert solves == [1]
    afresh = Attacker(aux_model(pool), LogisticRegression(), pool, Box.of(pool, None))
    one, other = (influence(drawn(pool, rows, 7), target, own).extra_x for own in (attacker, afresh))
    assert np.array_equal(one, other)
