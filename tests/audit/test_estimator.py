"""Estimators of a user as victims: what they are given, how they are told apart, and what is refused."""

import sys
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from skrub import tabular_pipeline

from subpop.audit import estimator as module
from subpop.audit.estimator import FrameRows, estimator_of, identity_of
from subpop.audit.table import read_table
from subpop.types import BadInput, FleetJob, Pool

N = 90


def frame_of(n=N):
    """The label follows the number, except in Oslo."""
    rng = np.random.default_rng(0)
    age = rng.normal(size=n)
    city = np.resize(["Bern", "Oslo", "Rome"], n)
    paid = np.where((age > 0) ^ (city == "Oslo"), "yes", "no")
    return pd.DataFrame({"age": age, "city": city, "id": np.arange(n), "paid": paid})


@pytest.fixture(scope="module")
def table():
    return read_table(frame_of(), "paid")


def pool_of(table):
    data = table.dataset(as_rows=True)
    return Pool(data.x.copy(), data.y.copy(), len(data.y), data.n_classes)


def trained(own, table, job=None):
    return own.victim.fit_many([job or pool_of(table).clean_job()], [0])[0]


def refused(spec, table, **options):
    with pytest.raises(BadInput) as caught:
        estimator_of(spec, table, **{"n_jobs": 1} | options)
    said = str(caught.value)
    assert "\n" not in said
    return said


class Recorder(ClassifierMixin, BaseEstimator):
    """Keeps what it is fitted on and asked."""

    seen: list = []  # noqa: RUF012

    def fit(self, x, y):
        self.seen.append((x, y))
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, x):
        self.seen.append((x, None))
        return np.tile(np.float32([0.25, 0.75]), (len(x), 1))


@pytest.fixture
def here(monkeypatch):
    """Estimators are tried in this process, where a recorder is seen."""
    monkeypatch.setattr(module, "KNOWN", module.KNOWN | {__name__.partition(".")[0]})


# --- what it is given -------------------------------------------------------------------------------------------------


def test_a_pipeline_is_given_frames_with_all_columns(table, here):
    Recorder.seen.clear()
    own = estimator_of(make_pipeline(Recorder()), table, n_jobs=1)
    Recorder.seen.clear()
    pool = pool_of(table)
    job = FleetJob(pool, np.array([3, 3, 7]), np.array([0, 1, 1]))
    model = trained(own, table, job)
    ((frame, labels),) = Recorder.seen
    assert list(frame.columns) == ["age", "city", "id"]
    assert list(frame.index) == [0, 1, 2]
    expected = sorted(zip(table.frame["age"].iloc[[3, 3, 7]], [0, 1, 1], strict=True))
    assert sorted(zip(frame["age"], labels, strict=True)) == expected
    assert model.predict_proba(pool.x[[5, 2]]).tolist() == [[0.25, 0.75]] * 2
    assert Recorder.seen[-1][0]["id"].tolist() == [5, 2]


def test_other_estimators_are_given_no_identifiers(table, here):
    Recorder.seen.clear()
    own = estimator_of(Recorder(), table, n_jobs=1)
    assert own.notes == ("Recorder() is given the columns as they are, without id",)
    assert list(Recorder.seen[-1][0].columns) == ["age", "city"]


def test_one_that_takes_no_texts_gets_skrub_in_front_fitted_on_each_training_set(table):
    own = estimator_of("sklearn.linear_model:LogisticRegression(C=2.0)", table, n_jobs=1)
    assert own.name == "LogisticRegression(C=2.0)"
    assert own.notes == (
        "LogisticRegression(C=2.0) is given the columns by skrub's tabular_pipeline, without id, fitted on each training set",
    )
    pool = pool_of(table)
    rows = np.arange(0, N, 2)
    model = trained(own, table, FleetJob(pool, rows, pool.y[rows]))
    plain = table.frame[["age", "city"]]
    expected = tabular_pipeline(LogisticRegression(C=2.0)).fit(plain.iloc[rows], table.y[rows]).predict_proba(plain)
    assert model.predict_proba(pool.x) == pytest.approx(expected, abs=1e-5)


def test_numbers_alone_are_given_as_they_are():
    table = read_table(frame_of()[["age", "paid"]], "paid")
    own = estimator_of(GaussianNB(), table, n_jobs=1)
    assert own.notes == ("GaussianNB() is given the columns as they are",)
    expected = GaussianNB().fit(table.frame, table.y).predict_proba(table.frame)
    assert trained(own, table).predict_proba(pool_of(table).x) == pytest.approx(expected, abs=1e-5)
    assert own.victim.exact


