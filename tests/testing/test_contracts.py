"""The public checks: good parts pass, and every way of breaking a contract is found by the check that is named after it."""

import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from small_projects import parse_defense

from subpop.harness.plugins import load
from subpop.testing import (
    CheckResult,
    ContractError,
    ContractWarning,
    check_dataset,
    check_defense,
    check_victim,
    defense_checks,
)
from subpop.testing import defenses as defense_module
from subpop.testing.victims import VICTIM_CHECKS
from subpop.types import BadInput, Dataset, Defended
from subpop.victims import SklearnVictim
from subpop.victims.linear_model import LinearModel

CHECKS = dict(defense_checks())
EXAMPLES = Path(__file__).parents[2] / "examples"


def none(train, fit, know, *, seed):
    return Defended(fit(train))


# --- defenses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "check"), defense_checks())
def test_the_undefended_model_passes_every_check(name, check, recwarn):
    check(none)
    assert not [w for w in recwarn if w.category is ContractWarning], name


def test_the_example_passes_and_is_told_what_is_worth_a_look(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    results = check_defense(load(parse_defense("drop_random.py:drop_random", EXAMPLES)))
    assert [result.name for result in results] == list(CHECKS)
    assert {result.name: result.status for result in results if result.status != "ok"} == {
        "ignores_the_order_of_rows": "warning",
        "is_idle_on_clean_data": "warning",
    }
    assert all(result.passed for result in results)


def returns_a_model(train, fit, know, *, seed):
    return fit(train)


def draws_without_the_seed(train, fit, know, *, seed):
    keep = np.random.default_rng().random(len(train)) > 0.5
    return Defended(fit(train[keep]), keep)


SEEN = []


def remembers(train, fit, know, *, seed):
    SEEN.append(len(train))
    keep = np.arange(len(train)) >= len(set(SEEN))
    return Defended(fit(train[keep]), keep)


def writes_into_its_rows(train, fit, know, *, seed):
    array = getattr(train._source, "array", np.zeros((1, 1)))
    array[0] += 1
    return Defended(fit(train))


def wants_whole_batches(train, fit, know, *, seed):
    batch = train.x[:64].reshape(64, -1)
    return Defended(fit(train), diagnostics={"mean": batch.mean()})


def wants_every_class(train, fit, know, *, seed):
    n_classes = fit(train).predict_proba(train.x[:1]).shape[1]
    return Defended(fit(train), diagnostics={"rarest": min(train.x[train.y == c].max() for c in range(n_classes))})


def knows_two_classes(train, fit, know, *, seed):
    keep = fit(train).predict_proba(train.x)[:, 1] < 2
    return Defended(fit(train.relabel(1 - train.y)), keep)


def wants_distinct_rows(train, fit, know, *, seed):
    gaps = np.linalg.norm(train.x[:, None] - train.x, axis=2) + np.eye(len(train))
    return Defended(fit(train), diagnostics={"closest": 1 / gaps.min() if gaps.min() else np.inf})


def drops_the_first_rows(train, fit, know, *, seed):
    keep = train.ids >= 30
    return Defended(fit(train[keep]), keep)


def swaps_the_labels(train, fit, know, *, seed):
    return Defended(fit(train.relabel(1 - train.y)))


def naps(train, fit, know, *, seed):
    time.sleep(0.05)
    return Defended(fit(train))


@pytest.mark.parametrize(
    ("name", "defense", "message"),
    [
        ("returns_defended", returns_a_model, "must return Defended"),
        ("same_seed_same_answer", draws_without_the_seed, "two calls with the same data and seed differ"),
        ("keeps_no_state", remembers, "depends on an earlier call"),
        ("leaves_its_input_alone", writes_into_its_rows, "wrote into"),
        ("works_on_few_rows", wants_whole_batches, "cannot reshape"),
        ("works_with_a_missing_class", wants_every_class, "zero-size array"),
        ("works_with_three_classes", knows_two_classes, "the label -1; labels are 0 to 2"),
        ("works_on_duplicated_rows", wants_distinct_rows, "one finite number"),
    ],
)
def test_a_broken_contract_is_found_by_its_check(name, defense, message):
    SEEN.clear()
    with pytest.raises((ContractError, RuntimeError), match=message):
        CHECKS[name](defense)


@pytest.mark.parametrize(
    ("name", "defense", "message"),
    [
        ("ignores_the_order_of_rows", drops_the_first_rows, "the result depends on the order of the rows"),
        ("is_idle_on_clean_data", drops_the_first_rows, r"\(n_poison=0\), it removes 12% of the rows and gains 1\.0 points"),
        ("is_idle_on_clean_data", swaps_the_labels, r"\(n_poison=0\), it removes 0% of the rows and loses \d\d\.\d points"),
        ("is_fast", naps, "own code takes .* for 528 rows"),
    ],
)
def test_what_is_allowed_but_worth_a_look_warns(name, defense, message, monkeypatch):
    monkeypatch.setattr(defense_module, "SLOW_SECONDS", 0.04)
    with pytest.warns(ContractWarning, match=message):
        CHECKS[name](defense)


def test_a_defense_is_told_what_it_needs():
    told = []

    def curious(train, fit, know, *, seed):
        told.append({name for name, value in vars(know).items() if value is not None})
        return Defended(fit(train))

    CHECKS["returns_defended"](curious)
    curious.needs = {"n_poison", "clean_holdout"}
    CHECKS["returns_defended"](curious)
    assert told == [set(), {"n_poison", "clean_holdout"}]
    curious.needs = {"labels"}
    with pytest.raises(ContractError, match=r"needs contains labels; the fields of Knowledge are clean_holdout"):
        CHECKS["returns_defended"](curious)


def test_a_defense_that_exits_fails_every_check_and_stops_none():
    results = check_defense(lambda train, fit, know, *, seed: sys.exit(2))
    assert len(results) == len(CHECKS)
    assert not any(result.passed for result in results)
    assert "sys.exit(2)" in results[0].message


def test_results_read_well():
    assert str(CheckResult("is_fast", "ok")) == "ok      is_fast"
    assert str(CheckResult("is_fast", "failed", "why")) == "failed  is_fast: why"


# --- victims ----------------------------------------------------------------------------------------------------------


class Means:
    """Nearest class means, in closed form; ways to break it by name."""

    exact = True

    def __init__(self, **faults):
        self.faults = faults
        self.calls = 0

    def fit_many(self, jobs, seeds):
        self.calls += 1
        models = [self._fit(job.canonical(), seed, len(jobs)) for job, seed in zip(jobs, seeds, strict=True)]
        return models[:1] if self.faults.get("loses") else models

    def _fit(self, job, seed, n_jobs):
        x = job.pool.x[job.rows % len(job.pool)] if self.faults.get("misreads") else job.x
        if self.faults.get("misreads"):
            x = x + np.where(job.rows >= len(job.pool), 50, 0)[:, None].astype(np.float32) * job.y[:, None]
        low, high = (x[job.y == c].mean(0) if (job.y == c).any() else np.zeros(x.shape[1]) for c in (0, 1))
        coef = np.append(high - low, (low @ low - high @ high) / 2)[:, None].astype(float)
        coef[-1] += self.faults.get("by_call", 0) * self.calls + self.faults.get("by_seed", 0) * seed
        coef[-1] += self.faults.get("by_fleet", 0) * n_jobs
        return self.faults.get("model", LinearModel)(coef)


@dataclass(frozen=True, eq=False)
class Doubled(LinearModel):
    def predict_proba(self, x):
        return 2 * super().predict_proba(x)


@dataclass(frozen=True, eq=False)
class Stuck(LinearModel):
    def __reduce__(self):
        raise TypeError("this model stays here")


def test_a_victim_in_closed_form_passes():
    assert [result.message for result in check_victim(Means()) if result.status != "ok"] == []


class Nearest(ClassifierMixin, BaseEstimator):
    """The class with the nearest mean, with one fault."""

    def __init__(self, fault=""):
        self.fault = fault

    def fit(self, x, y):
        if self.fault == "sleeps":
            time.sleep(0.6)
        if self.fault == "fit writes":
            x -= x.mean(axis=0)
        self.classes_ = np.unique(y)
        self.means_ = np.stack([x[y == c].mean(axis=0) for c in self.classes_])
        if self.fault == "unseeded":
            self.means_ = self.means_ + np.random.default_rng().normal(size=self.means_.shape)
        if self.fault == "renames":
            self.classes_ = np.array(["a", "b", "c"])[: len(self.classes_)]
        return self

    def predict_proba(self, x):
        if self.fault == "predict writes":
            x -= 1
        near = np.exp(-np.square(x[:, None] - self.means_).sum(axis=-1)) + 1e-9
        near = near / near.sum(axis=1, keepdims=True)
        return near[:, ::-1] if self.fault == "swaps" else near[:, 1:] if self.fault == "forgets" else near

    def predict(self, x):
        found = np.square(x[:, None] - self.means_).sum(axis=-1).argmin(axis=1)
        return found + 7 if self.fault == "shifts" else found


def with_attribute():
    made = Nearest()
    made.power = 3
    return made


@pytest.mark.parametrize(
    ("estimator", "name", "words"),
    [
        (with_attribute(), "is_clonable", "clones lack the attribute power of the estimator, .* make it a parameter of __init__"),
        (Nearest("unseeded"), "same_seed_same_model", "gave different models, by up to .* where 0 is allowed: draw every random"),
        (Nearest("forgets"), "returns_a_model_a_job", "it returned an array of shape .220, 1. for 220 rows and 2 classes"),
        (Nearest("fit writes"), "leaves_its_data_alone", "fit wrote into 240 of the 240 rows that it was given; work on a copy"),
        (Nearest("predict writes"), "leaves_its_data_alone", "a prediction wrote into 240 of the 240 rows"),
        (
            Nearest("renames"),
            "keeps_its_classes",
            "classes_ is .'a', 'b', 'c'. after a training on the labels 0, 1, 2; set",
        ),
        (
            Nearest("shifts"),
            "keeps_its_classes",
            "predict returns int64 of shape .240,., from 7 to 9; return labels that",
        ),
        (Nearest("swaps"), "keeps_its_classes", r"predict and the largest column of predict_proba agree in \d+% of the rows"),
    ],
)
def test_a_broken_estimator_is_found(estimator, name, words):
    assert all(result.passed for result in check_victim(SklearnVictim(Nearest(), n_jobs=1)))
    failed = {result.name: result.message for result in check_victim(SklearnVictim(estimator, n_jobs=1)) if not result.passed}
    assert re.search(words, failed[name]), failed


def test_a_slow_estimator_is_mentioned(monkeypatch):
    only = [(name, check) for name, check in VICTIM_CHECKS if name == "costs_little"]
    monkeypatch.setattr("subpop.testing.VICTIM_CHECKS", only)  # each of the others would wait for several fits
    found = {result.name: result for result in check_victim(SklearnVictim(Nearest("sleeps"), n_jobs=1))}
    assert found["costs_little"].status == "warning"
    assert re.match(
        r"a fit of 220 rows takes 0\.\d+ s: a cell, which trains about 150, takes 2 min", found["costs_little"].message
    )


@pytest.mark.parametrize(
    ("faults", "name", "message"),
    [
        ({"loses": True}, "returns_a_model_a_job", "1 models for 3 jobs"),
        ({"model": Doubled}, "returns_a_model_a_job", "do not sum to 1"),
        ({"by_call": 0.1}, "same_seed_same_model", "gave different models"),
        ({"by_fleet": 0.1}, "alone_agrees_with_fleet", "differ by"),
        ({"by_seed": 0.1}, "exact_means_any_seed", "two seeds differ"),
        ({"misreads": True}, "trains_on_rows_outside_the_pool", "extra_x change"),
        ({"model": Stuck}, "models_travel", "this model stays here"),
    ],
)
def test_a_broken_victim_is_found(faults, name, message):
    failed = {result.name: result.message for result in check_victim(Means(**faults)) if not result.passed}
    assert message in failed[name]


def test_a_stochastic_victim_agrees_in_distribution_only():
    victim = Means(by_fleet=0.01)
    victim.exact = False
    assert all(result.passed for result in check_victim(victim))


# --- data sets --------------------------------------------------------------------------------------------------------

GOOD = Dataset(
    name="toy",
    x=np.arange(240, dtype=np.float32).reshape(120, 2),
    y=np.arange(120) % 2,
    n_classes=2,
    annotations={"colour": np.arange(120) % 3},
    official_test=np.arange(120) > 79,
    sizes=(40, 40),
)


def test_a_good_data_set_passes():
    for given in (GOOD, lambda: GOOD):
        assert {result.status for result in check_dataset(given)} == {"ok"}
    told = {result.name: result.message for result in check_dataset(GOOD)}
    assert told["has_rows_and_labels"] == "120 rows of shape (2,), classes of 60, 60 rows"
    assert told["can_be_split"] == "40 rows in D, 40 in D_aux, 40 in D_test"
    assert re.fullmatch(r"3 groups of \d+ to \d+ rows in D_aux", told["has_groups_to_attack"])


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (
            {"x": np.full((120, 2), np.nan, np.float32)},
            "has_rows_and_labels",
            "240 NaN or infinite values, the first at .0, 0.",
        ),
        ({"x": np.zeros((120, 2))}, "has_rows_and_labels", "x is float64; rows are float32, images uint8, tokens int64"),
        ({"y": np.zeros(120, np.int64)}, "has_rows_and_labels", "all 120 rows have the label 0; at least two"),
        ({"y": np.arange(120)}, "has_rows_and_labels", "labels run from 0 to 119 in 2 classes; number them from 0"),
        ({"y": np.zeros(5, np.int64)}, "has_rows_and_labels", "y is int64 of shape .5,.; give int64 of .120,."),
        ({"annotations": {"colour": np.arange(5)}}, "describes_every_row", "annotation 'colour' is int64 of .5,.; give int64"),
        ({"official_test": np.arange(120)}, "describes_every_row", "official_test is int64 of .120,.; give booleans"),
        ({"hashes": np.arange(5)}, "describes_every_row", "hashes have shape .5,.; give .120,."),
        ({"sizes": (60, 60)}, "can_be_split", "sizes .60, 60. leave no test rows of 120; give D and D_aux fewer"),
        ({"group_bounds": (5, 5)}, "can_be_split", "group_bounds .5, 5. contain no size; give the smaller one first"),
        ({"n_clusters": 1}, "can_be_split", "n_clusters is 1 and n_components None; give at least 2"),
    ],
)
def test_a_broken_data_set_is_found(change, name, words):
    failed = [result for result in check_dataset(replace(GOOD, **change)) if not result.passed]
    assert failed[0].name == name
    assert re.search(words, failed[0].message), failed[0].message


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        ({"x": np.zeros((120, 2), np.float32)}, "has_no_copies_across_parts", "40 of 40 test rows .100%. repeat a row of D"),
        ({"annotations": {"name": np.arange(120)}}, "has_groups_to_attack", "40 of 40 groups have fewer than 10 rows in D_aux"),
        ({"group_bounds": (50, 90)}, "has_groups_to_attack", "none of the 3 groups has more than 50 and fewer than 90 rows"),
        (
            {"y": np.r_[np.ones(3), np.arange(117) % 2 * 2].astype(int), "n_classes": 3},
            "has_rows_and_labels",
            "class 1 has 3 rows",
        ),
    ],
)
def test_unusual_data_is_mentioned(change, name, words):
    found = {result.name: result for result in check_dataset(replace(GOOD, **change))}
    assert found[name].status == "warning"
    assert re.search(words, found[name].message), found[name].message
    assert all(result.passed for result in found.values())


