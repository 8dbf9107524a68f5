"""Capacity: does the same poison do more damage to wider networks?

A cell trains one family of networks (one hidden layer of 2 to 128 units) on the same poisoned sets of three subpopulations, with
10 seeds: for equally many epochs, or until the training loss on clean data is equal. Its numbers are the mean damage and the
clean accuracy on the targets of each width, with intervals over seeds, and Kendall's rank correlation of width and damage, the
mean over seeds. A width whose networks do not reach the training loss is reported as such.

Source: the question of "Fragile Giants" (arXiv 2410.08872), whose abstract says that more parameters are more vulnerable. No
number of theirs is compared.

Deviations: see `subpop/experiments/capacity.py`. The direction is reported with its interval and not asserted.
"""

import pytest

from subpop import grid
from subpop.experiments.capacity import LOSS

STEM = "capacity"

CELLS = grid(
    stem=STEM,
    kind="width",
    tier="embedded",
    dataset="digits",
    victim="mlp",
    partition="feature_match",
    rate=1.0,
    sampling="distinct",
    protocol="reserve",
    n_attacked=3,
    attacked_by="low_middle_high",
    equal=["epochs", "loss"],
    n_seeds=10,
)


def test_cell(cell, measure):
    measure(cell)


@pytest.mark.cells(equal="loss")
def test_widths_that_reach_the_loss_have_it(sweep, result_of):
    """The mean training loss is just below the one that is asked for, so that widths are compared at equal loss."""
    for cell in sweep:
        reached = [row for row in result_of(cell).table if row["reached"] == 1]
        assert {row["width"] for row in reached} >= {16, 32, 64, 128}
        assert all(0.95 * LOSS < row["training_loss"] <= LOSS for row in reached)
