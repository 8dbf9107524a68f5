import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    IsolationForest,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV, KFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from subpop.testing import check_victim
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


class WritesWhenAsked(DecisionTreeClassifier):
    def predict_proba(self, x):
        x -= 1
        return super().predict_proba(x + 1)


def test_a_prediction_that_writes_into_its_rows_does_not_reach_the_harness(pool):
    before, model = pool.x.copy(), fitted(pool, WritesWhenAsked())
    again = [model.predict_proba(pool.x) for _ in range(2)]
    np.testing.assert_array_equal(pool.x, before)
    np.testing.assert_array_equal(*again)


class DrawsWhenAsked(DecisionTreeClassifier):
    def predict_proba(self, x):
        return np.eye(len(self.classes_))[np.random.randint(len(self.classes_), size=len(x))]


def test_a_prediction_that_draws_from_the_global_generator_is_repeated_and_leaves_it_alone(pool):
    model, state = fitted(pool, DrawsWhenAsked()), np.random.get_state()[1].copy()
    again = [model.predict_proba(pool.x) for _ in range(2)]
    np.testing.assert_array_equal(*again)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def fitted(pool, estimator, job=None, seed=3, **options):
    return SklearnVictim(estimator, n_jobs=1, **options).fit_many([job or pool.clean_job()], [seed])[0]


# --- seeds ------------------------------------------------------------------------------------------------------------


def forest():
    return RandomForestClassifier(3, max_features=1)


def tree():
    return DecisionTreeClassifier(max_features=1)


NESTED = {
    "pipeline": lambda: make_pipeline(StandardScaler(), forest()),
    "calibrated": lambda: CalibratedClassifierCV(forest(), cv=2),
    "one_vs_rest": lambda: OneVsRestClassifier(forest()),
    "grid search": lambda: GridSearchCV(forest(), {"max_depth": [1, 2]}, cv=2),
    "grid of estimators": lambda: GridSearchCV(make_pipeline(tree()), {"decisiontreeclassifier": [forest(), tree()]}, cv=2),
    "grid of seeds": lambda: GridSearchCV(forest(), {"random_state": [None]}, cv=2),
    "splitter": lambda: GridSearchCV(KNeighborsClassifier(), {"n_neighbors": range(1, 9)}, cv=KFold(2, shuffle=True)),
    "voting": lambda: VotingClassifier([("a", forest()), ("b", make_pipeline(tree()))], voting="soft"),
    "stacking": lambda: StackingClassifier([("a", forest())], tree(), cv=2),
    "bagging": lambda: BaggingClassifier(make_pipeline(tree()), 3),
    "boosting": lambda: AdaBoostClassifier(tree(), n_estimators=3),
}


