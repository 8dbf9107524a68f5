"""RONI: costs by hand, what it rejects while poison is a minority, and that it rejects the clean rows otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from subpop.defenses.roni import clusters_within_labels, group_roni, group_roni_with_holdout, roni
from subpop.testing.toy import gaussian
from subpop.types import BadInput, Knowledge, TrainingSet, content_order

NOTHING = Knowledge()


class NearestRow:
    """The label of the nearest training row."""

    def __init__(self, train):
        self.x, self.y = train.x, train.y

    def predict_proba(self, x):
        nearest = ((x[:, None].astype(float) - self.x[None]) ** 2).sum(2).argmin(1)
        return np.eye(2, dtype=np.float32)[self.y[nearest]]


def blobs(n_clean, n_poison, seed=0):
    """Blobs of 60 rows of class 0 and of class 1, and one with n_clean rows of class 1 and n_poison of class 0."""
    generator = np.random.default_rng(seed)
    sizes = [60, 60, n_clean, n_poison]
    x = np.repeat([[-20.0, 0], [20, 0], [0, 20], [0, 20]], sizes, axis=0) + generator.standard_normal((sum(sizes), 2))
    train = TrainingSet.of(x.astype(np.float32), np.repeat([0, 1, 1, 0], sizes))
    return train, np.arange(len(train)) >= 120 + n_clean, (np.arange(len(train)) >= 120) & (np.arange(len(train)) < 120 + n_clean)


def clean_rows(*centres):
    x = np.concatenate([np.array(centre) + 0.3 * np.random.default_rng(7).standard_normal((30, 2)) for centre, _ in centres])
    return TrainingSet.of(x.astype(np.float32), np.repeat([label for _, label in centres], 30))


@pytest.mark.parametrize("seed", range(3))
def test_a_minority_of_poison_is_rejected_and_a_majority_rejects_the_clean_rows(seed):
    train, poison, clean = blobs(60, 25, seed)
    keep = group_roni(train, NearestRow, NOTHING, seed=0, groups=4).keep
    assert not keep[poison].any()
    assert keep[~poison].all()
    train, poison, clean = blobs(25, 60, seed)
    keep = group_roni(train, NearestRow, NOTHING, seed=0, groups=4).keep
    assert keep[poison].all()
    assert not keep[clean].any()


def test_the_holdout_helps_only_with_rows_of_the_group():
    train, poison, _ = blobs(25, 60)
    far = [([-20.0, 0], 0), ([20.0, 0], 1)]
    told, untold = clean_rows(*far, ([0.0, 20], 1)), clean_rows(*far)
    keep = group_roni_with_holdout(train, NearestRow, Knowledge(clean_holdout=told), seed=0, groups=4).keep
    assert not keep[poison].any()
    assert keep[~poison].all()
    assert group_roni_with_holdout(train, NearestRow, Knowledge(clean_holdout=untold), seed=0, groups=4).keep.all()


def test_the_cost_of_a_group_by_hand():
    """Two blobs; one repetition. Without the poison cluster, all clean rows of its blob in the other half are right."""
    train, *_ = blobs(60, 25)
    sets = []

    def fit(part):
        sets.append(part)
        return NearestRow(part)

    found = group_roni(train, fit, NOTHING, seed=0, groups=4, repetitions=1)
    assert found.diagnostics == {"rejected": 1.0, "groups": 4.0}
    half = sets[0]
    assert len(half) == 103
    assert [len(part) for part in sets[1:5]] == [103 - n for n in np.bincount(group_of(train, 4)[half.ids])]
    judge = train[~np.isin(train.ids, half.ids)]
    right = [int((NearestRow(part).predict_proba(judge.x).argmax(1) == judge.y).sum()) for part in sets[:5]]
    cost = max(right[1:]) - right[0]
    assert cost > 0
    assert group_roni(train, fit, NOTHING, seed=0, groups=4, repetitions=1, least_loss=cost).keep.all()
    assert not group_roni(train, fit, NOTHING, seed=0, groups=4, repetitions=1, least_loss=cost - 0.5).keep.all()


def group_of(train, groups):
    return clusters_within_labels(train, content_order(train.x, train.y), groups)


def test_groups_are_clusters_of_one_label():
    train, *_ = blobs(60, 25)
    group = group_of(train, 4)
    parts = [frozenset(np.flatnonzero(group == g)) for g in range(4)]
    assert set(parts) == {frozenset(range(60)), frozenset(range(60, 120)), frozenset(range(120, 180)), frozenset(range(180, 205))}
    order = np.random.default_rng(0).permutation(len(train))
    again = group_of(TrainingSet.of(train.x[order], train.y[order]), 4)
    np.testing.assert_array_equal(again, group[order])


def test_groups_are_no_more_than_distinct_rows():
    train = TrainingSet.of(np.repeat([[0.0], [1.0], [2.0]], [5, 5, 2], axis=0).astype(np.float32), np.repeat([0, 1], [10, 2]))
    assert len(np.unique(group_of(train, 50))) == 3
    assert len(np.unique(group_of(train, 1))) == 2


@pytest.mark.parametrize("defense", [group_roni, group_roni_with_holdout])
def test_the_number_of_fits_is_bounded(defense):
    toy, count = gaussian(240, 2, n_poison=24), []

    def fit(train):
        count.append(train)
        return toy.fit(train)

    know = Knowledge(clean_holdout=TrainingSet.of(toy.test_x, toy.test_y))
    groups = defense(toy.train(), fit, know, seed=0, groups=6, repetitions=3).diagnostics["groups"]
    assert groups == 6
    assert len(count) == 3 * (6 + 1) + 1


def test_no_row_is_left_is_no_answer():
    class Contrary(NearestRow):
        """Right about everything only without some rows of the other class: worse the more it is trained on."""

        def predict_proba(self, x):
            return np.tile(np.float32([[1, 0]] if len(self.y) % 2 else [[0, 1]]), (len(x), 1))

    train = TrainingSet.of(np.array([[0.0], [1.0]], np.float32), np.array([0, 1]))
    found = group_roni(train, Contrary, NOTHING, seed=0, groups=2)
    assert found.keep.any()


# --- row by row ---------------------------------------------------------------------------------------------------------


class Threshold:
    """Class 1 for everything if any training row beyond 100 has label 1; otherwise the sign of the input."""

    def __init__(self, train):
        self.poisoned = bool(((train.x[:, 0] > 100) & (train.y == 1)).any())

    def predict_proba(self, x):
        return np.eye(2, dtype=np.float32)[np.ones(len(x), int) if self.poisoned else (x[:, 0] > 0).astype(int)]


def test_a_row_that_spoils_the_model_is_rejected_and_others_are_not():
    """With the one bad row, all of about 25 negative calibration rows are wrong; no other row costs anything."""
    generator = np.random.default_rng(0)
    x = np.concatenate([generator.uniform(-1, 1, 200), [101]]).astype(np.float32)[:, None]
    train, count = TrainingSet.of(x, (x[:, 0] > 0).astype(int)), []

    def fit(part):
        count.append(part)
        return Threshold(part)

    found = roni(train, fit, NOTHING, seed=1)
    assert np.flatnonzero(~found.keep).tolist() == [200]
    assert len(count) == 5 * (201 + 1) + 1


def test_rows_of_a_subpopulation_cost_too_little_to_be_rejected():
    """It must fail: one row of a subpopulation changes predictions of this subpopulation alone."""
    train, *_ = blobs(30, 15)
    assert roni(train, NearestRow, NOTHING, seed=0).keep.all()


def test_too_many_fits_and_too_few_rows_are_refused():
    train = gaussian(100, 2).train()
    with pytest.raises(BadInput, match="would train repetitions=200 times 101 models; at most 20000 are allowed"):
        roni(train, lambda part: pytest.fail("trained"), NOTHING, seed=0, repetitions=200)
    with pytest.raises(BadInput, match="base_rows=60 and calibration_rows=50 different rows; the training set has 100"):
        roni(train, lambda part: pytest.fail("trained"), NOTHING, seed=0, base_rows=60)


@pytest.mark.parametrize("settings", [{"groups": 0}, {"groups": 2.5}, {"repetitions": 0}, {"repetitions": True}])
def test_settings_are_whole_numbers(settings):
    with pytest.raises(BadInput, match=f"{next(iter(settings))}=.* of group_roni must be a whole number of at least 1"):
        group_roni(blobs(60, 25)[0], NearestRow, NOTHING, seed=0, **settings)


@pytest.mark.parametrize("least_loss", [-1, float("nan"), float("inf")])
def test_least_loss_is_a_number(least_loss):
    with pytest.raises(BadInput, match=r"least_loss=.* must be finite and at least 0"):
        group_roni(blobs(60, 25)[0], NearestRow, NOTHING, seed=0, least_loss=least_loss)


def test_a_holdout_without_a_class_is_refused():
    train, *_ = blobs(60, 25)
    with pytest.raises(BadInput, match="none of the 30 rows of clean_holdout has the label 1"):
        group_roni_with_holdout(train, NearestRow, Knowledge(clean_holdout=clean_rows(([0.0, 0], 0))), seed=0)


def test_eight_configurations():
    assert len(group_roni.configurations) == 8
    assert group_roni.configurations[0] == {}
    train, *_ = blobs(60, 25)
    for settings in group_roni.configurations:
        group_roni(train, NearestRow, NOTHING, seed=0, **settings)
