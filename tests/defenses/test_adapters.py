"""Detectors of scikit-learn and cleanlab as filters."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
from sklearn.covariance import EllipticEnvelope
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import LocalOutlierFactor

from subpop.defenses.adapters import cleanlab_filter, outlier_filter
from subpop.defenses.confident_learning import confident_learning
from subpop.testing import check_defense, gaussian
from subpop.types import BadInput, Knowledge, TrainingSet

NOTHING = Knowledge()


class Inputs:
    """A model whose features are the inputs."""

    def __init__(self, train):
        pass

    def predict_proba(self, x):
        return np.full((len(x), 2), 0.5, np.float32)

    def features(self, x):
        return np.asarray(x, np.float32)


def flipped():
    """Two balls of 100 rows, and 5 rows of the first with the label of the second: they are unusual in this label alone."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((205, 2)).astype(np.float32)
    x[100:200] += 20
    order = generator.permutation(205)
    y, poison = np.repeat([0, 1], [100, 105]), np.arange(205) >= 200
    return TrainingSet.of(x[order], y[order]), poison[order]


@pytest.mark.parametrize(
    "detector",
    [
        IsolationForest(contamination=5 / 105),
        LocalOutlierFactor(contamination=5 / 105),
        EllipticEnvelope(contamination=5 / 105),
    ],
    ids=lambda detector: type(detector).__name__,
)
def test_any_outlier_detector_is_a_filter(detector):
    """In the label that contains flipped rows, exactly these are removed."""
    train, poison = flipped()
    keep = outlier_filter(detector)(train, Inputs, NOTHING, seed=0).keep
    np.testing.assert_array_equal(~keep[train.y == 1], poison[train.y == 1])
    order = np.random.default_rng(1).permutation(len(train))
    again = outlier_filter(detector)(TrainingSet.of(train.x[order], train.y[order]), Inputs, NOTHING, seed=0).keep
    np.testing.assert_array_equal(again, keep[order])


def test_a_majority_of_poison_is_what_it_takes_for_usual():
    """It must fail: 100 poison rows beside 5 clean ones of their label."""
    train, clean = flipped()
    keep = outlier_filter(IsolationForest(contamination=5 / 105))(train, Inputs, NOTHING, seed=0).keep
    assert not keep[clean].any()
    assert keep[(train.y == 1) & ~clean].all()


@pytest.mark.parametrize("wrong", [IsolationForest, LogisticRegression(), "IsolationForest", None])
def test_other_things_are_refused(wrong):
    with pytest.raises(BadInput, match=r"not an outlier detector .* such as IsolationForest\(\)"):
        outlier_filter(wrong)


def test_it_keeps_the_contract():
    assert all(result.passed for result in check_defense(outlier_filter(IsolationForest(n_estimators=20))))


def test_cleanlab_keeps_the_rows_that_ours_keeps():
    pytest.importorskip("cleanlab", reason="cleanlab is not installed: pip install cleanlab")
    for seed in range(5):
        toy = gaussian(240, 2 + seed % 2, n_poison=24, seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = cleanlab_filter(toy.train(), toy.fit, NOTHING, seed=seed).keep
        np.testing.assert_array_equal(theirs, confident_learning(toy.train(), toy.fit, NOTHING, seed=seed).keep)
        assert not theirs.all()


def test_cleanlab_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(BadInput, match=r"pip install 'subpop\[cleanlab\]'"):
        cleanlab_filter(gaussian(24, 2).train(), Inputs, NOTHING, seed=0)
