"""Activation clustering on clusters whose sizes and distances are known, with a victim whose features are its inputs."""

from __future__ import annotations

import importlib
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_score
from toy_poison import Counter, gaussians, with_far_cluster, with_poisoned_subpopulation

from subpop.defenses.activation_clustering import (
    activation_clustering,
    activation_clustering_as_released,
    silhouette,
)
from subpop.types import Knowledge, TrainingSet, content_order

module = importlib.import_module("subpop.defenses.activation_clustering")  # the package has a function of that name
FILTERS = [activation_clustering, activation_clustering_as_released]


def defend(defense, x, y, seed=0, fit=None):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return defense(TrainingSet.of(x, y), fit or Counter(), Knowledge(), seed=seed)


def two_clusters(generator, n_small, n_large, gap=10.0):
    """One label: two tight clusters of given sizes; the small one comes first."""
    x = 0.1 * generator.standard_normal((n_small + n_large, 3))
    x[:n_small, 0] += gap
    return x.astype(np.float32), np.zeros(n_small + n_large, int)


def test_where_nothing_is_suspicious_it_is_the_undefended_model():
    x, y = gaussians(np.random.default_rng(0), 400)
    fit = Counter()
    found = defend(activation_clustering, x, y, fit=fit)
    assert found.keep.all()
    assert found.model is fit.models[0]
    assert len(fit.models) == 1
    assert found.diagnostics["removed_share"] == 0


@pytest.mark.parametrize("defense", FILTERS)
def test_finds_a_far_cluster_and_refits_once(defense):
    for seed in range(3):
        x, y, poison = with_far_cluster(np.random.default_rng(seed))
        fit = Counter()
        found = defend(defense, x, y, fit=fit)
        assert not found.keep[poison].any()
        assert len(fit.models) == 2
        np.testing.assert_array_equal(fit.models[1].train.ids, np.flatnonzero(found.keep))
    np.testing.assert_array_equal(~defend(activation_clustering, x, y).keep, poison)


def test_misses_a_subpopulation_that_is_one_group_of_many():
    for seed in range(3):
        x, y, poison = with_poisoned_subpopulation(np.random.default_rng(seed))
        assert defend(activation_clustering, x, y).keep[poison].mean() > 0.9


def test_released_rule_drops_up_to_half_of_clean_data():
    x, y = gaussians(np.random.default_rng(0), 400, dimension=2)
    found = defend(activation_clustering_as_released, x, y)
    assert found.keep.mean() < 0.7
    assert min(found.diagnostics["share_0"], found.diagnostics["share_1"]) > 0.3


@pytest.mark.parametrize(("n_small", "removed", "removed_as_released"), [(34, 34, 34), (35, 0, 35), (49, 0, 49)])
def test_relative_size(n_small, removed, removed_as_released):
    x, y = two_clusters(np.random.default_rng(0), n_small, 100 - n_small)
    for defense, expected in zip(FILTERS, (removed, removed_as_released), strict=True):
        keep = defend(defense, x, y).keep
        assert (~keep).sum() == (~keep[:n_small]).sum() == expected


def test_a_split_that_is_not_apart_stays(monkeypatch):
    x, y, _ = with_far_cluster(np.random.default_rng(0))
    apart = defend(activation_clustering, x, y).diagnostics["silhouette_1"]
    monkeypatch.setattr(module, "MIN_SILHOUETTE", apart)
    assert not defend(activation_clustering, x, y).keep.all()
    monkeypatch.setattr(module, "MIN_SILHOUETTE", np.nextafter(apart, 1))
    assert defend(activation_clustering, x, y).keep.all()


def test_three_classes():
    x, y, poison = with_far_cluster(np.random.default_rng(3), n_classes=3)
    found = defend(activation_clustering, x, y)
    np.testing.assert_array_equal(~found.keep, poison)
    assert found.diagnostics["share_1"] == pytest.approx(poison.sum() / (y == 1).sum())
    assert found.diagnostics["removed_share"] == pytest.approx(poison.mean())


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(FILTERS), st.sampled_from([2, 3]), st.sampled_from([5, 12]))
def test_permuting_the_rows_permutes_the_mask(seed, defense, n_classes, dimension):
    """Also where the split is far from clear: a heap of Gaussians, twins among them."""
    generator = np.random.default_rng(seed)
    x, y = gaussians(generator, 120, n_classes, dimension=dimension)
    x[:20], y[:20] = x[20:40], y[20:40]
    order = generator.permutation(120)
    found, permuted = defend(defense, x, y, seed=0), defend(defense, x[order], y[order], seed=1)
    np.testing.assert_array_equal(permuted.keep, found.keep[order])
    assert permuted.diagnostics == found.diagnostics


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_content_order_ignores_how_rows_were_shuffled(dtype):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 3, (200, 1, 2, 2)).astype(dtype)
    order = generator.permutation(200)
    assert sorted(content_order(x).tolist()) == list(range(200))
    np.testing.assert_array_equal(x[content_order(x)], x[order][content_order(x[order])])


