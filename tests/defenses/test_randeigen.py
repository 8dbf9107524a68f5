"""RandEigen, as we read it: its gradients, its probabilities, where it stops, and poison that does not stick out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from subpop.defenses.randeigen import filter_gradients, gradient_factors, randeigen
from subpop.testing import check_defense, gaussian
from subpop.types import BadInput, Knowledge, TrainingSet


class Linear:
    """Softmax regression with given weights, (d + 1, C)."""

    def __init__(self, weights):
        self.weights = weights

    def predict_proba(self, x):
        scores = np.exp(np.column_stack([x, np.ones(len(x))]) @ self.weights)
        return scores / scores.sum(axis=1, keepdims=True)

    def features(self, x):
        return np.asarray(x, np.float32)


def kept(vectors, seed=0, *, eps=0.05, centred=True, limit="twice"):
    return filter_gradients(np.asarray(vectors, float), eps, np.random.default_rng(seed), centred=centred, limit=limit)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_gradients_are_those_of_the_loss(n_classes):
    """Against differences of the loss; with two classes only the weights of class 1 move."""
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((6, 2)).astype(np.float32), np.arange(6) % n_classes
    weights = generator.standard_normal((3, n_classes))
    residual, design = gradient_factors(Linear(weights), TrainingSet.of(x, y))
    classes = [1] if n_classes == 2 else range(n_classes)
    for column, label in enumerate(classes):
        for feature in range(3):
            step = np.zeros_like(weights)
            step[feature, label] = 1e-6
            up, down = (
                -np.log(Linear(weights + sign * step).predict_proba(x)[np.arange(6), y].astype(float)) for sign in (1, -1)
            )
            np.testing.assert_allclose(residual[:, column] * design[:, feature], (up - down) / 2e-6, atol=1e-6)
    assert residual.shape[1] == len(classes)


def test_a_few_huge_gradients_are_removed_and_few_others():
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((200, 8))
    huge = np.arange(200) % 40 == 39  # also the last row: the released mask does not reach it
    vectors[huge] *= 100
    for seed in range(20):
        stays, _ = kept(vectors, seed, eps=5 / 200)
        assert stays[huge].sum() <= 1
        assert stays[~huge].mean() > 0.65  # 5 rows are less than the limit of 10, so that a round without outliers may follow


def test_a_row_is_removed_with_the_probability_of_its_projection():
    """One dimension, mean 0, largest 4: rows at 0 never go, those at 1 in a quarter of the cases, those at 4 always."""
    vectors = np.array([0, 0, 0, 0, 1, -1, 1, -1, 4, -4, 0, 0])[:, None]
    stays = np.array([kept(vectors, seed, eps=0.08)[0] for seed in range(400)])
    assert stays[:, vectors[:, 0] == 0].all()
    assert not stays[:, np.abs(vectors[:, 0]) == 4].any()
    ones = stays[:, np.abs(vectors[:, 0]) == 1]
    assert binomtest(int((~ones).sum()), ones.size, 0.25).pvalue > 0.001


def test_groups_lose_no_more_after_twice_the_poison_and_nearly_all_without_a_limit():
    vectors = np.random.default_rng(0).standard_normal((400, 5))
    limited, n_limited = kept(vectors, eps=0.1)
    free, n_free = kept(vectors, eps=0.1, limit="none")
    assert n_limited == 1
    assert 0.15 < 1 - limited.mean() < 0.4
    assert n_free > 5
    assert free.mean() < 0.15


def test_it_stops_where_the_eigenvalue_stays_or_most_projections_are_large():
    """Two points of equal size: all projections are the largest. And equal rows have no direction at all."""
    assert kept(np.repeat([[-1.0], [1.0]], 50, axis=0))[0].all()
    assert kept(np.ones((50, 3)))[0].all()
    assert kept(np.zeros((50, 3)))[0].all()


def test_without_centring_the_mean_hides_an_outlier():
    """Rows at 100 to 101, and one at 130: relative to the mean only this one sticks out, but from 0 they are all far away."""
    vectors = np.append(np.linspace(100, 101, 99), 130)[:, None]
    assert not kept(vectors)[0][-1]
    assert kept(vectors, centred=False)[0].all()


def test_long_gradients_are_projected_first():
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((60, 3000))
    vectors[-1] *= 50
    stays, _ = kept(vectors, eps=1 / 60)
    assert not stays[-1]
    assert stays.sum() > 30


class Hidden:
    """A model with given residuals of class 1 and features of 1."""

    def __init__(self, train, residual):
        self.proba = dict(zip(train.x[:, 0].tolist(), np.where(train.y, 1 + residual, residual).tolist(), strict=True))

    def predict_proba(self, x):
        one = np.array([self.proba[value] for value in x[:, 0].tolist()])
        return np.column_stack([1 - one, one])

    def features(self, x):
        return np.ones((len(x), 1), np.float32)


def test_a_row_can_be_an_outlier_of_its_label_alone():
    """Residuals: .5 for half of label 0, 0 for its rest; .5 for a single row of label 1. Among all rows it is one of many."""
    y = np.repeat([0, 1], [100, 101])
    residual = np.where(y == 0, (np.arange(201) % 2) * 0.5, 0.0)
    residual[-1] = -0.5
    train = TrainingSet.of(np.arange(201, dtype=np.float32)[:, None], y)

    def removed(group):
        found = [
            randeigen(train, lambda part: Hidden(train, residual), Knowledge(n_poison=1), seed=seed, group=group).keep
            for seed in range(10)
        ]
        return 1 - np.mean([keep[100:200].mean() for keep in found]), sum(not keep[-1] for keep in found)

    per_label, outlier = removed("label")
    assert outlier == 10
    assert per_label < 0.03
    assert removed("all")[0] > 0.1


def test_batches_have_at_most_128_rows_and_no_row_is_unseen():
    """600 rows, of which every tenth sticks out: all of these go, wherever they are."""
    n = 600
    residual = np.where(np.arange(n) % 10, 0.001, 0.9) * np.where(np.arange(n) % 2, -1, 1)
    train = TrainingSet.of(np.arange(n, dtype=np.float32)[:, None], np.arange(n) % 2)
    found = randeigen(train, lambda part: Hidden(train, residual), Knowledge(n_poison=60), seed=0)
    assert found.keep[np.arange(n) % 10 > 0].mean() > 0.85
    assert found.keep[np.arange(n) % 10 == 0].mean() < 0.1


def test_it_must_fail_on_poison_that_the_model_fits():
    """60 poison rows, fitted like all others, outvote the 20 clean rows of their group, which stick out and go."""
    y = np.repeat([0, 1, 0, 1], [100, 20, 60, 100])
    residual = np.where(y, -0.01, 0.01)
    residual[100:120] = -0.8
    train = TrainingSet.of(np.arange(280, dtype=np.float32)[:, None], y)
    keep = randeigen(train, lambda part: Hidden(train, residual), Knowledge(n_poison=60), seed=0).keep
    assert (~keep[100:120]).mean() > 0.9
    assert keep[120:180].mean() > 0.8


def test_without_poison_it_is_the_undefended_model():
    toy, asked = gaussian(240, 2), []
    found = randeigen(toy.train(), lambda part: asked.append(part) or toy.fit(part), Knowledge(n_poison=0), seed=0)
    assert found.keep.all()
    assert len(asked) == 1
    assert found.diagnostics == {"rounds": 0.0}


@pytest.mark.parametrize("group", ["batch", "label", "all"])
def test_the_order_of_rows_decides_nothing(group):
    toy = gaussian(300, 2, n_poison=30)
    order = np.random.default_rng(1).permutation(330)
    keep = randeigen(toy.train(), toy.fit, Knowledge(n_poison=30), seed=0, group=group).keep
    other = toy.reordered(order)
    again = randeigen(other.train(), lambda part: toy.fit(toy.train()), Knowledge(n_poison=30), seed=0, group=group).keep
    np.testing.assert_array_equal(again, keep[order])
    assert (~keep & toy.poison).sum() > 15
    different = randeigen(toy.train(), toy.fit, Knowledge(n_poison=30), seed=1, group=group).keep
    assert not np.array_equal(different, keep)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"group": "class"}, "group='class' .* batch, label, all"),
        ({"limit": "2"}, "limit='2' .* twice, none"),
        ({"eps_times": 0}, "eps_times=0 .* above 0"),
        ({"eps_times": float("nan")}, "eps_times=nan "),
    ],
)
def test_unusable_settings(given, message):
    def fit(train):
        raise AssertionError("trained")

    with pytest.raises(BadInput, match=message):
        randeigen(gaussian(24, 2).train(), fit, Knowledge(n_poison=2), seed=0, **given)


def test_it_needs_the_number_of_poison_rows():
    with pytest.raises(BadInput, match="randeigen needs n_poison"):
        randeigen(gaussian(24, 2).train(), lambda train: None, Knowledge(), seed=0)
    assert randeigen.needs == {"n_poison"}


def test_it_keeps_the_contract():
    assert all(result.passed for result in check_defense(randeigen))
