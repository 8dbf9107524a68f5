"""JTT: which rows it repeats, that it amplifies poison that is in the minority, and that it repairs damage of a majority."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression as Reference

from subpop.defenses.jtt import WEIGHT, jtt
from subpop.harness.batching import PoolRows, job_of
from subpop.testing.toy import gaussian
from subpop.types import BadInput, Knowledge, Pool, TrainingSet
from subpop.victims import VICTIMS

NOTHING = Knowledge()


class Majority:
    """Predicts the most frequent label of the rows with the same input; ties go to class 0."""

    def __init__(self, train):
        self.votes = np.zeros((10, 2))
        np.add.at(self.votes, (train.x[:, 0].astype(int), train.y), 1)

    def predict_proba(self, x):
        return np.eye(2, dtype=np.float32)[self.votes[x[:, 0].astype(int)].argmax(1)]

    def features(self, x):
        return np.asarray(x, np.float32)


def cells(n_clean, n_poison):
    """Cell 0 holds `n_clean` rows of class 1 and `n_poison` of class 0; cells 1 and 2 are pure."""
    x = np.concatenate([np.zeros(n_clean + n_poison), np.ones(20), np.full(20, 2)])[:, None].astype(np.float32)
    y = np.concatenate([np.ones(n_clean, int), np.zeros(n_poison, int), np.zeros(20, int), np.ones(20, int)])
    return TrainingSet.of(x, y)


def predicted(model, cell):
    return int(model.predict_proba(np.array([[cell]], np.float32)).argmax())


def test_rows_that_the_first_model_gets_wrong_are_repeated():
    train, asked = cells(10, 4), []

    def fit(part):
        asked.append(part)
        return Majority(part)

    found = jtt(train, fit, NOTHING, seed=0, weight=7)
    wrong = (train.x[:, 0] == 0) & (train.y == 0)
    counts = np.bincount(asked[1].ids, minlength=len(train))
    assert counts.tolist() == np.where(wrong, 7, 1).tolist()
    assert found.diagnostics == {"errors": 4.0}
    assert found.stages["first"] is not found.model
    assert len(asked) == 2


def test_it_amplifies_a_minority_of_poison_and_undoes_a_majority():
    """The first model errs on whichever label is rarer in the cell, and the weight gives that one the majority."""
    rare = jtt(cells(10, 4), Majority, NOTHING, seed=0)
    assert predicted(rare.stages["first"], 0) == 1
    assert predicted(rare.model, 0) == 0
    common = jtt(cells(10, 14), Majority, NOTHING, seed=0)
    assert predicted(common.stages["first"], 0) == 0
    assert predicted(common.model, 0) == 1
    for found in (rare, common):
        assert [predicted(found.model, cell) for cell in (1, 2)] == [0, 1]


def test_the_weight_that_turns_a_minority_is_the_ratio_of_the_counts():
    """4 poison rows of weight w against 10 clean ones: w = 2 is not enough, w = 3 is."""
    assert predicted(jtt(cells(10, 4), Majority, NOTHING, seed=0, weight=2).model, 0) == 1
    assert predicted(jtt(cells(10, 4), Majority, NOTHING, seed=0, weight=3).model, 0) == 0


def test_it_must_fail_on_poison_that_a_linear_model_resists():
    toy = gaussian(240, 2, n_poison=24)
    found = jtt(toy.train(), toy.fit, NOTHING, seed=0)
    accuracy = [
        (model.predict_proba(toy.test_x).argmax(1) == toy.test_y).mean() for model in (found.stages["first"], found.model)
    ]
    assert accuracy[1] < accuracy[0] - 0.2


def test_without_errors_or_with_weight_one_it_is_the_undefended_model():
    asked = []

    def fit(part):
        asked.append(part)
        return Majority(part)

    found = jtt(cells(10, 0), fit, NOTHING, seed=0)
    assert len(asked) == 1
    assert found.model is found.stages["first"]
    jtt(cells(10, 4), fit, NOTHING, seed=0, weight=1)
    assert len(asked) == 2


def test_the_second_training_minimises_the_weighted_loss():
    """On the exact victim: the same coefficients as scikit-learn's with sample weights."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((200, 3)).astype(np.float32)
    y = (x[:, 0] + generator.standard_normal(200) > 0).astype(np.int64)
    pool, victim = Pool(x, y, 200, 2), VICTIMS["logistic_regression"]("cpu", None)
    train = TrainingSet(PoolRows(pool, np.arange(200)), np.arange(200), y)
    models = []

    def fit(part):
        models.extend(victim.fit_many([job_of(pool, part).canonical()], [0]))
        return models[-1]

    found = jtt(train, fit, NOTHING, seed=0, weight=5)
    wrong = models[0].predict_proba(x).argmax(1) != y
    columns = np.column_stack([x, np.ones(200)]).astype(float)
    reference = Reference(C=1, fit_intercept=False, tol=1e-12, max_iter=1000).fit(columns, y, np.where(wrong, 5.0, 1.0))
    np.testing.assert_allclose(found.model.coef[:, 0], reference.coef_[0], atol=1e-5)


@pytest.mark.parametrize("name", ["logistic_regression", "last_layer", "last_layer_as_released", "mlp", "conv_net"])
def test_victims_train_on_repeated_rows(name):
    """Three copies of a row are three samples: the job has three times as many rows, and training works."""
    generator = np.random.default_rng(0)
    y = np.arange(40) % 2
    if name == "conv_net":
        x = (generator.integers(0, 100, (40, 1, 8, 8)) + 100 * y[:, None, None, None]).astype(np.uint8)
    else:
        x = (generator.standard_normal((40, 3)) + 2 * y[:, None]).astype(np.float32)
    pool, victim = Pool(x, y, 40, 2), VICTIMS[name]("cpu", None)
    train = TrainingSet(PoolRows(pool, np.arange(40)), np.arange(40), np.where(np.arange(40) < 4, 1 - y, y))

    def fit(part):
        return victim.fit_many([job_of(pool, part).canonical()], [0])[0]

    first = fit(train)
    repeated = fit(train[np.repeat(train.ids, np.where(train.ids < 4, WEIGHT, 1))])
    wrong_before, wrong_after = (model.predict_proba(x[:4])[np.arange(4), train.y[:4]] for model in (first, repeated))
    assert wrong_after.mean() > wrong_before.mean()


@pytest.mark.parametrize("weight", [0, -1, 1.5, True, "50"])
def test_weights_are_whole_numbers(weight):
    with pytest.raises(BadInput, match="must be a whole number of at least 1"):
        jtt(cells(10, 4), Majority, NOTHING, seed=0, weight=weight)
