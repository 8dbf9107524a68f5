"""The attacker's sample: how much damage is left if the attacker sees only a part of D_aux.

A cell attacks every k-means cluster at alpha 1, as `cluster_match` does, by an attacker who sees a tenth, half or all of D_aux.
The subpopulations, their test rows and the number of poison rows are always those of the whole D_aux. With `aux_groups=frozen`
the attacker knows which of its rows are in the target; with `aux_groups=derived` it clusters the rows that it sees by itself, and
draws poison from its own cluster nearest to the target. Numbers are those of `cluster_match`.

Source: own construction; the paper's attacker has a sample as large as D.

Deviations: a tenth of a subpopulation has fewer rows than the attack needs, so that poison rows cannot be distinct: all shares
draw with replacement, so that they are comparable, and a small sample repeats few rows often. See
`subpop/attacks/attackers_sample.py`.
"""

import pytest

from subpop import grid

STEM = "attackers_sample"
COMMON = {
    "stem": STEM,
    "kind": "sample",
    "tier": "embedded",
    "dataset": ["digits", "mixture"],
    "victim": "logistic_regression",
    "partition": "cluster_match",
    "rate": 1.0,
    "sampling": "with_replacement",
}

CELLS = [
    *grid(aux_share=[0.1, 0.5, 1.0], aux_groups="frozen", **COMMON),
    *grid(aux_share=[0.1, 0.5], aux_groups="derived", **COMMON),
]


def test_cell(cell, measure):
    measure(cell)


@pytest.mark.cells(dataset="mixture", aux_groups="derived")
def test_clusters_that_are_easy_to_find_need_no_large_sample(sweep, result_of):
    """The components of the mixture are far apart: half of the rows give the clusters that all rows give."""
    for cell in sweep:
        if cell.poisoning.aux_share == 0.5:
            frozen = result_of(cell.with_(aux_groups="frozen"))
            assert result_of(cell)["target_damage_mean"] == pytest.approx(frozen["target_damage_mean"], abs=0.05)
