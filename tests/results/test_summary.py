"""A cell of two subpopulations and two seeds, done by hand."""

from dataclasses import replace

import numpy as np
import pytest

from subpop.datasets.stage import SplitData, Stage
from subpop.results.summary import summarise
from subpop.types import Cell, Dataset, Partition, Pool, Splits, Trial, TrialResult

N_A, N_B, N_REST = 24, 30, 10
CELL = Cell.of("s", "embedded", "toy", "v", "feature_match", "label_flip", 1.0, "filter", n_seeds=2)


def stage() -> Stage:
    n_test = N_A + N_B + N_REST
    test = np.concatenate([np.zeros(N_A, int), np.ones(N_B, int), np.full(N_REST, -1)])
    train = np.repeat([0, 1], 10)
    pool = Pool(np.zeros((40, 1), np.float32), np.arange(40) % 2, 20, 2)
    data = SplitData(
        Dataset("toy", pool.x, pool.y, 2),
        Splits(*[np.arange(1)] * 3, "default", 0),
        pool,
        np.zeros((n_test, 1)),
        np.zeros(n_test, int),
        "",
    )
    return Stage(data, Partition(train, train, test, ("a", "b"), (0, 1)))


def right(a: int, b: int, rest: int) -> np.ndarray:
    """So many right answers in a, in b and elsewhere."""
    return np.concatenate([np.arange(N_A) < a, np.arange(N_B) < b, np.arange(N_REST) < rest])


def trial(name: str, seed: int, attacked: bool, bits: np.ndarray, removed: int = 4, caught: int = 1) -> TrialResult:
    metrics = {"n_poison": 5.0 * attacked, "n_flipped": 4.0 * attacked, "removed": float(removed)}
    metrics |= {"removed_flipped": float(caught * attacked), "removed_target_clean": 2.0 if removed else 0.0}
    return TrialResult(Trial(name, seed, attacked), metrics, {"right": bits})


@pytest.fixture
def result():
    clean = np.stack([right(24, 30, 10), right(24, 27, 10)])
    trials = [
        trial("a", 0, True, right(12, 30, 10)),
        trial("a", 1, True, right(18, 27, 9), removed=0, caught=0),
        trial("b", 0, True, right(24, 24, 10)),
        trial("b", 1, True, right(24, 21, 10)),
        trial("a", 0, False, right(18, 30, 10)),
        trial("a", 1, False, right(24, 27, 10)),
        trial("b", 0, False, right(24, 30, 10)),
        trial("b", 1, False, right(24, 27, 10)),
    ]
    return summarise(CELL, stage(), trials, clean, exact=True)


def test_damages_and_their_split(result):
    a, b = result.table
    assert a["target_damage"] == pytest.approx((12 + 6) / 48)
    assert a["defense_cost"] == pytest.approx(6 / 48)
    assert a["attack_effect"] == pytest.approx(12 / 48)
    assert b["target_damage"] == pytest.approx(12 / 60)
    assert b["defense_cost"] == 0
    assert result["target_damage_worst_1"] == pytest.approx(18 / 48)
    assert result["defense_cost_worst_1"] + result["attack_effect_worst_1"] == pytest.approx(18 / 48)
    assert result["target_damage_mean"] == pytest.approx((18 / 48 + 12 / 60) / 2)
    with pytest.raises(KeyError, match="target_damage_worst_5"):  # two subpopulations have no worst five
        result["target_damage_worst_5"]


def test_damages_of_each_seed_are_kept_for_comparisons(result):
    np.testing.assert_allclose(result.arrays["target_damage_by_seed"], [[12 / 24, 6 / 24], [6 / 30, 6 / 30]])


def test_collateral_is_measured_on_all_other_rows(result):
    assert result["collateral_damage_max"] == pytest.approx(1 / 40 / 2)
    assert result["collateral_damage_mean"] == pytest.approx(1 / 40 / 4)
    assert [row["collateral_damage"] for row in result.table] == [pytest.approx(1 / 40 / 2), 0]


def test_a_filter_is_scored_by_flipped_rows(result):
    assert result["poison_recall"] == pytest.approx((0.25 + 0 + 0.25 + 0.25) / 4)
    assert result["poison_precision"] == pytest.approx(0.25)  # where something was removed
    assert result["removed_target_clean_share"] == pytest.approx(0.5)
    assert result["removed_share"] == pytest.approx((4 + 0 + 4 + 4) / 4 / 25)
    assert result["effective_rate"] == pytest.approx(0.5)


def test_small_subpopulations_enter_only_the_all_values():
    small = stage()
    partition = Partition(
        small.partition.train, small.partition.aux, np.where(np.arange(64) < 5, -1, small.partition.test), ("a", "b"), (0, 1)
    )
    clean = np.stack([right(24, 30, 10)] * 2)
    trials = [trial(n, s, at, right(5 if at and n == "a" else 24, 30, 10)) for n in "ab" for s in (0, 1) for at in (True, False)]
    found = summarise(CELL, Stage(small.data, partition), trials, clean, exact=True)
    assert found["n_left_out"] == 1
    assert found["target_damage_worst_1"] == 0
    assert found["target_damage_worst_1_all"] == 1


# --- numbers of the tables -------------------------------------------------------------------------------------------------

UNDEFENDED = Cell.of("s", "embedded", "toy", "v", "feature_match", "label_flip", 1.0, "none", ranked_by="filter", n_seeds=2)


def summary_of(cell, trials, ranked_by=None):
    clean = np.stack([right(24, 30, 10)] * 2)
    return summarise(cell, stage(), trials, clean, exact=True, ranked_by=ranked_by)


