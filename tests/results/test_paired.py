"""Comparisons of defenses: known answers, and simulations of how often verdicts are wrong or missing."""

import itertools

import numpy as np
import pandas as pd
import pytest

from subpop.results import paired
from subpop.results.paired import (
    BETTER,
    BY_SEED,
    EQUIVALENT,
    UNDECIDED,
    WORSE,
    Difference,
    damages_by_seed,
    difference_of,
    judge,
    paired_difference,
)
from subpop.types import BadInput, Cell, CellResult

GRID = list(itertools.product((5, 10, 20), (2, 3, 5, 10)))
"""Numbers of subpopulations and of seeds."""


def damages(values, split="0", names=None):
    """A table of damages: one row per subpopulation of a split, one column per seed."""
    names = names or [f"digit={i}" for i in range(len(values))]
    return pd.DataFrame(np.array(values, float), pd.MultiIndex.from_product([[split], names], names=["split", "subpopulation"]))


def noisy(mean, n_groups=10, n_seeds=5, seed=0):
    return damages(mean + np.random.default_rng(seed).normal(0, 0.02, (n_groups, n_seeds)))


# --- known answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("mean", "expected"), [(0.1, BETTER), (0.7, WORSE), (0.4, EQUIVALENT), (0.41, EQUIVALENT), (0.35, BETTER)]
)
def test_the_verdict_on_a_defense_whose_damage_is_known(mean, expected, exact):
    none = noisy(0.4)
    found = judge({"d": paired_difference(noisy(mean, seed=1), none, none, exact=exact)})["d"]
    assert found.verdict == expected
    assert found.difference.value == pytest.approx(mean - 0.4, abs=0.01)


def test_a_difference_that_varies_more_than_it_is_large_is_undecided():
    none = damages(np.full((6, 3), 0.4))
    found = judge({"d": paired_difference(none + np.array([[0.3], [-0.4], [0.2], [-0.3], [0.1], [-0.2]]), none, none)})["d"]
    assert (found.verdict, found.difference.reason) == (UNDECIDED, "")


def test_mean_and_error_by_hand():
    """Three subpopulations move by -0.1, -0.2 and -0.3 under both seeds: a t statistic with two degrees of freedom."""
    none = damages(np.full((3, 2), 0.5))
    found = paired_difference(none - np.array([[0.1], [0.2], [0.3]]), none, none, exact=True)
    assert (found.value, found.freedom, found.n_groups) == (pytest.approx(-0.2), pytest.approx(2), 3)
    assert found.std_error == pytest.approx(0.1 / 3**0.5)
    assert found.p_difference == pytest.approx(2 * 0.0370899, rel=1e-4)  # t = 3.4641
    assert found.p_equivalence == pytest.approx(1 - 0.0608124, rel=1e-2)  # t = -2.598
    with_seeds = paired_difference(none - np.array([[0.1], [0.2], [0.3]]) + [0.06, -0.06], none, none)
    assert with_seeds.std_error == pytest.approx((0.01 / 3 + 0.06**2) ** 0.5)
    assert with_seeds.freedom == pytest.approx(1)


def test_no_difference_on_any_row_is_equivalent():
    none = damages(np.full((3, 2), 0.4))
    assert judge({"drop_duplicates": paired_difference(none, none, none)})["drop_duplicates"].verdict == EQUIVALENT


def test_two_defenses_are_compared_where_the_undefended_attack_hurts():
    none = damages([[0.5, 0.5], [0.4, 0.4], [0.3, 0.3], [0.0, 0.0], [0.09, 0.09]])
    first, second = damages(np.full((5, 2), 0.2)), damages([[0.3] * 2] * 3 + [[0.9] * 2] * 2)
    found = paired_difference(first, second, none, exact=True)
    assert (found.value, found.n_groups) == (pytest.approx(-0.1), 3)