@pytest.mark.parametrize("kind", NESTED)
def test_every_nested_random_state_is_set_from_the_seed(pool, kind):
    victim = SklearnVictim(NESTED[kind](), n_jobs=1)
    assert not victim.exact
    first, again = (victim.fit_many([pool.clean_job()], [1])[0].predict_proba(pool.x) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    if kind != "splitter":
        others = [victim.fit_many([pool.clean_job()], [seed])[0].predict_proba(pool.x) for seed in range(2, 8)]
        assert any(not np.array_equal(first, other) for other in others)


def test_the_outermost_seed_is_the_trials_own_and_members_have_different_ones(pool):
    model = fitted(pool, forest(), seed=5)
    order = content_order(pool.x[:60], pool.y[:60])
    own = RandomForestClassifier(3, max_features=1, random_state=5).fit(pool.x[order], pool.y[order])
    np.testing.assert_array_equal(model.predict_proba(pool.x), own.predict_proba(pool.x).astype(np.float32))
    estimator = fitted(pool, VotingClassifier([("a", tree()), ("b", tree())]), seed=5)._estimator
    assert len({member.random_state for member in estimator.estimators_} - {None}) == 2


def test_the_estimator_that_was_given_is_left_alone(pool):
    given = make_pipeline(RandomForestClassifier(3, n_jobs=2, warm_start=True))
    victim = SklearnVictim(given, n_jobs=1)
    first, _ = victim.fit_many([pool.clean_job()] * 2, [1, 2])
    again = victim.fit_many([pool.clean_job()], [1])[0]
    np.testing.assert_array_equal(first.predict_proba(pool.x), again.predict_proba(pool.x))
    assert not hasattr(given[-1], "estimators_")
    assert (given[-1].random_state, given[-1].n_jobs) == (None, 2)
    # Threads add the trees of a forest in any order, which changes the last bits.
    assert first._estimator[-1].n_jobs == 1


class OnAllCores(KNeighborsClassifier):
    """An estimator of another package, where `n_jobs=None` means all cores, as in XGBoost and LightGBM."""


def test_an_estimator_of_another_package_runs_on_one_core(pool):
    model = fitted(pool, make_pipeline(StandardScaler(), KNeighborsClassifier()))
    assert model._estimator[-1].n_jobs is None  # which is one in scikit-learn
    assert fitted(pool, make_pipeline(StandardScaler(), OnAllCores()))._estimator[-1].n_jobs == 1
    assert fitted(pool, OnAllCores(n_jobs=3))._estimator.n_jobs == 1


@pytest.mark.parametrize(
    ("estimator", "exact"), [(KNeighborsClassifier(), True), (make_pipeline(PCA(2), NearestCentroid()), False)]
)
def test_only_what_has_no_random_state_is_exact(estimator, exact):
    assert SklearnVictim(estimator).exact is exact
    assert SklearnVictim(estimator, exact=not exact).exact is not exact


# --- labels and columns -----------------------------------------------------------------------------------------------


class Strict(ClassifierMixin, BaseEstimator):
    """Nearest mean, for labels 0 to K-1 only, as libraries of boosted trees want them."""

    kind = "int"

    def fit(self, x, y):
        if not np.array_equal(np.unique(y), np.arange(y.max() + 1)):
            raise ValueError(f"labels {np.unique(y)}, expected 0..{y.max()}")
        self._means = np.stack([x[y == code].mean(axis=0) for code in range(y.max() + 1)])
        if self.kind != "none":
            self.classes_ = np.arange(y.max() + 1).astype(self.kind)
        return self

    def predict_proba(self, x):
        near = np.exp(-np.linalg.norm(x[:, None] - self._means, axis=2))
        return near / near.sum(axis=1, keepdims=True)


class FloatClasses(Strict):
    kind = "float"


class TextClasses(Strict):
    kind = "str"


class NoClasses(Strict):
    kind = "none"


def without(pool, label):
    rows = np.flatnonzero(pool.y[:60] != label)
    return FleetJob(pool, rows, pool.y[rows])


@pytest.mark.parametrize("estimator", [Strict, FloatClasses, TextClasses, NoClasses])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_labels_are_numbered_anew_and_columns_put_back(pool, estimator, label):
    proba = fitted(pool, estimator, without(pool, label)).predict_proba(pool.x)
    assert proba.shape == (90, 3)
    assert (proba[:, label] == 0).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    others = pool.y != label
    assert (proba.argmax(axis=1) == pool.y)[others].mean() > 0.7


def test_class_weights_follow_their_labels(pool):
    job = without(pool, 0)
    model = fitted(pool, LogisticRegression(class_weight={0: 3.0, 1: 1.0, 2: 50.0}), job)
    own = LogisticRegression(class_weight={1: 1.0, 2: 50.0})
    order = content_order(pool.x[job.rows], job.y)
    own.fit(pool.x[job.rows][order], job.y[order])
    np.testing.assert_array_equal(model.predict_proba(pool.x)[:, 1:], own.predict_proba(pool.x).astype(np.float32))


def test_decision_values_have_a_column_a_class(pool):
    one_a_pair = fitted(pool, SVC(decision_function_shape="ovo")).predict_proba(pool.x)
    np.testing.assert_array_equal(one_a_pair, fitted(pool, SVC()).predict_proba(pool.x))
    assert (one_a_pair.argmax(axis=1) == pool.y).mean() > 0.6
    two = fitted(pool, LinearSVC(), without(pool, 2)).predict_proba(pool.x)
    assert (two[:, :2].argmax(axis=1) == pool.y)[pool.y < 2].mean() > 0.7


@pytest.mark.parametrize("kind", ["hard votes", "a threshold of its own"])
def test_where_there_are_no_scores_the_prediction_has_probability_one(pool, kind):
    voting = VotingClassifier([("a", LogisticRegression()), ("b", NearestCentroid())])
    estimator = voting if kind == "hard votes" else FixedThresholdClassifier(LogisticRegression(), threshold=0.9)
    job = without(pool, 1)
    model = fitted(pool, estimator, job)
    order = content_order(pool.x[job.rows], job.y)
    own = estimator.fit(pool.x[job.rows][order], job.y[order] // 2)
    np.testing.assert_array_equal(model.predict_proba(pool.x), np.eye(3)[2 * own.predict(pool.x)])


class Answers(BaseEstimator):
    """Answers what it is told to."""

    def __init__(self, answer=None):
        self.answer = answer

    def fit(self, x, y):
        return self

    def predict_proba(self, x):
        return np.array([self.answer] * len(x))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([0.5, np.nan, 0.5], r"probabilities of row 0 are \[0.5, nan, 0.5\]"),
        ([0.5, 0.9, 0.5], "not numbers from 0 to 1 with sum 1"),
        ([1.5, -0.5, 0.0], "not numbers from 0 to 1"),
        ([0.5, 0.5], r"an array of shape \(4, 2\) for 4 rows and 3 classes"),
        (0.5, r"an array of shape \(4,\)"),
        (["a", "b", "c"], "returned <U1"),
    ],
)
def test_answers_that_are_no_probabilities_are_refused(pool, answer, message):
    model = fitted(pool, Answers(answer))
    with pytest.raises(BadInput, match=rf"Answers\.predict_proba cannot be used: .*{message}"):
        model.predict_proba(pool.x[:4])


