"""Smoothers of many trials from what their training sets share, against each training set solved by itself."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from real_data import UTKFACE_FEATURES, needs

from subpop.datasets.download import data_root
from subpop.defenses.certificates import shared_rows
from subpop.defenses.certificates.shared_rows import SharedLearner, shared_learner
from subpop.defenses.certificates.smoother import Learner
from subpop.defenses.label_flip_smoothing import CERTIFICATES, all_radii, label_flip_smoothing
from subpop.harness.batching import PoolRows
from subpop.types import BadInput, Knowledge, Pool, TrainingSet

N, AUX, D = 400, 150, 12


def data(n_classes=2, seed=0):
    """A pool of correlated columns in different units and 60 test rows."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, n_classes, N + AUX)
    mixed = generator.standard_normal((D, D)) * np.geomspace(1, 0.1, D)
    x = (generator.standard_normal((N + AUX + 60, D)) @ mixed.T) * np.geomspace(1e-2, 1e3, D) + 5
    x[: N + AUX, 0] += 0.02 * y
    return x.astype(np.float32)[: N + AUX], y, x.astype(np.float32)[N + AUX :]


def trial(x, y, added, labels, extra_x=None, n_classes=2):
    """The training set of D and added rows as a defense gets it: shuffled."""
    rows = np.concatenate([np.arange(N), added])
    order = np.random.default_rng(1).permutation(len(rows))
    pool = Pool(x, y, N, n_classes)
    own = np.concatenate([y[:N], labels])[order]
    return TrainingSet(PoolRows(pool, rows[order], extra_x), np.arange(len(rows)), own)


def defend(train):
    return label_flip_smoothing(train, None, Knowledge(), seed=0)


def both(train):
    """The defense from shared rows, and on a copy of the same rows, which shares nothing."""
    found, alone = defend(train), defend(TrainingSet.of(train.x, train.y))
    assert isinstance(found.model.learner, SharedLearner)
    assert isinstance(alone.model.learner, Learner)
    return found, alone


def assert_equal(train, test_x):
    found, alone = both(train)
    np.testing.assert_allclose(found.model.scores(test_x), alone.model.scores(test_x), rtol=0, atol=1e-9)
    assert found.diagnostics == pytest.approx(alone.diagnostics, rel=1e-9)
    other = np.random.default_rng(2).permutation(train.y)
    relabelled = found.model.with_labels(other), alone.model.with_labels(other)
    np.testing.assert_allclose(relabelled[0].scores(test_x), relabelled[1].scores(test_x), rtol=0, atol=1e-9)
    for one, direct in (relabelled, (found.model, alone.model)):
        weights = (each.learner.weights(each.learner.inputs(test_x)) for each in (one, direct))
        np.testing.assert_allclose(next(weights), next(weights), rtol=0, atol=1e-9)
        radii, expected = all_radii(one, test_x), all_radii(direct, test_x)
        assert any(radius.any() for radius in expected.values())
        for name in CERTIFICATES:
            np.testing.assert_array_equal(radii[name], expected[name], err_msg=name)
    components = [each.model.features(test_x) for each in (found, alone)]
    np.testing.assert_allclose(np.abs(components[0]), np.abs(components[1]), rtol=1e-4, atol=1e-5)


ADDED = {
    "none": np.zeros(0, int),
    "a subpopulation": np.arange(N, N + 30),
    "one row many times": np.full(40, N + 7),
    "rows of D again": np.repeat(np.arange(5), 6),
    "more than D has": np.random.default_rng(3).integers(N, N + AUX, 3 * N),
}


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", ADDED)
def test_is_the_training_set_solved_by_itself(name, n_classes):
    x, y, test_x = data(n_classes)
    added = ADDED[name]
    assert_equal(trial(x, y, added, (y[added] + 1) % n_classes, n_classes=n_classes), test_x)


def test_rows_from_outside_the_pool_and_other_labels_of_d():
    x, y, test_x = data()
    made = (x[:25] * 1.5 + 3).astype(np.float32)
    train = trial(x, y, np.concatenate([[N, N + 1], N + AUX + np.arange(25)]), np.ones(27, int), extra_x=made)
    assert_equal(train, test_x)
    flipped = train.y.copy()
    flipped[::7] = 1 - flipped[::7]
    assert_equal(train.relabel(flipped), test_x)


@pytest.mark.parametrize("varies", [False, True])
def test_features_that_are_constant_repeated_or_vary_only_in_added_rows(varies):
    x, y, test_x = (np.column_stack([a, np.full(len(a), 0.1), a[:, :2], 0 * a[:, 0]]) if a.ndim > 1 else a for a in data())
    x, test_x = x.astype(np.float32), test_x.astype(np.float32)
    if varies:
        x[N:, D] += np.linspace(0, 2, AUX, dtype=np.float32)
        x[N:, -1] = 1e3
    train = trial(x, y, np.arange(N, N + 50), 1 - y[N : N + 50])
    assert_equal(train, test_x)
    inverse = both(train)[0].model.learner._directions[D]
    assert inverse.any() == varies


