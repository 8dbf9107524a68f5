"""Mixtures: disjoint supports, exact label noise, distinct rows, and the set-up of Figure 2."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from subpop.datasets import load_dataset
from subpop.datasets.mixture import GAP, SPECS, MixtureSpec, make_mixture
from subpop.datasets.partitions import feature_match
from subpop.datasets.split import split
from subpop.types import BadInput, Dataset


def smallest_gap(data: Dataset) -> float:
    """Distance of the nearest two rows of different components, by brute force."""
    x, component = data.x.astype(np.float64), data.annotations["component"]
    gaps = []
    for i in range(component.max() + 1):
        inside = component == i
        gaps.append(NearestNeighbors(n_neighbors=1).fit(x[~inside]).kneighbors(x[inside])[0].min())
    return float(min(gaps))


@pytest.mark.parametrize("name", SPECS)
def test_named_mixtures(name):
    data, spec = load_dataset(name), SPECS[name]
    assert data.name == name
    assert (data.x.shape, data.x.dtype) == ((sum(spec.row_counts), spec.dimension), np.float32)
    assert np.bincount(data.annotations["component"]).tolist() == list(spec.row_counts)
    assert set(data.y.tolist()) == set(range(spec.n_classes))
    assert smallest_gap(data) >= GAP
    assert np.array_equal(data.x, load_dataset(name).x)
    assert np.array_equal(data.y, load_dataset(name).y)


@pytest.mark.parametrize("name", ["mixture", "mixture_multiclass"])
def test_every_subpopulation_has_enough_rows_to_attack_and_to_test(name):
    data = load_dataset(name)
    splits = split(data, 0)
    partition = feature_match(data, splits)
    assert len(partition.attacked) == len(partition.names) == SPECS[name].n_subpopulations
    assert np.bincount(partition.test).min() >= 20
    assert np.bincount(partition.aux).min() >= 20


@settings(max_examples=25, deadline=None)
@given(
    dimension=st.integers(1, 8),
    k=st.integers(2, 6),
    rows=st.integers(5, 30),
    separability=st.floats(1.5, 8),
    noise=st.floats(0, 1),
    n_classes=st.integers(2, 4),
    seed=st.integers(0, 10_000),
)
def test_supports_are_disjoint_rows_distinct_and_noise_exact(dimension, k, rows, separability, noise, n_classes, seed):
    n_classes = min(n_classes, k)
    data = make_mixture(MixtureSpec(dimension, k, rows, separability, noise, n_classes, seed))
    pure = make_mixture(MixtureSpec(dimension, k, rows, separability, 0.0, n_classes, seed))
    component = data.annotations["component"]
    assert smallest_gap(data) >= GAP * (1 - 1e-9)
    assert len(np.unique(data.x, axis=0)) == k * rows
    assert np.bincount(component).tolist() == [rows] * k
    assert np.array_equal(data.x, pure.x)
    changed = np.bincount(component, weights=data.y != pure.y, minlength=k)
    assert changed.tolist() == [round(noise * rows)] * k
    assert all(len(set(pure.y[component == i].tolist())) == 1 for i in range(k))
    assert set(pure.y.tolist()) == set(range(n_classes))
    assert data.y.min() >= 0
    assert data.y.max() < n_classes


def test_rows_are_distinct_even_on_a_line():
    data = make_mixture(MixtureSpec(dimension=1, n_subpopulations=2, rows=20_000, seed=4))
    assert len(np.unique(data.x)) == 40_000


def test_separability_is_the_distance_of_the_nearest_centres():
    data = make_mixture(MixtureSpec(dimension=5, n_subpopulations=6, rows=4000, separability=9.0))
    means = np.array([data.x[data.annotations["component"] == i].mean(axis=0) for i in range(6)])
    between = np.linalg.norm(means[:, None] - means, axis=2)[np.triu_indices(6, 1)]
    assert between.min() == pytest.approx(9.0, abs=0.15)  # the mean of 4,000 rows in 5-d is off by about .04


def test_one_noise_share_and_one_size_each():
    spec = MixtureSpec(3, 3, rows=(10, 20, 40), label_noise=(0.0, 0.5, 0.25), classes=(1, 0, 1))
    data = make_mixture(spec, "other", group_bounds=(2, 9))
    component = data.annotations["component"]
    wrong = data.y != np.array(spec.classes)[component]
    assert np.bincount(component, weights=wrong).tolist() == [0, 10, 10]
    assert (data.name, data.group_bounds, data.n_clusters) == ("other", (2, 9), 3)


def test_k_means_finds_the_components_when_they_are_far_apart():
    data = make_mixture(MixtureSpec(dimension=10, n_subpopulations=8, rows=50, separability=12.0))
    found = KMeans(8, n_init=10, random_state=0).fit_predict(data.x)
    pairs = set(zip(found.tolist(), data.annotations["component"].tolist(), strict=True))
    assert len(pairs) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dimension": 0}, "dimension=0"),
        ({"n_classes": 1}, "n_classes=1"),
        ({"n_subpopulations": 2, "n_classes": 3}, "n_classes=3"),
        ({"rows": 0}, "rows=0"),
        ({"rows": (5, 5)}, "16 numbers"),
        ({"label_noise": 1.5}, "label_noise=1.5"),
        ({"label_noise": (0.1,)}, "label_noise"),
        ({"separability": 0.0}, "separability=0.0"),
        ({"separability": float("nan")}, "separability=nan"),
        ({"classes": (0, 1)}, "classes"),
        ({"centres": ((0.0, 1.0),)}, "centres"),
    ],
)
def test_impossible_mixtures_are_refused(changes, message):
    with pytest.raises(BadInput, match=message):
        MixtureSpec(**changes)


@pytest.mark.parametrize("centres", [((0.0,), (1.0,), (1.0,)), ((0.0,), (0.09,), (0.18,))])
def test_centres_that_leave_no_room_are_refused(centres):
    spec = MixtureSpec(1, 3, rows=5, centres=centres)
    with pytest.raises(BadInput, match="centre"):
        make_mixture(spec)


# --- Figure 2 ---------------------------------------------------------------------------------------------------------


def fit(x: np.ndarray, y: np.ndarray) -> LogisticRegression:
    return LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(x, y)


def trimmed(x: np.ndarray, y: np.ndarray, n_keep: int, seed: int) -> LogisticRegression:
    """Alternate between fitting on the n_keep rows of lowest loss and choosing them anew, from a random start."""
    keep = np.sort(np.random.default_rng(seed).permutation(len(y))[:n_keep])
    for _ in range(100):
        model = fit(x[keep], y[keep])
        lowest = np.sort(np.argsort(-model.predict_proba(x)[np.arange(len(y)), y], kind="stable")[:n_keep])
        if np.array_equal(lowest, keep):
            break
        keep = lowest
    return model


@pytest.mark.parametrize("seed", range(3))
def test_figure_2_clean_right_poison_hurts_trim_makes_it_worse(seed):
    data = load_dataset("mixture_2d")
    splits = split(data, seed, "reserve")
    partition = feature_match(data, splits)
    assert [partition.names[i] for i in partition.attacked] == ["component=2"]
    train, aux = splits.train, splits.aux[partition.aux == 2]
    target, others = splits.test[partition.test == 2], splits.test[partition.test != 2]
    poison = np.random.default_rng(seed).permutation(aux)[: 2 * (partition.train == 2).sum()]
    x = np.concatenate([data.x[train], data.x[poison]])
    y = np.concatenate([data.y[train], 1 - data.y[poison]])
    clean, poisoned, repaired = fit(data.x[train], data.y[train]), fit(x, y), trimmed(x, y, len(train), seed)
    accuracy = [model.score(data.x[target], data.y[target]) for model in (clean, poisoned, repaired)]
    assert len(target) >= 20
    assert accuracy[0] >= 0.95
    assert accuracy[1] <= accuracy[0] - 0.5
    assert accuracy[2] < accuracy[1] - 0.1
    assert abs(clean.score(data.x[others], data.y[others]) - poisoned.score(data.x[others], data.y[others])) < 0.05