def test_a_row_without_any_probability_gets_equal_ones(pool):
    np.testing.assert_allclose(fitted(pool, Answers([0, 0, 0])).predict_proba(pool.x[:4]), 1 / 3, atol=1e-6)
    found = fitted(pool, Answers([1.0, -1e-9, 0.0])).predict_proba(pool.x[:4])
    np.testing.assert_array_equal(found, [[1, 0, 0]] * 4)
    assert fitted(pool, Answers([0, 0, 1])).predict_proba(pool.x[:0]).shape == (0, 3)


class Wrong(ClassifierMixin, BaseEstimator):
    def fit(self, x, y):
        raise RuntimeError("out of\nmemory")


def not_made():
    raise ValueError("no licence")


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (LinearRegression, "LinearRegression does not predict classes"),
        (IsolationForest, "IsolationForest does not predict classes"),
        (KMeans, "KMeans has neither"),
        (PCA, "PCA has neither"),
        (GridSearchCV(LogisticRegression(), {"C": [1]}, refit=False), "with refit=True"),
        (VotingClassifier, "no estimator can be made of VotingClassifier"),
        (not_made, r"of not_made \(ValueError: no licence\)"),
        (dict, "dict gives dict, which cannot be fitted"),
        (Wrong, r"Wrong could not be trained on 60 rows of 3 classes \(RuntimeError: out of memory\)"),
        (GridSearchCV(LogisticRegression(), {"C": [1]}, cv=50), "GridSearchCV could not be trained"),
    ],
)
def test_what_is_no_classifier_is_refused_in_a_sentence(pool, estimator, message):
    with pytest.raises(BadInput, match=message):
        fitted(pool, estimator)


def own_pipeline():
    return make_pipeline(StandardScaler(), LogisticRegression())


def test_a_function_may_return_the_estimator(pool):
    found = fitted(pool, own_pipeline).predict_proba(pool.x)
    np.testing.assert_array_equal(found, fitted(pool, own_pipeline()).predict_proba(pool.x))
    assert isinstance(make_victim(f"{__name__}:own_pipeline"), SklearnVictim)


# --- weights ----------------------------------------------------------------------------------------------------------


def weighted(pool, weights):
    return FleetJob(pool, np.arange(60), pool.y[:60], weights=np.asarray(weights, float))


