"""Adaptive: what an attacker adds who knows the defense and trains it himself.

A cell attacks subpopulations as in `scoreboard`, with one of four attacks whose poison has the same number of rows and may be the
same rows (distinct rows of the subpopulation in D_aux with another label). `label_flip` and `proportional` do not know the
defense. `best_of_list` takes the worse of the two, `adaptive` begins there and exchanges rows, with 200 trainings of the
defense, both in a world of the attacker's own: half of D_aux takes the place of D, the other half tells how much harm is done,
and D and D_test have no part in it. The table shows what adaptation adds, as differences paired by subpopulation and split, and
the worse fixed attack in hindsight.

The mechanisms of the search, each with the best countermeasure that we know:

- *low-loss poison* against filters by loss, gradient or influence; countermeasure: tests that ask no such model, such as clean
  rows of the subpopulation, or neighbours' labels while poison is a minority;
- *tight balls* against filters by neighbours; countermeasure: many more neighbours than poison rows;
- *balanced parts* against partitions; countermeasure: more parts, and the certificate, which holds for every choice of poison;
- *random exchanges* against all others; countermeasures depend on the defense.

Source: own construction; that a defense is to be judged by an attacker who knows it is the rule of Carlini et al. 2019 and
Tramer et al. 2020 for changed test inputs. No number is published.

Deviations: see `subpop/attacks/adaptive.py` and `subpop/attacks/best_of_list.py`. A local search of 200 trainings is a lower
bound of what an attacker who knows the defense can do. Which attack does more damage is reported and not asserted. The embedded
tier has four defenses and three subpopulations, the laptop tier, on the same data, all filters and six.
"""

import pytest

from subpop import grid

STEM = "adaptive"
COMMON = {
    "stem": STEM,
    "kind": "adaptive",
    "victim": "logistic_regression",
    "partition": "feature_match",
    "rate": 1.0,
    "sampling": "distinct",
    "protocol": "reserve",
    "holdout": 0.1,
    "split": [0, 1],
    "n_seeds": 1,
    "attack": ["label_flip", "proportional", "best_of_list", "adaptive"],
}
FILTERS = [
    "sever",
    "sever_per_label",
    "activation_clustering",
    "spectral_signatures",
    "knn_relabel",
    "deep_knn",
    "confident_learning",
    "randeigen",
    "holdout_influence",
]
FEW = ["none", "trim", "knn_filter", "dpa(k=7)"]

CELLS = [
    *grid(tier="embedded", dataset=["digits", "mixture"], defense=FEW, n_attacked=3, **COMMON),
    *grid(tier="laptop", dataset=["digits", "mixture"], defense=[*FEW, *FILTERS], n_attacked=6, **COMMON),
]


def test_cell(cell, measure):
    measure(cell)


@pytest.mark.cells(attack="adaptive")
def test_the_search_is_as_long_as_it_says_and_budgets_are_equal(sweep, result_of):
    """200 trainings of the defense in every trial, and as many poison rows as label flipping."""
    for cell in sweep:
        ours, flips = result_of(cell), result_of(cell.with_(attack="label_flip"))
        assert ours["attack_fits_a_trial"] == 200
        for own, other in zip(ours.table, flips.table, strict=True):
            assert own["subpopulation"] == other["subpopulation"]
            assert own["n_poison"] == own["n_flipped"] == other["n_poison"] > 0
