"""TRIM with an exact logistic learner: what it finds, where it must fail, and what holds in every round."""

from __future__ import annotations

from itertools import combinations
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_expit
from sklearn.linear_model import LogisticRegression
from toy_poison import told, with_label_noise

from subpop.defenses.filters import highest
from subpop.defenses.trim import given_label_loss, trim
from subpop.types import BadInput, TrainingSet

PENALTY = 1.0


class Logistic:
    """Summed log loss + PENALTY / 2 |w|^2 at its minimum, intercept free; a class that is missing keeps its column."""

    def __init__(self, train, n_classes=2):
        self.n_classes = n_classes
        self.labels = np.unique(train.y)
        self.n_rows = len(train)
        if len(self.labels) > 1:
            solver = LogisticRegression(C=1 / PENALTY, solver="newton-cholesky", tol=1e-8, max_iter=200)
            self.fitted = solver.fit(train.x.astype(np.float64), train.y)

    def predict_proba(self, x):
        proba = np.zeros((len(x), self.n_classes), np.float32)
        proba[:, self.labels] = self.fitted.predict_proba(x.astype(np.float64)) if len(self.labels) > 1 else 1
        return proba

    def features(self, x):
        return np.asarray(x, np.float32)

    def objective(self, x, y):
        margin = (2 * y - 1) * (x @ self.fitted.coef_[0] + self.fitted.intercept_[0])
        return -log_expit(margin).sum() + PENALTY / 2 * (self.fitted.coef_**2).sum()


class Recorder:
    """A fit that remembers the sets it was given."""

    def __init__(self, fit=Logistic):
        self.fit, self.sets, self.models = fit, [], []

    def __call__(self, train):
        self.sets.append(train)
        self.models.append(self.fit(train))
        return self.models[-1]


def planted(generator, n, share=0.06):
    """Two classes along the first axis; a small subpopulation of the second class lies far out on another axis."""
    member, y = generator.random(n) < share, generator.integers(0, 2, n)
    y[member] = 1
    x = generator.standard_normal((n, 4))
    x[:, 0] += np.where(y == 1, 2, -2)
    x[member, 1] += 6
    return x.astype(np.float32), y, member


def test_without_poison_it_is_the_undefended_model():
    x, y, _ = with_label_noise(np.random.default_rng(0), 200)
    fit = Recorder()
    found = trim(TrainingSet.of(x, y), fit, told(0), seed=0)
    assert found.keep.all()
    assert len(fit.sets) == 1
    np.testing.assert_array_equal(found.model.predict_proba(x), Logistic(TrainingSet.of(x, y)).predict_proba(x))
    assert dict(found.diagnostics) == {"rounds": 1, "converged": 1, "tied": 0}


@pytest.mark.parametrize("n_classes", [2, 3])
def test_finds_random_label_noise(n_classes):
    for seed in range(3):
        x, y, noisy = with_label_noise(np.random.default_rng(seed), 400, n_classes)
        found = trim(TrainingSet.of(x, y), lambda t: Logistic(t, n_classes), told(int(noisy.sum())), seed=0)
        assert (~found.keep).sum() == noisy.sum()
        assert (~found.keep & noisy).sum() / noisy.sum() > 0.9


def test_makes_a_planted_subpopulation_worse():
    for seed in range(3):
        generator = np.random.default_rng(seed)
        x, y, member = planted(generator, 1000)
        aux_x, aux_y, aux_member = planted(generator, 4000)
        m = 2 * int(member.sum())
        rows = np.flatnonzero(aux_member)[:m]
        train = TrainingSet.of(np.concatenate([x, aux_x[rows]]), np.concatenate([y, 1 - aux_y[rows]]))
        poison = np.arange(len(train)) >= 1000
        found = trim(train, Logistic, told(m), seed=0)
        clean_members = np.concatenate([member, np.zeros(m, bool)])
        assert (~found.keep & clean_members).sum() > 0.6 * member.sum()
        assert (~found.keep & poison).sum() < 0.4 * m
        test_x, test_y, test_member = planted(generator, 5000)
        accuracy = {
            name: (model.predict_proba(test_x).argmax(1) == test_y)[test_member].mean()
            for name, model in {"clean": Logistic(train[~poison]), "none": Logistic(train), "trim": found.model}.items()
        }
        assert accuracy["clean"] > 0.95
        assert accuracy["trim"] < accuracy["none"] - 0.03 < accuracy["clean"] - 0.5


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_permuting_the_rows_permutes_the_mask(seed):
    generator = np.random.default_rng(seed)
    x, y, _ = with_label_noise(generator, 120, share=0.2)
    train, order = TrainingSet.of(x, y), generator.permutation(120)
    keep = trim(train, Logistic, told(20), seed=0).keep
    np.testing.assert_array_equal(trim(TrainingSet.of(x[order], y[order]), Logistic, told(20), seed=1).keep, keep[order])
    np.testing.assert_array_equal(trim(train[order], Logistic, told(20), seed=1).keep, keep[order])


