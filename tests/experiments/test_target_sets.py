"""Sets of targets, and the numbers that are read off them, by hand."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_ind

from subpop.experiments.target_sets.success import Sets, differences, numbers_of, welch
from subpop.experiments.target_sets.target_sets import (
    cluster_notes,
    cluster_sets,
    clusters_of,
    large_clusters,
    random_sets,
)
from subpop.types import BadInput

NEVER = math.nan


def rng(seed=0):
    return np.random.default_rng(seed)


def test_random_sets_are_distinct_rows_of_the_pool():
    sets = random_sets(20, 7, 50, rng())
    assert all(len(set(own.rows.tolist())) == 7 and own.cluster == -1 for own in sets)
    drawn = np.bincount(np.concatenate([own.rows for own in sets]), minlength=20)
    assert drawn.sum() == 350
    assert drawn.min() > 5  # 17.5 expected, sample deviation 3.4
    assert np.array_equal(random_sets(20, 7, 2, rng(3))[1].rows, random_sets(20, 7, 2, rng(3))[1].rows)


def test_the_whole_pool_may_be_a_set():
    assert random_sets(4, 4, 1, rng())[0].rows.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("size", "count"), [(0, 1), (21, 1), (3, 0)])
def test_sets_that_cannot_be_drawn(size, count):
    for make in (lambda: random_sets(20, size, count, rng()), lambda: cluster_sets(np.zeros(20, int), size, count, rng())):
        with pytest.raises(BadInput, match="target set"):
            make()


def test_a_cluster_set_lies_in_one_cluster():
    labels = np.repeat([0, 1, 2, 3], [10, 3, 5, 4])
    assert large_clusters(labels, 4).tolist() == [0, 2, 3]
    sets = cluster_sets(labels, 4, 3, rng())
    assert sorted(own.cluster for own in sets) == [0, 2, 3]
    for own in sets:
        assert len(set(own.rows.tolist())) == 4
        assert (labels[own.rows] == own.cluster).all()


def test_no_cluster_serves_twice_before_all_have_served():
    labels = np.repeat([0, 1, 2], 10)
    served = [own.cluster for own in cluster_sets(labels, 3, 8, rng())]
    assert sorted(served[:3]) == sorted(served[3:6]) == [0, 1, 2]
    assert sorted(np.bincount(served).tolist()) == [2, 3, 3]
    assert "some clusters serve several sets" in cluster_notes(labels, 3, 8)[0]
    assert "serve" not in cluster_notes(labels, 3, 3)[0]
    assert "3 clusters of 10 to 10 targets, 10 on average" in cluster_notes(labels, 3, 3)[0]


def test_clusters_that_are_all_too_small():
    with pytest.raises(BadInput, match="largest of 2 clusters has 3 rows, a target set needs 4"):
        cluster_sets(np.array([0, 0, 0, 1]), 4, 1, rng())


def test_separated_clouds_are_found():
    centres = 10 * rng(1).normal(size=(3, 50))
    truth = np.repeat([0, 1, 2], 20)
    labels = clusters_of(centres[truth] + rng(2).normal(size=(60, 50)), 3)
    assert len({(a, b) for a, b in zip(truth, labels, strict=True)}) == 3


def test_more_components_than_rows_or_columns_are_not_needed():
    assert clusters_of(rng().normal(size=(6, 3)), 2).shape == (6,)
    assert clusters_of(rng().normal(size=(9, 100)), 3).max() == 2
    assert set(clusters_of(np.array([[0.0], [0.1], [5.0], [5.1]]), 2).tolist()) == {0, 1}


def test_features_that_cannot_be_clustered():
    with pytest.raises(BadInput, match="n_clusters=5"):
        clusters_of(np.zeros((4, 2)), 5)
    with pytest.raises(BadInput, match="NaN"):
        clusters_of(np.full((4, 2), np.nan), 2)


# --- numbers ----------------------------------------------------------------------------------------------------------


def sets(success, completed=None, start=None):
    n = len(success)
    return Sets(
        np.array(success, float),
        np.full(n, NEVER) if completed is None else np.array(completed, float),
        np.ones(n) if start is None else np.array(start, float),
    )


FIRST = sets([1.0, 0.2, 0.4, 0.0, 0.6, 0.8], [30, NEVER, NEVER, NEVER, NEVER, NEVER])
SECOND = sets([1.0, 1.0, 0.0, 0.0, 0.0, 0.0], [10, 20] + [NEVER] * 4, [0.5] * 6)


def named(numbers):
    return {number.metric: number for number in numbers}


def test_the_table_by_hand():
    found = named(numbers_of([FIRST, SECOND]))
    assert found["success_worst_1"].value == 1.0
    assert found["success_worst_1"].std == 0.0
    assert found["success_worst_5"].value == pytest.approx((3.0 / 5 + 2.0 / 5) / 2)
    assert found["success_worst_5"].std == pytest.approx(math.sqrt(0.02))
    assert found["success_worst_5"].std_error == pytest.approx(0.1)
    assert found["success_mean"].value == pytest.approx((0.5 + 1 / 3) / 2)
    assert found["share_complete"].value == pytest.approx((1 / 6 + 2 / 6) / 2)
    assert found["start_accuracy"].value == 0.75
    assert found["iterations_successful"].value == 20.0  # of the three sets, not of the two draws
    assert found["iterations_successful"].std == pytest.approx(math.sqrt((30 - 22.5) ** 2 + (15 - 22.5) ** 2))


def test_values_of_draws_by_hand():
    found = named(numbers_of([FIRST, SECOND]))
    assert found["success_worst_1"].by_seed == (1.0, 1.0)
    assert found["success_worst_5"].by_seed == pytest.approx((0.6, 0.4))
    assert found["success_mean"].by_seed == pytest.approx((1 / 2, 1 / 3))
    assert found["start_accuracy"].by_seed == (1.0, 0.5)
    assert found["iterations_successful"].by_seed == ()  # the mean of three sets is not that of 30 and 15
    even = named(numbers_of([sets([1.0, 1.0, 0.0], [30, 10, NEVER]), SECOND]))
    assert even["iterations_successful"].by_seed == (20.0, 15.0)
    for number in [*found.values(), *even.values()]:
        assert not number.by_seed or number.value == pytest.approx(np.mean(number.by_seed))


def test_a_number_that_is_unknown_in_a_draw_has_no_values_of_draws():
    found = named(numbers_of([FIRST, sets([0.5])]))
    assert found["success_worst_5"].value == pytest.approx(0.6)
    assert found["success_worst_5"].by_seed == ()
    assert found["success_mean"].by_seed == (0.5, 0.5)


def test_iterations_are_absent_where_no_set_completes():
    found = named(numbers_of([sets([0.1, 0.2])]))
    assert "iterations_successful" not in found
    assert found["share_complete"].value == 0
    assert math.isnan(found["success_mean"].std)
    assert found["success_mean"].std_error is None


def test_a_single_set_has_no_worst_5():
    found = named(numbers_of([sets([16 / 30])]))
    assert found["success_worst_1"].value == 16 / 30
    assert "success_worst_5" not in found


def test_sets_without_a_target_to_lose_do_not_count():
    found = named(numbers_of([sets([NEVER, 0.5, 1.0], [NEVER, NEVER, 3], [0.0, 1.0, 1.0])]))
    assert found["success_mean"].value == 0.75
    assert found["share_complete"].value == 0.5
    assert found["start_accuracy"].value == pytest.approx(2 / 3)
    with pytest.raises(BadInput, match="every target wrong"):
        numbers_of([sets([NEVER, NEVER])])


def test_welch_agrees_with_scipy():
    first, second = rng(1).normal(1, 1, 9), rng(2).normal(0, 3, 14)
    interval = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    difference, error, low, high = welch(first, second)
    assert (low, high) == pytest.approx((interval.low, interval.high))
    assert difference == pytest.approx((low + high) / 2)
    assert error == pytest.approx(math.sqrt(first.var(ddof=1) / 9 + second.var(ddof=1) / 14))


def test_welch_without_noise_or_without_values():
    assert welch(np.array([1.0, 1.0]), np.array([0.5, 0.5])) == (0.5, 0.0, 0.5, 0.5)
    assert welch(np.array([1.0]), np.array([0.5, 0.2])) is None
    assert welch(np.array([]), np.array([])) is None


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = rng(5)
    hits = 0
    for _ in range(600):
        _, _, low, high = welch(generator.normal(0.3, 1, 20), generator.normal(0, 2, 20))
        hits += low <= 0.3 <= high
    assert 0.92 < hits / 600 < 0.975


def test_clusters_less_random_over_sets_and_over_draws():
    clusters = [sets([1.0, 0.8], [4, NEVER]), sets([0.9, 0.9], [NEVER, 6])]
    random = [sets([0.5, 0.3], [10, NEVER]), sets([0.3, 0.1])]
    found = named(differences(clusters, random))
    assert found["success_mean_difference"].value == pytest.approx(0.6)
    assert found["success_mean_difference"].std == pytest.approx(math.sqrt(2) * 0.1)  # of .5 and .7
    expected = welch(np.array([1.0, 0.8, 0.9, 0.9]), np.array([0.5, 0.3, 0.3, 0.1]))
    low, high = (found[f"success_mean_difference_{end}"].value for end in ("low", "high"))
    assert (low, high) == pytest.approx(expected[2:])
    assert found["success_worst_1_difference"].value == pytest.approx(0.95 - 0.4)
    assert "success_worst_5_difference" not in found  # no draw has five sets
    assert "iterations_successful_difference" not in found  # a single random set was completed
    assert found["success_mean_difference"].by_seed == pytest.approx((0.5, 0.7))
    assert found["success_worst_1_difference"].by_seed == pytest.approx((0.5, 0.6))


def test_a_difference_of_unequal_draws_has_no_values_of_draws():
    """The pooled mean of the clusters is 0.5, and the mean over draws is 0.517."""
    found = named(differences([sets([1.0, 0.2]), sets([0.0, 0.4, 0.9])], [sets([0.0, 0.0]), sets([0.0, 0.0])]))
    assert found["success_mean_difference"].value == pytest.approx(0.5)
    assert found["success_mean_difference"].by_seed == ()
    assert found["success_worst_1_difference"].by_seed == pytest.approx((1.0, 0.9))