def test_fewer_components_than_features():
    """The leading subspace itself depends on the added rows: 8 components for 400 rows, 9 for 450."""
    x, y, test_x = data(seed=4)
    for count, components in ((0, 8), (50, 9)):
        added = np.arange(N, N + count)
        train = trial(x, y, added, 1 - y[added])
        assert defend(train).diagnostics["n_components"] == components
        assert_equal(train, test_x)


@pytest.mark.parametrize("part", ["_mean", "_stretch", "_directions"])
def test_what_is_left_of_d_alone_is_not_enough(part, monkeypatch):
    """The comparison notices a part that is not brought up to date."""
    x, y, test_x = data()
    added = np.arange(N, N + 10)
    train = trial(x, y, added, 1 - y[added])
    stale = getattr(defend(trial(x, y, added[:0], added[:0])).model.learner, part)
    solve = SharedLearner.__init__

    def spoiled(self, *arguments):
        solve(self, *arguments)
        setattr(self, part, stale)

    monkeypatch.setattr(SharedLearner, "__init__", spoiled)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_equal(train, test_x)


def test_training_sets_that_do_not_contain_d_are_solved_by_themselves():
    x, y, _ = data()
    added = np.arange(N, N + 20)
    train = trial(x, y, added, y[added])
    assert shared_learner(train, 50, 0.01) is not None
    lacks_one = train[train._source.rows != 3]
    for other in (lacks_one, TrainingSet.of(train.x, train.y)):
        assert shared_learner(other, 50, 0.01) is None
    assert isinstance(defend(lacks_one).model.learner, Learner)
    wide = np.random.default_rng(0).standard_normal((N + AUX, N + 1)).astype(np.float32)
    assert shared_learner(trial(wide, y, added, y[added]), 50, 0.01) is None
    spoiled = trial(x, y, np.array([N + AUX]), np.array([1]), extra_x=np.full((1, D), np.nan, np.float32))
    with pytest.raises(BadInput, match="feature 0 contains NaN"):
        defend(spoiled)


def test_refuses_what_has_no_solution():
    x, y, test_x = data()
    train = trial(np.ones_like(x), y, np.arange(N, N + 5), np.ones(5, int))
    with pytest.raises(BadInput, match="singular"):
        defend(train)
    train = trial(x, y, np.arange(N, N + 5), np.ones(5, int))
    for ridge in (0.0, float("nan")):
        with pytest.raises(BadInput, match=f"ridge={ridge}"):
            label_flip_smoothing(train, None, Knowledge(), seed=0, ridge=ridge)
    with pytest.raises(BadInput, match="trained on 12"):
        defend(train).model.predict_proba(test_x[:, :5])
    with pytest.raises(BadInput, match=r"must be 405 integers in 0"):
        defend(train).model.with_labels(train.y + 1)


def test_what_trials_share_is_computed_once():
    x, y, test_x = data()
    pool = Pool(x, y, N, 2)
    for count in (5, 9):
        rows = np.arange(N + count)
        defend(TrainingSet(PoolRows(pool, rows), rows, y[: N + count])).model.scores(test_x)
    found = shared_rows.shared_rows(pool)
    assert found is shared_rows.shared_rows(pool)
    np.testing.assert_array_equal(found.test_rows(test_x), found.standardised(test_x))


def test_memory_is_as_stated():
    generator = np.random.default_rng(0)
    n, d, k = 2_000, 300, 42
    x, y = generator.standard_normal((n + 100, d)).astype(np.float32), generator.integers(0, 2, n + 100)
    pool = Pool(x, y, n, 2)
    train = TrainingSet(PoolRows(pool, np.arange(n + 100)), np.arange(n + 100), y)
    defend(train)
    tracemalloc.start()
    try:
        found = defend(train)
        remaining, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.diagnostics["n_components"] == k
    rows_of_a_trial = 8 * (n + 100) * 8 + 100 * d * 20
    assert peak <= 8 * d * (3 * d + 6 * k) + rows_of_a_trial
    assert remaining <= 8 * d * 2 * k + rows_of_a_trial
    assert peak > 8 * d * 3 * d


@needs(UTKFACE_FEATURES)
def test_faces():
    """1,024 features, of which about 140 components; the nearest rows of D_aux to one of its rows are added, twice each."""
    archive = np.load(data_root() / "embeddings" / "utkface_mobilenet_v1.npz", allow_pickle=False)
    x, y = archive["x"][:14_040].astype(np.float32), archive["y"][:14_040].astype(np.int64)
    pool = Pool(x[:14_000], y[:14_000], 7_000, 2)
    near = 7_000 + np.argsort(((pool.x[7_000:] - pool.x[7_000]) ** 2).sum(axis=1))[:60]
    for added in (near[:0], np.repeat(near, 2)):
        rows = np.concatenate([np.arange(7_000), added])
        labels = np.concatenate([y[:7_000], 1 - y[added]])
        assert_equal(TrainingSet(PoolRows(pool, rows), np.arange(len(rows)), labels), x[14_000:])
