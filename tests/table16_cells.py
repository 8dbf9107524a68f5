"""A cell of Table 16 as the paper has it, with what a test changes."""

from subpop.types.grid import grid


def cell_of(partition, epsilon="0.5", **changes):
    axes = {
        "stem": "table16_influence",
        "kind": "target_sets",
        "tier": "paper",
        "dataset": "dogfish",
        "victim": "inception_v3_last_layer",
        "partition": partition,
        "attack": "influence",
        "rate": 0.0,
        "epsilon": epsilon,
        "n_seeds": 1,
    }
    return grid(**{**axes, **changes})[0]