def test_features_of_rows_are_the_vectorised_columns(table):
    model = trained(estimator_of(DecisionTreeClassifier(), table, n_jobs=1), table)
    assert np.array_equal(model.features(pool_of(table).x[[4, 1]]), table.x[[4, 1]])


def test_inputs_that_are_no_rows_of_the_frame_are_refused(table):
    rows = FrameRows(table.frame, table.x, table.row_hashes)
    with pytest.raises(BadInput, match="inputs are not rows of the frame"):
        rows.inputs(table.row_hashes[:2, None] + 1)


@pytest.mark.parametrize(
    "spec",
    [
        RandomForestClassifier(n_estimators=5),
        make_pipeline(
            make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["city"]), (StandardScaler(), ["age"])),
            HistGradientBoostingClassifier(max_iter=10, min_samples_leaf=2),
        ),
        "xgboost:XGBClassifier(n_estimators=10)",
        "lightgbm:LGBMClassifier(n_estimators=20, min_child_samples=2, verbose=-1, n_jobs=1)",
    ],
    ids=["forest", "boosting", "xgboost", "lightgbm"],
)
def test_estimators_of_the_field_learn_and_repeat_themselves(spec, table):
    if isinstance(spec, str):
        pytest.importorskip(spec.partition(":")[0])
    own = estimator_of(spec, table, n_jobs=1)
    first, second = (trained(own, table).predict_proba(pool_of(table).x) for _ in range(2))
    assert (first.argmax(axis=1) == table.y).mean() > 0.9
    assert np.array_equal(first, second)
    assert own.identity is not None


def test_an_estimator_of_arrays_and_pictures_is_given_numbers():
    x = np.random.default_rng(0).normal(size=(N, 2))
    table = read_table(x, x[:, 0] > 0)
    own = estimator_of("sklearn.neighbors:KNeighborsClassifier(1)", table, n_jobs=1)
    assert own.notes == ()
    assert (trained(own, table).predict_proba(table.x).argmax(axis=1) == table.y).all()


TORCH = """
import torch
from {helper} import WIDTH

class Net(torch.nn.Module):
    def __init__(self, epochs=30):
        super().__init__()
        self.epochs = epochs

    def fit(self, x, y):
        assert (str(x.dtype), str(y.dtype)) == ("float32", "int64")
        self.net = torch.nn.Sequential(torch.nn.Linear(x.shape[1], WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, 2))
        optimiser = torch.optim.Adam(self.net.parameters(), 0.05)
        for _ in range(self.epochs):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(self.net(torch.from_numpy(x)), torch.from_numpy(y)).backward()
            optimiser.step()

    def predict_proba(self, x):
        with torch.no_grad():
            return self.net(torch.from_numpy(x)).softmax(1).numpy()
"""


def test_a_torch_module_of_a_file_with_neighbours_trains_in_other_processes(tmp_path, table):
    (tmp_path / "own_widths_of_a_net.py").write_text("WIDTH = 16\n")
    path = tmp_path / "my_net.py"
    path.write_text(TORCH.format(helper="own_widths_of_a_net"))
    own = estimator_of(f"{path}:Net(epochs=40)", table, n_jobs=2)
    assert own.name == "Net(epochs=40)"
    assert not own.victim.exact
    pool = pool_of(table)
    models = own.victim.fit_many([pool.clean_job()] * 3, [0, 0, 1])
    first, same, other = (model.predict_proba(pool.x) for model in models)
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    assert (first.argmax(axis=1) == table.y).mean() > 0.9
    before = own.identity
    (tmp_path / "own_widths_of_a_net.py").write_text("WIDTH = 17\n")
    assert before is not None
    assert estimator_of(f"{path}:Net(epochs=40)", table, n_jobs=2).identity != before


# --- identity ---------------------------------------------------------------------------------------------------------


def test_estimators_are_told_apart_by_parameters_code_and_table(table):
    other = read_table(frame_of().assign(age=lambda frame: frame.age * 2), "paid")
    specs = ["sklearn.tree:DecisionTreeClassifier(max_depth=2)", DecisionTreeClassifier(max_depth=3), RandomForestClassifier(3)]
    found = [estimator_of(spec, each, n_jobs=1).identity for spec in specs for each in (table, other)]
    assert None not in found
    assert len(set(found)) == 6
    assert estimator_of(DecisionTreeClassifier(max_depth=2), table, n_jobs=1).identity == found[0]


