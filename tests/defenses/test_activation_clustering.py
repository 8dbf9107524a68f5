"""Activation clustering on clusters whose sizes and distances are known, with a victim whose features are its inputs."""

from __future__ import annotations

import importlib
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from sklearn.cluster import KMeans
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score
from toy_poison import Counter, Plain, gaussians, with_far_cluster, with_poisoned_subpopulation

from subpop.defenses.activation_clustering import (
    activation_clustering,
    activation_clustering_as_released,
    silhouette,
)
from subpop.defenses.filters import centred
from subpop.types import BadInput, Knowledge, TrainingSet, content_order

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


@pytest.mark.parametrize(("defense", "n_columns"), [(activation_clustering, 5), (activation_clustering_as_released, 2)])
def test_finds_a_far_cluster_and_refits_once(defense, n_columns):
    """Of whitened components each counts alike, so that the far cluster must show in most of them."""
    for seed in range(3):
        x, y, poison = with_far_cluster(np.random.default_rng(seed))
        x = x[:, :n_columns]
        fit = Counter()
        found = defend(defense, x, y, fit=fit)
        assert not found.keep[poison].any()
        assert len(fit.models) == 2
        np.testing.assert_array_equal(fit.models[1].train.ids, np.flatnonzero(found.keep))
        np.testing.assert_array_equal(~found.keep & (y == 1), poison)


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


def fast_ica(x):
    """The released reduction, and whether it converged."""
    ica = FastICA(15, whiten="unit-variance", max_iter=1000, tol=0.005, random_state=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        points = ica.fit_transform(x.astype(np.float64))
    return points, not any(issubclass(one.category, ConvergenceWarning) for one in caught)


def bimodal(seed, gaussian=True):
    """One label, 20 columns: one with two humps, the others Gaussian or uniform."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((200, 20)) if gaussian else generator.uniform(-2, 2, (200, 20))
    x *= np.linspace(1, 2, 20)
    x[:, 0] = np.where(generator.random(200) < 0.3, 8, 0) + generator.standard_normal(200)
    return x.astype(np.float32)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("converges", [True, False])
def test_released_variant_does_what_fast_ica_does_even_if_that_does_not_converge(seed, converges):
    """Its components are a rotation of ours, so that all distances agree, and with them the split and its silhouette."""
    x = bimodal(seed, gaussian=not converges)
    points, converged = fast_ica(x)
    assert converged == converges
    found = defend(activation_clustering_as_released, x, np.zeros(200, int))
    in_order = points[content_order(x)]
    part = KMeans(2, n_init=10, random_state=0).fit(in_order).labels_
    expected = silhouette_score(in_order, part)
    assert found.diagnostics["silhouette_0"] == pytest.approx(expected, abs=1e-4)
    assert found.diagnostics["share_0"] == np.bincount(part).min() / 200
    assert expected < 0.1  # principal components that are not whitened have .4 here, and would lose rows
    assert found.keep.all()
    np.testing.assert_allclose(pdist(module._whitened(centred(x), 15)), pdist(points), rtol=1e-5)


def test_whitened_components_equal_an_explicit_decomposition():
    generator = np.random.default_rng(0)
    for shape in ((90, 30), (20, 60)):
        columns = generator.standard_normal(shape) * np.logspace(0, 3, shape[1])
        columns -= columns.mean(axis=0)
        u = np.linalg.svd(columns, full_matrices=False)[0][:, :15] * np.sqrt(len(columns))
        found = module._whitened(columns, 15)
        np.testing.assert_allclose(found @ found.T, u @ u.T, atol=1e-4)


def test_components_without_variance_are_left_out():
    x = bimodal(0)[:, :5]
    columns = centred(np.hstack([x, x, x @ np.ones((5, 3), np.float32)]))  # 13 columns of rank five
    found = module._whitened(columns, 15)
    assert found.shape == (200, 5)
    np.testing.assert_allclose(found.var(axis=0), 1, rtol=1e-5)


def test_components_that_tie_with_the_last_are_kept_together():
    """Of 20 equal cells, one-hot, no 15 directions are better than the other four."""
    assert module._whitened(centred(np.repeat(np.eye(20), 4, axis=0)), 15).shape == (80, 19)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_released_variant_does_not_depend_on_how_features_are_turned(seed, one_hot):
    """Another CPU finds components with other signs, and other ones where variances are equal, as of one-hot cells."""
    generator = np.random.default_rng(seed)
    features = np.repeat(np.eye(5), 16, axis=0) if one_hot else bimodal(seed)[:, :8].astype(np.float64)
    turn = np.linalg.qr(generator.standard_normal((features.shape[1],) * 2))[0]
    x = np.arange(len(features), dtype=np.float32)[:, None]

    def keep(values):
        class Turned(Plain):
            def features(self, x):
                return values[x[:, 0].astype(int)]

        return defend(activation_clustering_as_released, x, np.zeros(len(x), int), fit=Turned).keep

    np.testing.assert_array_equal(keep(features @ turn), keep(features))


@pytest.mark.parametrize("defense", FILTERS)
def test_of_two_clusters_of_one_size_the_one_without_the_first_row_goes(defense, monkeypatch):
    monkeypatch.setattr(module, "MAX_SHARE", 1.0)
    x, y = two_clusters(np.random.default_rng(0), 30, 60)
    x = x[:60]
    keep = defend(defense, x, y[:60]).keep
    assert (~keep).sum() == 30
    assert keep[content_order(x)[0]]


@pytest.mark.parametrize("defense", FILTERS)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_units_of_the_features_change_nothing(defense, scale):
    """Squares of 1e30 are infinite in float32, those of 1e-30 are 0."""
    x, y, _ = with_far_cluster(np.random.default_rng(0))

    class Scaled(Plain):
        def features(self, x):
            return super().features(x) * np.float32(scale)

    np.testing.assert_array_equal(defend(defense, x, y, fit=Scaled).keep, defend(defense, x, y).keep)


@pytest.mark.parametrize("defense", FILTERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_refused(defense, bad):
    x, y, _ = with_far_cluster(np.random.default_rng(0))

    class Broken(Plain):
        def features(self, x):
            values = np.array(super().features(x))
            values[3, 1] = bad
            return values

    with pytest.raises(BadInput, match="features of the model contain NaN or infinite values in 1 of"):
        defend(defense, x, y, fit=Broken)


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