def test_the_gap_is_the_smallest_difference_of_losses_at_the_cut():
    train = TrainingSet.of(np.arange(4, dtype=np.float32)[:, None], np.zeros(4, np.int64))
    wrong = [np.array([0.1, 0.2, 0.3, 0.5]), np.array([0.1, 0.4, 0.3, 0.45])]

    class Fixed:
        def __init__(self, chances):
            self.proba = np.column_stack([1 - chances, chances])

        def predict_proba(self, x):
            return self.proba[x[:, 0].astype(int)]

    models = iter([Fixed(wrong[0]), Fixed(wrong[1])])
    found = trim(train, lambda t: next(models), told(1), seed=0)
    assert found.keep.tolist() == [True, True, True, False]
    assert found.diagnostics["gap"] == pytest.approx(min(np.log(0.7 / 0.5), np.log(0.6 / 0.55)))


def test_equal_losses_go_by_id():
    x = np.zeros((6, 1), np.float32)
    train = TrainingSet.of(x, np.array([0, 0, 0, 1, 1, 1]))
    flat = np.full((6, 2), 0.5, np.float32)

    class Undecided:
        predict_proba = features = staticmethod(lambda x: flat)

    assert trim(train, lambda t: Undecided(), told(2), seed=0).keep.tolist() == [True] * 4 + [False] * 2
    order = np.array([5, 3, 1, 0, 2, 4])
    kept = train[order][trim(train[order], lambda t: Undecided(), told(2), seed=0).keep]
    assert sorted(kept.ids) == [0, 1, 2, 3]


def overlapping(seed, n=150):
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 2, n)
    return (0.7 * y[:, None] + generator.standard_normal((n, 3))).astype(np.float32), y


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_trimmed_objective_never_rises_and_the_loop_ends(seed, n_drop):
    x, y = overlapping(seed)
    fit = Recorder()
    found = trim(TrainingSet.of(x, y), fit, told(n_drop), seed=0, max_rounds=200)
    objectives = [model.objective(part.x, part.y) for model, part in zip(fit.models, fit.sets, strict=True)][1:]
    assert np.all(np.diff(objectives) <= 1e-6)
    assert found.diagnostics["converged"] == 1
    assert len(fit.sets) < 200


def test_fixed_point_against_all_subsets():
    n_global = 0
    for seed in range(6):
        x, y = overlapping(seed, n=10)
        y[:2] = [0, 1]
        train = TrainingSet.of(x, y)
        found = trim(train, Logistic, told(2), seed=0)
        reached = Logistic(train[found.keep]).objective(x[found.keep], y[found.keep])
        losses = given_label_loss(found.model.predict_proba(x), y)
        assert losses[found.keep].max() <= losses[~found.keep].min()  # for this model, no other set is better
        everything = []
        for dropped in combinations(range(10), 2):
            keep = ~np.isin(np.arange(10), dropped)
            if len(np.unique(y[keep])) == 2:
                everything.append(Logistic(train[keep]).objective(x[keep], y[keep]))
        assert reached >= min(everything) - 1e-6
        n_global += reached <= min(everything) + 1e-6
    assert n_global >= 1


def test_two_flipped_rows_are_the_best_ones_to_drop():
    x = np.array([-3, -2.5, -2, -1.8, 2.2, 1.8, 2, 2.5, 3, -2.2], np.float32)[:, None]
    y = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])  # rows 4 and 9 lie on the wrong side
    train = TrainingSet.of(x, y)
    found = trim(train, Logistic, told(2), seed=0)
    assert np.flatnonzero(~found.keep).tolist() == [4, 9]
    best = min(
        (Logistic(train[keep]).objective(x[keep], y[keep]), dropped)
        for dropped in combinations(range(10), 2)
        for keep in [~np.isin(np.arange(10), dropped)]
    )
    assert best[1] == (4, 9)


def test_equals_algorithm_4_written_out():
    for seed in range(5):
        x, y = overlapping(seed, n=80)
        n, m, limit = 80, 20, 3
        chosen, previous, rounds = np.arange(n), np.array([]), 0
        while not np.array_equal(chosen, previous) and rounds < limit:
            previous, rounds = chosen, rounds + 1
            solver = LogisticRegression(C=1 / PENALTY, solver="newton-cholesky", tol=1e-10).fit(
                x[chosen].astype(float), y[chosen]
            )
            losses = -solver.predict_log_proba(x.astype(float))[np.arange(n), y]
            chosen = np.sort(np.argsort(losses, kind="stable")[: n - m])
        found = trim(TrainingSet.of(x, y), Logistic, told(m), seed=0, max_rounds=limit)
        np.testing.assert_array_equal(np.flatnonzero(found.keep), previous)
        assert found.diagnostics["rounds"] == rounds


def test_the_mask_is_the_set_that_the_model_was_trained_on():
    x, y = overlapping(1)
    for limit in (1, 2, 3, 50):
        fit = Recorder()
        found = trim(TrainingSet.of(x, y), fit, told(40), seed=0, max_rounds=limit)
        np.testing.assert_array_equal(fit.sets[-1].ids, np.flatnonzero(found.keep))
        assert found.model is fit.models[-1]
        assert len(fit.sets) == found.diagnostics["rounds"] <= limit
    assert found.diagnostics["converged"] == 1


