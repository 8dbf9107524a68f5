"""How much faster training-set attacks run as one batch; their cost is mainly that of the network.

The cell attacks 20 target sets of dogs (10 random, 10 of ClusterMatch) at once. Its numbers: `iteration_over_backbone_pass`, the
median seconds of one iteration of all 20 over those of one forward and reverse pass of the network on 20 pictures, in turn in
one run; and `speed_ratio`, one iteration done one attack at a time, with a fit of the top layer from scratch, over ours.

Source: our own claim. The original attack takes about 4 hours for one set, the paper 30 to 45 minutes.

Deviations: the one-at-a-time side does 4 of the 20 attacks in each round, by the faster of scikit-learn's lbfgs and our own
solver, and is given the clean Hessian's factor. Never served from the store; runs only when `-k speed` or its file is named.
"""

from subpop import grid

STEM = "speed_influence"

CELLS = grid(
    stem=STEM,
    kind="speed",
    tier="laptop",
    dataset="tiny_dogfish",
    victim="resnet56_cifar10_last_layer",
    partition="cluster_match",
    attack="influence",
    rate=0.0,
    against="one attack at a time",
)


def test_cell(cell, measure, capsys):
    result = measure(cell)
    with capsys.disabled():
        print(f"\n{cell.id}: " + ", ".join(f"{n.metric} {n.value:.4g}" for n in result.numbers))
    assert result["n_attacks"] == 20
    assert result["iteration_over_backbone_pass"] <= 2
    assert result["kkt_residual_max"] <= 1e-8
