"""Susceptibility: how many label flips a subpopulation resists, and what predicts the number.

m50 of a subpopulation is the smallest number of poison rows, on a geometric grid, from which on half of its test rows or more are
wrong: the median over five draws, each nested (a smaller number of rows is the beginning of a larger one). It is *censored* if
all of the subpopulation's rows in D_aux are not enough (about twice its rows in D), and *trivial* if half is wrong without an
attack. The numbers of a cell are Kendall's rank correlations of m50, and of m50 divided by the rows in D, with the size, the
clean accuracy, the loss difference to a target model that another attack gives, and the share of the attacker's label among
similar rows; with 95 % intervals over resampled subpopulations, and once more after clean accuracy. `count_over_bound_median`:
rows of model-targeted poisoning divided by a lower bound for reaching the same model (a bound for that model, not on any attack).

Source: Rose, Suya and Evans 2022 ("Understanding variation in subpopulation susceptibility to poisoning attacks"): success at
half of the target, the predictors, and the finding that the loss difference predicts and the size does not. No number of theirs
is compared: their counts are of model-targeted poison on other data, ours of label flips of distinct rows.

Deviations: see `subpop/experiments/susceptibility.py`. Medians and correlations are reported with intervals; which predictor is
the best one is not asserted. `mixture_sizes` has subpopulations of 10 to 1,000 rows in D, the others of similar size.
"""

import pytest

from subpop import grid

STEM = "susceptibility"
COMMON = {
    "stem": STEM,
    "kind": "m50",
    "tier": "embedded",
    "victim": "logistic_regression",
    "rate": 0.0,
    "sampling": "distinct",
    "protocol": "reserve",
    "n_seeds": 5,
}

CELLS = [
    *grid(dataset=["mixture", "mixture_sizes", "digits"], partition="feature_match", **COMMON),
    *grid(dataset="digits", partition="cluster_match", **COMMON),
]


def test_cell(cell, measure):
    measure(cell)


def test_every_subpopulation_is_accounted_for(sweep, result_of):
    """m50 is between one row and all of them; trivial ones are those that are wrong without an attack."""
    for cell in sweep:
        for row in result_of(cell).table:
            assert row["m50_trivial"] == (row["target_clean_accuracy"] <= 0.5)
            assert row["m50_low"] <= row["m50"] <= row["grid_end"] <= row["n_aux"]
            assert (row["m50_low"] >= 1) != bool(row["m50_trivial"])
            assert not row["m50_censored"] or row["m50"] == row["grid_end"]


@pytest.mark.cells(dataset="mixture", partition="feature_match")
def test_subpopulations_with_low_clean_accuracy_fall_first(sweep, result_of):
    """The finding of the source that needs no fine resolution: what is nearly wrong already needs fewest rows."""
    (cell,) = sweep
    assert result_of(cell)["kendall_m50_clean_accuracy_low"] > 0
