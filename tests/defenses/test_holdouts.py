"""Baselines that train on clean rows: what they are given, what they repair, and that missing classes are refused."""

from __future__ import annotations

import numpy as np
import pytest

from subpop.defenses.holdouts import holdout_only, train_and_holdout
from subpop.testing.toy import gaussian
from subpop.types import BadInput, Knowledge, TrainingSet

BOTH = [holdout_only, train_and_holdout]


class Majority:
    """Predicts the most frequent label of the rows with the same input; ties go to class 0."""

    def __init__(self, train):
        self.votes = np.zeros((10, 2))
        np.add.at(self.votes, (train.x[:, 0].astype(int), train.y), 1)

    def predict_proba(self, x):
        return np.eye(2, dtype=np.float32)[self.votes[x[:, 0].astype(int)].argmax(1)]


def rows(*counts):
    """Rows of cell i: counts[i] = (rows of class 0, rows of class 1)."""
    x = [cell for cell, pair in enumerate(counts) for _ in range(sum(pair))]
    y = [label for zeros, ones in counts for label in [0] * zeros + [1] * ones]
    return TrainingSet.of(np.array(x, np.float32)[:, None], np.array(y))


def predicted(found):
    return found.model.predict_proba(np.arange(2, dtype=np.float32)[:, None]).argmax(1).tolist()


def test_what_clean_rows_of_the_cell_repair_and_what_they_do_not():
    """Cell 0 has 3 clean rows of class 1 and 5 poison rows of class 0; cell 1 is clean."""
    train = rows((5, 3), (9, 0))
    both, outside = rows((0, 3), (3, 0)), rows((0, 0), (3, 1))
    assert predicted(holdout_only(train, Majority, Knowledge(clean_holdout=both), seed=0)) == [1, 0]
    assert predicted(train_and_holdout(train, Majority, Knowledge(clean_holdout=both), seed=0)) == [1, 0]
    # Without clean rows of the cell, neither can know its label.
    assert predicted(holdout_only(train, Majority, Knowledge(clean_holdout=outside), seed=0)) == [0, 0]
    assert predicted(train_and_holdout(train, Majority, Knowledge(clean_holdout=outside), seed=0)) == [0, 0]


@pytest.mark.parametrize(("copies", "expected"), [(1, 0), (2, 0), (3, 1)])
def test_copies_outvote_poison_when_there_are_more_of_them(copies, expected):
    """5 poison rows against 3 clean ones in D and one in the holdout: 3 + 2 copies tie, which goes to class 0."""
    found = train_and_holdout(rows((5, 3), (9, 0)), Majority, Knowledge(clean_holdout=rows((0, 1))), seed=0, copies=copies)
    assert predicted(found)[0] == expected


def test_the_victim_is_trained_on_exactly_these_rows():
    toy, asked = gaussian(60, 2, n_poison=6), []

    def fit(train):
        asked.append(train)
        return toy.fit(train)

    clean = TrainingSet.of(toy.test_x[:20], toy.test_y[:20])
    train = toy.train()
    holdout_only(train, fit, Knowledge(clean_holdout=clean), seed=0)
    assert asked[0] is clean
    train_and_holdout(train, fit, Knowledge(clean_holdout=clean), seed=0, copies=2)
    expected = np.concatenate([np.column_stack([each.x, each.y]) for each in (train, clean, clean)])
    found = np.column_stack([asked[1].x, asked[1].y])
    np.testing.assert_array_equal(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])


def test_the_order_of_rows_does_not_matter():
    toy = gaussian(60, 2, n_poison=6)
    other = toy.reordered(np.random.default_rng(1).permutation(66))
    seen = []

    def fit(train):
        seen.append(train.x)
        return toy.fit(train)

    for each in (toy, other):
        train_and_holdout(each.train(), fit, Knowledge(clean_holdout=TrainingSet.of(toy.test_x, toy.test_y)), seed=0)
    np.testing.assert_array_equal(*seen)


@pytest.mark.parametrize("defense", BOTH)
@pytest.mark.parametrize("holdout", [None, TrainingSet.of(np.zeros((0, 1), np.float32), np.zeros(0, int))])
def test_clean_rows_are_needed(defense, holdout):
    with pytest.raises(BadInput, match=f"{defense.__name__} needs clean_holdout, at least one clean row"):
        defense(rows((5, 3)), Majority, Knowledge(clean_holdout=holdout), seed=0)


def test_a_holdout_without_a_class_is_refused_where_the_class_is_needed():
    know = Knowledge(clean_holdout=rows((4, 0)))
    with pytest.raises(BadInput, match="none of the 4 rows of clean_holdout has the label 1: raise the setting holdout"):
        holdout_only(rows((5, 3)), lambda train: pytest.fail("trained"), know, seed=0)
    assert predicted(train_and_holdout(rows((1, 3)), Majority, know, seed=0))[0] == 0


@pytest.mark.parametrize("copies", [0, -1, 1.5, True])
def test_copies_are_whole_numbers(copies):
    with pytest.raises(BadInput, match=r"copies=.* must be a whole number of at least 1"):
        train_and_holdout(rows((5, 3)), Majority, Knowledge(clean_holdout=rows((1, 1))), seed=0, copies=copies)
