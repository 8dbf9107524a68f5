"""How much faster text victims train on IMDB: in batches on pooled features, and last blocks from cached hidden states.

A cell's number is `speed_ratio`: other seconds / our seconds, medians of three interleaved rounds in one run. text_linear:
seconds per victim, one at a time / in the batch of 100 clusters at alpha .5, 1 and 2. minilm_last_layer: seconds per victim on
200 reviews of up to 128 tokens for two epochs, another way / from states on disk, one victim on each core; computing the states,
once for all victims, is `states_seconds`. Further numbers show that the comparison is fair: KKT residuals, and the distance
between the weights of both ways.

Source: our own claim; the other sides are scikit-learn's `LogisticRegression` with one process per core, the same victim
computing its frozen blocks in each step, and transformers running the whole network.

Deviations: scikit-learn solves every tenth victim only. A cell's rate is not used. Never served from the store; runs only when
`-k speed` or its file is named.
"""

from subpop import grid

STEM = "speed_text"
TEXTS = {"stem": STEM, "kind": "speed", "tier": "laptop", "partition": "cluster_match", "rate": 1.0}

CELLS = [
    *grid(dataset="imdb_minilm", victim="text_linear", against="sklearn newton-cholesky", **TEXTS),
    *grid(
        dataset="imdb_small",
        victim="minilm_last_layer",
        against=["frozen blocks computed in each step", "transformers"],
        **TEXTS,
    ),
]


def test_cell(cell, measure, capsys):
    result = measure(cell)
    with capsys.disabled():
        print(f"\n{cell.id}: " + ", ".join(f"{n.metric} {n.value:.4g}" for n in result.numbers))
    numbers = {number.metric: number.value for number in result.numbers}
    if cell.victim == "text_linear":
        assert numbers["n_victims"] >= 280
        assert numbers["fleet_seconds"] < 20
        assert numbers["kkt_residual_max"] <= 1e-8
        assert numbers["coefficient_difference_max"] < 1e-5
    else:
        assert numbers["speed_ratio"] >= 3
        assert numbers["weight_difference_max"] < 1e-3
