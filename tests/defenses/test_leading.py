"""The leading eigenvectors of a symmetric matrix, against matrices whose eigenvectors are known and against LAPACK's."""

import numpy as np
import pytest
import scipy.linalg

from subpop.defenses.certificates import leading as module
from subpop.defenses.certificates.leading import bisected, leading


def symmetric(values, seed=0):
    """A matrix with these eigenvalues and its eigenvectors."""
    vectors = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))[0]
    return (vectors * values) @ vectors.T, vectors


@pytest.mark.parametrize("d", [1, 2, 3, 4, 30, 150])
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_known_eigenvectors(d, share, monkeypatch):
    monkeypatch.setattr(module, "eigh", eigh_of_small(d))
    values = np.geomspace(100, 0.1, d)
    matrix, vectors = symmetric(values)
    count = max(1, int(share * d))
    matrix[np.tril_indices(d, -1)] = np.nan  # not read
    found, directions = leading(matrix, count, 0.0)
    np.testing.assert_allclose(found, values[:count], rtol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(directions * vectors[:, :count], axis=0)), 1, atol=1e-12)
    np.testing.assert_allclose(directions.T @ directions, np.eye(count), atol=1e-12)


def eigh_of_small(d):
    """LAPACK's solver, which must not be needed for eigenvalues that are far apart."""

    def solve(*arguments, **options):
        assert d < 3
        return scipy.linalg.eigh(*arguments, **options)

    return solve


def test_a_tridiagonal_matrix_with_known_eigenvalues():
    """2 on the diagonal and -1 beside it: 2 - 2 cos(pi j / (d + 1))."""
    for d in (1, 2, 5, 64):
        expected = 2 - 2 * np.cos(np.pi * np.arange(d, 0, -1) / (d + 1))
        np.testing.assert_allclose(bisected(np.full(d, 2.0), np.full(d - 1, -1.0), d), expected, atol=1e-14)


@pytest.mark.parametrize(
    "values",
    [np.repeat([3.0, 2.0, 1.0], 4), np.r_[5.0, 4.0, np.ones(10)], np.r_[2.0, 2.0 - 1e-13, 1.0, 0.5], np.ones(6)],
    ids=["three values", "ones", "a close pair", "identity"],
)
def test_equal_eigenvalues_have_orthogonal_vectors(values):
    matrix = symmetric(values)[0] if len(set(values)) > 1 else np.diag(values)
    for count in (2, len(values)):
        found, directions = leading(matrix.copy(), count, 0.0)
        np.testing.assert_allclose(found, values[:count], atol=1e-12)
        np.testing.assert_allclose(directions.T @ directions, np.eye(count), atol=1e-12)
        np.testing.assert_allclose(matrix @ directions, directions * found, atol=1e-11)


def test_eigenvalues_without_variance_are_left_out():
    matrix, vectors = symmetric(np.r_[4.0, 1.0, np.zeros(6)])
    found, directions = leading(matrix, 5, 1e-6)
    np.testing.assert_allclose(found, [4, 1])
    np.testing.assert_allclose(np.abs(directions.T @ vectors[:, :2]), np.eye(2), atol=1e-12)
    assert len(leading(np.zeros((4, 4)), 2, 1e-6)[0]) == 0
    assert len(leading(np.zeros((1, 1)), 1, 1e-6)[0]) == 0


def test_vectors_that_are_not_accurate_are_left_to_lapack(monkeypatch):
    matrix = symmetric(np.geomspace(10, 1, 20))[0]
    calls, solve = [], module.eigh
    monkeypatch.setattr(module, "eigh", lambda *a, **k: calls.append(1) or solve(*a, **k))
    leading(matrix.copy(), 4, 0.0)
    assert not calls
    bisect = module.bisected
    monkeypatch.setattr(module, "bisected", lambda *a: bisect(*a) * (1 + 1e-6))
    found, directions = leading(matrix.copy(), 4, 0.0)
    assert calls
    np.testing.assert_allclose(matrix @ directions, directions * found, atol=1e-12)
