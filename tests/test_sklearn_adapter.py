import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from subpop.types import BadInput, FleetJob, Pool, content_order
from subpop.victims import make_victim
from subpop.victims.sklearn_adapter import SklearnVictim


@pytest.fixture
def pool():
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    return Pool((rng.normal(size=(90, 4)) + y[:, None]).astype(np.float32), y, 60, 3)


def test_it_is_the_estimator_itself(pool):
    model = SklearnVictim(LogisticRegression(C=0.5)).fit_many([pool.clean_job()], [0])[0]
    order = content_order(pool.x[:60], pool.y[:60])
    own = LogisticRegression(C=0.5).fit(pool.x[order], pool.y[order])
    np.testing.assert_array_equal(model.predict_proba(pool.x), own.predict_proba(pool.x).astype(np.float32))


def test_ties_do_not_tell_which_rows_were_added():
    """Twins with opposite labels: k-NN breaks their tie by row order, which must not depend on which of them is poison."""
    x = np.repeat(np.arange(12, dtype=np.float32), 2)[:, None]
    y = np.arange(24) % 2
    answers = []
    for first in (0, 1):
        order = np.concatenate([np.arange(first, 24, 2), np.arange(1 - first, 24, 2)])  # the clean ones first
        job = Pool(x[order], y[order], 24, 2).clean_job()
        model = SklearnVictim(KNeighborsClassifier(1)).fit_many([job], [0])[0]
        answers.append(model.predict_proba(x).argmax(1))
    np.testing.assert_array_equal(answers[0], answers[1])


def test_the_seed_reaches_estimators_that_have_one(pool):
    victim = SklearnVictim(RandomForestClassifier(5))
    assert not victim.exact
    first, again, other = victim.fit_many([pool.clean_job()] * 3, [1, 1, 2])
    np.testing.assert_array_equal(first.predict_proba(pool.x), again.predict_proba(pool.x))
    assert not np.array_equal(first.predict_proba(pool.x), other.predict_proba(pool.x))


def test_decision_values_become_probabilities(pool):
    proba = SklearnVictim(LinearSVC()).fit_many([pool.clean_job()], [0])[0].predict_proba(pool.x)
    assert proba.shape == (90, 3)
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-6)


def test_classes_that_training_lacks_keep_their_column(pool):
    rows = np.flatnonzero(pool.y[:60] != 1)
    two, one = SklearnVictim(LogisticRegression()).fit_many(
        [FleetJob(pool, rows, pool.y[rows]), FleetJob(pool, rows[:3], np.full(3, 2))], [0, 0]
    )
    assert (two.predict_proba(pool.x)[:, 1] == 0).all()
    assert (one.predict_proba(pool.x)[:, 2] == 1).all()


def test_by_name():
    assert isinstance(make_victim("sklearn.tree:DecisionTreeClassifier"), SklearnVictim)
    with pytest.raises(BadInput, match="cannot be imported"):
        make_victim("sklearn.tree:NoSuchThing")
    with pytest.raises(BadInput, match="logistic_regression"):
        make_victim("perceptron")
