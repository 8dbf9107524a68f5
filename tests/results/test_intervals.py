"""Intervals contain what they are about, where those that they replaced did not; and there is none from too few values.

The full grid: `python tests/interval_coverage.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from interval_coverage import (
    Point,
    of_accuracy,
    of_damages,
    of_selection,
    of_subpopulations,
    of_target_sets,
    of_timings,
    of_worlds,
    of_worst_sets,
    ranked_of,
)
from scipy.stats import t, ttest_1samp, ttest_ind

from subpop.experiments.speed.timing import ratio_of_medians, speed_ratio
from subpop.experiments.target_sets.success import Sets, differences, numbers_of
from subpop.results.intervals import (
    ESTIMANDS,
    HIDDEN_CLUSTER,
    Part,
    half_width,
    of_resampled,
    of_rounds,
    of_table,
    of_values,
    part_of,
)
from subpop.results.summary.ranked import damages

PAGE = Path(__file__).parents[2] / "docs" / "intervals.md"
LEAST = 0.93


# --- by hand, and against scipy ---------------------------------------------------------------------------------------


def test_one_part_is_students_interval() -> None:
    values = np.random.default_rng(0).normal(size=9)
    interval = ttest_1samp(values, 0).confidence_interval(0.95)
    assert half_width([Part(values.var(ddof=1) / 9, 8)]) == pytest.approx((interval.high - interval.low) / 2)


def test_two_parts_are_welchs_interval() -> None:
    first, second = np.random.default_rng(1).normal(0, 1, 7), np.random.default_rng(2).normal(0, 3, 12)
    interval = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    found = half_width([Part(first.var(ddof=1) / 7, 6), Part(second.var(ddof=1) / 12, 11)])
    assert found == pytest.approx((interval.high - interval.low) / 2)


def test_values_have_two_more_that_are_one_step_off_and_a_degree_of_freedom_less() -> None:
    values = [0.5, 0.5, 0.5, 0.5, 0.6]
    assert part_of(values) == pytest.approx((0.002 / 5 + 2 * (0.1 / 5) ** 2, 3))
    assert of_values(values) == pytest.approx(t.ppf(0.975, 3) * (0.002 / 5 + 2 * 0.02**2) ** 0.5)


def test_both_sides_of_a_table_count() -> None:
    values = np.add.outer(np.arange(6.0), 10 * np.arange(5.0))
    assert of_table(values) == pytest.approx(half_width([part_of(values.mean(1)), part_of(values.mean(0))]))
    assert of_table(values) > of_values(values.mean(1)) > 0  # type: ignore[operator]


def test_six_rounds_reach_from_the_fastest_to_the_slowest() -> None:
    assert of_rounds([2.0, 3.0, 4.0, 5.0, 6.0, 9.0], 4.5) == 4.5
    assert speed_ratio([1.0] * 6, [2.0, 3.0, 4.0, 5.0, 6.0, 9.0]).half_width == 4.5


# --- when there is none -----------------------------------------------------------------------------------------------


def test_no_interval_from_fewer_than_five_values_or_six_rounds() -> None:
    values = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert of_values(values[:4]) is None
    assert of_values(values) is not None
    assert of_table(np.ones((9, 4)) * values[:4]) is None
    assert of_table(np.ones((4, 9)) * np.arange(9)) is None
    assert of_rounds([1.0, 2.0, 3.0, 4.0, 5.0], 3.0) is None


def test_no_interval_where_nothing_varies() -> None:
    assert of_values([0.5] * 8) is None
    assert half_width([Part(float("nan"), 4)]) is None


def test_one_test_row_has_no_interval() -> None:
    """A subpopulation with one test row ended its cell with a division by zero."""
    assert of_resampled([0.0, 1.0, 0.0], [0.0, 0.0, 1.0], n_seeds=5, n_rows=1) is None


@pytest.mark.parametrize("n_seeds", [1, 4, 5])
def test_damages_of_fewer_than_five_seeds_have_no_interval(n_seeds: int) -> None:
    point = Point("equal, .3", "network", n_seeds=n_seeds)
    ranked = ranked_of(point.draw(np.random.default_rng(0), 1)[0])
    numbers = {number.metric: number for number in damages(ranked)}
    with_interval = {name for name, number in numbers.items() if number.half_width is not None}
    expected = {"target_damage_mean", *(f"target_damage_worst_{k}" for k in (1, 5, 10))} if n_seeds == 5 else set()
    assert with_interval == expected  # in particular no cost or effect of subpopulations chosen by the same results
    assert (ranked.parts[0].damage.half_width is not None) == (n_seeds == 5)
    assert {numbers[name].varies for name in with_interval} <= set(ESTIMANDS)


def test_three_rounds_of_a_timing_have_no_interval() -> None:
    numbers, *_ = ratio_of_medians(lambda: None, lambda: None)
    assert numbers[0].metric == "speed_ratio"
    assert numbers[0].half_width is None
    numbers, *_ = ratio_of_medians(lambda: None, lambda: None, rounds=6)
    assert numbers[0].half_width is not None


def sets_of(success: list[float], cluster: list[int] | None = None) -> Sets:
    never, start = np.full(len(success), np.nan), np.ones(len(success))
    return Sets(np.array(success), never, start, None if cluster is None else np.array(cluster))


def test_a_cluster_is_one_value_however_often_it_is_drawn() -> None:
    success, own = [0.1, 0.2, 0.3, 0.4, 0.9], [3, 1, 4, 2, 5]
    once = numbers_of([sets_of(success, own)])
    often = numbers_of([sets_of(success, own)] * 4)
    widths = [next(n.half_width for n in found if n.metric == "success_mean") for found in (once, often)]
    part = part_of(success)
    more = (HIDDEN_CLUSTER - np.mean(success)) ** 2 / 4 / 5
    assert widths == pytest.approx([half_width([Part(part.variance + more, 3)])] * 2)
    four = numbers_of([sets_of(success[:4], own[:4])] * 5)
    assert next(n.half_width for n in four if n.metric == "success_mean") is None


def test_worst_sets_need_five_draws() -> None:
    generator = np.random.default_rng(0)
    clusters, random = ([sets_of(list(generator.random(6)), [0, 1, 2, 3, 4, 5]) for _ in range(5)] for _ in range(2))
    for n_draws, given in ((4, False), (5, True)):
        found = {number.metric: number for number in differences(clusters[:n_draws], random[:n_draws])}
        assert (found["success_worst_1_difference"].half_width is not None) == given
        assert found["success_mean_difference"].half_width is not None


# --- coverage ---------------------------------------------------------------------------------------------------------


def test_damages_of_rare_changes() -> None:
    """The earlier interval of one subpopulation contained a damage of .02 in 53 %, and that of worst-1 of .98 in none."""
    rows = {row.estimator: row for row in of_damages(Point("equal, .02", "exact"), 150)}
    assert min(row.covered for row in rows.values()) >= LEAST
    assert rows["damage of one"].before < 0.7
    rows = {row.estimator: row for row in of_damages(Point("equal, .98", "network"), 150)}
    assert min(row.covered for row in rows.values()) >= LEAST
    assert rows["worst-1"].before < 0.1


def test_the_mean_damage_of_a_network_that_varies_between_five_seeds() -> None:
    """1.96 standard errors contained it in 90 %."""
    row = of_damages(Point("equal, .3", "network", n_subpopulations=30, n_rows=60), 500)[1]
    assert row.estimator == "mean damage"
    assert row.before < 0.92 < LEAST <= row.covered


def test_accuracies() -> None:
    """1.96 standard errors contained them in 86 % with five seeds."""
    row = of_accuracy("network", 0.7, 600, 5, 1000)
    assert row.before < 0.9 < LEAST <= row.covered


def test_errors_in_two_worlds_and_means_over_subpopulations() -> None:
    """What a seed gives to all subpopulations did not count: 1.96 standard errors contained the mean in 87 %."""
    assert min(row.covered for row in of_worlds(0.5, 1, 30, 1000)) >= LEAST
    row = of_subpopulations(16, 5, 0.1, 1000)
    assert row.before < 0.9 < LEAST <= row.covered


def test_target_sets_of_clusters_that_repeat() -> None:
    """Welch's interval with every set as a value of its own contained the difference in 78 to 86 %."""
    for name, n_clusters, n_draws in (("few clusters fall, Beta(.3, 2)", 12, 3), ("cluster success Beta(1.5, 1.5)", 20, 3)):
        (row,) = of_target_sets(name, n_clusters, n_draws, 400)
        assert row.before < 0.9 < 0.92 <= row.covered  # two standard errors of 400 runs below 94 %
    assert of_worst_sets(5, 300).covered >= LEAST


def test_speed_ratios_with_slow_rounds() -> None:
    assert of_timings(6, 0.1, 500).covered >= LEAST
    assert of_timings(3, 0.1, 5).printed == 0


def test_the_lower_estimate_is_lower_and_the_true_worst_has_no_interval() -> None:
    """Ten damages of .1 to .4: the one ranked first has .36, the lower estimate reads .34; naively 5 to 54 % with equal ones."""
    equal, many, rising = ([float(cell) for cell in line.split("|")[2:7]] for line in of_selection(300)[0].splitlines()[2:5])
    assert max(equal[-1], many[-1]) < 70
    truth, picked, read, lower, _ = rising
    assert lower < picked < truth < read


def test_the_page_has_no_interval_that_covers_less() -> None:
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| ([\d.]+) ± [\d.]+.* \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 150
    assert min(map(float, rows)) >= 100 * LEAST
