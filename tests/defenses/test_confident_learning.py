"""Confident learning: cleanlab's answers, folds, what it finds, and that poison in a majority of its surroundings turns it."""

from __future__ import annotations

import csv
from itertools import groupby

import numpy as np
import pytest
from cleanlab_answers import CASES, TABLE, answer, digest, example

from subpop.defenses.confident_learning import FILTERS, confident_learning, label_issues, out_of_fold, rows_to_remove
from subpop.testing import check_defense, gaussian
from subpop.types import BadInput, Knowledge, TrainingSet

NOTHING = Knowledge()


class Shares:
    """Predicts the shares of the labels among the rows of its training set with the same input."""

    def __init__(self, train):
        self.votes = np.zeros((1000, 2))
        np.add.at(self.votes, (train.x[:, 0].astype(int), train.y), 1)

    def predict_proba(self, x):
        votes = self.votes[x[:, 0].astype(int)]
        return (votes / np.maximum(votes.sum(axis=1, keepdims=True), 1)).astype(np.float32)

    def features(self, x):
        return np.asarray(x, np.float32)


def cell_with_poison(n_clean, n_poison):
    """Cell 0 has `n_clean` rows of class 1 and `n_poison` of class 0; cells 1 and 2 are pure. No rows are equal."""
    cell = np.repeat([0, 1, 2], [n_clean + n_poison, 40, 40])
    y = np.repeat([1, 0, 0, 1], [n_clean, n_poison, 40, 40])
    x = np.column_stack([cell, np.arange(len(y))]).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(y))
    return TrainingSet.of(x[order], y[order]), (cell == 0)[order]


# --- the answers of cleanlab ------------------------------------------------------------------------------------------


def test_label_issues_are_those_of_cleanlab():
    """As many as the table says, and the same rows."""
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(CASES) * len(FILTERS)
    for case, own in groupby(rows, key=lambda row: (int(row["seed"]), int(row["n"]), int(row["n_classes"]))):
        proba, y = example(*case)
        for row in own:
            issues, _ = label_issues(proba, y, row["filter_by"])
            assert (int(issues.sum()), digest(issues)) == (int(row["n_issues"]), row["digest"]), row
    assert sum(int(row["n_issues"]) for row in rows) > 5_000


@pytest.mark.parametrize("filter_by", FILTERS)
@pytest.mark.filterwarnings("ignore:May not flag all label issues")
def test_label_issues_are_those_of_the_installed_cleanlab(filter_by):
    pytest.importorskip("cleanlab", reason="cleanlab is not installed: pip install cleanlab")
    for seed in range(100, 200):
        case = (seed, 20 + seed, 2 + seed % 6)
        issues, _ = label_issues(*example(*case), filter_by)
        np.testing.assert_array_equal(issues, answer(*case, filter_by))


def test_as_many_rows_are_removed_as_confident_examples_suggest():
    """Of 40 rows with label 0, 20 were counted, 5 of them as class 1: 10 of 40. Of label 1 all were counted."""
    joint = np.array([[15, 5], [2, 18]])
    assert rows_to_remove(joint.astype(float), np.array([40, 20])).tolist() == [[0, 10], [2, 0]]


def test_one_row_of_a_label_remains():
    """No row of label 0 looks like class 0. All four would be removed, 4 * 8/9 rounded, and one stays."""
    joint = np.array([[0.0, 8.0], [0.0, 4.0]])
    assert rows_to_remove(joint, np.array([4, 4])).tolist() == [[0, 3], [0, 0]]


def test_the_rows_with_the_largest_difference_go():
    """Label 0: threshold .5, two of four rows counted (.8 as 0, .9 as 1): two of four go, the most certain ones."""
    first = np.array([0.8, 0.1, 0.4, 0.45, 0.3, 0.05, 0.1])
    proba, y = np.column_stack([first, 1 - first]), np.array([0, 0, 0, 0, 1, 1, 1])
    issues, _ = label_issues(proba, y)
    assert np.flatnonzero(issues).tolist() == [1]
    assert np.flatnonzero(label_issues(proba, y, "predicted_neq_given")[0]).tolist() == [1, 2, 3]


