"""How much faster last layers on frozen features train in batches, and the cost of all certificates together, on UTKFace
embeddings.

A cell's number is `speed_ratio`: one-at-a-time seconds / our seconds per victim (or certified row), medians of three interleaved
rounds in one run. Further numbers show that the comparison is fair: KKT residuals and coefficients, radii that differ.

Source: our own claim; the one-at-a-time side is scikit-learn's `LogisticRegression` with one process per core, and scipy for the
certificate.

Deviations: the other side does a sample of the work (every 25th victim, every 50th row), since all of it takes minutes.
Batches contain 100 clusters at alpha .5, 1 and 2 in three draws, whatever the cell's rate says. Never served from the store;
runs only when `-k speed` or its file is named.
"""

from subpop import grid

STEM = "speed_last_layer"
FACES = {
    "stem": STEM,
    "kind": "speed",
    "tier": "laptop",
    "dataset": "utkface_mobilenet",
    "victim": "last_layer",
    "partition": "cluster_match",
    "rate": 1.0,
}

CELLS = [
    *grid(against=["sklearn lbfgs", "sklearn newton-cholesky"], **FACES),
    *grid(defense="label_flip_smoothing", against="scipy, one row at a time", **FACES),
]


def test_cell(cell, measure, capsys):
    result = measure(cell)
    with capsys.disabled():
        print(f"\n{cell.id}: " + ", ".join(f"{n.metric} {n.value:.4g}" for n in result.numbers))
    numbers = {number.metric: number.value for number in result.numbers}
    if "n_victims" in numbers:
        assert numbers["n_victims"] >= 850
        assert numbers["kkt_residual_max"] <= 1e-8
        assert numbers["coefficient_difference_max"] < 1e-2
    else:
        assert numbers["radii_that_differ"] <= 2
        assert numbers["n_levels"] == 5
        assert numbers["certificate_seconds"] < 30
