"""Table 16: one training picture with an invisible change, against sets of targets: random ones and ClusterMatch.

A cell attacks 10 sets of targets of one kind (its partition), in several draws, each by moving the pixels of one training picture
by at most `epsilon` 8-bit levels; nothing is added to D, so the rate is 0. Its numbers: `success_worst_1`, `success_worst_5` and
`success_mean`, the fraction of a set's targets that are misclassified at the end; `iterations_successful`, the first iteration
after which all targets are, mean over the sets where that happens (`share_complete`; absent where it never does); and, of
ClusterMatch, the `..._difference` to random sets. Its 95 % interval has one value for each cluster, because clusters are
drawn again in every draw; `..._low` and `..._high` are the ends of an earlier interval without that, kept as references only.

Source: Jagielski et al., CCS 2021, appendix, Table 16 and section D; the attack is Koh and Liang's (ICML 2017), whose recorded
constants are compared with the cell `koh_dog`.

Deviations: only the paper tier has the published network and pictures. Features of the other tiers are so weak that half a level
has little effect, so that epsilon is varied (the published attack's is half a level), and steps are fewer and longer for the same
way in all. Of digits only 100 rows of D train, fewer than there are features, as in the other tiers. Targets that are wrong
before the attack do not count. Attacks end as soon as all targets are misclassified. The claim, that clusters are easier targets,
is reported in the table of the paper's claims and never asserted.
"""

import pytest

from subpop import grid

STEM = "table16_influence"
COMMON = {"stem": STEM, "kind": "target_sets", "attack": "influence", "rate": 0.0}
KINDS = ["random", "cluster_match"]

CELLS = [
    *grid(
        tier="embedded",
        dataset="digits_images",
        victim="conv_net_last_layer",
        partition=KINDS,
        epsilon=[0.5, 4, 16],
        n_seeds=2,
        **COMMON,
    ),
    *grid(
        tier="laptop",
        dataset="tiny_dogfish",
        victim="resnet56_cifar10_last_layer",
        partition=KINDS,
        epsilon=[0.5, 2, 4, 8, 16],
        n_seeds=3,
        **COMMON,
    ),
    *grid(
        tier="paper",
        dataset="dogfish",
        victim="inception_v3_last_layer",
        partition=[*KINDS, "koh_dog"],
        epsilon=0.5,
        n_seeds=1,
        **COMMON,
    ),
]


def test_cell(cell, measure):
    result = measure(cell)
    assert result["start_accuracy"] > 0.5, "the targets were wrong before the attack"


@pytest.mark.cells(epsilon="4")
def test_a_larger_box_is_a_stronger_attack(sweep, result_of):
    """Not for every single set, since signed steps are no exact ascent; for the mean of all sets it must hold."""
    small, large = (result_of(sweep[0].with_(epsilon=epsilon)) for epsilon in ("4", "16"))
    assert small["success_mean"] <= large["success_mean"]
