"""The released trials on IMDB: the published table comes out of the file, and two samples are told apart when they differ."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest

from subpop.report.figures.released import released_sample
from subpop.results.released import (
    ALPHAS,
    VICTIMS,
    damage_table,
    released_trials,
    trials_of,
    two_samples,
)
from subpop.types import BadInput

BASELINES = Path(__file__).parents[2] / "baselines" / "imdb_cluster_match.csv"
# As published: worst-1, worst-5, worst-10, largest collateral damage.
PUBLISHED = {
    ("LL", 0.5): (0.0380, 0.0140, 0.0076, -0.00222),
    ("LL", 1.0): (0.0486, 0.0291, 0.0179, -0.00040),
    ("LL", 2.0): (0.1297, 0.0610, 0.0359, 0.00163),
    ("FT", 0.5): (0.0511, 0.0353, 0.0244, 0.00409),
    ("FT", 1.0): (0.2035, 0.1286, 0.0803, 0.00721),
    ("FT", 2.0): (0.5058, 0.3025, 0.2060, 0.00991),
}
# Mean, median, clusters that are not hurt, mean collateral damage, mean rows in D: recomputed once by hand from the same files.
SUMMED_UP = {
    ("LL", 0.5): (-0.0045, -0.0019, 23, -0.00439, 130.6),
    ("LL", 1.0): (-0.0002, -0.0021, 19, -0.00400, 130.6),
    ("LL", 2.0): (0.0037, -0.0045, 21, -0.00413, 130.6),
    ("FT", 0.5): (0.0077, 0.0035, 14, -0.00005, 129.2),
    ("FT", 1.0): (0.0274, 0.0095, 12, 0.00088, 129.2),
    ("FT", 2.0): (0.0844, 0.0408, 3, 0.00232, 129.2),
}


# --- the file ---------------------------------------------------------------------------------------------------------


def test_there_are_180_trials_of_the_same_clusters_at_each_alpha():
    assert len(released_trials()) == 180
    clusters = {key: [t.cluster for t in trials_of(*key)] for key in itertools.product(VICTIMS, ALPHAS)}
    assert {len(set(own)) for own in clusters.values()} == {30}
    for model in VICTIMS:
        assert set(clusters[model, 0.5]) == set(clusters[model, 1.0]) == set(clusters[model, 2.0])
    assert set(clusters["LL", 0.5]) != set(clusters["FT", 0.5])


def test_trials_are_consistent_with_themselves():
    for trial in released_trials():
        assert trial.target_damage == pytest.approx(trial.clean_accuracy - trial.poisoned_accuracy, abs=1.5e-6)
        right = trial.poisoned_accuracy * trial.n_test  # a whole number of test reviews, as far as 6 decimals tell
        assert right == pytest.approx(round(right), abs=1e-6 * trial.n_test)
    sizes = {(t.model, t.cluster): (t.n_train, t.n_test) for t in released_trials()}
    assert all(sizes[t.model, t.cluster] == (t.n_train, t.n_test) for t in released_trials())


def test_poison_grows_with_alpha_from_one_size_in_the_attackers_half():
    counts = {(t.model, t.cluster, t.alpha): t.n_poison for t in released_trials()}
    for (model, cluster, alpha), count in counts.items():
        base = counts[model, cluster, 1.0]
        assert count == int(alpha * base)


@pytest.mark.parametrize("key", PUBLISHED, ids=lambda key: f"{key[0]}-{key[1]:g}")
def test_the_published_table_comes_out_of_the_file(key):
    found, (worst_1, worst_5, worst_10, collateral) = released_sample(*key).summed_up, PUBLISHED[key]
    assert (found.worst_1, found.worst_5, found.worst_10) == pytest.approx((worst_1, worst_5, worst_10), abs=0.6e-4)
    assert found.collateral_max == pytest.approx(collateral, abs=0.6e-5)
    mean, median, unhurt, others, size = SUMMED_UP[key]
    assert (found.mean, found.median) == pytest.approx((mean, median), abs=0.6e-4)
    assert round(found.share_unhurt * 30) == unhurt
    assert found.collateral_mean == pytest.approx(others, abs=0.6e-5)
    assert found.n_train == pytest.approx(size, abs=0.06)


def published_rows():
    """Model, alpha, metric and published value of every damage that the suite's baselines hold as released."""
    if not BASELINES.exists():
        return []
    with BASELINES.open(newline="") as file:
        victims = {victim: model for model, victim in VICTIMS.items()}
        rows = [row for row in csv.DictReader(file) if row["published"] and "damage" in row["metric"]]
        return [(victims[row["victim"]], float(row["rate"]), row["metric"], float(row["published"])) for row in rows]


