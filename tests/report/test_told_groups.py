"""The table of methods that use groups: differences to no defense by hand, and none without it."""

import numpy as np
import pytest

from subpop.report.tables.told_groups import ToldGroups
from subpop.results.paired import BY_SEED
from subpop.types import CellReport, CellResult, Number
from subpop.types.grid import grid

NAMES = ["a", "b", "c"]


def report(defense, damages, **settings):
    """A cell with the damages, (3, 2), of three subpopulations and two seeds."""
    [cell] = grid(
        stem="s", kind="told_groups", tier="embedded", dataset="mixture", victim="logistic_regression",
        partition="feature_match", rate=1.0, defense=defense, **settings,
    )  # fmt: skip
    mean = float(np.mean(damages))
    numbers = [Number("target_damage_mean", mean), Number("clean_accuracy", 0.9), Number("defended_clean_accuracy", 0.85)]
    rows = tuple({"subpopulation": name, "n_test": 40.0, "target_damage": mean} for name in NAMES)
    return CellReport(cell, CellResult(cell, tuple(numbers), table=rows, arrays={BY_SEED: np.array(damages)}))


NONE = report("none", [[0.3, 0.3], [0.5, 0.5], [0.4, 0.4]])


def test_a_constant_difference_is_shown_with_an_interval_of_no_width():
    worse = report("group_dro", [[0.4, 0.4], [0.6, 0.6], [0.5, 0.5]], groups_told="superset")
    title, table, _ = ToldGroups().tables([NONE, worse])
    assert title == "**embedded, mixture, logistic_regression**"
    cells = [part.strip() for part in table.splitlines()[-1].strip("|").split("|")]
    assert cells == ["group_dro", "superset", "50.0", "+10.0", "+10.0 to +10.0", "worse", "5.0"]


def test_differences_that_vary_are_undecided():
    mixed = report("jtt", [[0.1, 0.1], [0.7, 0.7], [0.43, 0.43]])
    table = ToldGroups().tables([NONE, mixed])[1]
    cells = [part.strip() for part in table.splitlines()[-1].strip("|").split("|")]
    assert (cells[0], cells[1], cells[3], cells[5]) == ("jtt", "–", "+1.0", "undecided")
    low, high = (float(each) for each in cells[4].split(" to "))
    # Differences -.2, .2, .03: the standard error of their mean is sqrt(.0806 / 6) over subpopulations and 0 over the two
    # seeds, which leave one degree of freedom (t = 12.706).
    assert (low, high) == pytest.approx((1.0 - 147.3, 1.0 + 147.3), abs=0.06)


def test_there_is_no_table_without_the_undefended_cell():
    assert ToldGroups().tables([report("jtt", [[0.1, 0.1]] * 3)]) == []


def test_only_the_undefended_damage_is_compared():
    assert ToldGroups().gates(NONE.cell)("target_damage_mean")
    assert not ToldGroups().gates(NONE.cell)("clean_accuracy")
    assert not ToldGroups().gates(report("jtt", [[0.1, 0.1]] * 3).cell)("target_damage_mean")
