"""Differences between groups' rates: by hand, and by counting row by row."""

import numpy as np
import pytest

from subpop.results.fairness import demographic_parity_difference, equalised_odds_difference
from subpop.results.summary.subpopulation import fairness_of
from subpop.types import BadInput

GROUPS = ["a"] * 4 + ["b"] * 5 + ["c"] * 2
TRUE = [1, 1, 0, 0] + [1, 1, 1, 0, 0] + [1, 0]
PREDICTED = [1, 1, 1, 0] + [1, 0, 0, 0, 0] + [1, 0]
"""Selected: 3 of 4, 1 of 5, 1 of 2. True positive rates: 2/2, 1/3, 1/1. False positive rates: 1/2, 0/2, 0/1."""


def test_by_hand():
    assert demographic_parity_difference(TRUE, PREDICTED, GROUPS) == pytest.approx(3 / 4 - 1 / 5, abs=1e-15)
    assert equalised_odds_difference(TRUE, PREDICTED, GROUPS) == pytest.approx(1 - 1 / 3, abs=1e-15)


def test_the_false_positive_rates_count_where_they_differ_more():
    true, predicted = [1, 0, 0, 1, 0, 0], [1, 1, 1, 1, 0, 1]
    assert equalised_odds_difference(true, predicted, [0, 0, 0, 1, 1, 1]) == 0.5  # 2 of 2 and 1 of 2


def test_the_other_class_as_positive_swaps_the_rates_and_keeps_both_differences():
    for measure in (demographic_parity_difference, equalised_odds_difference):
        assert measure(TRUE, PREDICTED, GROUPS, positive=0) == pytest.approx(measure(TRUE, PREDICTED, GROUPS), abs=1e-15)


def test_one_of_three_classes_against_the_others():
    true, predicted, groups = ["x", "y", "z", "x"], ["x", "x", "z", "y"], ["m", "m", "f", "f"]
    assert demographic_parity_difference(true, predicted, groups, positive="x") == 1.0
    assert equalised_odds_difference(true, predicted, groups, positive="z") == 0.0
    with pytest.raises(BadInput, match=r"there are 3 classes \(x, y, z\)"):
        demographic_parity_difference(true, predicted, groups)


def test_a_group_without_rows_of_a_class_has_no_rate_of_it():
    """b has no positive row: counted as the rate 0, it would make the difference 1."""
    assert equalised_odds_difference([1, 0, 0, 0], [1, 0, 0, 0], ["a", "a", "b", "b"]) == 0.0
    assert equalised_odds_difference([1, 1], [1, 0], ["a", "a"]) == 0.0


def test_against_counting_row_by_row():
    g = np.random.default_rng(3)

    def rate(rows):
        return sum(predicted for _, predicted, _ in rows) / len(rows) if rows else None

    for _ in range(20):
        rows = list(zip(*g.integers(0, [[2], [2], [4]], (3, 25)), strict=True))
        spreads = []
        for kept in ((0, 1), (1,), (0,)):
            rates = [rate([row for row in rows if row[2] == group and row[0] in kept]) for group in range(4)]
            rates = [each for each in rates if each is not None]
            spreads.append(max(rates) - min(rates) if rates else 0.0)
        columns = list(zip(*rows, strict=True))
        assert demographic_parity_difference(*columns, positive=1) == pytest.approx(spreads[0], abs=1e-15)
        assert equalised_odds_difference(*columns, positive=1) == pytest.approx(max(spreads[1:]), abs=1e-15)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([], [], []), "at least one row"),
        (([0, 1], [0], ["a", "b"]), r"y_pred has shape \(1,\)"),
        (([[0, 1]], [[0, 1]], [["a", "b"]]), "one label, one prediction and one group for each row"),
        (([0, 1], [0, 1], ["a", None]), "groups has no value in row 1"),
        (([0, float("nan")], [0, 1], ["a", "b"]), "y_true has no value in row 1"),
        ((["0", "1"], [0, 1], ["a", "b"]), "some labels are text"),
    ],
)
def test_bad_input(arguments, said):
    with pytest.raises(BadInput, match=said):
        equalised_odds_difference(*arguments)


def test_an_unknown_positive_class_names_the_classes():
    with pytest.raises(BadInput, match="positive='yes' is none of the classes 0, 1"):
        demographic_parity_difference([0, 1], [0, 1], ["a", "b"], positive="yes")


def test_examples():
    import doctest

    from subpop.results import fairness

    assert doctest.testmod(fairness) == (0, 2)


def test_columns_of_a_subpopulation_are_the_means_of_both_measures_over_seeds():
    """Predictions follow from which rows are right, with two classes."""
    rng = np.random.default_rng(0)
    y, members = rng.integers(0, 2, 60), rng.random(60) < 0.3
    clean, poisoned = rng.random((4, 60)) < 0.9, rng.random((4, 60)) < 0.6
    found = fairness_of(y, members, clean, poisoned)
    for name, right in (("clean", clean), ("poisoned", poisoned)):
        predicted = np.where(right, y, 1 - y)
        parity = [demographic_parity_difference(y, each, members, positive=1) for each in predicted]
        odds = [equalised_odds_difference(y, each, members, positive=1) for each in predicted]
        assert found[f"demographic_parity_difference_{name}"] == pytest.approx(np.mean(parity))
        assert found[f"equalised_odds_difference_{name}"] == pytest.approx(np.mean(odds))


def test_a_class_that_a_subpopulation_lacks_is_not_compared():
    y, members = np.array([1, 1, 0, 1]), np.array([True, True, False, False])
    right = np.array([[True, False, False, True]])  # predicted 1, 0, 1, 1
    found = fairness_of(y, members, right, right)
    assert found["equalised_odds_difference_clean"] == 0.5  # among rows of class 1: 1 of 2 inside, 1 of 1 outside
    assert found["demographic_parity_difference_clean"] == 0.5
