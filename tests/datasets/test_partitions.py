"""Partitions: a case by hand, no leak from D and D_test, the counts of Adult, and errors."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_data import needs
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_info, threadpool_limits

from subpop.datasets import load_dataset
from subpop.datasets.mixture import MixtureSpec, make_mixture
from subpop.datasets.partitions import attacked_of, cluster_match, confidence_order, feature_match, partition_rows
from subpop.datasets.split import split
from subpop.types import BadInput, Cell, Dataset, Partition, Splits

needs_adult = needs("adult")


def six() -> tuple[Dataset, Splits]:
    """Six rows, two a side: colours 1 2 | 2 1 | 2 3, sizes 0 0 | 0 1 | 0 1."""
    notes = {"colour": np.array([1, 2, 2, 1, 2, 3]), "size": np.array([0, 0, 0, 1, 0, 1])}
    data = Dataset(
        "six", np.array([[0], [9], [9], [0], [8], [1]], dtype=np.float32), np.array([0, 1] * 3), 2, notes, n_clusters=2
    )
    return data, Splits(np.array([0, 1]), np.array([2, 3]), np.array([4, 5]), "default", 0)


def test_feature_match_by_hand():
    partition = feature_match(*six())
    assert partition.names == ("colour=1,size=1", "colour=2,size=0")
    assert partition.aux.tolist() == [1, 0]
    assert partition.train.tolist() == [-1, 1]
    assert partition.test.tolist() == [1, -1]
    assert partition.attacked == (1,)  # nobody tests colour=1,size=1


def test_cluster_match_by_hand():
    partition = cluster_match(*six())
    nine, zero = partition.aux
    assert {nine, zero} == {0, 1}
    assert partition.train.tolist() == [zero, nine]
    assert partition.test.tolist() == [nine, zero]
    assert partition.names == ("cluster 0", "cluster 1")
    assert partition.attacked == (0, 1)


def grouped(sizes: list[int], tested: list[int]) -> tuple[Dataset, Splits]:
    """Group i has sizes[i] rows in D_aux, tested[i] in D_test, and one in D."""
    counts = np.array([[1] * len(sizes), sizes, tested])
    group = np.concatenate([np.repeat(np.arange(len(sizes)), side) for side in counts])
    ends = np.cumsum(counts.sum(axis=1))
    rows = np.split(np.arange(ends[-1]), ends[:-1])
    data = Dataset(
        "g", np.zeros((ends[-1], 1), dtype=np.float32), np.arange(ends[-1]) % 2, 2, {"g": group}, group_bounds=(10, 20)
    )
    return data, Splits(*rows, "default", 0)


def test_bounds_are_strict_and_groups_without_test_rows_are_dropped():
    partition = feature_match(*grouped([10, 11, 19, 20, 15, 3], [5, 5, 1, 5, 0, 5]))
    assert partition.attacked == (1, 2)
    assert len(partition.names) == 6


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 2)), min_size=12, max_size=60), seed=st.integers(0, 99))
def test_feature_match_agrees_with_a_dictionary(values, seed):
    first, second = (np.array(column) for column in zip(*values, strict=True))
    n = len(values)
    data = Dataset("d", np.zeros((n, 1), dtype=np.float32), np.zeros(n, dtype=np.int64), 2, {"a": first, "b": second})
    splits = Splits(*np.array_split(np.random.default_rng(seed).permutation(n), 3), "default", 0)
    seen = sorted({values[row] for row in splits.aux})
    if not {values[row] for row in splits.test} & set(seen):
        with pytest.raises(BadInput, match="none of these has a test row"):
            feature_match(data, splits)
        return
    partition = feature_match(data, splits)
    assert partition.names == tuple(f"a={a},b={b}" for a, b in seen)
    for side in ("train", "aux", "test"):
        expected = [seen.index(values[row]) if values[row] in seen else -1 for row in getattr(splits, side)]
        assert getattr(partition, side).tolist() == expected


# --- ClusterMatch -----------------------------------------------------------------------------------------------------


def blobs(**changes: object) -> tuple[Dataset, Splits]:
    data = make_mixture(MixtureSpec(dimension=6, n_subpopulations=5, rows=60, separability=7.0, seed=3))
    data = replace(data, **changes)
    return data, split(data, 0)


@pytest.mark.parametrize("n_components", [None, 3])
@pytest.mark.parametrize("standardise", [False, True])
def test_rows_of_d_and_of_d_test_cannot_move_a_cluster(n_components, standardise):
    data, splits = blobs(n_components=n_components)
    before = cluster_match(data, splits, 1, standardise=standardise)
    x = data.x.copy()
    x[splits.train[1:]] = np.random.default_rng(0).normal(size=(len(splits.train) - 1, 6)) * [1e6, 1e5, 1e4, 1e3, 1, 1]
    x[splits.test[1:]] -= 77
    after = cluster_match(replace(data, x=x), splits, 1, standardise=standardise)
    assert np.array_equal(before.aux, after.aux)
    assert (before.train[0], before.test[0]) == (after.train[0], after.test[0])
    assert not np.array_equal(before.train, after.train)


@pytest.mark.parametrize("n_components", [None, 2])
def test_every_row_goes_to_the_nearest_mean_of_aux(n_components):
    data, splits = blobs(n_components=n_components)
    partition = cluster_match(data, splits, seed=2)
    z = data.x.astype(np.float64)
    if n_components:
        z = PCA(n_components, svd_solver="full").fit(z[splits.aux]).transform(z)
    centroids = np.array([z[splits.aux][partition.aux == i].mean(axis=0) for i in range(5)])
    for side in ("train", "aux", "test"):
        nearest = ((z[getattr(splits, side)][:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
        assert np.array_equal(nearest, getattr(partition, side))


def test_far_components_are_found():
    data, splits = blobs()
    partition = cluster_match(data, splits)
    component = data.annotations["component"]
    assert len(set(zip(partition.test.tolist(), component[splits.test].tolist(), strict=True))) == 5


def test_features_replace_x_and_are_flattened():
    data, splits = blobs()
    constant = replace(data, x=np.zeros_like(data.x))
    by_features = cluster_match(constant, splits, 0, features=data.x.reshape(-1, 2, 3))
    assert np.array_equal(by_features.aux, cluster_match(data, splits, 0).aux)


def test_standardise_makes_units_irrelevant():
    data, splits = blobs()
    scaled = replace(data, x=data.x * np.array([1, 1024, 1, 1, 1, 1 / 1024], dtype=np.float32))
    plain = cluster_match(data, splits, standardise=True)
    assert np.array_equal(plain.test, cluster_match(scaled, splits, standardise=True).test)
    assert not np.array_equal(plain.test, cluster_match(scaled, splits).test)


def test_a_constant_column_can_be_standardised():
    data, splits = blobs()
    x = np.column_stack([data.x, np.full(len(data.x), 3, dtype=np.float32)])
    assert np.array_equal(
        cluster_match(replace(data, x=x), splits, standardise=True).aux, cluster_match(data, splits, standardise=True).aux
    )


def test_one_result_on_any_number_of_threads(monkeypatch):
    data, splits = blobs(n_clusters=20, n_components=4)
    fit, results = KMeans.fit, []

    def recording(self, x):
        fitted = fit(self, x)
        results.append((max(pool["num_threads"] for pool in threadpool_info()), fitted.cluster_centers_))
        return fitted

    monkeypatch.setattr(KMeans, "fit", recording)
    for n_threads in (1, 2):
        with threadpool_limits(limits=n_threads):
            cluster_match(data, splits, 5)
    assert [used for used, _ in results] == [1, 1]
    assert np.array_equal(results[0][1], results[1][1])


def test_the_seed_reaches_k_means():
    data, splits = blobs(n_clusters=25)
    assert not np.array_equal(cluster_match(data, splits, 0).aux, cluster_match(data, splits, 1).aux)


# --- by name, by confidence -------------------------------------------------------------------------------------------


def test_partitions_by_name():
    data, splits = blobs()
    clusters = partition_rows(Cell.of(partition="cluster_match", partition_seed=3), data, splits)
    assert partition_rows(Cell.of(partition="feature_match"), data, splits).names == feature_match(data, splits).names
    assert np.array_equal(clusters.aux, cluster_match(data, splits, 3).aux)
    with pytest.raises(BadInput, match="which clusters do not match; leave it out"):
        partition_rows(Cell.of(partition="cluster_match", grouped_by="a"), data, splits)


@pytest.mark.parametrize(
    ("grouped_by", "names"),
    [
        ("size", ("size=0", "size=1")),
        ("size,colour", ("size=0,colour=2", "size=1,colour=1")),
        (" colour , size", ("colour=1,size=1", "colour=2,size=0")),
        ("size,colour,odd", ("size,colour=5", "odd=0")),
    ],
)
def test_chosen_annotations_are_matched(grouped_by, names):
    data, splits = six()
    if "odd" in grouped_by:  # a name that contains a comma is read as a whole
        more = {"size,colour": np.full(6, 5), "odd": np.zeros(6, np.int64)}
        data = replace(data, annotations={**data.annotations, **more})
        names = (",".join(names),)
    partition = partition_rows(Cell.of(partition="feature_match", grouped_by=grouped_by), data, splits)
    assert partition.names == names


@pytest.mark.parametrize(("grouped_by", "told"), [("colours", "did you mean colour"), ("size,size", "'size' is named twice")])
def test_unknown_annotations_are_refused(grouped_by, told):
    with pytest.raises(BadInput, match=told):
        feature_match(*six(), grouped_by)


def test_confidence_order_by_hand():
    nothing = np.array([], dtype=np.int64)
    partition = Partition(nothing, np.array([0, 0, 1, 2, 3, -1]), nothing, ("a", "b", "c", "d"), (0, 1, 3))
    proba = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [1.0, 0.0], [0.7, 0.3], [0.0, 1.0]])
    y = np.array([0, 1, 0, 1, 0, 0])  # own label: a .9 and .5, b .2, d .7
    assert confidence_order(partition, proba, y) == (1, 0, 3)  # a and d tie at .7
    with pytest.raises(BadInput, match="5 probabilities"):
        confidence_order(partition, proba[1:], y)


# --- errors -----------------------------------------------------------------------------------------------------------


def test_nothing_qualifies():
    with pytest.raises(BadInput, match="from 3 to 30, 0 of 2 lie strictly between 10 and 20"):
        feature_match(*grouped([3, 30], [5, 5]))
    with pytest.raises(BadInput, match=r"from 12 to 30, 1 of 2 .* has a test row"):
        feature_match(*grouped([12, 30], [0, 5]))


@pytest.mark.parametrize(
    ("changes", "features", "message"),
    [
        ({"n_clusters": 101}, None, "n_clusters=101 must be between 1 and the 100 rows"),
        ({"n_clusters": 0}, None, "n_clusters=0"),
        ({"n_components": 7}, None, "n_components=7"),
        ({"x": np.zeros((300, 4), dtype=np.int64)}, None, "tokens"),
        ({}, np.zeros((299, 2)), "299 rows"),
        ({}, np.full((300, 2), np.nan), "NaN"),
    ],
)
def test_what_cannot_be_clustered_is_refused(changes, features, message):
    data, splits = blobs()
    with pytest.raises(BadInput, match=message):
        cluster_match(replace(data, **changes), splits, features=features)


def test_nothing_annotated():
    data, splits = blobs(annotations={})
    with pytest.raises(BadInput, match="cluster_match"):
        feature_match(data, splits)


# --- Adult ------------------------------------------------------------------------------------------------------------


@needs_adult
@pytest.mark.parametrize(("protocol", "n_groups", "n_attacked"), [("as_released", 122, 35), ("default", 132, 35)])
def test_adult_feature_match_has_the_recorded_counts(protocol, n_groups, n_attacked):
    data = load_dataset("adult")
    partition = feature_match(data, split(data, 0, protocol))
    assert (len(partition.names), len(partition.attacked)) == (n_groups, n_attacked)
    sizes = np.bincount(partition.aux)[list(partition.attacked)]
    assert (sizes > 10).all()
    assert (sizes < 100).all()
    assert partition.names[0].startswith("education_num=1,race=")


@needs_adult
def test_adult_cluster_match_attacks_about_thirty_of_a_hundred():
    data = load_dataset("adult")
    partition = cluster_match(data, split(data, 0, "as_released"), seed=0)
    assert len(partition.names) == 100
    assert 25 <= len(partition.attacked) <= 40


def test_attacked_by_confidence():
    order = list(range(100, 200))
    assert attacked_of(order, 3, "least_confident") == (100, 101, 102)
    thirds = attacked_of(order, 30, "low_middle_high")
    assert thirds == (*range(100, 110), *range(145, 155), *range(190, 200))  # ranks 45 to 54 are the middle
    assert attacked_of(order[:4], 3, "low_middle_high") == (100, 101, 103)
    assert len(set(attacked_of(order[:6], 6, "low_middle_high"))) == 6
    for which, count in (("low_middle_high", 4), ("most_confident", 3)):
        with pytest.raises(BadInput, match=which):
            attacked_of(order, count, which)
