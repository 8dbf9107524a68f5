"""DPA: what decides the part of a row, what its votes certify, and which numbers of parts it refuses."""

from __future__ import annotations

from functools import partial
from itertools import combinations, product

import numpy as np
import pytest
from toy_ensembles import Triggered, rows, training_set, triggers

from subpop.defenses.dpa import dpa
from subpop.defenses.ensembles import LEAST_ROWS, Constant, VotingModel, content_hash, leads_of, parts_of
from subpop.harness.batching import DefenseError
from subpop.testing.defenses import DEFENSE_CHECKS
from subpop.types import BadInput, Knowledge, TrainingSet


def defended(train, k=5, fit=Triggered, seed=0):
    return dpa(train, fit, Knowledge(), seed=seed, k=k)


def test_a_part_depends_on_the_content_of_an_input_alone():
    x = rows(300)
    train, order = TrainingSet.of(x, np.zeros(300, int)), np.random.default_rng(1).permutation(300)
    parts = parts_of(train, 7)
    np.testing.assert_array_equal(parts_of(train.relabel(np.arange(300) % 2), 7), parts)
    np.testing.assert_array_equal(parts_of(TrainingSet.of(x[order], np.zeros(300, int)), 7), parts[order])
    assert set(parts) == set(range(7))
    assert content_hash(np.float32([[0.0, 1.0]])) == content_hash(np.float32([[-0.0, 1.0]]))
    assert content_hash(np.arange(3)[None]) == content_hash(np.arange(3).astype(">i8")[None])
    # BLAKE2b of the four little-endian bytes of 1.5, so that all machines agree.
    assert content_hash(np.float32([[1.5]]))[0] == 15708152234021726639


def test_it_is_one_pass_over_the_data():
    sets = []
    defended(training_set(), fit=lambda train: sets.append(train) or Triggered(train))
    assert len(sets) == 5
    np.testing.assert_array_equal(np.sort(np.concatenate([part.ids for part in sets])), np.arange(400))


def test_insertions_within_the_radius_change_nothing_and_one_more_does():
    x = rows(10, seed=5)
    [radius] = set(defended(training_set()).certified_radius["insertions"](x).tolist())
    assert radius == 2  # five votes for class 0, and a tie would stay with it
    for parts in combinations(range(5), radius):
        model = defended(training_set(extra=triggers(5, parts))).model
        assert (model.predict_proba(x).argmax(axis=1) == 0).all()
    for parts in combinations(range(5), radius + 1):
        model = defended(training_set(extra=triggers(5, parts))).model
        assert (model.predict_proba(x).argmax(axis=1) == 1).all()


def test_copies_of_a_row_reach_one_member():
    found = defended(training_set(extra=np.repeat(triggers(5, [3]), 60, axis=0)))
    assert found.votes(rows(4)).sum(axis=1).tolist() == [1] * 4


def test_poison_in_most_parts_is_not_resisted():
    """The theorem is no protection against as many rows as parts: every prediction flips, and the certificate never said more."""
    found = defended(training_set(extra=triggers(5, range(5))))
    assert (found.model.predict_proba(rows(9)).argmax(axis=1) == 1).all()


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_radius_is_the_largest_by_brute_force(n_classes):
    """Every choice of members and of their votes; ties go to the smaller class."""
    generator = np.random.default_rng(0)
    for k in (1, 3, 4, 6):
        for _ in range(12):
            votes = generator.integers(0, n_classes, (1, k))
            winner, leads = leads_of(votes, n_classes)
            assert winner[0] == np.bincount(votes[0], minlength=n_classes).argmax()
            radius = int(leads.min() // 2)
            assert not any(loses(votes[0], winner[0], chosen, n_classes) for chosen in combinations(range(k), radius))
            assert any(loses(votes[0], winner[0], chosen, n_classes) for chosen in combinations(range(k), radius + 1))


def loses(votes, winner, chosen, n_classes):
    """Whether some votes of the chosen members give another winner."""
    for new in product(range(n_classes), repeat=len(chosen)):
        changed = votes.copy()
        changed[list(chosen)] = new
        if np.bincount(changed, minlength=n_classes).argmax() != winner:
            return True
    return False


def test_flips_of_labels_count_like_insertions():
    found = defended(training_set())
    x = rows(6)
    np.testing.assert_array_equal(found.certified_radius["insertions"](x), found.certified_radius["label_flips"](x))


def test_a_part_of_one_class_votes_for_it_untrained():
    x = rows(2000)
    part = parts_of(TrainingSet.of(x, np.zeros(2000, int)), 25)
    y = np.where(part == 4, 1, np.arange(2000) % 2)
    sets = []
    found = defended(TrainingSet.of(x, y), k=25, fit=lambda train: sets.append(train) or Triggered(train))
    assert len(sets) == 24
    assert (found.votes(x[:3])[:, 4] == 1).all()
    assert isinstance(found.model.members[4], Constant)


@pytest.mark.parametrize("k", [0, -1, 401, True, 2.5])
def test_a_number_of_parts_that_cannot_be_is_refused(k):
    with pytest.raises(BadInput, match="at most the number of rows"):
        defended(training_set(), k=k)


def test_too_poor_parts_are_refused_before_anything_is_trained():
    def fit(train):
        raise AssertionError("trained")

    with pytest.raises(BadInput, match=r"k=251: 251 of the 251 parts.*choose k of at most about 8"):
        defended(training_set(), k=251, fit=fit)
    one_class = TrainingSet.of(rows(400), np.zeros(400, int))
    with pytest.raises(BadInput, match="5 of the 5 parts have fewer than 30 rows or a single class"):
        defended(one_class, fit=fit)


def test_one_poor_part_in_twenty_is_allowed_and_two_are_not():
    x = rows(4000)
    part = parts_of(TrainingSet.of(x, np.zeros(4000, int)), 20)
    assert np.bincount(part).min() > LEAST_ROWS

    def leaving(poor):
        keep = ~np.isin(part, poor) | (np.cumsum(np.isin(part, poor)) <= 3)
        return TrainingSet.of(x[keep], np.arange(keep.sum()) % 2)

    assert defended(leaving([2]), k=20).diagnostics["smallest_part"] == 3
    with pytest.raises(BadInput, match="2 of the 20 parts"):
        defended(leaving([2, 3]), k=20)


def test_members_that_disagree_in_shape_are_refused():
    model = VotingModel((Constant(0, 2), Constant(0, 3)), 2)
    with pytest.raises(BadInput, match=r"member 1 of 2 returned probabilities of shape \(4, 3\).*\(4, 2\)"):
        model.predict_proba(rows(4))


@pytest.mark.parametrize(
    "name", [name for name, _ in DEFENSE_CHECKS if name not in ("works_on_few_rows", "works_with_a_missing_class")]
)
def test_it_keeps_the_contract(name):
    """With as many parts as the toy data allow."""
    check = partial(dpa, k=3)
    dict(DEFENSE_CHECKS)[name](check)


def test_few_rows_are_refused_by_name():
    with pytest.raises(DefenseError, match="parts have fewer than 30 rows"):
        dict(DEFENSE_CHECKS)["works_on_few_rows"](partial(dpa, k=3))
