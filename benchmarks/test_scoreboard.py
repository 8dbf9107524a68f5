"""Scoreboard: every registered defense against label flipping at alpha 1, under one protocol.

A cell attacks up to six subpopulations of one split with one defense. Its numbers are those of `defenses_trim_sever`; the front
page ranks the defenses by the mean target damage over the cells that all of them have in common. Every defense trains on the same
poisoned sets. What a defense is told beyond its training rows (the number of poison rows, a clean holdout without rows of the
subpopulation) is part of its row.

Source: the attack of Jagielski et al., CCS 2021; the defenses are those of the papers named in their modules, with the
defaults of their sources.

Deviations: poison rows are distinct, because copies would give them away. Only the mean target damage and the accuracy on
clean data have references. Tuned settings and defenses that train by random steps have none, and no defense has any in the
laptop tier and under the convolutional network, where three subpopulations of one split are attacked; `cards` tests each
defense on cases whose outcome is known.

Three subpopulations and three seeds leave every defense of the convolutional network undecided; the suite `amplification` has
more of both for the methods that use groups.
"""

from subpop import grid
from subpop.defenses import DEFENSES, MATCHED
from subpop.defenses.tuned import tuned
from subpop.report.tables.cards import cards

STEM = "scoreboard"
open_to_defenses = True

COMMON = {
    "stem": STEM,
    "kind": "board",
    "partition": "feature_match",
    "rate": 1.0,
    "sampling": "distinct",
    "protocol": "reserve",
    "holdout": 0.1,
    "split": [0, 1],
}
NEED_CHANNELS = ["fine_pruning", "fine_pruning_as_released"]
FOR_NETWORKS = ["epic", "divide_mix"]
"""Defenses of deep networks: for a linear victim, a cell of theirs would take minutes."""
FOR_MORE_CLASSES = ["run_off_election"]
"""For two classes it is equal to DPA."""
FEW_ROWS = {"dpa": "dpa(k=7)", "finite_aggregation": "finite_aggregation(k=7)"}
"""As many parts as leave 30 rows in each."""
MANY_ROWS = {"dpa": "dpa(k=25)", "finite_aggregation": "finite_aggregation(k=25)"}
ELSEWHERE = [*NEED_CHANNELS, *FOR_NETWORKS, *FOR_MORE_CLASSES]
FILTERS = ["trim", "sever", "activation_clustering", "spectral_signatures", *(n for n, card in cards().items() if card.is_filter)]
FILTERS_OF_NETWORKS = ["trim", "activation_clustering", "spectral_signatures"]
ON_NETWORKS = [
    *("none", "perfect_filter", "random_filter", "fine_pruning", "dpa(k=7)"),
    *FILTERS_OF_NETWORKS,
    *(f"{MATCHED}{name}" for name in FILTERS_OF_NETWORKS),
    *("jtt", "co_teaching", "divide_mix", "epic", "gradient_clipping", "gradient_shaping", "group_dro"),
]
"""What is said of networks: training-time methods, DPA, Fine-Pruning, and filters with their controls."""
MATCHES = [f"{MATCHED}{name}" for name in FILTERS]
LINEAR = [name for name in DEFENSES if name not in ELSEWHERE]
EMBEDDED = [*(FEW_ROWS.get(name, name) for name in LINEAR), *MATCHES]
TUNED = [name for plain, name in tuned().items() if plain in LINEAR and name not in EMBEDDED]
"""Settings chosen on development data (`docs/tuning.md`), where they are not those above."""
LAPTOP = {"tier": "laptop", "defense": [*(MANY_ROWS.get(name, name) for name in LINEAR), *MATCHES], "n_attacked": 6, "n_seeds": 3}

CELLS = [
    *grid(
        tier="embedded",
        dataset=["digits", "mixture"],
        victim="logistic_regression",
        defense=[*EMBEDDED, *TUNED],
        n_attacked=6,
        **COMMON,
    ),
    *grid(
        tier="embedded",
        dataset="digits_images",
        victim="conv_net",
        defense=ON_NETWORKS,
        n_attacked=3,
        n_seeds=3,
        **{**COMMON, "split": 0},
    ),
    *grid(dataset="adult", victim="logistic_regression", **LAPTOP, **COMMON),
    *grid(dataset="utkface_mobilenet", victim="last_layer", **LAPTOP, **COMMON),
]


def test_cell(cell, measure):
    measure(cell)
