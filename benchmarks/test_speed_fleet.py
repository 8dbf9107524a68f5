"""How much faster victims train in batches than one at a time, on Adult.

A cell's number is `speed_ratio`: one-at-a-time seconds / batch seconds, medians of three interleaved rounds in the same
run. Further numbers show that the comparison is fair: KKT residuals and coefficients (exact victims), mean target damages (the
network), trials that end with another filter (TRIM).

Source: our own claim; the one-at-a-time side is scikit-learn's fastest solver for the task, with one process per core.

Deviations: the first two cells train at alpha .5, 1 and 2, whatever their rate says; never served from the store; runs only
when `-k speed` or its file is named.
"""

from subpop import grid

STEM = "speed_fleet"
ADULT = {"stem": STEM, "kind": "speed", "tier": "laptop", "dataset": "adult"}

CELLS = [
    *grid(victim="logistic_regression", partition="both", rate=1.0, against="sklearn newton-cholesky", **ADULT),
    *grid(victim="mlp", partition="feature_match", rate=1.0, against="sklearn MLPClassifier", **ADULT),
    *grid(
        victim="logistic_regression", partition="feature_match", rate=1.0, defense="trim", against="one trial at a time", **ADULT
    ),
]


def test_cell(cell, measure, capsys):
    result = measure(cell)
    with capsys.disabled():
        print(f"\n{cell.id}: " + ", ".join(f"{n.metric} {n.value:.4g}" for n in result.numbers))
    numbers = {number.metric: number for number in result.numbers}
    if "coefficient_difference_max" in numbers:
        assert numbers["coefficient_difference_max"].value < 1e-5
        assert numbers["n_victims"].value >= 180
        assert max(numbers[f"{side}kkt_residual_max"].value for side in ("", "one_at_a_time_")) <= 1e-8
    if "damage_difference" in numbers:
        assert abs(numbers["damage_difference"].value) <= 2 * numbers["damage_difference"].std_error
    if "trials_that_differ" in numbers:
        assert numbers["trials_that_differ"].value == 0