def test_silhouette_by_hand():
    points = np.array([[0.0], [1.0], [10.0]])
    assert silhouette(points, np.array([False, False, True])) == pytest.approx((9 / 10 + 8 / 9 + 0) / 3)
    assert silhouette(np.zeros((4, 2)), np.array([True, False, True, False])) == 0


@pytest.mark.parametrize("n", [5, 60, 1000, 1800])
def test_silhouette_agrees_with_scikit_learn(n):
    generator = np.random.default_rng(n)
    points = generator.standard_normal((n, 4))
    part = points[:, 0] + 0.5 * generator.standard_normal(n) > 0.8
    part[:2] = True, False
    tolerance = 1e-10 if n <= 1000 else 0.03  # four standard errors of the mean over a sample
    assert silhouette(points, part) == pytest.approx(silhouette_score(points, part), abs=tolerance)


def test_principal_components_equal_an_explicit_decomposition():
    columns = np.random.default_rng(0).standard_normal((90, 30)) * np.linspace(1, 5, 30)
    columns -= columns.mean(axis=0)
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    found = module._principal(columns, 10)
    np.testing.assert_allclose(np.abs(found), np.abs(u[:, :10] * s[:10]), atol=1e-3)
    assert module._principal(columns[:, :3], 10).shape == (90, 3)


def test_independent_components_find_the_sources():
    """Uniform sources, mixed: each component is one of them, up to sign and order."""
    generator = np.random.default_rng(0)
    sources = generator.uniform(-1, 1, (2000, 4))
    columns = sources @ generator.standard_normal((4, 12))
    found = module._independent(module._principal(columns - columns.mean(axis=0), 4))
    np.testing.assert_allclose(found.var(axis=0), 1, rtol=1e-4)
    match = np.abs(np.corrcoef(found.T, sources.T)[:4, 4:])
    np.testing.assert_allclose(np.sort(match.max(axis=1)), 1, atol=0.02)
    assert sorted(match.argmax(axis=1)) == [0, 1, 2, 3]


def test_released_variant_falls_back_to_pca(monkeypatch):
    x = np.random.default_rng(0).uniform(-1, 1, (400, 5)).astype(np.float32)
    x[:40, 0] += 20
    y = np.repeat([1, 0], 200)
    found = defend(activation_clustering_as_released, x, y)
    assert found.diagnostics["pca_instead"] == 0
    assert not found.keep[:40].any()
    twice = defend(activation_clustering_as_released, np.hstack([x, x]), y)  # ten columns of rank five
    assert twice.diagnostics["pca_instead"] == 2
    assert not twice.keep[:40].any()
    monkeypatch.setattr(module, "RELEASED_ITERATIONS", 1)
    assert defend(activation_clustering_as_released, x, y).diagnostics["pca_instead"] == 2


@pytest.mark.parametrize("defense", FILTERS)
def test_rows_that_do_not_differ_stay(defense):
    x = np.full((40, 3), 0.1, np.float32)
    x[np.random.default_rng(0).random((40, 3)) < 0.5] = np.nextafter(np.float32(0.1), np.float32(1))  # but for rounding
    found = defend(defense, x, np.repeat([0, 1], 20))
    assert found.keep.all()
    assert found.diagnostics["silhouette_0"] == found.diagnostics["share_1"] == 0


@pytest.mark.parametrize("defense", FILTERS)
def test_constant_columns_change_nothing(defense):
    x, y, _ = with_far_cluster(np.random.default_rng(0))
    wide = np.hstack([x, np.full((len(x), 20), 1e6, np.float32)])
    np.testing.assert_array_equal(defend(defense, wide, y).keep, defend(defense, x, y).keep)


@pytest.mark.parametrize("defense", FILTERS)
@pytest.mark.parametrize("n_rare", [1, 2, 3, 4, 16])
def test_a_rare_label_never_disappears(defense, n_rare):
    """Also with fewer rows than components."""
    x, y = gaussians(np.random.default_rng(n_rare), 60, dimension=20)
    y[:n_rare], y[n_rare:] = 1, 0
    found = defend(defense, x, y)
    assert set(y[found.keep]) == {0, 1}
    assert np.isfinite(list(found.diagnostics.values())).all()
    if n_rare < 3:
        assert found.keep[:n_rare].all()


def test_needs_nothing():
    assert not any(hasattr(defense, "needs") for defense in FILTERS)
