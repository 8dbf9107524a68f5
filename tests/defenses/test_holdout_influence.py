"""The influence filter: its scores are the effect of retraining without a row, and what it can know from its clean rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from subpop.defenses.holdout_influence import harm_of_rows, holdout_influence, standardised
from subpop.testing.toy import gaussian
from subpop.types import BadInput, Knowledge, TrainingSet

DAMPING = 0.05


class Softmax:
    """The minimum of mean log loss + DAMPING / 2 |w|^2 over scores of standardised inputs with a column of ones."""

    def __init__(self, train, n_classes=2, like=None):
        self.like = train if like is None else like
        rows, self.n_classes = self.design(train.x), n_classes

        def loss(w):
            coef = w.reshape(rows.shape[1], n_classes)
            log_p = log_softmax(rows @ coef, axis=1)
            residual = np.exp(log_p)
            residual[np.arange(len(train)), train.y] -= 1
            value = -log_p[np.arange(len(train)), train.y].mean() + DAMPING / 2 * (w**2).sum()
            return value, (rows.T @ residual / len(train) + DAMPING * coef).ravel()

        start = np.zeros(rows.shape[1] * n_classes)
        found = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-10})
        self.coef = found.x.reshape(rows.shape[1], n_classes)

    def design(self, x):
        return standardised(self.features(self.like.x), self.features(x))[1]

    def predict_proba(self, x):
        return np.exp(log_softmax(self.design(x) @ self.coef, axis=1))

    def features(self, x):
        return np.asarray(x, np.float64)


def mean_loss(model, rows):
    return -np.log(model.predict_proba(rows.x)[np.arange(len(rows)), rows.y]).mean()


@pytest.mark.parametrize("n_classes", [2, 3])
def test_scores_are_the_effect_of_retraining_without_a_row(n_classes):
    toy = gaussian(80, n_classes, n_poison=8)
    train, clean = toy.train(), TrainingSet.of(toy.test_x, toy.test_y)
    model = Softmax(train, n_classes)
    harm, _ = harm_of_rows(model, train, clean, DAMPING)
    before, n = mean_loss(model, clean), len(train)
    effect = []
    for i in range(0, n, 4):
        without = Softmax(train[train.ids != i], n_classes, like=train)
        # Leaving a row out also makes the mean one over n - 1 rows: the penalty is smaller by n / (n - 1), which is not an effect
        # of the row; its part is the same for all rows and cancels in the correlation.
        effect.append(before - mean_loss(without, clean))
    assert np.corrcoef(harm[::4], effect)[0, 1] > 0.99
    slope = np.polyfit(harm[::4], effect, 1)[0]
    assert slope == pytest.approx(1 / n, rel=0.1)


def blobs(n_clean=40, n_poison=40, seed=0):
    """Two large blobs, and one off their axis with clean rows of class 1 and poison rows of class 0."""
    generator = np.random.default_rng(seed)
    sizes = [100, 100, n_clean, n_poison]
    x = np.repeat([[-3.0, 0], [3, 0], [-2, 6], [-2, 6]], sizes, axis=0) + generator.standard_normal((sum(sizes), 2))
    train = TrainingSet.of(x.astype(np.float32), np.repeat([0, 1, 1, 0], sizes))
    return train, np.arange(len(train)) >= 200 + n_clean


def clean_rows(with_group):
    generator = np.random.default_rng(9)
    centres, labels = [[-3.0, 0], [3, 0], [-2, 6]], [0, 1, 1]
    count = 3 if with_group else 2
    x = np.repeat(centres[:count], 40, axis=0) + generator.standard_normal((40 * count, 2))
    return TrainingSet.of(x.astype(np.float32), np.repeat(labels[:count], 40))


def test_with_clean_rows_of_the_group_it_finds_the_poison_and_without_them_it_does_not():
    """Without them it removes rows of the group whatever their label, which repairs nothing."""
    for seed in range(3):
        train, poison = blobs(seed=seed)
        members = train.x[200:240]
        undefended = (Softmax(train).predict_proba(members).argmax(1) == 1).mean()
        found = {
            told: holdout_influence(train, Softmax, Knowledge(n_poison=40, clean_holdout=clean_rows(told)), seed=0)
            for told in (True, False)
        }
        accuracy = {told: (each.model.predict_proba(members).argmax(1) == 1).mean() for told, each in found.items()}
        assert (~found[True].keep & poison).sum() >= 36
        assert (~found[False].keep & poison).sum() <= 22
        assert accuracy[True] >= 0.9
        assert accuracy[False] <= undefended <= 0.55


def test_more_rounds_measure_again_and_remove_as_many():
    train, poison = blobs(n_poison=60)
    know = Knowledge(n_poison=60, clean_holdout=clean_rows(True))
    fits = []

    def fit(part):
        fits.append(part)
        return Softmax(part)

    once = holdout_influence(train, fit, know, seed=0)
    assert [len(part) for part in fits] == [len(train), len(train) - 60]
    again = holdout_influence(train, fit, know, seed=0, rounds=4)
    assert (~again.keep).sum() == 60
    assert (~again.keep & poison).sum() >= (~once.keep & poison).sum()


def test_with_no_poison_it_is_the_undefended_model():
    train, _ = blobs()
    found = holdout_influence(train, Softmax, Knowledge(n_poison=0, clean_holdout=clean_rows(True)), seed=0)
    assert found.keep.all()


def test_equal_rows_go_by_id():
    train = TrainingSet.of(np.zeros((6, 1), np.float32), np.array([0, 0, 0, 1, 1, 1]))

    class Undecided:
        def predict_proba(self, x):
            return np.full((len(x), 2), 0.5)

        def features(self, x):
            return np.asarray(x, np.float64)

    know = Knowledge(n_poison=2, clean_holdout=TrainingSet.of(np.zeros((4, 1), np.float32), np.array([0, 0, 0, 1])))
    found = holdout_influence(train, lambda part: Undecided(), know, seed=0)
    assert found.keep.tolist() == [True] * 4 + [False] * 2  # the clean rows are mostly class 0: class 1 is harmful
    assert found.diagnostics["tied"] == 1


def test_what_it_must_be_told():
    train, _ = blobs()
    assert holdout_influence.needs == {"n_poison", "clean_holdout"}
    for know, said in [
        (Knowledge(n_poison=40), "holdout_influence needs clean_holdout"),
        (Knowledge(clean_holdout=clean_rows(True)), "holdout_influence needs n_poison"),
        (Knowledge(n_poison=4, clean_holdout=clean_rows(True)[np.arange(40)]), "has the label 1"),
    ]:
        with pytest.raises(BadInput, match=said):
            holdout_influence(train, lambda part: pytest.fail("trained"), know, seed=0)


@pytest.mark.parametrize("settings", [{"damping": 0}, {"damping": -1}, {"rounds": 0}, {"rounds": 1.5}])
def test_settings(settings):
    know = Knowledge(n_poison=4, clean_holdout=clean_rows(True))
    with pytest.raises(BadInput, match=f"{next(iter(settings))}=.* of holdout_influence must be"):
        holdout_influence(blobs()[0], lambda part: pytest.fail("trained"), know, seed=0, **settings)


def test_eight_configurations():
    train, _ = blobs()
    assert len(holdout_influence.configurations) == 8
    for settings in holdout_influence.configurations:
        know = Knowledge(n_poison=40, clean_holdout=clean_rows(True))
        assert (~holdout_influence(train, Softmax, know, seed=0, **settings).keep).sum() == 40