@pytest.mark.skipif(not published_rows(), reason="baselines/imdb_cluster_match.csv holds no published number")
def test_published_numbers_of_the_suite_are_those_of_the_file():
    fields = {f"target_damage_worst_{k}{end}": f"worst_{k}" for k in (1, 5, 10) for end in ("", "_all")}
    fields |= {"collateral_damage_max": "collateral_max", "collateral_damage_mean": "collateral_mean"}
    fields |= {"target_damage_mean": "mean"}
    for model, rate, metric, published in published_rows():
        assert getattr(released_sample(model, rate).summed_up, fields[metric]) == pytest.approx(published, abs=0.6e-4), (
            model,
            rate,
            metric,
        )


def test_what_was_not_released_is_refused():
    with pytest.raises(BadInput, match="'LF' at alpha 1 were released; ask for LL or FT at alpha"):
        trials_of("LF", 1.0)
    with pytest.raises(BadInput, match=r"alpha 1\.5"):
        trials_of("FT", 1.5)


# --- summing up -------------------------------------------------------------------------------------------------------


def test_a_table_by_hand():
    found = damage_table([0.1, -0.1, 0.3, 0.0, 0.2, 1e-17], [0.01, -0.03], [10, 20, 30, 40, 50, 60])
    assert (found.n, found.worst_1, found.worst_5) == (6, 0.3, pytest.approx(0.6 / 5))
    assert np.isnan(found.worst_10)
    assert found.share_unhurt == 0.5  # the zero that comes with a rounding error among them
    assert (found.mean, found.median) == pytest.approx((0.5 / 6, 0.05))
    assert (found.collateral_max, found.collateral_mean, found.n_train) == pytest.approx((0.01, -0.01, 35))


@pytest.mark.parametrize("values", [[], [0.1, float("nan")], [[0.1, 0.2]], [float("inf")]])
def test_samples_that_cannot_be_summed_up_are_refused(values):
    with pytest.raises(BadInput, match="one finite value per subpopulation"):
        damage_table(values, [0.0], [1.0])
    with pytest.raises(BadInput, match="one finite value per subpopulation"):
        two_samples([0.1], values)


# --- two samples ------------------------------------------------------------------------------------------------------


def permutation_p(first, second, statistic):
    """Over all ways to deal the pooled values out again: the share at least as far out."""
    pooled, n = np.concatenate([first, second]), len(first)
    seen = statistic(np.asarray(first), np.asarray(second))
    dealt = []
    for chosen in itertools.combinations(range(len(pooled)), n):
        mask = np.isin(np.arange(len(pooled)), chosen)
        dealt.append(statistic(pooled[mask], pooled[~mask]))
    return float(np.mean(np.array(dealt) >= seen - 1e-12))


def largest_gap(first, second):
    places = np.concatenate([first, second])
    return max(abs((first <= place).mean() - (second <= place).mean()) for place in places)


def rank_gap(first, second):
    wins = (first[:, None] > second[None]).sum() + 0.5 * (first[:, None] == second[None]).sum()
    return abs(wins - len(first) * len(second) / 2)


def test_p_values_are_those_of_all_permutations():
    first, second = [0.11, 0.52, 0.33, 0.94], [0.05, 0.21, 0.08, 0.47, 0.02, 0.16]
    found = two_samples(first, second)
    assert found.ks_statistic == pytest.approx(largest_gap(np.array(first), np.array(second)))
    assert found.ks_p == pytest.approx(permutation_p(first, second, largest_gap))
    assert found.mann_whitney_p == pytest.approx(permutation_p(first, second, rank_gap))


def test_a_sample_does_not_differ_from_itself():
    damages = [trial.target_damage for trial in trials_of("FT", 2.0)]
    found = two_samples(damages, damages)
    assert (found.ks_p, found.mann_whitney_p, found.difference) == (1, pytest.approx(1), 0)


def test_rounding_errors_break_no_ties():
    rng = np.random.default_rng(0)
    damages = rng.integers(-2, 5, 30) / 50
    blurred = damages + rng.choice([-1e-12, 1e-12], 30)
    assert two_samples(blurred, damages) == two_samples(damages, damages)


def test_last_layer_and_fine_tuned_are_told_apart_at_the_largest_alpha():
    tuned, last = ([t.target_damage for t in trials_of(model, 2.0)] for model in ("FT", "LL"))
    found = two_samples(tuned, last)
    assert max(found.ks_p, found.mann_whitney_p) < 1e-3
    assert found.difference == pytest.approx(0.0844 - 0.0037, abs=1e-4)
    mirrored = two_samples(last, tuned)
    assert (mirrored.difference, mirrored.ks_p) == pytest.approx((-found.difference, found.ks_p))


def test_few_subpopulations_have_tests():
    found = two_samples([0.9, 0.8, 0.7], [trial.target_damage for trial in trials_of("LL", 1.0)])
    assert found.ks_p < 0.01
    assert two_samples([0.1], [0.2]).ks_p == 1
