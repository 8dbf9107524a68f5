"""Amplification: do methods that help rare groups amplify an attack on one?

A cell attacks subpopulations at alpha 1 as in `scoreboard`. JTT repeats rows that a first model gets wrong, and GroupDRO raises
the weight of the group with the larger loss: if a poisoned subpopulation counts as a group that is treated badly, both could
serve the attacker. GroupDRO is told which rows are in the attacked subpopulation (`target`), in a superset of it (`superset`), or
in another subpopulation (`unrelated`). EPIC and DivideMix, which distrust rows instead, stand beside them. The table has the
target damage of each less that without a defense, over the subpopulations that are hurt without one, with a 95 % interval.

Source: Sagawa et al. 2020 (GroupDRO), Liu et al. 2021 (JTT), Yang et al. 2022 (EPIC), Li et al. 2020 (DivideMix). That the
first two amplify poison is our hypothesis.

Answer (laptop tier, points of target damage): amplification was not found. GroupDRO told the target: +.5 (-9.5 to 10.4) on
digits, -9.8 (-14.9 to -4.7) on the mixture, +1.4 (-12.1 to 15.0) for the convolutional network. JTT: -7.3 (-42.7 to 28.2),
-38.5 (-56.6 to -20.5) for 50 points of clean accuracy, and -12.0 (-41.0 to 17.0).

Deviations: the convolutional network has the laptop tier only. Nothing is asserted, and only the undefended damage of the
embedded tier has a reference: the interval is the result, whatever it is.
"""

from subpop import grid

STEM = "amplification"
COMMON = {
    "stem": STEM,
    "kind": "told_groups",
    "partition": "feature_match",
    "rate": 1.0,
    "sampling": "distinct",
    "protocol": "reserve",
}
LINEAR = {"victim": "logistic_regression", **COMMON}
LAPTOP = {"tier": "laptop", "n_attacked": 6, "n_seeds": 5}
TOLD = {"defense": "group_dro", "groups_told": ["target", "superset", "unrelated"]}
NETWORK = {"dataset": "digits_images", "victim": "conv_net", **LAPTOP, **COMMON}
FEW = {"tier": "embedded", "dataset": "mixture", "n_attacked": 3, "n_seeds": 2, **LINEAR}

CELLS = [
    *grid(defense=["none", "jtt"], **FEW),
    *grid(**TOLD, **FEW),
    *grid(dataset=["digits", "mixture"], defense=["none", "jtt"], **LAPTOP, **LINEAR),
    *grid(dataset=["digits", "mixture"], **TOLD, **LAPTOP, **LINEAR),
    *grid(defense=["none", "jtt", "epic", "divide_mix"], **NETWORK),
    *grid(**TOLD, **NETWORK),
]


def test_cell(cell, measure):
    measure(cell)
