"""SEVER with an exact logistic learner, against an explicit gradient matrix and its singular vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from toy_poison import gaussians, told, with_far_cluster, with_label_noise

from subpop.defenses.sever import outlier_scores, sever, sever_as_released, sever_per_label
from subpop.types import BadInput, Knowledge, TrainingSet

FILTERS = [sever, sever_per_label, sever_as_released]


class Logistic:
    """Regularised logistic or softmax regression at its minimum; a class that is missing keeps its column."""

    def __init__(self, train, n_classes=2, solver="newton-cholesky"):
        self.n_classes = n_classes
        self.fitted = LogisticRegression(solver=solver, tol=1e-8, max_iter=500).fit(train.x.astype(np.float64), train.y)

    def predict_proba(self, x):
        proba = np.zeros((len(x), self.n_classes), np.float32)
        proba[:, self.fitted.classes_] = self.fitted.predict_proba(x.astype(np.float64))
        return proba

    def features(self, x):
        return np.asarray(x, np.float32)


class Fixed:
    """A model that was never trained: given probabilities and features, looked up by the first input column."""

    def __init__(self, proba, features):
        self.proba, self.representation = np.asarray(proba, np.float32), np.asarray(features, np.float32)

    def predict_proba(self, x):
        return self.proba[x[:, 0].astype(int)]

    def features(self, x):
        return self.representation[x[:, 0].astype(int)]


class Counter:
    def __init__(self, n_classes=2):
        self.n_fits, self.n_classes, self.last = 0, n_classes, None

    def __call__(self, train):
        self.n_fits, self.last = self.n_fits + 1, train
        return Logistic(train, self.n_classes)


@pytest.mark.parametrize("defense", FILTERS)
def test_without_poison_it_is_the_undefended_model(defense):
    x, y, _ = with_label_noise(np.random.default_rng(0), 200)
    fit = Counter()
    found = defense(TrainingSet.of(x, y), fit, told(0), seed=0)
    assert found.keep.all()
    assert fit.n_fits == 1
    np.testing.assert_array_equal(found.model.predict_proba(x), Logistic(TrainingSet.of(x, y)).predict_proba(x))


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("defense", [sever, sever_per_label])
def test_finds_random_label_noise(defense, n_classes):
    for seed in range(3):
        x, y, noisy = with_label_noise(np.random.default_rng(seed), 600, n_classes)
        found = defense(TrainingSet.of(x, y), Counter(n_classes), told(int(noisy.sum())), seed=0)
        assert (~found.keep & noisy).sum() / noisy.sum() > 0.9


@pytest.mark.parametrize("defense", [sever, sever_per_label])
def test_finds_a_far_cluster(defense):
    for seed in range(5):
        x, y, poison = with_far_cluster(np.random.default_rng(seed))
        found = defense(TrainingSet.of(x, y), Counter(), told(int(poison.sum())), seed=0)
        assert (~found.keep & poison).sum() / poison.sum() > 0.99


@pytest.mark.parametrize("data", [with_label_noise, with_far_cluster])
def test_released_stand_in_misses_rows_that_the_model_contradicts(data):
    x, y, poison = data(np.random.default_rng(0), 400)
    keep = sever_as_released(TrainingSet.of(x, y), Counter(), told(int(poison.sum())), seed=0).keep
    assert (~keep).sum() == poison.sum()
    assert (~keep & poison).sum() / poison.sum() < 0.3  # p (1 - p) is small where p_y is


def test_budgets():
    x, y, _ = with_label_noise(np.random.default_rng(1), 500, share=0.2)
    keep_rare = (y == 0) | (np.random.default_rng(2).random(500) < 0.5)
    x, y = x[keep_rare], y[keep_rare]
    train, smallest = TrainingSet.of(x, y), np.bincount(y).min()
    for n_poison in (1, 7, 40):
        fit = Counter()
        removed = ~sever(train, fit, told(n_poison), seed=0).keep
        assert removed.sum() == n_poison
        assert fit.n_fits == (3 if n_poison > 1 else 2)
    removed = ~sever_per_label(train, Counter(), told(40), seed=0).keep
    half = 40 / smallest / 2
    for label in (0, 1):
        members = y == label
        assert (removed & members).sum() / members.sum() == pytest.approx(1 - (1 - half) ** 2, abs=2 / members.sum())


def test_per_label_leaves_a_row_of_each_label():
    x, y, _ = with_label_noise(np.random.default_rng(1), 60)
    keep = sever_per_label(TrainingSet.of(x, y), Counter(), told(59), seed=0).keep
    assert set(y[keep]) == {0, 1}


@pytest.mark.parametrize("defense", FILTERS)
def test_the_mask_is_the_set_that_the_model_was_trained_on(defense):
    x, y, noisy = with_label_noise(np.random.default_rng(4), 300)
    fit = Counter()
    found = defense(TrainingSet.of(x, y), fit, told(int(noisy.sum())), seed=0)
    np.testing.assert_array_equal(fit.last.ids, np.flatnonzero(found.keep))


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(FILTERS), st.sampled_from([2, 3]))
def test_permuting_the_rows_permutes_the_mask(seed, defense, n_classes):
    generator = np.random.default_rng(seed)
    x, y, _ = with_label_noise(generator, 150, n_classes, share=0.2)
    order = generator.permutation(150)
    keep = defense(TrainingSet.of(x, y), Counter(n_classes), told(20), seed=0).keep
    permuted = TrainingSet.of(x[order], y[order])
    np.testing.assert_array_equal(defense(permuted, Counter(n_classes), told(20), seed=1).keep, keep[order])


def explicit_scores(proba, features, y):
    """The same scores from the gradient matrix and a full singular value decomposition."""
    features = np.asarray(features, np.float64)
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 1e-9, spread, np.inf)
    design = np.hstack([scaled, np.ones((len(y), 1))])
    residual = np.asarray(proba, np.float64) - np.eye(proba.shape[1])[y]
    gradients = np.einsum("nk,nd->nkd", residual, design).reshape(len(y), -1)
    scores = np.zeros(len(y))
    for label in np.unique(y):
        own = gradients[y == label] - gradients[y == label].mean(axis=0)
        scores[y == label] = np.abs(own @ np.linalg.svd(own, full_matrices=False)[2][0])
    return scores


@pytest.mark.parametrize(("n_classes", "dimension"), [(2, 1), (2, 8), (2, 300), (3, 4), (10, 30)])
def test_scores_equal_an_explicit_decomposition(n_classes, dimension):
    generator = np.random.default_rng(dimension)
    y = generator.integers(0, n_classes, 300)
    proba = generator.dirichlet(np.ones(n_classes), 300).astype(np.float32)
    features = (generator.standard_normal((300, dimension)) * np.logspace(0, 3, dimension)).astype(np.float32)
    x = np.arange(300, dtype=np.float32)[:, None]
    found = outlier_scores(Fixed(proba, features), TrainingSet.of(x, y))
    np.testing.assert_allclose(found, explicit_scores(proba, features, y), rtol=1e-3, atol=1e-3 * found.max())


@pytest.mark.parametrize(("n_classes", "n_cells"), [(2, 5), (2, 300), (3, 5)])
def test_scores_where_singular_vectors_tie(n_classes, n_cells):
    """One-hot cells of one size and one prediction: gradients of a label tie in all directions, and so do their rows."""
    generator = np.random.default_rng(0)
    features = np.repeat(np.eye(n_cells), 2 * n_classes, axis=0)
    y = np.tile(np.arange(n_classes), 2 * n_cells)
    proba = np.full((len(y), n_classes), 1 / n_classes)
    x = np.arange(len(y), dtype=np.float32)[:, None]
    found = outlier_scores(Fixed(proba, features), TrainingSet.of(x, y))
    assert found[0] > 0
    assert len(set(found.tolist())) == 1
    shuffled = features[:, generator.permutation(n_cells)]  # another basis of the same space
    np.testing.assert_allclose(outlier_scores(Fixed(proba, shuffled), TrainingSet.of(x, y)), found, rtol=1e-6)


def test_a_cut_between_equal_scores_is_marked():
    y = np.tile([0, 1], 20)
    x = np.arange(40, dtype=np.float32)[:, None]
    alike = Fixed(np.full((40, 2), 0.5), np.repeat(np.eye(5), 8, axis=0))
    for defense in (sever, sever_per_label):
        assert defense(TrainingSet.of(x, y), lambda t: alike, told(4), seed=0).diagnostics["tied"] == 1
        assert defense(TrainingSet.of(x, y), lambda t: alike, told(0), seed=0).diagnostics["tied"] == 0
    x, y, _ = with_label_noise(np.random.default_rng(4), 300)
    for defense in FILTERS:
        assert defense(TrainingSet.of(x, y), Counter(), told(20), seed=0).diagnostics["tied"] == 0


def test_a_rare_label_does_not_cost_the_others_more_than_half():
    """5 poison rows and a label of 3 rows: five thirds of every label would go."""
    generator = np.random.default_rng(0)
    x, _ = gaussians(generator, 121)
    y = (np.arange(121) < 3).astype(int)
    removed = ~sever_per_label(TrainingSet.of(x, y), Counter(), told(5), seed=0).keep
    assert (removed & (y == 0)).sum() == 59
    assert (removed & (y == 1)).sum() <= 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_refused(bad):
    features = np.ones((40, 3))
    features[7, 1] = bad
    broken = Fixed(np.full((40, 2), 0.5), features)
    train = TrainingSet.of(np.arange(40, dtype=np.float32)[:, None], np.tile([0, 1], 20))
    for defense in FILTERS:
        with pytest.raises(BadInput, match="features of the model contain NaN or infinite values in 1 of 40 rows"):
            defense(train, lambda t: broken, told(4), seed=0)


def test_scores_do_not_depend_on_units_or_constant_columns():
    generator = np.random.default_rng(0)
    x, y, _ = with_label_noise(generator, 200)
    proba = generator.dirichlet(np.ones(2), 200)
    rows = TrainingSet.of(np.arange(200, dtype=np.float32)[:, None], y)
    plain = outlier_scores(Fixed(proba, x), rows)
    constant = np.full((200, 3), 0.1, np.float32)
    constant[generator.random((200, 3)) < 0.5] = np.nextafter(np.float32(0.1), np.float32(1))  # but for rounding
    other_units = np.hstack([(x + 7) * np.array([1e4, 1, 1e-3, 1, 1]), constant])
    np.testing.assert_allclose(outlier_scores(Fixed(proba, other_units), rows), plain, rtol=1e-4, atol=1e-4 * plain.max())


def test_rows_that_do_not_stand_out_stay():
    x = np.zeros((40, 1), np.float32)
    y = np.repeat([0, 1], 20)
    same = Fixed(np.full((1, 2), 0.5), np.ones((1, 3)))
    for defense in (sever, sever_per_label):
        found = defense(TrainingSet.of(x, y), lambda t: same, told(10), seed=0)
        assert found.keep.all()


def test_released_scores_by_hand():
    proba = np.array([[0.5, 0.5], [0.9, 0.1], [0.5, 0.5], [0.99, 0.01]])
    lengths = np.array([[3.0, 4.0], [10.0, 0.0], [0.0, 1.0], [50.0, 0.0]])  # scores 1.25, 0.9, 0.25, 0.495
    train = TrainingSet.of(np.arange(4, dtype=np.float32)[:, None], np.array([0, 0, 1, 1]))
    fit = Fixed(proba, lengths)
    assert sever_as_released(train, lambda t: fit, told(1), seed=0).keep.tolist() == [False, True, True, True]
    assert sever_as_released(train, lambda t: fit, told(2), seed=0).keep.tolist() == [False, False, True, True]
    frozen = Knowledge(n_poison=1, representation=Fixed(proba, lengths[::-1]))  # scores 12.5, 0.09, 2.5, 0.0495
    assert sever_as_released(train, lambda t: fit, frozen, seed=0).keep.tolist() == [False, True, True, True]
    frozen = Knowledge(n_poison=1, representation=Fixed(proba, np.array([[0.0], [1.0], [9.0], [0.0]])))
    assert sever_as_released(train, lambda t: fit, frozen, seed=0).keep.tolist() == [True, True, False, True]


def test_representation_of_the_undefended_model_is_kept_through_the_rounds():
    x, y, noisy = with_label_noise(np.random.default_rng(3), 120)
    asked = []

    class Watched(Logistic):
        def features(self, x):
            asked.append(self)
            return super().features(x)

    models = []

    def fit(train):
        models.append(Watched(train))
        return models[-1]

    sever_as_released(TrainingSet.of(x, y), fit, told(int(noisy.sum())), seed=0)
    assert asked == [models[0]]
    assert 2 <= len(models) <= 5


@pytest.mark.parametrize("defense", FILTERS)
@pytest.mark.parametrize("n_poison", [None, -1, 100])
def test_must_be_told_a_usable_number(defense, n_poison):
    x, y, _ = with_label_noise(np.random.default_rng(0), 100)
    with pytest.raises(BadInput, match=f"{defense.__name__} needs n_poison.*got {n_poison}"):
        defense(TrainingSet.of(x, y), Counter(), told(n_poison), seed=0)


def test_needs():
    assert sever.needs == sever_per_label.needs == {"n_poison"}
    assert sever_as_released.needs == {"n_poison", "representation"}