def attacked(a: int, b: int) -> list[TrialResult]:
    """Both subpopulations attacked in both seeds, with so many right answers left in each."""
    return [trial(n, s, True, right(a if n == "a" else 24, b if n == "b" else 30, 10)) for n in "ab" for s in (0, 1)]


def test_another_defense_may_rank_the_subpopulations():
    """Undefended, a loses 6/24 and b 3/30; under the defense b loses more, so worst-1 is that of b."""
    found = summary_of(UNDEFENDED, attacked(18, 27), ranked_by=attacked(24, 10))
    assert found["target_damage_worst_1"] == pytest.approx(3 / 30)
    assert found["mean_size_worst_1"] == 10
    assert found["share_without_damage"] == 0
    assert summary_of(UNDEFENDED, attacked(18, 27))["target_damage_worst_1"] == pytest.approx(6 / 24)
    assert summary_of(UNDEFENDED, attacked(24, 27))["share_without_damage"] == 0.5


def test_certified_damage_counts_what_the_radius_protects():
    """a: 18 of 24 right, 12 of those with a radius of at least the 4 flips; the reference gets 21 right."""
    trials = []
    for result in attacked(18, 30):
        members = N_A if result.trial.subpopulation == "a" else N_B
        radius = np.where(np.arange(members) < 12, 4, 3) if members == N_A else np.full(members, 9)
        reference = np.arange(members) < (21 if members == N_A else 30)
        arrays = {**result.arrays, "radius:exact": radius, "reference_right": reference}
        trials.append(TrialResult(result.trial, result.metrics, arrays))
    found = summary_of(CELL, trials)
    assert found["certified_accuracy_mean:exact"] == pytest.approx((12 / 24 + 1) / 2)
    assert found["certified_damage_mean:exact"] == pytest.approx(9 / 24 / 2)
    assert found["certified_damage_worst_1:exact"] == pytest.approx(9 / 24)
    assert found["certified_radius_median:exact"] == 9


def test_a_certificate_of_insertions_counts_every_poison_row():
    """Five poison rows, of which four have a wrong label: a radius of 4 covers the flipped labels only."""
    clean = np.ones((1, N_A + N_B + N_REST), bool)
    trials = []
    for name in "ab":
        own = trial(name, 0, True, clean[0])
        radii = {f"radius:{each}": np.full(N_A if name == "a" else N_B, 4) for each in ("insertions", "label_flips")}
        trials.append(replace(own, arrays={**own.arrays, **radii}))
    found = summarise(replace(CELL, n_seeds=1), stage(), trials, clean, exact=True)
    assert found["certified_accuracy_mean:insertions"] == 0
    assert found["certified_accuracy_mean:label_flips"] == 1


def test_collective_damage_is_relative_to_the_clean_victim():
    clean = np.stack([right(24, 30, 10), right(20, 30, 10)])
    trials = [trial(name, seed, True, right(24, 30, 10)) for name in "ab" for seed in (0, 1)]
    trials += [trial(name, seed, False, right(12, 15, 10)) for name in "ab" for seed in (0, 1)]  # the defense has a cost
    # Insertions, wrong rows at once and one by one, solved: for the attack, then for one insertion.
    own = [[[5, 12, 18, 1], [1, 3, 3, 1]], [[5, 20, 24, 0], [1, 3, 3, 1]]]
    other = [[[5, 30, 30, 1], [1, 6, 6, 1]]] * 2
    found = summarise(CELL, stage(), trials, clean, most_wrong=np.array([own, other]), exact=True)
    # Group a: the clean victim gets 24 and 20 of 24 right; at least 12 and 4 remain right. Group b: all 30, and none remains.
    assert found["collective_damage_mean"] == pytest.approx(((12 / 24 + 16 / 24) / 2 + 1) / 2)
    assert found["pointwise_damage_mean"] == pytest.approx(((18 / 24 + 20 / 24) / 2 + 1) / 2)
    assert found["collective_share"] == pytest.approx(2 / 4)
    assert found["collective_solved"] == pytest.approx(3 / 4)
    assert found["collective_damage_mean_at_1"] == pytest.approx(((3 / 24 - 1 / 24) / 2 + 6 / 30) / 2)
    assert [row["collective_damage"] for row in found.table] == pytest.approx([14 / 24, 1])
    without = summarise(CELL, stage(), trials, clean, exact=True)
    assert not any("collective" in number.metric for number in without.numbers)


def test_stages_are_scored_on_rows_that_no_defender_saw():
    """The holdout is the first five rows of the rest, all wrong: they do not count."""
    trials = []
    for result in attacked(24, 30):
        bits = right(12 + 6 * result.trial.seed, 30, 10)
        holdout = np.zeros(len(bits), bool)
        holdout[N_A + N_B : N_A + N_B + 5] = True
        bits = bits & ~holdout
        arrays = {"right": bits, "right:pruned": bits, "holdout": holdout}
        trials.append(TrialResult(result.trial, result.metrics, arrays))
    found = summary_of(CELL, trials)
    numbers = {(n.metric, n.subpopulation): n.value for n in found.numbers}
    n_scored = N_A + N_B + N_REST - 5
    assert found["holdout_rows"] == 5
    assert found["pruned_target_accuracy"] == pytest.approx((15 / 24 + 1) / 2)
    assert found["pruned_test_accuracy"] == pytest.approx((n_scored - 9) / n_scored)
    assert numbers["pruned_target_accuracy", "a"] == pytest.approx(15 / 24)
    assert numbers["pruned_target_accuracy_sd", "a"] == pytest.approx(np.std([12 / 24, 18 / 24], ddof=1))
    assert numbers["pruned_target_accuracy_sd", "b"] == 0
    assert found["collateral_damage_max"] == pytest.approx(9 / (n_scored - N_B))  # nine of a are others for b
