"""FeatureMatch with label flipping: how large the damage of each annotated subpopulation can be.

A cell attacks every annotated subpopulation of a data set, one victim for each subpopulation and seed. Its number is the
target damage: clean minus poisoned accuracy on the subpopulation's own test rows, averaged over seeds, then ranked.

Source: Jagielski, Severi, Pousette Harger, Oprea, CCS 2021, FeatureMatch (main text; we do not have access to its tables, so
nothing is compared with a published number here).

Deviations: clean and poisoned victims are trained in the same way; logistic regression is solved to its optimum (the released
runs stop far from it); Adult is balanced as described, not as its script indexes it (`protocol=as_released` has that split and
counts the poison by D); worst-k requires 20 test rows (`_all` does not).
"""

from test_cluster_match import (  # the same claims, about the cells of this suite
    test_alpha_zero_is_the_clean_victim,  # noqa: F401
    test_damage_grows_with_alpha,  # noqa: F401
    test_nobody_else_is_hurt,  # noqa: F401
)

from subpop import grid

STEM = "feature_match"
COMMON = {"stem": STEM, "partition": "feature_match", "rate": [0.0, 0.5, 1.0, 2.0]}
VICTIMS = ["logistic_regression", "mlp"]

CELLS = [
    *grid(tier="embedded", dataset="digits", victim=VICTIMS, split=[0, 1, 2], **COMMON),
    *grid(tier="embedded", dataset="mixture", victim=VICTIMS, split=[0, 1, 2], **COMMON),
    *grid(tier="embedded", dataset="mixture_multiclass", victim="logistic_regression", split=[0, 1, 2], **COMMON),
    *grid(
        tier="embedded",
        dataset=["digits", "mixture"],
        victim="mlp",
        split=[0, 1, 2],
        defense="retrain",
        **{**COMMON, "rate": 0.0},
    ),
    *grid(tier="laptop", dataset="adult", victim=VICTIMS, split=[0, 1, 2], **COMMON),
    *grid(tier="laptop", dataset="adult", victim="logistic_regression", protocol="as_released", alpha_base="train", **COMMON),
    *grid(tier="laptop", dataset="adult", victim="mlp", defense="retrain", **{**COMMON, "rate": 0.0}),
]


def test_cell(cell, measure):
    measure(cell)
