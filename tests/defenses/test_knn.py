"""k-NN filters: exact neighbours on every kernel, what they remove, and that a majority of poison turns them around."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subpop.defenses.knn import deep_knn, knn_filter, knn_relabel, neighbour_votes
from subpop.testing import check_defense
from subpop.types import BadInput, Knowledge, TrainingSet

NOTHING = Knowledge()


class Inputs:
    """A victim whose features are the inputs; it remembers its training set."""

    def __init__(self, train):
        self.train = train

    def predict_proba(self, x):
        return np.full((len(x), 2), 0.5, np.float32)

    def features(self, x):
        return np.asarray(x, np.float32)


class Mirrored(Inputs):
    """Its features fold the inputs at 0, so that rows on both sides are neighbours."""

    def features(self, x):
        return np.abs(x).astype(np.float32)


def clusters(n_clean, n_poison, seed=0):
    """Two separate balls: `n_clean` rows of class 1 with `n_poison` of class 0, and 30 rows of class 0."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((n_clean + n_poison + 30, 3)).astype(np.float32)
    x[-30:] += 50
    y = np.repeat([1, 0, 0], [n_clean, n_poison, 30])
    poison = np.repeat([False, True, False], [n_clean, n_poison, 30])
    order = generator.permutation(len(y))
    return TrainingSet.of(x[order], y[order]), poison[order]


def exact_votes(points, y, k, with_self):
    """The definition, in rational numbers."""
    numbers = [[Fraction(float(value)) for value in row] for row in points]
    votes = np.zeros((len(y), y.max() + 1), int)
    for i, own in enumerate(numbers):
        others = [j for j in range(len(y)) if with_self or j != i]
        squared = {j: sum((a - b) ** 2 for a, b in zip(own, numbers[j], strict=True)) for j in others}
        limit = sorted(squared.values())[k - 1]
        for j in others:
            votes[i, y[j]] += squared[j] <= limit
    return votes


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.integers(1, 6), st.sampled_from([1, 0.25, 1024]))
def test_neighbours_are_the_nearest_rows_and_all_ties(seed, with_self, k, unit):
    """Whole multiples of a power of two far from the origin: float64 holds their distances exactly, matrix products do not."""
    generator = np.random.default_rng(seed)
    points = generator.integers(0, 4, (14, 3)) * unit + 1_000 * unit
    y = generator.integers(0, 3, 14)
    found = neighbour_votes(points.astype(np.float32), y, k, with_self=with_self)
    wanted = exact_votes(points, y, k, with_self)
    np.testing.assert_array_equal(found, np.pad(wanted, ((0, 0), (0, found.shape[1] - wanted.shape[1]))))


def test_a_minority_of_poison_is_relabelled_or_removed():
    train, poison = clusters(30, 3)
    found = knn_relabel(train, Inputs, NOTHING, seed=0)
    np.testing.assert_array_equal(found.model.train.y, np.where(poison, 1, train.y))
    assert found.diagnostics == {"relabelled": 3}
    assert found.keep is None
    np.testing.assert_array_equal(knn_filter(train, Inputs, NOTHING, seed=0).keep, ~poison)
    np.testing.assert_array_equal(deep_knn(train, Inputs, NOTHING, seed=0, k=20).keep, ~poison)


@pytest.mark.parametrize("defense", [knn_filter, deep_knn])
def test_a_majority_of_poison_turns_it_against_the_clean_rows(defense):
    """It must fail: exactly the clean rows of the ball are removed, and all poison stays."""
    train, poison = clusters(15, 60)
    keep = defense(train, Inputs, NOTHING, seed=0, k=30).keep
    np.testing.assert_array_equal(keep, poison | (train.y == 0))
    assert (~keep).sum() == 15


def test_a_majority_of_poison_turns_the_clean_labels():
    train, _ = clusters(15, 60)
    assert (knn_relabel(train, Inputs, NOTHING, seed=0, k=30).model.train.y == 0).all()


def line(labels, middle):
    """Row 0 at the origin with label `middle`; one row for each of `labels`, at growing distances below 2; 20 rows far away."""
    near = np.linspace(1, 2, len(labels), endpoint=False) * np.where(np.arange(len(labels)) % 2, -1, 1)
    x = np.concatenate([[0], near, 1000 + np.arange(20)]).astype(np.float32)[:, None]
    return TrainingSet.of(x, np.array([middle, *labels, *[0] * 20]))


@pytest.mark.parametrize(("n_other", "eta", "differs"), [(7, 0.7, True), (7, 0.71, False), (6, 0.5, True), (5, 0.5, False)])
def test_a_majority_is_a_share_of_at_least_eta(n_other, eta, differs):
    """5 of 10 are no majority against the own label, even where eta is .5."""
    train = line([1] * n_other + [0] * (10 - n_other), middle=0)
    assert knn_filter(train, Inputs, NOTHING, seed=0, eta=eta).keep[0] == (not differs)
    assert knn_relabel(train, Inputs, NOTHING, seed=0, eta=eta).model.train.y[0] == int(differs)


