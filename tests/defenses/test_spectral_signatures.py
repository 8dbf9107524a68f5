"""Spectral signatures against an explicit singular value decomposition, with a victim whose features are its inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_poison import Counter, Plain, gaussians, told, with_far_cluster, with_poisoned_subpopulation

from subpop.defenses.spectral_signatures import (
    centred,
    signature_scores,
    spectral_signatures,
    spectral_signatures_as_released,
)
from subpop.types import BadInput, Knowledge, TrainingSet

FILTERS = [spectral_signatures, spectral_signatures_as_released]


@pytest.mark.parametrize("n", [1, 2, 40])
def test_told_of_nothing_it_is_the_undefended_model(n):
    x, y = gaussians(np.random.default_rng(0), n)
    fit = Counter()
    found = spectral_signatures(TrainingSet.of(x, y), fit, told(0), seed=0)
    assert found.keep.all()
    assert found.model is fit.models[0]
    assert len(fit.models) == 1


def test_scores_by_hand():
    x = np.array([[0.0], [1.0], [5.0], [7.0], [7.0]])  # means 2 and 7
    scores, along = signature_scores(x.astype(np.float32), np.array([0, 0, 0, 1, 1]))
    np.testing.assert_allclose(scores, [4, 1, 9, 0, 0], atol=1e-12)
    assert along == {0: pytest.approx(1), 1: 0.0}


def explicit_scores(features, y):
    scores = np.zeros(len(y))
    for label in np.unique(y):
        own = features[y == label].astype(np.float64)
        own = own - own.mean(axis=0)
        scores[y == label] = (own @ np.linalg.svd(own, full_matrices=False)[2][0]) ** 2
    return scores


@pytest.mark.parametrize(("n", "dimension"), [(200, 1), (200, 8), (600, 300), (60, 400)])
def test_scores_equal_an_explicit_decomposition(n, dimension):
    generator = np.random.default_rng(dimension)
    features = (generator.standard_normal((n, dimension)) * np.linspace(1, 3, dimension) + 50).astype(np.float32)
    y = generator.integers(0, 3, n)
    expected = explicit_scores(features, y)
    found, along = signature_scores(features, y)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.max())
    assert along[0] == pytest.approx(expected[y == 0].sum() / features[y == 0].var(axis=0).sum() / (y == 0).sum(), rel=1e-4)


@pytest.mark.parametrize("defense", FILTERS)
def test_finds_a_far_cluster(defense):
    for seed in range(5):
        x, y, poison = with_far_cluster(np.random.default_rng(seed), share=0.04)
        found = defense(TrainingSet.of(x, y), Counter(), told(int(poison.sum())), seed=0)
        assert not found.keep[poison].any()


@pytest.mark.parametrize("defense", FILTERS)
def test_misses_a_subpopulation_that_is_no_outlier(defense):
    for seed in range(3):
        x, y, poison = with_poisoned_subpopulation(np.random.default_rng(seed))
        found = defense(TrainingSet.of(x, y), Counter(), told(int(poison.sum())), seed=0)
        removed = ~found.keep
        assert removed.sum() > 50
        assert (removed & poison).sum() < removed.mean() * poison.sum()  # fewer than a random filter that drops as many


@pytest.mark.parametrize("n_poison", [1, 2, 7, 30, 90])
def test_budget_is_one_and_a_half_times_the_poison_in_every_label(n_poison):
    x, y = gaussians(np.random.default_rng(1), 300, n_classes=3)
    rare = (y == 2) & (np.arange(300) > 60)
    x, y = x[~rare], y[~rare]
    fit = Counter()
    removed = ~spectral_signatures(TrainingSet.of(x, y), fit, told(n_poison), seed=0).keep
    for label in (0, 1, 2):
        size = int((y == label).sum())
        assert (removed & (y == label)).sum() == min(int(1.5 * n_poison + 0.5), size // 2)
    np.testing.assert_array_equal(fit.models[-1].train.ids, np.flatnonzero(~removed))
    assert len(fit.models) == 2


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 400))
def test_released_budget_is_fifteen_percent_of_a_label(n):
    x = np.random.default_rng(n).standard_normal((n, 2)).astype(np.float32)
    train = TrainingSet.of(x, np.zeros(n, int))
    keep = spectral_signatures_as_released(train, Counter(), Knowledge(), seed=0).keep
    worst_first = np.argsort(-explicit_scores(x, train.y))
    assert sorted(worst_first[: (~keep).sum()]) == np.flatnonzero(~keep).tolist()
    assert (~keep).sum() == n - 1 - 17 * (n - 1) // 20  # strictly above an interpolated percentile


def test_released_counts_of_two_labels():
    """3,748 and 3,292 rows lost 563 and 494 in the released run."""
    y = np.repeat([0, 1], [3748, 3292])
    x = np.random.default_rng(0).standard_normal((len(y), 2)).astype(np.float32)
    removed = ~spectral_signatures_as_released(TrainingSet.of(x, y), Counter(), Knowledge(), seed=0).keep
    assert np.bincount(y[removed]).tolist() == [563, 494]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(FILTERS), st.sampled_from([2, 3]))
def test_permuting_the_rows_permutes_the_mask(seed, defense, n_classes):
    generator = np.random.default_rng(seed)
    x, y, _ = with_far_cluster(generator, 150, 0.1, n_classes)
    order = generator.permutation(150)
    keep = defense(TrainingSet.of(x, y), Counter(), told(12), seed=0).keep
    permuted = TrainingSet.of(x[order], y[order])
    np.testing.assert_array_equal(defense(permuted, Counter(), told(12), seed=1).keep, keep[order])


@pytest.mark.parametrize("n_cells", [4, 300])
def test_one_hot_features_of_groups_of_one_size_score_alike(n_cells):
    """All directions tie, so that every row has the squared length of its centred features, however the space is turned."""
    generator = np.random.default_rng(0)
    turn = np.linalg.qr(generator.standard_normal((n_cells, n_cells)))[0]
    for features in (np.repeat(np.eye(n_cells), 2, axis=0), np.repeat(np.eye(n_cells) @ turn, 2, axis=0)):
        scores, along = signature_scores(features, np.zeros(2 * n_cells, int))
        np.testing.assert_allclose(scores, 1 - 1 / n_cells, rtol=1e-9)
        assert len(set(scores.tolist())) == 1
        assert along[0] == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(FILTERS), st.sampled_from([6, 260]))
def test_turning_the_features_changes_nothing_even_where_directions_tie(seed, defense, dimension):
    """A cross of two equal arms: either of them, or any mixture, is a top singular vector."""
    generator = np.random.default_rng(seed)
    features = np.zeros((80, dimension))
    features[:40, 0] = np.concatenate([arm := generator.uniform(1, 2, 20), -arm])
    features[40:, 1] = features[:40, 0]
    features[:, 2] = 0.1 * np.tile([1, -1], 40)
    turn = np.linalg.qr(generator.standard_normal((dimension, dimension)))[0]
    x = np.arange(80, dtype=np.float32)[:, None]

    def keep(values):
        class Turned(Plain):
            def features(self, x):
                return values[x[:, 0].astype(int)]

        return defense(TrainingSet.of(x, np.zeros(80, int)), Turned, told(5), seed=0).keep

    np.testing.assert_array_equal(keep(features @ turn), keep(features))


def test_a_cut_between_equal_scores_is_marked():
    x = np.array([[-1.0], [1.0], [-1.0], [1.0], [0.0], [0.0]])
    train = TrainingSet.of(x, np.zeros(6, int))
    assert spectral_signatures(train, Counter(), told(1), seed=0).diagnostics["tied"] == 1  # two of four rows that tie
    assert spectral_signatures_as_released(train, Counter(), Knowledge(), seed=0).diagnostics["tied"] == 0
    far = TrainingSet.of(np.append(x, [[9.0]], axis=0), np.zeros(7, int))
    assert spectral_signatures(far, Counter(), told(0), seed=0).diagnostics["tied"] == 0


def test_equal_scores_go_by_row_id():
    x = np.array([[-1.0], [1.0], [-1.0], [1.0], [0.0], [0.0]])
    train = TrainingSet.of(x, np.zeros(6, int))
    keep = spectral_signatures(train, Counter(), told(1), seed=0).keep
    assert keep.tolist() == [True, True, False, False, True, True]
    assert spectral_signatures_as_released(train, Counter(), Knowledge(), seed=0).keep.all()  # the percentile is their score


@pytest.mark.parametrize("defense", FILTERS)
def test_rows_that_do_not_differ_stay(defense):
    x = np.full((40, 3), 0.1, np.float32)
    x[np.random.default_rng(0).random((40, 3)) < 0.5] = np.nextafter(np.float32(0.1), np.float32(1))  # but for rounding
    fit = Counter()
    found = defense(TrainingSet.of(x, np.repeat([0, 1], 20)), fit, told(6), seed=0)
    assert found.keep.all()
    assert len(fit.models) == 1


def test_constant_columns_change_nothing():
    x, y, poison = with_far_cluster(np.random.default_rng(0), share=0.04)
    wide = np.hstack([np.full((len(x), 2), 1e6, np.float32), x])
    assert centred(wide).shape == x.shape
    for defense in FILTERS:
        n_poison = told(int(poison.sum()))
        plain = defense(TrainingSet.of(x, y), Counter(), n_poison, seed=0)
        np.testing.assert_array_equal(defense(TrainingSet.of(wide, y), Counter(), n_poison, seed=0).keep, plain.keep)


@pytest.mark.parametrize("defense", FILTERS)
@pytest.mark.parametrize("n_rare", [1, 2, 3])
def test_a_rare_label_never_disappears(defense, n_rare):
    x, y = gaussians(np.random.default_rng(2), 50)
    y[:n_rare], y[n_rare:] = 1, 0
    found = defense(TrainingSet.of(x, y), Counter(), told(20), seed=0)
    assert set(y[found.keep]) == {0, 1}
    assert np.isfinite(list(found.diagnostics.values())).all()


@pytest.mark.parametrize("n_poison", [None, -1, 100])
def test_must_be_told_a_usable_number(n_poison):
    x, y = gaussians(np.random.default_rng(0), 100)
    with pytest.raises(BadInput, match=f"spectral_signatures needs n_poison.*got {n_poison}"):
        spectral_signatures(TrainingSet.of(x, y), Counter(), told(n_poison), seed=0)


def test_needs():
    assert spectral_signatures.needs == {"n_poison"}
    assert not hasattr(spectral_signatures_as_released, "needs")