def test_a_learner_that_goes_in_circles_ends_too():
    x, y = np.arange(4, dtype=np.float32)[:, None], np.zeros(4, int)

    class Contrary:
        """Fits least what it was trained on."""

        def __init__(self, train):
            self.seen = set(train.x[:, 0].tolist())

        def predict_proba(self, x):
            own = np.where(np.isin(x[:, 0], list(self.seen)), 0.2, 0.8) - x[:, 0] / 100
            return np.stack([own, 1 - own], axis=1).astype(np.float32)

        features = predict_proba

    found = trim(TrainingSet.of(x, y), Contrary, told(2), seed=0, max_rounds=50)
    assert found.diagnostics["rounds"] < 5
    assert found.diagnostics["converged"] == 0
    assert found.keep.sum() == 2


def test_a_class_may_disappear():
    x = np.array([-1, -1.1, -0.9, -1.2, 1, 1.1, 1.2, -1], np.float32)[:, None]
    found = trim(TrainingSet.of(x, np.array([0, 0, 0, 0, 0, 0, 0, 1])), Logistic, told(1), seed=0)
    assert np.flatnonzero(~found.keep).tolist() == [7]
    assert found.model.predict_proba(x).shape == (8, 2)


def test_loss_is_exact_at_both_ends():
    proba = np.array([[1e-12, 1.0], [1.0, 0.0], [0.25, 0.75], [1.0, 1e-30]], np.float32)
    found = given_label_loss(proba, np.array([1, 1, 1, 1]))
    assert found[0] == pytest.approx(1e-12, rel=1e-6, abs=0)
    assert np.isfinite(found[1])
    assert found[1] > 700
    assert found[2] == pytest.approx(np.log(4 / 3), rel=1e-6)
    assert found[3] == pytest.approx(30 * np.log(10), rel=1e-6)
    random = np.random.default_rng(0).dirichlet(np.ones(4), 200)
    y = np.random.default_rng(1).integers(0, 4, 200)
    np.testing.assert_allclose(given_label_loss(random, y), -np.log(random[np.arange(200), y]), rtol=1e-9)


def test_rows_are_ranked_as_by_their_losses_near_one_half_and_at_both_ends():
    step = np.float32(2**-24)
    chance = np.concatenate([0.5 + step * np.arange(-50, 51), np.float32([0, 1e-38, 1e-20, 1e-3, 0.999, 1 - step, 1])])
    own = np.random.default_rng(0).permutation(chance.astype(np.float32))
    proba = np.stack([1 - own, own], axis=1)
    scores: list = []

    class Fixed:
        def predict_proba(self, x):
            return proba

    def ranked(scored, ids, count):
        scores.append(scored)
        return highest(scored, ids, count)

    train = TrainingSet.of(np.zeros((len(own), 1), np.float32), np.ones(len(own), np.int64))
    with patch("subpop.defenses.filters.highest", ranked):
        found = trim(train, lambda _: Fixed(), told(60), seed=0)
    loss = -np.log(np.maximum(own.astype(np.float64), np.finfo(np.float64).tiny))
    sure = own > 0.5
    loss[sure] = -np.log1p(-proba[sure, 0].astype(np.float64))
    assert (np.argsort(scores[0], kind="stable") == np.argsort(loss, kind="stable")).all()
    ordered = np.sort(loss)
    assert found.diagnostics["gap"] == pytest.approx(ordered[-60] - ordered[-61], rel=1e-6)


def test_highest():
    scores, ids = np.array([0.5, 0.9, 0.5, 0.1]), np.array([3, 0, 1, 2])
    assert highest(scores, ids, 2).tolist() == [True, True, False, False]
    assert highest(scores, ids, 0).sum() == 0
    assert highest(scores, ids, 4).sum() == 4


@pytest.mark.parametrize("levels", [1, 3, 10**9])
@pytest.mark.parametrize("order", ["random", "ascending", "rare in the sample"])
def test_highest_is_the_end_of_the_sorted_rows(levels, order):
    """Whatever a sample of every sixteenth score looks like."""
    generator = np.random.default_rng(0)
    scores, ids = generator.integers(0, levels, 300).astype(float), generator.permutation(300)
    if order == "ascending":
        scores.sort()
    if order == "rare in the sample":
        scores[::16] += 10.0 * levels
    ranked = np.lexsort((ids, scores))
    for count in (1, 2, 17, 40, 299, 300):
        assert set(np.flatnonzero(highest(scores, ids, count))) == set(ranked[300 - count :])


@pytest.mark.parametrize("n_poison", [None, -1, 150, 151])
def test_must_be_told_a_usable_number(n_poison):
    x, y = overlapping(0)
    with pytest.raises(BadInput, match=f"n_poison.*got {n_poison}"):
        trim(TrainingSet.of(x, y), Logistic, told(n_poison), seed=0)
    assert trim.needs == {"n_poison"}
