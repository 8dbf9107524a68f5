"""The controls, on sets small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subpop.defenses import DEFENSES, matched_random_filter
from subpop.defenses.controls import drop_duplicates, none, perfect_filter, random_filter, twin_counts
from subpop.types import BadInput, Knowledge, TrainingSet


class Remembered:
    """A model that is the set it was trained on."""

    def __init__(self, train):
        self.x, self.y, self.ids = train.x, train.y, train.ids

    def predict_proba(self, x):
        return np.full((len(x), 2), 0.5, np.float32)

    def features(self, x):
        return np.asarray(x, np.float32)


def numbered(n=20):
    return TrainingSet.of(np.arange(n, dtype=np.float32)[:, None], np.arange(n) % 2)


NOTHING = Knowledge()


def test_none_trains_on_everything_and_is_no_filter():
    found = none(numbered(), Remembered, NOTHING, seed=0)
    assert found.keep is None
    assert found.model.ids.tolist() == list(range(20))


def test_perfect_filter_drops_exactly_the_poison():
    poison = np.arange(20) % 7 == 0
    found = perfect_filter(numbered(), Remembered, Knowledge(poison_mask=poison), seed=0)
    np.testing.assert_array_equal(found.keep, ~poison)
    np.testing.assert_array_equal(found.model.ids, np.flatnonzero(~poison))
    nobody = perfect_filter(numbered(), Remembered, Knowledge(poison_mask=np.zeros(20, bool)), seed=0)
    np.testing.assert_array_equal(nobody.model.x, numbered().x)


@pytest.mark.parametrize("mask", [None, np.zeros(3, bool), np.zeros(20)])
def test_perfect_filter_must_be_told(mask):
    with pytest.raises(BadInput, match="poison_mask"):
        perfect_filter(numbered(), Remembered, Knowledge(poison_mask=mask), seed=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 19), st.integers(0, 1000))
def test_random_filter_drops_so_many_rows(n_poison, seed):
    found = random_filter(numbered(), Remembered, Knowledge(n_poison=n_poison), seed=seed)
    assert (~found.keep).sum() == n_poison
    np.testing.assert_array_equal(found.model.ids, np.flatnonzero(found.keep))
    np.testing.assert_array_equal(random_filter(numbered(), Remembered, Knowledge(n_poison=n_poison), seed=seed).keep, found.keep)


def test_random_filters_treat_rows_alike_and_seeds_differently():
    keeps = np.array([random_filter(numbered(), Remembered, Knowledge(n_poison=5), seed=s).keep for s in range(2000)])
    np.testing.assert_allclose(keeps.mean(axis=0), 0.75, atol=0.04)
    matched = np.array([matched_random_filter({0: 5})(numbered(), Remembered, NOTHING, seed=s).keep for s in range(2000)])
    np.testing.assert_allclose(matched[:, ::2].mean(axis=0), 0.5, atol=0.05)
    assert matched[:, 1::2].all()


def test_random_filter_must_be_told():
    for n_poison in (None, -1, 20):
        with pytest.raises(BadInput, match="random_filter needs n_poison"):
            random_filter(numbered(), Remembered, Knowledge(n_poison=n_poison), seed=0)


def test_matched_random_filter_counts_by_label():
    y = np.array([0] * 12 + [1] * 5 + [2] * 3)
    train = TrainingSet.of(np.arange(20, dtype=np.float32)[:, None], y)
    for seed in range(10):
        keep = matched_random_filter({2: 3, 0: 4, 1: 0})(train, Remembered, NOTHING, seed=seed).keep
        assert np.bincount(y[~keep], minlength=3).tolist() == [4, 0, 3]
    assert matched_random_filter({})(train, Remembered, NOTHING, seed=0).keep.all()


@pytest.mark.parametrize("counts", [{0: 11}, {0: -1}, {7: 1}])
def test_matched_random_filter_refuses(counts):
    with pytest.raises(BadInput, match="cannot remove"):
        matched_random_filter(counts)(numbered(), Remembered, NOTHING, seed=0)


def test_a_filter_that_leaves_nothing_is_refused():
    with pytest.raises(BadInput, match="removed all 20"):
        perfect_filter(numbered(), Remembered, Knowledge(poison_mask=np.ones(20, bool)), seed=0)


def test_drop_duplicates_drops_all_copies_of_twins():
    x = np.array([[1, 2], [1, 2], [3, 4], [1, 2], [5, 6], [3, 4], [0.0, 1]], np.float32)
    y = np.array([0, 0, 1, 1, 0, 1, 0])
    found = drop_duplicates(TrainingSet.of(x, y), Remembered, NOTHING, seed=0)
    # rows 0 and 1 are twins, 2 and 5 too; row 3 has the input of row 0 under another label
    assert np.flatnonzero(found.keep).tolist() == [3, 4, 6]
    assert twin_counts(x, y).tolist() == [2, 2, 2, 1, 1, 2, 1]


def test_drop_duplicates_without_twins_removes_nothing():
    assert drop_duplicates(numbered(), Remembered, NOTHING, seed=0).keep.all()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([np.float32, np.uint8, np.int64]), st.integers(1, 40), st.integers(0, 1000))
def test_twins_against_counting(dtype, n, seed):
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 3, (n, 2, 1)).astype(dtype)
    if dtype is np.float32:
        x[generator.random((n, 2, 1)) < 0.3] *= -1  # makes some zeros negative
    y = generator.integers(0, 2, n)
    slow = [sum(bool((x[i] == x[j]).all()) and y[i] == y[j] for j in range(n)) for i in range(n)]
    assert twin_counts(x, y).tolist() == slow


def test_only_the_perfect_filter_is_told_the_mask():
    needs = {name: getattr(defense, "needs", set()) for name, defense in DEFENSES.items()}
    assert [name for name, told in needs.items() if "poison_mask" in told] == ["perfect_filter"]
    assert needs["none"] == needs["drop_duplicates"] == set()
    assert needs["random_filter"] == {"n_poison"}


@pytest.mark.parametrize("name", ["random_filter", "trim", "sever", "sever_per_label", "sever_as_released"])
def test_defenses_leave_the_training_set_alone(name):
    train = numbered()
    x, y = train.x.copy(), train.y.copy()
    DEFENSES[name](train, Remembered, Knowledge(n_poison=4), seed=0)
    np.testing.assert_array_equal(train.x, x)
    np.testing.assert_array_equal(train.y, y)