def test_copies_that_share_a_hash_are_on_one_side():
    """Every row is there twice; with hashes a pair is on the same side, so that no test row is in D."""
    twice = replace(GOOD, x=GOOD.x // 4 * 4, official_test=None, hashes=np.arange(120) // 2)
    assert {result.name: result.status for result in check_dataset(twice)}["has_no_copies_across_parts"] == "ok"
    found = check_dataset(replace(twice, hashes=None))
    assert {result.name: result.status for result in found}["has_no_copies_across_parts"] == "warning"


def test_a_data_set_that_is_drawn_anew_is_found():
    def load():
        return replace(GOOD, x=np.random.default_rng().normal(size=(120, 2)).astype(np.float32))

    assert [result.name for result in check_dataset(load) if not result.passed] == ["loads_the_same_twice"]


def test_a_data_set_that_cannot_be_loaded_fails_without_stopping_the_rest():
    def load():
        raise BadInput("no file")

    assert [result.message for result in check_dataset(load)] == ["no file"] * 6


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda: check_defense("trim"), "a defense is a function .*, not str"),
        (lambda: check_victim("mlp"), "str has no method fit_many; use make_victim"),
        (lambda: check_dataset("digits"), "a data set is a Dataset, such as load_dataset returns, not str"),
    ],
)
def test_a_name_in_place_of_the_object_is_a_failed_check(result, message):
    assert re.search(message, result()[0].message)


def passes_arrays(train, fit, know, *, seed):
    return Defended(fit(train.x, train.y))


def writes_a_label(train, fit, know, *, seed):
    train.y[0] = 1
    return Defended(fit(train))


@pytest.mark.parametrize(
    ("defense", "advice"), [(passes_arrays, "fit takes one TrainingSet"), (writes_a_label, "work on copies: y = train.y.copy()")]
)
def test_usual_mistakes_come_with_advice_and_without_a_trial_number(defense, advice):
    message = check_defense(defense)[0].message
    assert advice in message.splitlines()[0]
    assert "trial 0" not in message