def repeated(pool, times):
    rows = np.repeat(np.arange(60), times)
    return FleetJob(pool, rows, pool.y[rows])


def exact_logistic():
    return LogisticRegression(solver="newton-cholesky", tol=1e-6)


WEIGHTED = {
    "takes weights": lambda: exact_logistic(),
    "takes none": lambda: KNeighborsClassifier(5),
    "all steps take them": lambda: make_pipeline(StandardScaler(), exact_logistic()),
    "a step takes none": lambda: make_pipeline(PCA(2), exact_logistic()),
    "an inner one takes none": lambda: CalibratedClassifierCV(NearestCentroid(), cv=KFold(2)),
    "fit hides them": lambda: OneVsRestClassifier(exact_logistic()),
}


@pytest.mark.parametrize("kind", WEIGHTED)
def test_a_whole_weight_is_so_many_equal_rows(pool, kind):
    times = np.arange(60) % 4
    found = fitted(pool, WEIGHTED[kind](), weighted(pool, times)).predict_proba(pool.x)
    np.testing.assert_allclose(found, fitted(pool, WEIGHTED[kind](), repeated(pool, times)).predict_proba(pool.x), atol=1e-4)


def test_a_class_without_weight_is_not_trained_on(pool):
    found = fitted(pool, Strict, weighted(pool, pool.y[:60] > 0)).predict_proba(pool.x)
    np.testing.assert_array_equal(found, fitted(pool, Strict, without(pool, 0)).predict_proba(pool.x))
    with pytest.raises(BadInput, match="none with a weight above 0"):
        fitted(pool, Strict, weighted(pool, np.zeros(60)))


def test_other_weights_are_passed_on_or_refused(pool):
    weights = np.random.default_rng(0).random(60)
    plain, piped = fitted(pool, LogisticRegression(), weighted(pool, weights)), make_pipeline(PCA(), LogisticRegression())
    order = content_order(pool.x[:60], pool.y[:60])
    own = LogisticRegression().fit(pool.x[order], pool.y[order], sample_weight=weights[order])
    np.testing.assert_array_equal(plain.predict_proba(pool.x), own.predict_proba(pool.x).astype(np.float32))
    # A rotation changes no logistic regression, so that the last step's weights are all that is left.
    np.testing.assert_allclose(
        fitted(pool, piped, weighted(pool, weights)).predict_proba(pool.x), own.predict_proba(pool.x), atol=1e-3
    )
    for estimator in (KNeighborsClassifier(), make_pipeline(StandardScaler(), KNeighborsClassifier())):
        with pytest.raises(BadInput, match="takes no sample weights"):
            fitted(pool, estimator, weighted(pool, weights))
    with pytest.raises(BadInput, match="at most 100"):
        fitted(pool, KNeighborsClassifier(), weighted(pool, np.full(60, 101)))


def test_a_nested_victim_keeps_the_contract():
    victim = SklearnVictim(make_pipeline(StandardScaler(), RandomForestClassifier(30)), n_jobs=1)
    failed = [result for result in check_victim(victim) if result.status == "failed"]
    assert not failed


def test_a_victim_with_arguments():
    from subpop import make_victim

    victim = make_victim("sklearn.neighbors:KNeighborsClassifier(3, weights='distance')")
    assert (victim._template.n_neighbors, victim._template.weights) == (3, "distance")
    with pytest.raises(BadInput, match="not a literal"):
        make_victim("sklearn.neighbors:KNeighborsClassifier(n=open)")
    with pytest.raises(BadInput, match="unexpected keyword argument"):
        make_victim("sklearn.neighbors:KNeighborsClassifier(neighbours=3)")


def test_many_classes_in_another_process_are_no_cause_for_a_warning(capfd):
    """scikit-learn takes labels for numbers if more than half of them differ; they are classes."""
    y = np.arange(40) % 30
    pool = Pool(np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32), y, 40, 30)
    SklearnVictim(LogisticRegression(), n_jobs=2, time_limit=60.0).fit_many([pool.clean_job()], [0])
    assert "number of unique classes" not in capfd.readouterr().err
