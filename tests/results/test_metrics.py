"""Metrics against hand-computed matrices, simulation and an independent bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from subpop.results.metrics import (
    RightBits,
    collateral,
    damage,
    eligible,
    filter_scores,
    halved_damages,
    resampled_damages,
    selection_free_worst_k,
    top_mean,
    worst_k,
)
from subpop.types import BadInput


def bits(clean, defended_clean, poisoned):
    return RightBits(*(np.array(rows, dtype=bool) for rows in (clean, defended_clean, poisoned)))


# 2 seeds, 4 test rows: clean 3/4 and 4/4, defended clean 3/4 and 2/4, poisoned 1/4 and 2/4.
HAND = bits(
    [[1, 1, 1, 0], [1, 1, 1, 1]],
    [[1, 1, 0, 1], [1, 1, 0, 0]],
    [[1, 0, 0, 0], [1, 0, 0, 1]],
)


def from_changes(changes):
    """Bits of a subpopulation without a defense, from (n_seeds, n_rows) changes in {-1, 0, 1}."""
    changes = np.asarray(changes)
    clean = changes >= 1
    return RightBits(clean, clean, changes <= -1)


def test_damage_by_hand():
    found = damage(HAND)
    assert found.target == pytest.approx(7 / 8 - 3 / 8)
    assert found.defense_cost == pytest.approx(7 / 8 - 5 / 8)
    assert found.attack_effect == pytest.approx(5 / 8 - 3 / 8)
    # changes 0 1 1 0 | 0 1 1 0: each seed has mean 1/2, squares about it 4 * 1/4 over 3; seeds do not differ
    assert found.std_error == pytest.approx(math.sqrt((1 / 3) / 4))
    assert found.seed_std == 0


def test_standard_error_adds_seeds_and_rows():
    found = damage(from_changes([[1, 0, 0, 0], [1, 1, 1, 0]]))
    rows = (1 / 4 + 1 / 4) / 2  # sample variances of 1000 and 1110
    seeds = (0.25**2 + 0.25**2) / 1  # means 1/4 and 3/4
    assert found.std_error == pytest.approx(math.sqrt(seeds / 2 + rows / 4))
    assert found.seed_std == pytest.approx(math.sqrt(seeds))


def test_one_seed_has_the_row_term_alone_and_one_row_none():
    found = damage(from_changes([[1, 0, -1, 0]]))
    assert found.std_error == pytest.approx(math.sqrt((2 / 3) / 4))
    assert math.isnan(found.seed_std)
    assert math.isnan(damage(from_changes([[1], [0]])).std_error)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 10_000))
def test_damage_is_cost_plus_effect_to_the_last_bit(n_seeds, n_rows, seed):
    three = np.random.default_rng(seed).random((3, n_seeds, n_rows)) < 0.5
    found = damage(RightBits(*three))
    assert found.target == found.defense_cost + found.attack_effect
    assert found.target == pytest.approx(three[0].mean() - three[2].mean(), abs=1e-12)


def test_a_constant_defended_classifier_has_no_attack_effect_but_all_the_cost():
    clean, constant = np.ones((3, 20), bool), np.zeros((3, 20), bool)
    found = damage(RightBits(clean, constant, constant))
    assert (found.target, found.defense_cost, found.attack_effect) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize("shape", [(4,), (0, 4), (2, 0)])
def test_bits_of_wrong_shape_are_refused(shape):
    empty = np.zeros(shape, bool)
    with pytest.raises(BadInput, match="n_seeds, n_rows"):
        RightBits(empty, empty, empty)


def test_bits_must_be_booleans_of_one_shape():
    good = np.zeros((2, 3), bool)
    with pytest.raises(BadInput, match="int64"):
        RightBits(good, good, good.astype(int))
    with pytest.raises(BadInput, match=r"\(2, 4\)"):
        RightBits(good, np.zeros((2, 4), bool), good)


def test_worst_k_ranks_and_says_how_many_it_averaged():
    damages = [0.1, -0.2, 0.5, 0.3]
    assert worst_k(damages, 1).value == 0.5
    assert worst_k(damages, 2).value == pytest.approx(0.4)
    all_four = worst_k(damages, 10)
    assert (all_four.value, all_four.asked, all_four.averaged) == (pytest.approx(0.175), 10, 4)
    assert worst_k([-0.3, -0.1], 1).value == -0.1


@pytest.mark.parametrize(("damages", "k"), [([], 1), ([0.1], 0), ([0.1, math.nan], 1)])
def test_worst_k_refuses(damages, k):
    with pytest.raises(BadInput, match="worst-"):
        worst_k(damages, k)


def test_eligible_from_sizes():
    assert eligible([19, 20, 5, 100]).tolist() == [False, True, False, True]
    assert eligible([19, 20], minimum=10).all()


# --- selection --------------------------------------------------------------------------------------------------------

GAIN, LOSS = 0.10, 0.05  # a true damage of .05 from rows that change with these chances, the same under all seeds


def no_real_differences(generator, n_seeds=1):
    change = generator.choice([1, -1, 0], p=[GAIN, LOSS, 1 - GAIN - LOSS], size=(100, 1, 34))
    return [from_changes(np.repeat(one, n_seeds, axis=0)) for one in change]


def test_selection_bias_and_the_value_free_of_it():
    plain, free = {1: [], 5: [], 10: []}, {1: [], 5: [], 10: []}
    for trial in range(100):
        cell = no_real_differences(np.random.default_rng(trial), n_seeds=1 + trial % 2)
        halves = halved_damages(cell, seed=trial, n_halvings=4)
        for k in plain:
            plain[k].append(worst_k([one.change.mean() for one in cell], k).value)
            free[k].append(selection_free_worst_k(halves, k).value)
    for k, handbook in {1: 0.22, 5: 0.185, 10: 0.165}.items():
        assert np.mean(plain[k]) == pytest.approx(handbook, abs=0.005)
        assert np.mean(free[k]) == pytest.approx(0.05, abs=4 * np.std(free[k], ddof=1) / math.sqrt(100))
        assert np.std(free[k], ddof=1) / math.sqrt(100) < 0.01


def test_selection_free_finds_real_differences():
    generator = np.random.default_rng(0)
    cell = [from_changes(generator.random((4, 40)) < chance) for chance in (0.0, 0.1, 0.5, 0.9)]
    halves = halved_damages(cell, seed=1)
    assert selection_free_worst_k(halves, 1).value == pytest.approx(halves[:, :, 3].mean())
    assert halves[:, :, 3].mean() == pytest.approx(damage(cell[3]).target, abs=0.02)
    assert selection_free_worst_k(halves, 10).averaged == 4
    assert selection_free_worst_k(halves, 10).value == pytest.approx(halves.mean())


def test_halves_do_not_overlap_and_follow_the_seed():
    rows = np.zeros((1, 10), int)
    rows[0, :5] = 1
    halves = halved_damages([from_changes(rows)], seed=3, n_halvings=50)
    assert halves.shape == (50, 2, 1)
    np.testing.assert_allclose(halves.sum(axis=1), 1.0)  # the five changed rows are shared out, none is in both
    assert len(np.unique(halves[:, 0])) > 2
    np.testing.assert_array_equal(halves, halved_damages([from_changes(rows)], seed=3, n_halvings=50))
    seeds = np.repeat(np.arange(4)[:, None] == 0, 6, axis=1)  # one seed of four changes: 1/2 in its half, 0 in the other
    np.testing.assert_allclose(np.sort(halved_damages([from_changes(seeds)], seed=0)[:, :, 0]), [[0, 0.5]] * 20)


def test_selection_free_by_hand():
    halves = np.array([[[0.5, 0.1], [0.2, 0.4]]])  # half 0 picks the first, read .2 on half 1; half 1 picks the second, read .1
    assert selection_free_worst_k(halves, 1).value == pytest.approx(0.15)


def test_a_subpopulation_of_one_row_cannot_be_halved():
    with pytest.raises(BadInput, match="1 test row"):
        halved_damages([from_changes([[1]])], seed=0)


# --- standard errors ----------------------------------------------------------------------------------------------------


def worst_k_std_error(resampled, k):
    return top_mean(resampled, k).std(ddof=1)


def test_bootstrap_of_one_subpopulation_is_the_closed_form():
    generator = np.random.default_rng(5)
    rows_alone = from_changes(generator.choice([0, 1], size=(1, 30)))
    found = worst_k_std_error(resampled_damages([rows_alone], seed=0, n_replicates=20_000), 1)
    assert found == pytest.approx(damage(rows_alone).std_error, rel=0.03)
    seeds_alone = from_changes(np.repeat(np.array([[1], [0], [0], [1], [1]]), 30, axis=1))
    found = worst_k_std_error(resampled_damages([seeds_alone], seed=0, n_replicates=20_000), 1)
    assert found == pytest.approx(damage(seeds_alone).std_error, rel=0.03)


def slow_draws(cell, k, n_replicates):
    """The same bootstrap one replicate at a time, by gathering rows."""
    generator, values = np.random.default_rng(99), []
    n_seeds = len(cell[0].clean)
    for _ in range(n_replicates):
        seeds = generator.integers(0, n_seeds, size=n_seeds - 1)
        damages = []
        for one in cell:
            n_rows = one.clean.shape[1]
            rows = generator.integers(0, n_rows, size=n_rows - 1)
            damages.append((one.clean[np.ix_(seeds, rows)].mean()) - one.poisoned[np.ix_(seeds, rows)].mean())
        values.append(np.sort(damages)[-k:].mean())
    return np.array(values)


THRESHOLDS = math.sqrt(1.09) * norm.ppf([0.1, 0.2, 0.3, 0.35, 0.4, 0.6])


def noisy_cell(generator, n_seeds=5, n_rows=40):
    """Rows differ in how easily they change; seeds shift all rows of a subpopulation."""
    cell = []
    for threshold in THRESHOLDS:
        latent = generator.standard_normal((1, n_rows)) + 0.3 * generator.standard_normal((n_seeds, 1))
        cell.append(from_changes(latent < threshold))
    return cell


@pytest.mark.parametrize("k", [1, 3])
def test_bootstrap_equals_a_slow_one(k):
    cell = noisy_cell(np.random.default_rng(0))
    fast = worst_k_std_error(resampled_damages(cell, seed=1, n_replicates=8000), k)
    slow = slow_draws(cell, k, 2500).std(ddof=1)
    assert fast == pytest.approx(slow, rel=0.05)


@pytest.mark.parametrize("k", [1, 3])
def test_bootstrap_error_against_what_new_data_do(k):
    cells = [noisy_cell(np.random.default_rng(i)) for i in range(1500)]
    truth = np.std([worst_k([one.change.mean() for one in cell], k).value for cell in cells], ddof=1)
    errors = [worst_k_std_error(resampled_damages(cell, seed=0, n_replicates=200), k) for cell in cells[:60]]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(truth, rel=0.15)


def test_resampling_seeds_alone_is_repeatable_and_smaller():
    cell = noisy_cell(np.random.default_rng(2))
    both = resampled_damages(cell, seed=0)
    np.testing.assert_array_equal(both, resampled_damages(cell, seed=0))
    seeds = resampled_damages(cell, seed=0, rows=False)
    assert both.shape == seeds.shape == (400, 6)
    assert worst_k_std_error(seeds, 3) < worst_k_std_error(both, 3)
    one_seed = resampled_damages([from_changes([[1, 0, 1]])], seed=0, rows=False)
    np.testing.assert_allclose(one_seed, 2 / 3)


def test_cells_need_one_number_of_seeds():
    uneven = [from_changes(np.zeros((2, 3))), from_changes(np.zeros((3, 3)))]
    for function in (resampled_damages, halved_damages):
        with pytest.raises(BadInput, match=r"\[2, 3\] seeds"):
            function(uneven, seed=0)
        with pytest.raises(BadInput, match="no seeds"):
            function([], seed=0)


# --- the rest of the test rows, filters -----------------------------------------------------------------------------------


def test_collateral_by_hand():
    found = collateral([[0.9, 0.9], [0.8, 0.9]], [[0.8, 0.9], [0.9, 0.9]], seed=0, n_replicates=4000)
    assert found.max == pytest.approx(0.05)
    assert found.mean == pytest.approx(0.0, abs=1e-15)
    # one of two seeds is drawn: largest .1 or 0 and mean 0 either way; deviation .05 * sqrt(2) for a single seed
    assert found.max_seed_std == pytest.approx(0.05 * math.sqrt(2), rel=0.05)
    assert found.mean_seed_std == pytest.approx(0.0, abs=1e-12)
    single = collateral([[0.9]], [[0.95]], seed=0)
    assert single.max == single.mean == pytest.approx(-0.05)
    assert math.isnan(single.max_seed_std)


@pytest.mark.parametrize("clean", [[0.9], [[]], [[math.nan]]])
def test_collateral_refuses(clean):
    with pytest.raises(BadInput, match="collateral"):
        collateral(clean, clean, seed=0)


def test_filter_scores_by_hand():
    # Of 8 rows, 3 are flipped poison; 5 are removed: 2 of the poison, 1 clean row of the target, 2 others.
    found = filter_scores(n_rows=8, n_flipped=3, removed=5, flipped=2, target_clean=1)
    assert found.recall == pytest.approx(2 / 3)
    assert found.precision == pytest.approx(2 / 5)
    assert found.removed_share == pytest.approx(5 / 8)
    assert found.removed_target_clean_share == pytest.approx(1 / 5)
    assert found.n_removed == 5


def test_filter_scores_without_anything_to_divide_by():
    idle = filter_scores(n_rows=3, n_flipped=3, removed=0, flipped=0, target_clean=0)
    assert idle.recall == idle.removed_share == 0
    assert math.isnan(idle.precision)
    assert math.isnan(idle.removed_target_clean_share)
    assert math.isnan(filter_scores(n_rows=3, n_flipped=0, removed=3, flipped=0, target_clean=0).recall)


@pytest.mark.parametrize(
    "wrong", [{"removed": 9}, {"flipped": 4, "n_flipped": 3}, {"target_clean": 4}, {"n_flipped": 9}, {"flipped": -2}]
)
def test_parts_larger_than_their_whole_are_refused(wrong):
    counts = {"n_rows": 8, "n_flipped": 3, "removed": 5, "flipped": 2, "target_clean": 1}
    with pytest.raises(BadInput, match="larger than its whole"):
        filter_scores(**{**counts, **wrong})
