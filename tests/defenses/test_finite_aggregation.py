"""Finite aggregation: who trains on which cell, and its radii against all choices of cells."""

from __future__ import annotations

from functools import partial
from itertools import combinations

import numpy as np
import pytest
from toy_ensembles import Triggered, rows, training_set, triggers

from subpop.defenses.dpa import dpa
from subpop.defenses.ensembles import leads_of, parts_of
from subpop.defenses.finite_aggregation import finite_aggregation, of_cells, radii, shifts_of
from subpop.testing.defenses import DEFENSE_CHECKS
from subpop.types import BadInput, Knowledge


def defended(train, k=3, d=2, fit=Triggered):
    return finite_aggregation(train, fit, Knowledge(), seed=0, k=k, d=d)


def test_every_row_reaches_d_members_by_the_shifts():
    sets = []
    train = training_set()
    defended(train, fit=lambda part: sets.append(part) or Triggered(part))
    cell, shifts = parts_of(train, 6), shifts_of(3, 2)
    assert len(sets) == 6
    assert len(set(shifts)) == 2
    reached = [{member for member, part in enumerate(sets) if row in part.ids} for row in range(400)]
    assert reached == [{(own + shift) % 6 for shift in shifts.tolist()} for own in cell.tolist()]
    assert sum(map(len, sets)) == 2 * len(train)  # two passes over the data


@pytest.mark.parametrize("n_classes", [2, 3])
def test_no_choice_of_cells_within_the_radius_changes_the_winner(n_classes):
    generator, tight, n_more = np.random.default_rng(1), 0, 0
    for k, d in ((3, 2), (4, 2), (3, 3)):
        shifts = shifts_of(k, d)
        for _ in range(12):
            votes = generator.choice(n_classes, (1, k * d), p=[0.8, *[0.2 / (n_classes - 1)] * (n_classes - 1)])
            [radius] = radii(votes, shifts, n_classes)
            assert not any(turns(votes[0], cells, shifts, n_classes) for cells in combinations(range(k * d), radius))
            n_more += 1
            tight += any(turns(votes[0], cells, shifts, n_classes) for cells in combinations(range(k * d), radius + 1))
    assert tight >= n_more / 2  # a certificate of 0 everywhere would not pass


def test_a_cell_counts_what_its_own_members_contribute():
    assert of_cells(np.array([[1, 10, 100, 1000, 10000]]), np.array([0, 1, 3])).tolist() == [[1011, 10110, 1101, 11010, 10101]]


def turns(votes, cells, shifts, n_classes):
    """Whether the members that these cells reach can make another class win."""
    reached = [(cell + shift) % len(votes) for cell in cells for shift in shifts.tolist()]
    winner = np.bincount(votes, minlength=n_classes).argmax()
    for rival in range(n_classes):
        changed = votes.copy()
        changed[reached] = rival
        if np.bincount(changed, minlength=n_classes).argmax() != winner:
            return True
    return False


def test_six_votes_of_one_class_survive_one_cell():
    assert radii(np.zeros((1, 6), int), shifts_of(3, 2), 2).tolist() == [1]
    assert radii(np.ones((1, 6), int), shifts_of(3, 2), 2).tolist() == [1]
    # The lead is 6 - 0 - 1 for class 1, and a cell takes 4 votes: 8 would be needed for two cells in either case.


def test_with_one_member_for_each_row_it_is_dpa():
    train, x = training_set(extra=triggers(5, [2])), rows(20, seed=4)
    one, other = defended(train, k=5, d=1), dpa(train, Triggered, Knowledge(), seed=0, k=5)
    np.testing.assert_array_equal(one.model.predict_proba(x), other.model.predict_proba(x))
    np.testing.assert_array_equal(one.certified_radius["insertions"](x), other.certified_radius["insertions"](x))
    votes = np.random.default_rng(0).integers(0, 3, (200, 7))
    np.testing.assert_array_equal(radii(votes, shifts_of(7, 1), 3), leads_of(votes, 3)[1].min(axis=1) // 2)


def test_insertions_within_the_radius_change_nothing_and_poison_everywhere_does():
    x = rows(5)
    [radius] = set(defended(training_set()).certified_radius["insertions"](x).tolist())
    assert radius == 1
    for cell in range(6):
        assert (defended(training_set(extra=triggers(6, [cell]))).model.predict_proba(x).argmax(axis=1) == 0).all()
    assert (defended(training_set(extra=triggers(6, range(6)))).model.predict_proba(x).argmax(axis=1) == 1).all()


@pytest.mark.parametrize(("k", "d", "message"), [(3, 0, "d=0"), (3, True, "d=True"), (300, 2, "k=600"), (25, 2, "30 rows")])
def test_bad_numbers_are_refused(k, d, message):
    with pytest.raises(BadInput, match=message):
        defended(training_set(), k=k, d=d)


REFUSED = ("works_on_few_rows", "works_with_a_missing_class")


@pytest.mark.parametrize("name", [name for name, _ in DEFENSE_CHECKS if name not in REFUSED])
def test_it_keeps_the_contract(name):
    dict(DEFENSE_CHECKS)[name](partial(finite_aggregation, k=3))
