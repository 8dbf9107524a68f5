"""Run-off election: two rounds, equal to DPA for two classes, and radii against all changes of members."""

from __future__ import annotations

from functools import partial
from itertools import combinations, permutations, product

import numpy as np
import pytest
from toy_ensembles import Triggered, rows, training_set, triggers

from subpop.defenses.dpa import dpa
from subpop.defenses.ensembles import counts_of, leads_of
from subpop.defenses.run_off_election import RunOffModel, duels_of, radii, run_off_election
from subpop.testing.defenses import DEFENSE_CHECKS
from subpop.types import BadInput, Knowledge


class Fixed:
    """The same probabilities for every row."""

    def __init__(self, proba):
        self.proba = np.asarray(proba, np.float64)

    def predict_proba(self, x):
        return np.tile(self.proba, (len(x), 1))


def elected(proba):
    """The winner by the rule of two rounds, written out for members' probabilities (k, C)."""
    votes = [max(range(len(own)), key=lambda c: (own[c], -c)) for own in proba]
    first, second = sorted(range(len(proba[0])), key=lambda c: (-votes.count(c), c))[:2]
    first, second = sorted((first, second))
    for_first = sum(own[first] >= own[second] for own in proba)
    return first if for_first >= len(proba) - for_first else second


def certified(proba):
    proba = np.asarray(proba)[None]
    [radius] = radii(counts_of(proba.argmax(axis=2), proba.shape[2]), duels_of(proba))
    return radius


def random_members(generator, k, n_classes):
    return generator.dirichlet(np.where(np.arange(n_classes) == 1, 2.5, 1.0), k)


@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_the_winner_is_elected_in_two_rounds(n_classes):
    generator = np.random.default_rng(0)
    for _ in range(100):
        proba = np.round(random_members(generator, 7, n_classes), 1)  # with ties
        model = RunOffModel(tuple(map(Fixed, proba)), n_classes)
        shares = model.predict_proba(np.zeros((3, 1)))
        assert shares.argmax(axis=1).tolist() == [elected(proba.tolist())] * 3
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)


def test_the_second_round_can_overturn_the_first():
    """Class 0 has most votes, but the voters of class 2 prefer class 1."""
    proba = [[0.8, 0.1, 0.1]] * 3 + [[0.1, 0.8, 0.1]] * 2 + [[0.0, 0.4, 0.6]] * 2
    model = RunOffModel(tuple(map(Fixed, proba)), 3)
    assert model.predict_proba(np.zeros((1, 1))).argmax() == 1
    assert model.votes(np.zeros((1, 1))).tolist() == [[0, 0, 0, 1, 1, 2, 2]]


@pytest.mark.parametrize(("n_classes", "k"), [(3, 5), (3, 6), (4, 4)])
def test_no_change_of_as_many_members_as_the_radius_elects_another_class(n_classes, k):
    """Changed members may have any ranking of the classes; in many cases one member more is enough."""
    generator, tight, seen = np.random.default_rng(2), 0, set()
    rankings = list(permutations(range(n_classes)))
    for _ in range(25):
        proba = random_members(generator, k, n_classes).tolist()
        winner, radius = elected(proba), certified(proba)
        seen.add(int(radius))
        assert not can_change(proba, winner, radius, rankings)
        tight += radius + 1 <= 2 and can_change(proba, winner, radius + 1, rankings)
    assert seen >= {0, 1}
    assert tight >= 10


@pytest.mark.parametrize(("own_votes", "radius"), [(3, 0), (5, 1)])
def test_two_rivals_may_overtake_a_winner_that_would_beat_either(own_votes, radius):
    """Class 0 is the second choice of the three voters of each rival."""
    proba = [[0.8, 0.1, 0.1]] * own_votes + [[0.3, 0.6, 0.1]] * 3 + [[0.3, 0.1, 0.6]] * 3
    assert elected(proba) == 0
    assert certified(proba) == radius
    assert not can_change(proba, 0, radius, list(permutations(range(3))))
    assert can_change(proba, 0, radius + 1, list(permutations(range(3))))


def can_change(proba, winner, r, rankings):
    for chosen in combinations(range(len(proba)), r):
        for new in product(rankings, repeat=r):
            changed = list(proba)
            for member, ranking in zip(chosen, new, strict=True):
                changed[member] = ranking
            if elected(changed) != winner:
                return True
    return False


def test_the_closed_form_is_the_recursion_that_it_replaces():
    """f(i, j) = 1 + min(f(i - 2, j - 1), f(i - 1, j - 2)), where a gap that is closed needs nothing."""
    size = 40
    f = np.zeros((size, size), int)
    for i, j in product(range(size), repeat=2):
        if max(i, j) > 0:
            f[i, j] = 1 + min(f[max(i - 2, 0), max(j - 1, 0)], f[max(i - 1, 0), max(j - 2, 0)])
    i, j = np.indices((size, size))
    np.testing.assert_array_equal(f, np.maximum(np.maximum(-(-i // 2), -(-j // 2)), -(-(i + j) // 3)))


def test_for_two_classes_it_is_dpa():
    train, x = training_set(extra=triggers(5, [0, 3])), rows(30, seed=9)
    one, other = (defense(train, Triggered, Knowledge(), seed=0, k=5) for defense in (run_off_election, dpa))
    np.testing.assert_array_equal(one.model.predict_proba(x), other.model.predict_proba(x))
    np.testing.assert_array_equal(one.certified_radius["insertions"](x), other.certified_radius["insertions"](x))
    proba = np.random.default_rng(0).dirichlet(np.ones(2), (300, 8))
    votes = proba.argmax(axis=2)
    np.testing.assert_array_equal(radii(counts_of(votes, 2), duels_of(proba)), leads_of(votes, 2)[1].min(axis=1) // 2)


def test_for_three_classes_it_certifies_more_than_dpa_where_votes_are_split():
    proba = np.array([[0.6, 0.3, 0.1]] * 4 + [[0.2, 0.7, 0.1]] * 3 + [[0.3, 0.1, 0.6]] * 2)
    assert leads_of(proba.argmax(axis=1)[None], 3)[1].min() // 2 == 0
    assert certified(proba) == 1


def test_poison_in_most_parts_is_not_resisted():
    found = run_off_election(training_set(extra=triggers(5, range(5))), Triggered, Knowledge(), seed=0, k=5)
    assert (found.model.predict_proba(rows(9)).argmax(axis=1) == 1).all()


def test_too_many_parts_are_refused():
    with pytest.raises(BadInput, match="at most the number of rows"):
        run_off_election(training_set(), Triggered, Knowledge(), seed=0, k=401)


REFUSED = ("works_on_few_rows", "works_with_a_missing_class")


@pytest.mark.parametrize("name", [name for name, _ in DEFENSE_CHECKS if name not in REFUSED])
def test_it_keeps_the_contract(name):
    dict(DEFENSE_CHECKS)[name](partial(run_off_election, k=3))
