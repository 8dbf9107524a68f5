"""The whole space of largest variance: the same however it is turned, by a full decomposition and by Lanczos' method."""

from __future__ import annotations

import numpy as np
import pytest

from subpop.defenses.eigenspaces import DIRECT_SIZE, steady, tie_decides, top_eigenspace, top_eigenspace_of


def with_variances(variances, n_rows=50, size=0, seed=0):
    """(n, size) columns with exactly these variances along random directions, and the directions of the largest, (size, k)."""
    generator = np.random.default_rng(seed)
    size = size or len(variances)
    left = np.linalg.qr(generator.standard_normal((n_rows, len(variances))))[0]
    right = np.linalg.qr(generator.standard_normal((size, len(variances))))[0]
    return left * np.sqrt(variances) @ right.T, right


@pytest.mark.parametrize("size", [20, DIRECT_SIZE + 40])
@pytest.mark.parametrize(
    ("variances", "multiplicity"),
    [
        ((9.0, 4, 4, 1), 1),
        ((9.0, 9, 4, 1), 2),
        ((9.0, 9, 9, 9, 9), 5),
        ((9.0, 9 * (1 - 1e-8), 4), 2),  # rounding apart
        ((9.0, 9 * (1 - 1e-4), 4), 1),  # truly smaller
        ((9.0, 8.9, 8.9, 1), 1),
    ],
)
def test_all_directions_of_the_largest_variance_and_no_other(size, variances, multiplicity):
    columns, directions = with_variances(variances, size=size)
    found = top_eigenspace(columns)
    assert found.shape == (size, multiplicity)
    np.testing.assert_allclose(found.T @ found, np.eye(multiplicity), atol=1e-9)
    expected = directions[:, :multiplicity]
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-3 if 9 * (1 - 1e-4) in variances else 1e-6)


def test_without_columns_or_variance():
    assert top_eigenspace(np.zeros((5, 0))).shape == (0, 0)
    for size in (3, DIRECT_SIZE + 1):
        assert (np.zeros((5, size)) @ top_eigenspace(np.zeros((5, size))) == 0).all()


def test_one_direction_that_never_settles_is_still_one():
    """A slowly falling spectrum: what Lanczos has after its steps is returned, and nothing loops."""
    falling = np.linspace(1, 0.9, 2000)
    assert top_eigenspace_of(lambda v: falling * v, 2000).shape[1] >= 1


def test_steady_scores_are_equal_where_only_rounding_tells_them_apart():
    scores = np.array([3.0, 3.0 * (1 + 1e-15), 1.0, 1.0 + 1e-14, 1.0 + 1e-6, 0.0])
    found = steady(scores)
    assert found[0] == found[1]
    assert found[2] == found[3] < found[4]
    assert found[5] == 0
    np.testing.assert_allclose(found, scores, atol=3e-9)
    assert steady(np.zeros(3)).tolist() == [0, 0, 0]
    assert steady(np.zeros(0)).shape == (0,)


def test_a_tie_decides_where_equal_scores_stand_on_both_sides():
    scores = np.array([2.0, 1.0, 1.0, 0.0])
    assert not tie_decides(scores, np.array([True, False, False, False]))
    assert tie_decides(scores, np.array([True, True, False, False]))
    assert not tie_decides(scores, np.array([True, True, True, False]))
    assert not tie_decides(scores, np.ones(4, bool))
    assert not tie_decides(scores, np.zeros(4, bool))