def test_an_estimator_without_code_in_a_file_has_no_identity():
    from sklearn.preprocessing import FunctionTransformer

    assert identity_of(make_pipeline(FunctionTransformer(np.log1p), GaussianNB())) is not None
    assert identity_of(make_pipeline(FunctionTransformer(lambda x: x), GaussianNB())) is None


# --- what is refused --------------------------------------------------------------------------------------------------


class WithoutPredictions(BaseEstimator):
    def fit(self, x, y):
        return self


class OnlyDecides(ClassifierMixin, BaseEstimator):
    def fit(self, x, y):
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, x):
        return np.linspace(-1, 1, len(x))


class Changes(ClassifierMixin, BaseEstimator):
    def __init__(self, size=1):
        self.size = size + 1

    def fit(self, x, y):
        return self

    predict_proba = fit


class Raises(OnlyDecides):
    def fit(self, x, y):
        raise RuntimeError("no such fold")


class Hangs(OnlyDecides):
    def fit(self, x, y):
        time.sleep(1000)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("RandomForest", "--estimator 'RandomForest' names no function; write package.module:Class"),
        (
            "sklearn.ensemble:RandomForrest",
            "has no RandomForrest; did you mean RandomForestRegressor or RandomForestClassifier?",
        ),
        ("sklearn.tree:Grove", "has no Grove; it has BaseDecisionTree, DecisionTreeClassifier, DecisionTreeRegressor, "),
        ("sklearn.tree:Grove", "ExtraTreeClassifier, ExtraTreeRegressor and 3 more"),
        ("sklearn.ensembl:RandomForestClassifier", "cannot be imported (ModuleNotFoundError"),
        ("nowhere.py:make", "there is no file"),
        ("sklearn.ensemble:RandomForestClassifier(n_tree=3)", "unexpected keyword argument 'n_tree'"),
        ("sklearn.ensemble:RandomForestClassifier(n_estimators=-1)", "n_estimators"),
        ("sklearn.ensemble:RandomForestClassifier(n_estimators=x)", "is not a literal"),
        (Ridge(), "Ridge"),
        (StandardScaler(), "without predict_proba, decision_function or predict; give a classifier"),
        (3, "int is a int without fit; give a classifier"),
        (WithoutPredictions, "without predict_proba, decision_function or predict"),
        (Changes(), "the constructor either does not set or modifies parameter size"),
        (lambda: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_estimators_that_cannot_be_made_or_used(spec, said, table):
    assert said in refused(spec, table)


def test_decision_values_are_enough(table, here):
    own = estimator_of(OnlyDecides(), table, n_jobs=1)
    proba = trained(own, table).predict_proba(pool_of(table).x[:3])
    assert proba[:, 1] == pytest.approx(1 / (1 + np.exp([1, 0, -1])), abs=1e-6)


def test_one_that_raises_is_refused_with_its_words(table, here):
    assert "RuntimeError: no such fold" in refused(Raises(), table)


def test_one_that_hangs_is_ended(table, monkeypatch):
    monkeypatch.setattr(module, "TRIED_SECONDS", 1.0)
    started = time.monotonic()
    assert "still being trained after 1 s" in refused(Hangs(), table)
    assert time.monotonic() - started < 60


def test_a_pipeline_of_other_columns_is_refused_with_its_own_words(table):
    pipeline = make_pipeline(make_column_transformer((OneHotEncoder(), ["town"])), GaussianNB())
    assert "'town'" in refused(pipeline, table)


def test_a_torch_module_without_training_is_told_what_it_lacks(table):
    import torch

    assert "give it fit(x, y) and predict_proba(x)" in refused(torch.nn.Linear(2, 2), table)


def test_a_file_that_fails_or_lacks_the_name(tmp_path, table):
    path = tmp_path / "mine.py"
    path.write_text("import does_not_exist\n")
    assert "importing mine.py failed (ModuleNotFoundError" in refused(f"{path}:make", table)
    path.write_text("def make_it():\n    pass\n")
    assert "has no make; did you mean make_it?" in refused(f"{path}:make", table)
    assert "without fit" in refused(f"{path}:make_it", table)
    assert "subpop_own_mine" in sys.modules


def test_one_that_needs_more_rows_is_tried_on_more(monkeypatch, here):
    class Demanding(OnlyDecides):
        def fit(self, x, y):
            if len(x) < 40:
                raise ValueError("too few rows")
            return super().fit(x, y)

    monkeypatch.setattr(module, "TRIED_ROWS", (20, 1000))
    assert estimator_of(Demanding(), read_table(frame_of(), "paid"), n_jobs=1).name == "Demanding()"
