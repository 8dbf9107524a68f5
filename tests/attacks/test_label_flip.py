"""Label flipping: counts, label rules, draws and refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subpop.attacks import ATTACKS, label_flip, least_likely_label, poison_count, rarest_label
from subpop.attacks.label_flip import flip_labels
from subpop.types import BadInput

ROWS = np.array([100, 205, 7, 33, 58])
LABELS = np.array([0, 1, 1, 0, 1])


def flip(count=5, rows=ROWS, y=LABELS, n_classes=2, rule="own", target=None, sampling="with_replacement", seed=0):
    generator = np.random.default_rng(seed)
    return label_flip(rows, y, count, n_classes=n_classes, rule=rule, target=target, sampling=sampling, generator=generator)


@pytest.mark.parametrize(
    ("rate", "base", "count"),
    [
        (0.5, 33, 16),
        (0.1, 30, 3),
        (0.29, 100, 29),
        (1 / 3, 3, 1),
        (2, 41, 82),
        (0.999, 2, 1),
        (0.0, 10, 0),
        (0, 0, 0),
        (1.15, 100, 115),
    ],
)
def test_poison_count(rate, base, count):
    assert poison_count(rate, base) == count


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.integers(1, 20_000))
def test_poison_count_is_exact_for_hundredths(hundredths, base):
    if hundredths * base >= 100:
        assert poison_count(hundredths / 100, base) == hundredths * base // 100


@pytest.mark.parametrize("rate", [-0.1, math.nan, math.inf])
def test_poison_count_refuses_rates(rate):
    with pytest.raises(BadInput, match="poison rate"):
        poison_count(rate, 10)


def test_poison_count_refuses_what_gives_no_row():
    with pytest.raises(BadInput, match=r"raise the rate to 0\.1"):
        poison_count(0.05, 10)
    with pytest.raises(BadInput, match="empty subpopulation"):
        poison_count(0.5, 0)
    with pytest.raises(BadInput, match="poison base"):
        poison_count(0.5, -1)


def test_own_label_flips_every_row():
    poison = flip(50)
    true = dict(zip(ROWS, LABELS, strict=True))
    assert set(poison.rows) == set(ROWS)
    assert [true[row] for row in poison.rows] == (1 - poison.y).tolist()
    assert poison.n_flipped == len(poison) == 50


def test_common_label_leaves_rows_that_carry_it():
    poison = flip(5, rule="common", target=1, sampling="distinct")
    assert poison.y.tolist() == [1] * 5
    assert poison.n_flipped == 2  # rows 100 and 33
    three = flip(5, y=np.array([0, 1, 2, 1, 1]), n_classes=3, rule="common", target=2, sampling="distinct")
    assert three.n_flipped == 4


def test_distinct_rows_are_distinct_even_if_the_split_repeats_them():
    assert sorted(flip(5, sampling="distinct").rows) == sorted(ROWS)
    repeated, labels = np.array([9, 4, 9, 4, 2]), np.array([1, 0, 1, 0, 1])
    assert all(sorted(flip(3, repeated, labels, sampling="distinct", seed=seed).rows) == [2, 4, 9] for seed in range(20))
    with pytest.raises(BadInput, match="4 distinct poison rows from 3 distinct rows"):
        flip(4, repeated, labels, sampling="distinct")


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(0, 40), st.sampled_from(["with_replacement", "distinct"]), st.integers(0, 1000))
def test_a_smaller_rate_draws_the_beginning_of_a_larger_one(size, count, sampling, seed):
    rows, y = np.arange(1000, 1000 + size), np.arange(size) % 2
    count = min(count, size) if sampling == "distinct" else count
    large, small = (flip(n, rows, y, sampling=sampling, seed=seed) for n in (count, count // 2))
    np.testing.assert_array_equal(large.rows[: count // 2], small.rows)
    np.testing.assert_array_equal(large.y[: count // 2], small.y)
    assert sampling == "with_replacement" or len(set(large.rows)) == count
    assert set(large.rows) <= set(rows)


@pytest.mark.parametrize("sampling", ["with_replacement", "distinct"])
def test_draws_are_uniform_over_rows(sampling):
    drawn = np.concatenate([flip(2, sampling=sampling, seed=seed).rows for seed in range(5000)])
    shares = np.array([(drawn == row).mean() for row in ROWS])
    np.testing.assert_allclose(shares, 0.2, atol=0.02)


def test_twins_under_replacement_as_in_the_handbook():
    rows = np.arange(2000)
    for rate, share in ((0.5, 0.37), (1, 0.62), (2, 0.86)):
        drawn = flip(poison_count(rate, 2000), rows, rows % 2, seed=3).rows
        _, counts = np.unique(drawn, return_counts=True)
        assert counts[counts > 1].sum() / len(drawn) == pytest.approx(share, abs=0.04)


def test_no_poison_is_no_rows():
    empty = flip(0)
    assert (len(empty.rows), len(empty.y), empty.n_flipped) == (0, 0, 0)
    assert len(flip(0, ROWS[:0], LABELS[:0], sampling="distinct")) == 0
    assert len(flip(0, ROWS[:0], LABELS[:0])) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_classes": 3}, 'use rule "common"'),
        ({"rule": "common"}, "from 0 to 1, not None"),
        ({"rule": "common", "target": 2}, "from 0 to 1, not 2"),
        ({"target": 1}, "takes no target"),
        ({"rule": "least"}, "unknown label rule 'least'"),
        ({"sampling": "twice"}, "unknown sampling 'twice'"),
        ({"y": LABELS[:3]}, "3 labels"),
        ({"y": LABELS + 1}, "labels from 1 to 2"),
        ({"count": -1}, "-1 poison rows"),
        ({"rows": ROWS[:0], "y": LABELS[:0]}, "without rows in D_aux"),
        ({"count": 6, "sampling": "distinct"}, "6 distinct poison rows from 5"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(BadInput, match=message):
        flip(**changes)


def test_least_likely_label():
    proba = np.array([[0.5, 0.3, 0.2], [0.1, 0.4, 0.5]], np.float32)
    assert least_likely_label(proba) == 0
    assert least_likely_label(np.array([[0.25, 0.5, 0.25]])) == 0
    for bad in (np.zeros((0, 3)), np.zeros(3), np.array([[math.nan, 1.0]])):
        with pytest.raises(BadInput, match="confidences"):
            least_likely_label(bad)


def test_rarest_label_as_released():
    assert rarest_label(np.array([0, 0, 1, 2, 2]), 3) == 1
    assert rarest_label(np.array([0, 0, 1, 1]), 2) == 0
    assert rarest_label(np.array([0, 1, 3]), 5) == 2  # an absent class wins, the lowest of them
    for bad in (np.array([], int), np.array([5])):
        with pytest.raises(BadInput, match="rarest"):
            rarest_label(bad, 3)


def test_attacks_by_name():
    assert ATTACKS["label_flip"] is flip_labels
