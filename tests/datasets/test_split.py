"""The split: disjoint, seeded, complete; balanced and released draws; equal content on one side only."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_data import needs

from subpop.datasets import load_dataset
from subpop.datasets.split import check_dataset, protocols, split
from subpop.runtime.fingerprint import data_hash
from subpop.types import BadInput, Dataset, Splits

needs_adult = needs("adult")


def table(n: int, **changes: object) -> Dataset:
    """Rows 0..n-1 whose labels alternate."""
    return replace(Dataset("table", np.arange(n, dtype=np.float32)[:, None], np.arange(n) % 2, 2), **changes)


def official(n_train: int, n_test: int, **changes: object) -> Dataset:
    return table(n_train + n_test, official_test=np.arange(n_train + n_test) >= n_train, **changes)


def sides(splits: Splits) -> tuple[set[int], set[int], set[int]]:
    return set(splits.train.tolist()), set(splits.aux.tolist()), set(splits.test.tolist())


def assert_disjoint(splits: Splits) -> None:
    a, b, c = sides(splits)
    assert len(a) + len(b) + len(c) == len(a | b | c) == len(splits.train) + len(splits.aux) + len(splits.test)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(200, 400), seed=st.integers(0, 1000), protocol=st.sampled_from(["default", "reserve"]))
def test_thirds_are_disjoint_complete_and_deterministic(n, seed, protocol):
    """Of so many rows that no D is of one class, which would be refused."""
    first, second = split(table(n), seed, protocol), split(table(n), seed, protocol)
    assert_disjoint(first)
    assert set.union(*sides(first)) == set(range(n))
    third = n // 3
    expected = (third, third) if protocol == "default" else (2 * third // 3, 2 * third - 2 * third // 3)
    assert (len(first.train), len(first.aux)) == expected
    assert all(np.array_equal(getattr(first, side), getattr(second, side)) for side in ("train", "aux", "test"))
    assert (first.protocol, first.seed) == (protocol, seed)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_protocols_of_a_seed_share_the_test_rows(seed):
    data = table(360, sizes=(120, 80))
    default, reserve = split(data, seed), split(data, seed, "reserve")
    assert np.array_equal(default.test, reserve.test)
    assert (len(default.train), len(default.aux), len(default.test)) == (120, 80, 160)
    assert (len(reserve.train), len(reserve.aux)) == (66, 134)


def test_seeds_differ_and_the_global_generator_is_left_alone():
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    assert not np.array_equal(split(table(60), 0).train, split(table(60), 1).train)
    assert not np.array_equal(split(balanced(), 0).train, split(balanced(), 1).train)
    assert np.array_equal(before, np.random.get_state()[1])


def test_an_official_test_set_is_the_test_set():
    splits = split(official(50, 11), 3)
    assert np.array_equal(splits.test, np.arange(50, 61))
    assert (len(splits.train), len(splits.aux)) == (25, 25)
    assert_disjoint(splits)
    small = split(official(50, 11, sizes=(10, 15)), 3)
    assert (len(small.train), len(small.aux), len(small.test)) == (10, 15, 11)
    assert_disjoint(small)


# --- equal content ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    repeats=st.lists(st.integers(1, 3), min_size=150, max_size=200),
    seed=st.integers(0, 100),
    protocol=st.sampled_from(["default", "reserve"]),
)
def test_equal_content_never_stands_on_two_sides(repeats, seed, protocol):
    hashes = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(repeats)), repeats))
    n, largest = len(hashes), max(repeats)
    splits = split(table(n, hashes=hashes), seed, protocol)
    a, b, c = (set(hashes[rows].tolist()) for rows in (splits.train, splits.aux, splits.test))
    assert len(a) + len(b) + len(c) == len(a | b | c)
    assert_disjoint(splits)
    assert set.union(*sides(splits)) == set(range(n))
    plain = split(table(n), seed, protocol)
    for rows, wanted in ((splits.train, plain.train), (splits.test, plain.test)):
        assert len(wanted) - largest < len(rows) <= len(wanted)


def test_a_group_for_which_no_side_has_room_goes_to_aux():
    splits = split(table(10, hashes=np.arange(10) // 2), 0)  # five pairs on sides of 3, 3 and 4 rows
    assert (len(splits.train), len(splits.aux), len(splits.test)) == (2, 4, 4)
    assert set.union(*sides(splits)) == set(range(10))


def test_distinct_hashes_change_no_split():
    data = table(61)
    names = np.array([f"{i * 7919 % 61:02d}" for i in range(61)])
    plain, hashed = split(data, 4), split(replace(data, hashes=names), 4)
    assert sides(plain) == sides(hashed)


def test_content_of_an_official_test_set_is_not_trained_on():
    hashes = np.arange(60)
    hashes[[3, 4, 5]] = 55
    splits = split(official(50, 10, hashes=hashes), 0)
    assert np.array_equal(splits.test, np.arange(50, 60))
    assert set(splits.train) | set(splits.aux) == set(range(50)) - {3, 4, 5}
    sized = split(official(50, 10, hashes=hashes, sizes=(8, 9)), 0)
    assert (len(sized.train), len(sized.aux)) == (8, 9)


# --- equal shares of the classes --------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    counts=st.lists(st.integers(20, 60), min_size=2, max_size=4),
    seed=st.integers(0, 1000),
    protocol=st.sampled_from(["default", "reserve"]),
    shares=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 4)),
)
def test_stratified_sides_have_their_share_of_every_class(counts, seed, protocol, shares):
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    n = len(y)
    sizes = tuple(max(12, n * share // (sum(shares) + 1)) for share in shares[:2])
    data = table(n, y=y, n_classes=len(counts), sizes=sizes, stratified=True)
    splits = split(data, seed, protocol)
    assert_disjoint(splits)
    assert set.union(*sides(splits)) == set(range(n))
    assert [len(splits.train) + len(splits.aux), len(splits.test)] == [sum(sizes), n - sum(sizes)]
    for rows in (splits.train, splits.aux, splits.test):
        own = np.bincount(y[rows], minlength=len(counts))
        assert np.abs(own - len(rows) * np.array(counts) / n).max() < 2


@pytest.mark.parametrize("seed", range(5))
def test_stratified_halves_halve_each_class_exactly(seed):
    y = np.arange(1000) % 10 < 3
    data = official(1000, 50, y=np.concatenate([y, np.ones(50)]).astype(np.int64), sizes=(500, 500), stratified=True)
    splits = split(data, seed)
    assert_disjoint(splits)
    assert [np.bincount(data.y[rows]).tolist() for rows in (splits.train, splits.aux)] == [[350, 150]] * 2
    assert np.array_equal(splits.test, np.arange(1000, 1050))
    # Drawn at random within a class, and in random order: a side is neither sorted nor grouped by class.
    other = split(data, seed + 1)
    assert 150 < len(set(splits.train.tolist()) & set(other.train.tolist())) < 350
    steps = np.diff(data.y[splits.train])
    assert 0.3 < np.mean(steps != 0) < 0.55


def test_stratified_rows_are_drawn_evenly():
    data = table(60, y=np.arange(60) % 3 // 2, stratified=True)
    drawn = np.zeros(60)
    for seed in range(600):
        drawn[split(data, seed).train] += 1
    # Each row is in D in a third of 600 splits: 200, standard deviation 11.5.
    assert np.abs(drawn - 200).max() < 4 * 11.5


def test_equal_shares_and_equal_content_are_not_both_kept():
    with pytest.raises(BadInput, match="set stratified=False"):
        split(table(60, hashes=np.arange(60), stratified=True))


@pytest.mark.parametrize(
    ("texts", "message"), [(("a",) * 59, "59 texts for 60 rows"), (("a",) * 7 + (" \n",) + ("b",) * 52, "text of row 7 is blank")]
)
def test_malformed_texts_are_refused(texts, message):
    with pytest.raises(BadInput, match=message):
        split(table(60, texts=texts))


KNOWN = {
    ("digits", "default"): "b9e4c3ac167f3cd31f854fefee3b9b8926e675ab",
    ("digits", "reserve"): "d00c046ad990a68ab2475289d1a99d605c631cc6",
    ("mixture", "default"): "e7b5721c03c1b5f47a5bc865e9264ccf1fbedecb",
    ("mixture_multiclass", "reserve"): "8186399366adbc3ace89c4523833981af98e92d3",
}
"""Hashes of the three sides at seed 3, as they were before some data could be stratified."""


@pytest.mark.parametrize(("name", "protocol"), KNOWN)
def test_splits_of_other_data_stay_as_they_were(name, protocol):
    splits = split(load_dataset(name), 3, protocol)
    assert data_hash(splits.train, splits.aux, splits.test) == KNOWN[name, protocol]


def test_hashed_held_out_and_balanced_splits_stay_as_they_were():
    made = {
        "b319ecf22275ad7420ffde38c31a9568bc0a7fb8": official(50, 11),
        "c4cf09f713f606d878fe81dc08b45063b0188dc3": table(61, hashes=np.arange(61) // 2),
        "981e3a9995db3ec76b1ff5b8f2a93c006450de23": balanced(),
    }
    for known, data in made.items():
        splits = split(data, 3)
        assert data_hash(splits.train, splits.aux, splits.test) == known


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "protocol", "message"),
    [
        (table(2), "default", "2 rows"),
        (table(60, sizes=(30, 30)), "default", "at least one row left for testing"),
        (table(60, sizes=(0, 30)), "default", "0 and 30"),
        (official(20, 5, sizes=(15, 6)), "default", "20 rows"),
        (table(3), "reserve", "each side needs"),
        (table(60, y=np.ones(60, dtype=np.int64)), "default", "all of class 1"),
        (table(60), "as_released", "default, reserve"),
        (table(60), "legacy", "'legacy'"),
    ],
)
def test_what_cannot_be_split_is_refused(data, protocol, message):
    with pytest.raises(BadInput, match=message):
        split(data, 0, protocol)


def with_value(row: int, value: float) -> np.ndarray:
    x = np.zeros((60, 2), dtype=np.float32)
    x[row, 1] = value
    return x


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": with_value(7, np.nan)}, "1 of 60 rows.*row 7"),
        ({"x": with_value(8, np.inf)}, "row 8"),
        ({"y": np.arange(60) % 3}, "label 2 of row 2"),
        ({"y": np.arange(60) % 2 - 1}, "label -1"),
        ({"y": np.zeros(60)}, "float64"),
        ({"y": np.zeros(59, dtype=np.int64)}, "(59,)"),
        ({"annotations": {"group": np.zeros(61, dtype=np.int64)}}, "group"),
        ({"hashes": np.zeros(3)}, "hashes"),
        ({"official_test": np.zeros(60, dtype=np.int64)}, "boolean mask"),
        ({"balanced": True}, "balanced"),
    ],
)
def test_malformed_data_is_refused(changes, message):
    with pytest.raises(BadInput, match=message):
        split(table(60, **changes))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_refused(seed):
    with pytest.raises(BadInput, match="split seed"):
        split(table(60), seed)


def test_good_data_passes_the_check():
    check_dataset(official(20, 5, hashes=np.arange(25), annotations={"group": np.zeros(25, dtype=np.int64)}))


# --- balanced data ----------------------------------------------------------------------------------------------------


def balanced(rare: int = 1) -> Dataset:
    """100 training rows with 30 of the rare class, 40 test rows with 10."""
    y = np.full(140, 1 - rare)
    y[:30] = y[100:110] = rare
    return Dataset("b", np.arange(140, dtype=np.float32)[:, None], y, 2, official_test=np.arange(140) >= 100, balanced=True)


@pytest.mark.parametrize("rare", [0, 1])
@pytest.mark.parametrize("protocol", ["default", "reserve"])
def test_balanced_data_holds_all_of_the_rarer_class_and_as_many_others(rare, protocol):
    data = balanced(rare)
    splits = split(data, 1, protocol)
    assert_disjoint(splits)
    drawn = np.concatenate([splits.train, splits.aux])
    assert set(range(30)) <= set(drawn.tolist()) <= set(range(100))
    assert np.bincount(data.y[drawn]).tolist() == [30, 30]
    assert np.bincount(data.y[splits.test]).tolist() == [10, 10]
    assert (len(splits.train), len(splits.aux)) == ((30, 30) if protocol == "default" else (20, 40))


def test_the_released_draw_follows_the_recorded_order_and_repeats_rows():
    data = replace(balanced(), name="adult")
    splits = split(data, 0, "as_released")
    rng = np.random.RandomState(0)
    train = np.concatenate([rng.choice(70, 30, replace=False), np.arange(30)])
    test = np.concatenate([100 + rng.choice(30, 10, replace=False), np.arange(100, 110)])
    train = train[rng.permutation(60)]
    assert np.array_equal(splits.train, train[:30])
    assert np.array_equal(splits.aux, train[30:])
    assert np.array_equal(splits.test, test)
    assert protocols(data) == ("default", "reserve", "as_released")


# --- drawn with replacement -------------------------------------------------------------------------------------------


def faces(n: int = 20_054, sizes: tuple[int, int] = (7000, 7000)) -> Dataset:
    return table(n, name="utkface", sizes=sizes)


def test_the_released_draw_of_pictures_repeats_rows():
    data = faces(60, (20, 25))
    splits = split(data, 3, "as_released")
    drawn = np.random.RandomState(3).choice(60, 60)
    assert np.array_equal(np.concatenate([splits.train, splits.aux, splits.test]), drawn)
    assert [len(rows) for rows in (splits.train, splits.aux, splits.test)] == [20, 25, 15]
    assert protocols(data) == ("default", "reserve", "as_released")
    with pytest.raises(BadInput, match="at least one row left for testing"):
        split(faces(60, (30, 30)), 0, "as_released")


def test_three_tenths_of_the_released_test_pictures_are_also_trained_on():
    data, shares, distinct = faces(), [], []
    for seed in range(20):
        splits = split(data, seed, "as_released")
        assert [len(rows) for rows in (splits.train, splits.aux, splits.test)] == [7000, 7000, 6054]
        shares.append(np.isin(splits.test, splits.train).mean())
        distinct.append(len(np.unique(splits.train)))
    # A row is missed by 7,000 draws with probability (1 - 1/20054)^7000.
    missed = (1 - 1 / 20_054) ** 7000
    assert np.mean(shares) == pytest.approx(1 - missed, abs=0.005)
    assert round(1 - missed, 3) == 0.295
    assert np.mean(distinct) == pytest.approx(20_054 * (1 - missed), rel=0.005)


def test_the_default_split_of_the_same_pictures_shares_none():
    splits = split(faces(), 0)
    assert_disjoint(splits)
    assert [len(rows) for rows in (splits.train, splits.aux, splits.test)] == [7000, 7000, 6054]


# --- Adult ------------------------------------------------------------------------------------------------------------


@cache
def adult() -> Dataset:
    return load_dataset("adult")


def exact_objective(data: Dataset, rows: np.ndarray) -> float:
    """Sum of log-losses + |w|^2 / 2 at the optimum, the intercept a penalised column of ones."""
    from sklearn.linear_model import LogisticRegression

    x = np.column_stack([data.x[rows].astype(np.float64), np.ones(len(rows))])
    model = LogisticRegression(C=1, solver="newton-cholesky", fit_intercept=False, tol=1e-10, max_iter=1000)
    w = model.fit(x, data.y[rows]).coef_[0]
    return float(np.logaddexp(0, -(2 * data.y[rows] - 1) * (x @ w)).sum() + w @ w / 2)


@needs_adult
def test_adult_as_released_has_its_recorded_defect():
    data = adult()
    splits = split(data, 0, "as_released")
    assert [len(rows) for rows in (splits.train, splits.aux, splits.test)] == [7841, 7841, 7692]
    assert [round(float(data.y[rows].mean()), 3) for rows in (splits.train, splits.aux, splits.test)] == [0.621, 0.620, 0.621]
    assert len(np.intersect1d(splits.train, splits.aux)) == 932
    assert exact_objective(data, splits.train) == pytest.approx(2856.35, abs=0.005)


@needs_adult
def test_adult_balanced_is_half_positive_and_disjoint():
    data = adult()
    splits = split(data, 0)
    assert_disjoint(splits)
    assert [len(rows) for rows in (splits.train, splits.aux, splits.test)] == [7841, 7841, 7692]
    assert data.y[np.concatenate([splits.train, splits.aux])].mean() == data.y[splits.test].mean() == 0.5
    assert exact_objective(data, splits.train) == pytest.approx(2971.38, abs=0.005)


@needs_adult
def test_adult_reserve_is_twice_as_large_on_the_attackers_side():
    splits = split(adult(), 0, "reserve")
    assert_disjoint(splits)
    assert (len(splits.train), len(splits.aux)) == (5227, 10455)
    assert np.array_equal(splits.test, split(adult(), 0).test)
