"""The collective certificate against all choices of members, and what it returns when the time is up."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import scipy.optimize
from scipy.optimize import OptimizeResult

from subpop.defenses.certificates import most_wrong
from subpop.types import BadInput


def brute_force(votes, y, m, n_classes):
    """The most wrong rows over all sets of m members; in each row all of them vote for the rival that suits best."""
    best = 0
    for chosen in combinations(range(votes.shape[1]), min(m, votes.shape[1])):
        wrong = np.zeros(len(y), bool)
        for rival in range(n_classes):
            changed = votes.copy()
            changed[:, list(chosen)] = rival
            counts = np.stack([(changed == label).sum(axis=1) for label in range(n_classes)], axis=1)
            wrong |= counts.argmax(axis=1) != y
        clean = np.stack([(votes == label).sum(axis=1) for label in range(n_classes)], axis=1).argmax(axis=1)
        best = max(best, int((wrong | (clean != y)).sum()))
    return best


def drawn(seed, k, n, n_classes, right=0.7):
    generator = np.random.default_rng(seed)
    y = generator.integers(0, n_classes, n)
    return np.where(generator.random((n, k)) < right, y[:, None], generator.integers(0, n_classes, (n, k))), y


@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_it_equals_the_search_of_all_choices(n_classes):
    below_pointwise = 0
    for seed, (k, m) in enumerate((k, m) for k in (3, 5, 8, 11, 12) for m in range(5)):
        votes, y = drawn(seed, k, 24, n_classes, right=0.6)
        found = most_wrong(votes, y, m, n_classes)
        assert found.solved
        assert found.count == brute_force(votes, y, m, n_classes), (k, m)
        below_pointwise += found.count < found.pointwise
    assert below_pointwise >= 5  # the certificate of single rows would not pass this test


def test_rows_that_are_wrong_when_clean_count_as_wrong():
    votes, y = np.array([[1, 1, 1], [0, 0, 0]]), np.zeros(2, np.int64)
    assert most_wrong(votes, y, 0, 2).count == 1
    assert most_wrong(votes, y, 1, 2).count == 1
    assert most_wrong(votes, y, 2, 2).count == 2


def test_ties_go_to_the_smaller_class():
    votes = np.array([[0, 0, 0, 1], [1, 1, 1, 0]])
    # One member less leaves two votes each: class 0 keeps its row, class 1 loses its own.
    assert [most_wrong(votes[[i]], np.array([i]), 1, 2).count for i in (0, 1)] == [0, 1]


def test_one_attack_cannot_turn_rows_that_need_different_members():
    """Members that any two of the rows need, but none that all three need."""
    right = [[0, 1, 2], [2, 3, 4], [0, 1, 3]]
    votes = np.zeros((3, 5), np.int64)
    for row, members in enumerate(right):
        votes[row, members] = 1
    found = most_wrong(votes, np.ones(3, np.int64), 1, 2)
    assert (found.count, found.pointwise) == (2, 3)


def test_a_bound_remains_where_the_time_is_up():
    votes, y = drawn(3, 31, 80, 2, right=0.2)
    exact = most_wrong(votes, y, 3, 2, time_limit=120)
    early = most_wrong(votes, y, 3, 2, time_limit=1e-6)
    assert exact.solved
    assert not early.solved
    assert exact.count < early.count <= early.pointwise


def test_an_unfinished_program_gives_its_dual_bound(monkeypatch):
    """Not the best choice found so far, which a longer search might improve."""
    votes, y = drawn(3, 31, 80, 2, right=0.2)
    already = most_wrong(votes, y, 0, 2).count
    unfinished = OptimizeResult(status=1, fun=-4.0, mip_dual_bound=-7.9)
    monkeypatch.setattr(scipy.optimize, "milp", lambda *args, **kwargs: unfinished)
    found = most_wrong(votes, y, 3, 2)
    assert (found.count, found.solved) == (already + 7, False)
    monkeypatch.setattr(scipy.optimize, "milp", lambda *args, **kwargs: OptimizeResult(status=1, mip_dual_bound=None))
    found = most_wrong(votes, y, 3, 2)
    assert (found.count, found.solved) == (found.pointwise, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"votes": np.zeros((3, 0), int)}, "do not fit labels"),
        ({"votes": np.zeros((2, 5), int)}, "do not fit labels"),
        ({"votes": np.full((3, 5), 2)}, "votes must be integers from 0 to 1"),
        ({"y": np.full(3, -1)}, "labels must be integers from 0 to 1"),
        ({"m": -1}, "at least 0"),
        ({"time_limit": 0.0}, "above 0 seconds"),
    ],
)
def test_bad_input_is_refused(change, message):
    given = {"votes": np.zeros((3, 5), int), "y": np.zeros(3, int), "m": 1, "n_classes": 2, **change}
    with pytest.raises(BadInput, match=message):
        most_wrong(**given)