def test_two_equally_frequent_other_labels_decide_nothing():
    train = line([1, 2] * 5, middle=0)
    assert knn_relabel(train, Inputs, NOTHING, seed=0).model.train.y[0] == 0
    assert not deep_knn(train, Inputs, NOTHING, seed=0, k=11).keep[0]


def test_deep_neighbours_contain_the_row_itself():
    """4 rows of its own label, with itself, against 4 others: a tie, so it stays; without itself it would be removed."""
    train = line([1, 0, 1, 0, 1, 0, 1], middle=0)
    assert deep_knn(train, Inputs, NOTHING, seed=0, k=8).keep[0]
    assert not knn_filter(train, Inputs, NOTHING, seed=0, k=7).keep[0]


def test_deep_neighbours_are_those_in_the_features():
    """The row at -1 has no neighbour with another label in input space, but four in the features."""
    x = np.array([-1, -2, -2.1, 1, 1.1, 1.2, 1.3], np.float32)[:, None]
    train = TrainingSet.of(x, np.array([0, 0, 0, 1, 1, 1, 1]))
    assert deep_knn(train, Inputs, NOTHING, seed=0, k=3).keep.all()
    assert deep_knn(train, Mirrored, NOTHING, seed=0, k=3).keep.tolist() == [False, *[True] * 6]


def test_it_trains_once_and_deep_k_nn_twice_at_most():
    for defense, poison, fits in ((knn_relabel, 3, 1), (knn_filter, 3, 1), (deep_knn, 3, 2), (deep_knn, 0, 1)):
        asked = []
        defense(clusters(60, poison)[0], lambda part, asked=asked: asked.append(part) or Inputs(part), NOTHING, seed=0)
        assert len(asked) == fits


@pytest.mark.parametrize("defense", [knn_filter, deep_knn])
def test_the_order_of_rows_decides_nothing(defense):
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 4, (200, 2)).astype(np.float32), generator.integers(0, 2, 200)
    keep, order = defense(TrainingSet.of(x, y), Inputs, NOTHING, seed=0).keep, generator.permutation(200)
    assert 0.2 < keep.mean() < 0.8
    np.testing.assert_array_equal(defense(TrainingSet.of(x[order], y[order]), Inputs, NOTHING, seed=1).keep, keep[order])


KEPT = """
import hashlib, numpy as np
from subpop.defenses import knn
generator = np.random.default_rng(0)
x, y = generator.integers(0, 3, (600, 24)) * 0.1, generator.integers(0, 2, 600)
for knn.ROUGH in (knn.ROUGH, 0.0):
    print(hashlib.sha256(knn.neighbour_votes(x, y, 10, with_self=False).tobytes()).hexdigest())
"""


def test_no_kernel_of_the_processor_decides():
    """Many distances tie up to rounding. Neighbours from matrix products alone (ROUGH = 0) differ between these kernels."""
    found = []
    for core in ("Nehalem", "Haswell"):
        names = {**os.environ, "OPENBLAS_CORETYPE": core, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", KEPT], env=names, capture_output=True, text=True, timeout=120, check=True)
        found.append(done.stdout.split())
    (exact, rough), (other_exact, other_rough) = found
    assert exact == other_exact
    if rough == other_rough:
        pytest.skip("these kernels round alike on this processor")


@pytest.mark.parametrize("defense", [knn_relabel, knn_filter])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 0}, "k=0 .* from 1 to 32"),
        ({"k": 33}, "k=33 .* from 1 to 32, its number of other rows; lower k"),
        ({"k": 2.5}, "k=2.5 .* whole number"),
        ({"eta": 0.4}, "eta=0.4 .* from .5 to 1"),
        ({"eta": 1.1}, "eta=1.1 "),
    ],
)
def test_unusable_settings(defense, given, message):
    def fit(train):
        raise AssertionError("trained")

    with pytest.raises(BadInput, match=message):
        defense(clusters(2, 1)[0], fit, NOTHING, seed=0, **given)


def test_deep_k_nn_needs_k_rows():
    with pytest.raises(BadInput, match=r"k=34 .* from 1 to 33, its number of rows; lower k"):
        deep_knn(clusters(2, 1)[0], Inputs, NOTHING, seed=0, k=34)


def test_tokens_have_no_distances():
    train = TrainingSet.of(np.arange(40).reshape(20, 2), np.arange(20) % 2)
    with pytest.raises(BadInput, match="use deep_knn for texts"):
        knn_filter(train, Inputs, NOTHING, seed=0)


@pytest.mark.parametrize("defense", [knn_relabel, knn_filter, deep_knn])
def test_they_keep_the_contract(defense):
    assert all(result.passed for result in check_defense(defense))
