"""The public checks: good parts pass, and every way of breaking a contract is found by the check that is named after it."""

import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from subpop.harness.plugins import load, parse_defense
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
from subpop.types import BadInput, Dataset, Defended
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
    x=np.zeros((6, 2), np.float32),
    y=np.array([0, 1, 0, 1, 0, 1]),
    n_classes=2,
    annotations={"colour": np.arange(6)},
    official_test=np.arange(6) > 3,
    sizes=(2, 2),
)


def test_a_good_data_set_passes():
    assert all(result.status == "ok" for result in check_dataset(GOOD))
    assert all(result.status == "ok" for result in check_dataset(lambda: GOOD))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"x": np.full((6, 2), np.nan, np.float32)}, "has_rows_and_labels"),
        ({"x": np.zeros((6, 2))}, "has_rows_and_labels"),
        ({"y": np.zeros(6, np.int64)}, "has_rows_and_labels"),
        ({"y": np.arange(6)}, "has_rows_and_labels"),
        ({"y": np.zeros(5, np.int64)}, "has_rows_and_labels"),
        ({"annotations": {"colour": np.arange(5)}}, "describes_every_row"),
        ({"official_test": np.arange(6)}, "describes_every_row"),
        ({"sizes": (3, 3)}, "can_be_split"),
        ({"group_bounds": (5, 5)}, "can_be_split"),
    ],
)
def test_a_broken_data_set_is_found(change, name):
    failed = [result.name for result in check_dataset(replace(GOOD, **change)) if not result.passed]
    assert failed == [name]


def test_a_data_set_that_is_drawn_anew_is_found():
    def load():
        return replace(GOOD, x=np.random.default_rng().normal(size=(6, 2)).astype(np.float32))

    assert [result.name for result in check_dataset(load) if not result.passed] == ["loads_the_same_twice"]


def test_a_data_set_that_cannot_be_loaded_fails_without_stopping_the_rest():
    def load():
        raise BadInput("no file")

    assert [result.message for result in check_dataset(load)] == ["no file"] * 4


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
