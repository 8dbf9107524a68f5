"""Figure 2: why TRIM fails on a subpopulation attack, in two dimensions.

Four panels of one generated 2-D data set: unpoisoned, poisoned, poisoned + TRIM, poisoned + SEVER. A cell's number is the
target damage of its panel. TRIM removes the rows of highest loss: under attack those are the clean members of the
subpopulation, so it increases the damage.

Source: Jagielski et al., CCS 2021, Figure 2. The paper says that TRIM and SEVER increase the damage: the claim about TRIM is
asserted here, that about SEVER is reported.

Deviations: our own mixture (the paper's points are not given); logistic regression solved exactly.
"""

import pytest

from subpop import grid

STEM = "figure2_trim"
PANEL = {
    "stem": STEM,
    "tier": "embedded",
    "dataset": "mixture_2d",
    "victim": "logistic_regression",
    "partition": "feature_match",
    "sampling": "distinct",
    "protocol": "reserve",
    "panels": "yes",
}

CELLS = [
    *grid(rate=0.0, defense="none", **PANEL),
    *grid(rate=2.0, defense=["none", "trim", "sever"], **PANEL),
]


def test_cell(cell, measure):
    measure(cell)


@pytest.mark.cells(defense="trim")
def test_trim_makes_it_worse(sweep, result_of):
    undefended = sweep[0].with_(defense="none")
    attacked, trimmed = (result_of(cell)["target_damage_worst_1"] for cell in (undefended, sweep[0]))
    assert attacked > 0, f"the attack does nothing: {attacked:.3f}"
    assert trimmed > attacked, f"TRIM does not make it worse: {attacked:.3f} undefended, {trimmed:.3f} with TRIM"