def test_a_seed_counts_where_the_other_seeds_are_hurt():
    undefended = np.array([[0.4, 0.0], [0.1, 0.1]])
    assert paired.selected(undefended).tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize(
    ("n_groups", "n_seeds", "reason"),
    [
        (10, 1, "1 common seed; 2 are needed"),
        (10, 0, "no common seeds; 2 are needed"),
        (2, 5, "2 subpopulations are hurt; 3 are needed"),
        (0, 5, "0 subpopulations are hurt; 3 are needed"),
    ],
)
def test_too_little_is_undecided_with_the_reason(n_groups, n_seeds, reason):
    none = noisy(0.4, n_groups, n_seeds)
    found = judge({"d": paired_difference(none - 0.3, none, none)})["d"]
    assert (found.verdict, found.difference.reason) == (UNDECIDED, reason)


def test_subpopulations_are_paired_by_name_and_seeds_by_number():
    none = damages([[0.2, 0.3], [0.4, 0.5], [0.6, 0.7], [0.8, 0.9]], names=["a", "b", "c", "d"])
    ours = (none - 0.1).iloc[::-1, ::-1]
    found = paired_difference(ours.drop(("0", "d")), none, none)
    assert (found.value, found.n_groups) == (pytest.approx(-0.1), 3)
    assert found.std_error == pytest.approx(0, abs=1e-12)


def test_several_splits_count_as_clusters():
    """Three splits with many alike subpopulations: two degrees of freedom, and the error is that of three values."""
    none = pd.concat([damages(np.full((8, 2), 0.5), str(split)) for split in range(3)])
    moved = pd.concat([damages(np.full((8, 2), 0.5 - by), str(split)) for split, by in enumerate((0.1, 0.2, 0.3))])
    found = paired_difference(moved, none, none, exact=True)
    assert (found.value, found.freedom, found.n_groups) == (pytest.approx(-0.2), pytest.approx(2), 8)
    assert found.std_error == pytest.approx(0.1 / 3**0.5)


def test_a_table_with_a_subpopulation_twice_or_without_a_number_is_refused():
    none = noisy(0.4)
    for bad in (pd.concat([none, none]), none.where(none != none.iloc[0, 0])):
        with pytest.raises(BadInput, match="twice, or a damage that is not finite; give one"):
            paired_difference(bad, none, none)


# --- correction over defenses -----------------------------------------------------------------------------------------


def with_p(p):
    """A difference with a two-sided p value of p, far from equivalence."""
    from scipy.stats import norm

    return Difference(-1.0, 1 / norm.isf(p / 2), 1e9, 10)


@pytest.mark.parametrize(
    ("p_values", "n_better"),
    # Each step divides 0.04 by the number of defenses with a hypothesis left: all of them, as equivalence is never shown here.
    [((0.039,), 1), ((0.041,), 0), ((0.019, 0.019), 2), ((0.021, 0.039), 0), ((0.005,) * 8 + (0.003,) * 2, 2)],
)
def test_verdicts_are_corrected_over_all_defenses_of_a_control(p_values, n_better):
    found = judge({str(i): with_p(p) for i, p in enumerate(p_values)})
    assert sum(each.verdict == BETTER for each in found.values()) == n_better


def test_a_defense_that_cannot_be_compared_does_not_count():
    found = judge({"a": with_p(0.039), "b": Difference(reason="1 common seed; 2 are needed")})
    assert [each.verdict for each in found.values()] == [BETTER, UNDECIDED]


def test_rank_sorts_the_best_defense_first():
    differences = {
        "worse": Difference(0.3, 0.01, 9, 10),
        "unknown": Difference(reason="1 common seed; 2 are needed"),
        "noisy": Difference(-0.4, 0.5, 9, 10),
        "same": Difference(0.0, 0.001, 9, 10),
        "good": Difference(-0.2, 0.01, 9, 10),
        "best": Difference(-0.3, 0.01, 9, 10),
    }
    found = judge(differences)
    assert sorted(found, key=lambda name: found[name].rank) == ["best", "good", "same", "noisy", "unknown", "worse"]


# --- simulations ------------------------------------------------------------------------------------------------------


