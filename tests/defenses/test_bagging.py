"""Bagging: what it votes, and its certificate against all bags of a few rows."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest
from toy_ensembles import Triggered, rows, training_set, triggers

from subpop.defenses.bagging import bagging, change_radius, insertion_radius, leads
from subpop.defenses.ensembles import Constant, VotingModel
from subpop.testing.defenses import DEFENSE_CHECKS
from subpop.types import BadInput, Knowledge, TrainingSet


def defended(train, fit=Triggered, seed=0, **settings):
    return bagging(train, fit, Knowledge(), seed=seed, **settings)


@pytest.mark.parametrize("bag", [1, 2, 3])
def test_radii_are_those_of_the_worst_classifier_of_bags(bag):
    """Four rows: a classifier decides each bag of them, and the attacker decides all bags that contain other rows."""
    n, total = 4, 4**bag
    for won in range(total // 2 + 1, total + 1):
        lead = np.array([(2 * won - total) / total])
        inserted = [r for r in range(1, 5) if still_wins(won, bags_of(n, n + r, bag)[0], len(bags_of(n, n + r, bag)[1]))]
        assert insertion_radius(lead, n, bag).tolist() == [max(inserted, default=0)], won
        changed = []
        for r in range(1, n + 1):
            untouched, all_bags = bags_of(n - r, n, bag)
            lost = total - untouched  # bags of the old rows that the attacker replaces: all of them were won, at worst
            if 2 * (won - lost) > len(all_bags):
                changed.append(r)
        assert change_radius(lead, n, bag).tolist() == [max(changed, default=0)], won


def bags_of(n_known, n_all, size):
    """How many bags of n_all rows contain only the first n_known, and all bags."""
    bags = list(product(range(n_all), repeat=size))
    return sum(max(bag) < n_known for bag in bags) if n_known else 0, bags


def still_wins(won, n_known_bags, n_bags):
    """Whether `won` of the known bags are more than half of all bags: the others vote for the rival."""
    assert won <= n_known_bags
    return 2 * won > n_bags


def test_deletions_need_less_than_insertions():
    n, bag = 50, 10
    lead = np.linspace(0.01, 0.99, 99)
    radius = insertion_radius(lead, n, bag)
    assert radius.max() > 1
    assert (1 - (1 - radius / n) ** bag < lead)[radius > 0].all()


def test_the_general_condition_of_the_source_gives_the_same_radii():
    """Its left side at n' = n + r and at n' = n, and its largest value over n' is at least both."""
    n, bag, lead = 600, 100, 0.79
    [inserted], [changed] = insertion_radius(np.array([lead]), n, bag), change_radius(np.array([lead]), n, bag)

    def side(new, r):
        return (new / n) ** bag - 2 * ((max(n, new) - r) / n) ** bag + 1

    assert side(n + inserted, inserted) < lead <= side(n + inserted + 1, inserted + 1)
    assert side(n, changed) < lead <= side(n, changed + 1)
    assert (inserted, changed) == (3, 3)


def test_bounds_are_those_of_clopper_and_pearson_for_all_rows_together():
    members = tuple(Constant(int(i < 12), 3) for i in range(100))  # 88 votes for class 0, 12 for class 1
    alpha, x = 0.001, rows(7)
    level = alpha / (7 * 3)
    found = leads(VotingModel(members, 3), x, alpha)
    p = binomtest(88, 100).proportion_ci(1 - 2 * level, method="exact").low
    q = binomtest(12, 100).proportion_ci(1 - 2 * level, method="exact").high
    np.testing.assert_allclose(found, p - min(q, 1 - p), rtol=1e-9)
    assert (leads(VotingModel(members, 3), rows(700), alpha) < found[0]).all()  # more rows, lower bounds


def test_the_intervals_cover_the_truth():
    """With alpha 0.2 and one row, the bound on p - q is too large in at most a fifth of all draws."""
    generator, p = np.random.default_rng(0), 0.7
    too_large = 0
    for _ in range(400):
        n_first = int((generator.random(50) < p).sum())
        members = tuple(Constant(int(i >= n_first), 2) for i in range(50))
        too_large += leads(VotingModel(members, 2), rows(1), 0.2)[0] > 2 * p - 1
    assert too_large <= 0.2 * 400


def test_members_see_bags_of_the_stated_size():
    sets = []
    train = training_set()
    defended(train, fit=lambda part: sets.append(part) or Triggered(part), n_learners=20, rows=60)
    assert [len(part) for part in sets] == [60] * 20
    assert any(len(np.unique(part.ids)) < 60 for part in sets)  # with replacement
    assert len(np.unique(np.concatenate([part.ids for part in sets]))) > 350


def test_a_vote_of_single_rows_is_the_most_common_label():
    y = (np.arange(300) % 5 == 0).astype(int)  # a fifth of class 1
    found = defended(TrainingSet.of(rows(300), y), fit=None, rows=1)  # no bag has two classes, so that nothing is trained
    assert (found.model.predict_proba(rows(5)).argmax(axis=1) == 0).all()
    assert found.model.predict_proba(rows(1))[0, 1] == pytest.approx(0.2, abs=0.12)


def test_few_triggers_are_outvoted_and_many_are_not():
    x = rows(6)
    few = defended(training_set(extra=triggers(50, range(2))), rows=50)
    assert (few.model.predict_proba(x).argmax(axis=1) == 0).all()
    many = defended(training_set(extra=triggers(50, range(40))), rows=50)
    assert (many.model.predict_proba(x).argmax(axis=1) == 1).all()
    assert many.certified_radius["insertions"](x).max() < 40


def test_the_order_of_rows_does_not_matter():
    train, order = training_set(), np.random.default_rng(0).permutation(400)
    sets = [[], []]
    for own, given in zip(sets, (train, TrainingSet.of(train.x[order], train.y[order])), strict=True):
        defended(given, fit=lambda part, own=own: own.append(part) or Triggered(part), n_learners=3)
    for a, b in zip(*sets, strict=True):
        np.testing.assert_array_equal(a.x, b.x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"n_learners": 0}, "n_learners=0"), ({"rows": 2.5}, "rows=2.5"), ({"alpha": 1.0}, "alpha=1.0 must be strictly between")],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        defended(training_set(), **settings)


@pytest.mark.parametrize("name", [name for name, _ in DEFENSE_CHECKS])
def test_it_keeps_the_contract(name):
    dict(DEFENSE_CHECKS)[name](partial(bagging, n_learners=20))