def test_the_gap_is_the_smallest_distance_from_another_decision():
    """Thresholds are .7 and .8, less 1e-6. The nearest numbers are .69 and .31, whose row is .01 from a confident example."""
    first = np.array([0.69, 0.71, 0.15, 0.25])
    issues, gap = label_issues(np.column_stack([first, 1 - first]), np.array([0, 0, 1, 1]))
    assert not issues.any()
    assert gap == pytest.approx(0.01 - 1e-6, rel=1e-6)


# --- folds ------------------------------------------------------------------------------------------------------------


def test_each_row_is_predicted_by_a_model_that_did_not_see_it():
    train, asked = gaussian(240, 2, n_poison=24).train(), []

    class Fold(Shares):
        def __init__(self, part):
            self.number = len(asked)
            asked.append(part)

        def predict_proba(self, x):
            return np.full((len(x), 2), self.number, np.float32)

    by = out_of_fold(train, Fold, 5, seed=0)[:, 0].astype(int)
    for number, part in enumerate(asked):
        assert sorted(part.ids) == sorted(train.ids[by != number])
    for label in (0, 1):
        assert np.ptp(np.bincount(by[train.y == label], minlength=5)) <= 1


def test_all_folds_are_one_fleet():
    train, asked = gaussian(240, 2).train(), []

    def fit(part):
        asked.append(1)
        return Shares(part)

    fit.many = lambda parts: asked.append(len(parts)) or [Shares(part) for part in parts]
    confident_learning(train.relabel(train.y), fit, NOTHING, seed=0, folds=7)
    assert asked == [7, 1]


def test_the_order_of_rows_decides_nothing():
    train, _ = cell_with_poison(30, 12)
    order = np.random.default_rng(1).permutation(len(train))
    for filter_by in FILTERS:
        keep = confident_learning(train, Shares, NOTHING, seed=0, filter_by=filter_by).keep
        again = TrainingSet.of(train.x[order], train.y[order])
        np.testing.assert_array_equal(confident_learning(again, Shares, NOTHING, seed=0, filter_by=filter_by).keep, keep[order])
    assert not keep.all()


# --- what it finds ----------------------------------------------------------------------------------------------------


def test_labels_that_are_wrong_at_random_are_found():
    """Its assumption: a tenth of all labels are flipped, in two separate classes."""
    toy, flipped = gaussian(300, 2), np.arange(300) % 10 == 0
    train = TrainingSet.of(np.where(toy.y[:, None], 20, -20) + toy.train().x, np.where(flipped, 1 - toy.y, toy.y))
    found = confident_learning(train, toy.fit, NOTHING, seed=0)
    assert (~found.keep & flipped).sum() == 30
    assert (~found.keep & ~flipped).sum() == 0


def test_a_minority_in_one_cell_is_found_if_all_wrong_rows_are_wanted():
    """12 poison rows among 30 clean ones: by default, probabilities of 30/42 are no confident examples of class 1."""
    train, cell = cell_with_poison(30, 12)
    assert confident_learning(train, Shares, NOTHING, seed=0).keep.all()
    keep = confident_learning(train, Shares, NOTHING, seed=0, filter_by="predicted_neq_given").keep
    np.testing.assert_array_equal(~keep, cell & (train.y == 0))


def test_a_majority_in_one_cell_turns_it_against_the_clean_rows():
    """It must fail: 10 clean rows among 60 poison rows are what looks wrong."""
    train, cell = cell_with_poison(10, 60)
    keep = confident_learning(train, Shares, NOTHING, seed=0, filter_by="predicted_neq_given").keep
    np.testing.assert_array_equal(~keep, cell & (train.y == 1))
    assert confident_learning(train, Shares, NOTHING, seed=0).keep[cell & (train.y == 0)].all()


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"folds": 1}, "folds=1 .* at least 2"),
        ({"folds": 2.0}, "folds=2.0 "),
        ({"folds": 11}, "label 1 has 10 rows, fewer than the 11 folds .*; lower folds"),
        ({"filter_by": "both"}, "filter_by='both' .* prune_by_noise_rate, confident_learning, predicted_neq_given"),
    ],
)
def test_unusable_settings_and_rare_labels(given, message):
    def fit(train):
        raise AssertionError("trained")

    train = TrainingSet.of(np.arange(40, dtype=np.float32)[:, None], np.repeat([0, 1], [30, 10]))
    with pytest.raises(BadInput, match=message):
        confident_learning(train, fit, NOTHING, seed=0, **given)


def test_it_keeps_the_contract():
    assert all(result.passed for result in check_defense(confident_learning))