def simulate(n_groups, n_seeds, n_runs, *, change=0.0, exact=True, means=(0.0, 0.5), noise=0.08, own=0.05, shared=0.02):
    """Verdicts on ten defenses that share one control, (n_runs, 10).

    Subpopulations have mean damages in the range `means`; a defense changes them by `change` and by deviations `own`. Values of
    seeds deviate by `noise`, and those of all subpopulations together by `shared` unless the victim is exact.
    """
    rng, splits, names = np.random.default_rng(5), np.zeros(n_groups, int), np.arange(n_groups)
    common = 0.0 if exact else shared

    def draw(mean):
        return mean + rng.normal(0, noise, (n_groups, n_seeds)) + rng.normal(0, common, n_seeds)

    verdicts = []
    for _ in range(n_runs):
        mean = rng.uniform(*means, (n_groups, 1))
        none = draw(mean)
        defended = [draw(mean + change + rng.normal(0, own, (n_groups, 1))) for _ in range(10)]
        differences = {str(i): difference_of(d - none, none, splits, names, exact=exact) for i, d in enumerate(defended)}
        verdicts.append([each.verdict for each in judge(differences).values()])
    return np.array(verdicts)


def any_wrong(verdicts):
    return float(np.isin(verdicts, [BETTER, WORSE]).any(axis=1).mean())


@pytest.mark.parametrize(("n_groups", "n_seeds"), GRID)
def test_at_most_one_table_in_twenty_has_a_wrong_verdict(n_groups, n_seeds):
    assert any_wrong(simulate(n_groups, n_seeds, 800)) <= 0.05
    strong = simulate(n_groups, n_seeds, 200, exact=False, own=0, shared=0.05, noise=0.03)  # training seeds matter most
    assert any_wrong(strong) <= 0.05


@pytest.mark.parametrize(("n_groups", "n_seeds"), [(5, 5), (10, 3), (20, 5)])
def test_defenses_that_differ_by_the_margin_are_seldom_called_equivalent(n_groups, n_seeds):
    verdicts = simulate(n_groups, n_seeds, 500, change=0.05, own=0, noise=0.05)
    assert (verdicts == EQUIVALENT).any(axis=1).mean() <= 0.05


def test_selection_on_the_compared_seeds_would_be_biased(monkeypatch):
    """Damages near the limit: subpopulations are selected for an accidentally large undefended damage, and all defenses win."""
    near = {"n_groups": 20, "n_seeds": 2, "n_runs": 400, "means": (0.0, 0.15), "noise": 0.15, "own": 0}
    assert any_wrong(simulate(**near)) <= 0.05
    monkeypatch.setattr(paired, "selected", lambda u: np.repeat(u.mean(axis=1, keepdims=True) >= paired.HURT, u.shape[1], axis=1))
    verdicts = simulate(**near)
    assert any_wrong(verdicts) > 0.4
    assert (verdicts == BETTER).sum() > 20 * (verdicts == WORSE).sum()


POWER = {  # the share of defenses that lower the damage by 0.2 and are called better, of ten that share one control
    True: {(5, 2): 0.15, (5, 5): 0.35, (10, 2): 0.8, (10, 5): 0.95, (20, 2): 0.99},
    False: {(5, 5): 0.1, (10, 5): 0.5, (10, 10): 0.9, (20, 5): 0.85, (20, 10): 0.99},
}


@pytest.mark.parametrize(("exact", "size"), [(exact, size) for exact, sizes in POWER.items() for size in sizes])
def test_power_is_as_stated(exact, size):
    assert (simulate(*size, 150, change=-0.2, exact=exact) == BETTER).mean() >= POWER[exact][size]


def test_two_seeds_of_a_network_decide_almost_nothing():
    assert (simulate(20, 2, 150, change=-0.2, exact=False) == BETTER).mean() < 0.02


# --- from results -----------------------------------------------------------------------------------------------------


def test_damages_of_a_result_leave_out_small_subpopulations():
    cell = Cell.of("s", "embedded", "toy", "v", "feature_match", "label_flip", 1.0, split=2)
    table = tuple({"subpopulation": name, "n_test": n} for name, n in (("a", 20.0), ("b", 19.0), ("c", 50.0)))
    result = CellResult(cell, (), table, {BY_SEED: np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])})
    found = damages_by_seed(result)
    assert found.index.tolist() == [("2", "a"), ("2", "c")]
    assert found.to_numpy().tolist() == [[0.1, 0.2], [0.5, 0.6]]
    assert damages_by_seed(CellResult(cell, (), table)).empty
