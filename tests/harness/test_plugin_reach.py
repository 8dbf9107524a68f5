"""What a plug-in defense can reach from what it is handed, and what the harness believes of what it returns."""

import threading
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from small_projects import parse_defense
from test_sandbox import N_TEST, POOL, TEST_X, _nothing_is_left, batch, fit_many, tasks  # noqa: F401

from subpop.experiments.experiment import Experiment
from subpop.harness.batching import DefenseError
from subpop.harness.fit_log import ALWAYS_KEPT, Answers, FitLog
from subpop.harness.outcome import Outcome
from subpop.harness.plugins import load
from subpop.harness.sandbox import run_in_child
from subpop.report import RunInfo
from subpop.report.details import details
from subpop.runtime.no_store import NoStore
from subpop.types import CAN_COUNT, BadInput, CellReport, Defended, TrainingSet, Trial
from subpop.types.grid import grid
from subpop.victims.linear_model import LinearModel

PLUGIN = '''
import sys
import threading
import types

import numpy as np

from subpop import Defended, TrainingSet

SEEN = []
WALKED = ("subpop", "threading", "_thread", "functools", "queue", "_queue")
NAMES = ["__self__", "__func__", "__globals__", "__class__", "__wrapped__", "__defaults__", "base", "func", "args", "keywords"]


def reachable(*roots):
    """Everything that attributes, slots, closures, methods, containers and our modules' globals lead to."""
    seen, waiting = {}, list(roots)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, (str, bytes, int, float, complex, type(None))):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, dict):
            waiting += [*thing.keys(), *thing.values()]
            continue
        if isinstance(thing, (list, tuple, set, frozenset)):
            waiting += list(thing)
            continue
        module = thing if isinstance(thing, types.ModuleType) else sys.modules.get(getattr(thing, "__module__", None))
        if isinstance(thing, types.ModuleType) and not thing.__name__.startswith("subpop"):
            continue
        if not getattr(module, "__name__", "subpop").startswith(WALKED):
            continue
        for name in [*getattr(thing, "__dict__", ()), *getattr(type(thing), "__slots__", ()), *NAMES]:
            try:
                waiting.append(getattr(thing, name, None))
            except Exception:
                pass
        waiting += [cell.cell_contents for cell in getattr(thing, "__closure__", None) or ()]
    return list(seen.values())


def walks(train, fit, know, *, seed):
    """Compare every array in reach with the rows of the other trials and with the test rows."""
    fit(train)  # now all trials are alive, and wait in `fit`
    others = np.load(__file__ + ".npz")
    own = {row.tobytes() for row in train.x}
    foreign = {row.tobytes() for name in others for row in others[name]} - own
    arrays = [a for a in reachable(train, fit, know, threading.enumerate()) if isinstance(a, np.ndarray)]
    rows = [row for a in arrays if a.ndim == 2 for row in a]
    found = sum(row.tobytes() in foreign for row in rows)
    seen = sum(row.tobytes() in own for row in rows)
    return Defended(fit(train), diagnostics={"foreign": found, "own": seen, "arrays": len(arrays)})


class Wrapped:
    def __init__(self, model):
        self.model = model

    def predict_proba(self, x):
        return self.model.predict_proba(x)


class Coin:
    def predict_proba(self, x):
        return np.full((len(x), 2), 0.5)


def mask_of(train):
    return np.arange(len(train)) % 5 > 0


def honest(train, fit, know, *, seed):
    keep = mask_of(train)
    fit(train)
    return Defended(fit(train[keep]), keep)


def keeps_all(train, fit, know, *, seed):
    return Defended(fit(train), np.ones(len(train), bool))


def in_another_order(train, fit, know, *, seed):
    keep = mask_of(train)
    return Defended(Wrapped(fit(train[np.flatnonzero(keep)[::-1]])), keep)


def undefended_beside_a_mask(train, fit, know, *, seed):
    return Defended(fit(train), mask_of(train))


def other_labels(train, fit, know, *, seed):
    keep = mask_of(train)
    y = train.y.copy()
    y[np.flatnonzero(keep)[:3]] ^= 1
    return Defended(fit(train.relabel(y)[keep]), keep)


def one_row_twice(train, fit, know, *, seed):
    keep = mask_of(train)
    return Defended(fit(train[[*np.flatnonzero(keep), int(np.flatnonzero(keep)[0])]]), keep)


def own_model(train, fit, know, *, seed):
    fit(train[mask_of(train)])
    return Defended(Coin(), mask_of(train))


def of_another_trial(train, fit, know, *, seed):
    SEEN.append(fit(train[mask_of(train)]))
    fit(train[mask_of(train)])
    return Defended(SEEN[0], mask_of(train))


def repaired(train, fit, know, *, seed):
    return Defended(fit(train.relabel(1 - train.y)))


def nothing_kept(train, fit, know, *, seed):
    return Defended(fit(train), np.zeros(len(train), bool))
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reach")
    (folder / "reach.py").write_text(PLUGIN)
    return folder


@lru_cache
def spec_of(folder, function):
    return parse_defense(f"reach.py:{function}", folder)


def run(folder, function, n=2):
    return list(run_in_child(spec_of(folder, function), batch(n), 60.0))


# --- what can be reached ----------------------------------------------------------------------------------------------


def test_no_other_trial_and_no_test_row_can_be_reached(folder):
    others = {f"trial{i}": task.train.x for i, task in enumerate(tasks(4))}
    # Rows of all trials overlap here, so what is foreign to a trial is what it was not given itself.
    np.savez(folder / "reach.py.npz", test=TEST_X, **others)
    for outcome in run(folder, "walks", 4):
        assert outcome.diagnostics["foreign"] == 0
        assert outcome.diagnostics["own"] >= 50  # the walk does find the rows that it was handed
        assert outcome.diagnostics["arrays"] >= 3


def test_the_list_of_threads_leads_to_no_trial():
    found = []

    def defense(train, fit, know, *, seed):
        fit(train)
        found.extend(value for thread in threading.enumerate() for value in vars(thread).values() if callable(value))
        return Defended(fit(train))

    list(batch(2).run(defense))
    assert not [
        value for value in found if "subpop" in str(getattr(value, "__module__", "")) or "partial" in type(value).__name__
    ]


# --- what is believed -------------------------------------------------------------------------------------------------

BELIEVED = [
    ("honest", True, True),
    ("keeps_all", True, True),
    ("in_another_order", True, True),
    ("undefended_beside_a_mask", True, False),
    ("other_labels", True, False),
    ("one_row_twice", True, False),
    ("own_model", False, False),
    ("repaired", True, False),
]


@pytest.mark.parametrize(("function", "by_fit", "checked"), BELIEVED)
def test_a_mask_counts_only_beside_the_model_that_fit_made_from_it(folder, function, by_fit, checked):
    for outcome in run(folder, function):
        assert outcome.made_by_fit is by_fit
        assert outcome.keep_checked is checked


def test_a_model_of_another_trial_is_none_that_fit_made(folder):
    first, second = run(folder, "of_another_trial")
    assert (first.made_by_fit, second.made_by_fit) == (True, False)
    assert (first.keep_checked, second.keep_checked) == (True, False)


def test_built_in_defenses_are_held_to_the_same_rule(folder):
    for function, by_fit, checked in BELIEVED:
        if function == "in_another_order":  # here the model itself tells, and a wrapper is another model
            by_fit = checked = False
        for outcome in batch(2).run(load(spec_of(folder, function))):
            assert (outcome.made_by_fit, outcome.keep_checked) == (by_fit, checked), function


def test_a_mask_that_drops_everything_is_refused(folder):
    with pytest.raises(DefenseError, match="keep removes all 50 rows"):
        run(folder, "nothing_kept")


def test_a_log_without_room_does_not_call_a_model_the_defense_s_own():
    class Large(LinearModel):
        def state(self):
            return {"coef": np.zeros(1 << 26)}

    train = tasks(1)[0].train
    models = [Large(np.random.default_rng(i).normal(size=(POOL.x.shape[1] + 1, 1))) for i in range(ALWAYS_KEPT + 30)]
    log = FitLog([train], TEST_X)
    log._room = 100
    log.note([(0, train)] * len(models), models)
    predicted = models[0].predict_proba(TEST_X).argmax(1)
    assert log.checked(0, Outcome({"": predicted})).made_by_fit is None
    log.note([(0, train)], models[:1])
    assert log.checked(0, Outcome({"": predicted}, keep=np.ones(len(train), bool))).keep_checked


def test_predictions_may_differ_only_where_two_classes_tie():
    class Tied(LinearModel):
        def predict_proba(self, x):
            proba = np.tile([0.9, 0.1], (len(x), 1))
            proba[0] = 0.5
            return proba

    answers = Answers.of(Tied(np.zeros((POOL.x.shape[1] + 1, 1))), TEST_X)
    tie, other = np.zeros(N_TEST, int), np.zeros(N_TEST, int)
    tie[0], other[1] = 1, 1
    assert answers.agree(np.zeros(N_TEST, int))
    assert answers.agree(tie)
    assert not answers.agree(other)
    assert not answers.agree(np.ones(N_TEST, int))


def test_rows_of_another_source_are_never_the_kept_ones():
    train = tasks(1)[0].train
    log = FitLog([train], TEST_X)
    copy = TrainingSet.of(train.x, train.y)
    model = fit_many([(0, copy)])[0]
    log.note([(0, copy)], [model])
    outcome = log.checked(0, Outcome({"": model.predict_proba(TEST_X).argmax(1)}, keep=np.ones(len(train), bool)))
    assert (outcome.made_by_fit, outcome.keep_checked) == (True, False)


# --- what reports say -------------------------------------------------------------------------------------------------

DIGITS = {"stem": "s", "tier": "embedded", "dataset": "digits", "victim": "logistic_regression", "partition": "feature_match"}


def cell(**changes):
    return grid(**{"rate": 1.0, "n_seeds": 1, **DIGITS, **changes})[0]


def experiment(folder, *functions):
    return Experiment.on(NoStore(), plugins={f"reach.{function}": spec_of(folder, function) for function in functions})


def test_recall_is_shown_only_for_a_checked_mask(folder):
    ran = experiment(folder, "honest", "undefended_beside_a_mask")
    honest, copied = (ran.run(cell(defense=f"reach.{name}")) for name in ("honest", "undefended_beside_a_mask"))
    assert 0.1 < honest["poison_recall"] < 0.3
    assert honest.n_keep_unchecked == honest.n_own_learner == 0
    assert not {number.metric for number in copied.numbers} & {"poison_recall", "poison_precision", "removed_share"}
    assert "poison_recall" not in copied.table[0]
    assert copied.n_keep_unchecked == 11
    reports = [CellReport(result.cell, result) for result in (ran.run(cell()), honest, copied)]
    page = details(reports, RunInfo("embedded", "pytest"))
    assert page.count("; keep not checked |") == 1
    assert "fits per trial" not in page


def test_a_declared_number_of_fits_stands_beside_the_seconds(folder):
    often = replace(spec_of(folder, "honest"), max_fits=5000)
    ran = Experiment.on(NoStore(), plugins={"often": often})
    reports = [CellReport(result.cell, result) for result in (ran.run(cell()), ran.run(cell(defense="often")))]
    assert details(reports, RunInfo("embedded", "pytest")).count("; declares up to 5,000 fits per trial |") == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"defense": "none"}, CAN_COUNT),
        ({"defense": "activation_clustering"}, CAN_COUNT),
        ({"defense": "trim"}, "n_poison"),
        ({"defense": "trim", "n_poison_told": "half"}, f"n_poison x 0.5, {CAN_COUNT}"),
        ({"defense": "perfect_filter"}, "poison_mask"),
        ({"defense": "fine_pruning", "holdout": "0.1"}, f"clean_holdout of 0.1 of the test rows, {CAN_COUNT}"),
        ({"defense": "group_dro"}, f"groups (target), {CAN_COUNT}"),
        ({"defense": "group_dro", "groups_told": "superset"}, f"groups (superset), {CAN_COUNT}"),
        ({"defense": "reach.honest"}, CAN_COUNT),
        ({"defense": "retrain"}, ""),
        ({"defense": "trim", "rate": 0.0}, "n_poison"),
        ({"defense": "none", "rate": 0.0}, ""),
    ],
)
def test_what_the_number_of_rows_gives_away_is_knowledge(folder, changes, told):
    assert experiment(folder, "honest").knowledge(cell(**changes)) == told


def test_the_number_of_rows_does_give_the_poison_away(folder):
    ran = experiment(folder, "honest")
    prepared = ran.prepare(cell(defense="reach.honest"), Trial("digit=3", 0))
    assert len(prepared.task.train) - ran.context.stage(cell()).pool.n_train == prepared.n_poison > 0


def test_a_holdout_that_no_cell_grants_is_told_before_anything_starts(tmp_path):
    (tmp_path / "asks.py").write_text(
        "from subpop import Defended\ndef asks(train, fit, know, *, seed):\n    return Defended(fit(know.clean_holdout))\n"
        "asks.needs = {'clean_holdout'}\n"
    )
    ran = Experiment.on(NoStore(), plugins={"asks": parse_defense("asks.py:asks", tmp_path)})
    with pytest.raises(BadInput, match=r"asks needs clean_holdout, and embedded-digits.* grants none: its setting"):
        ran.chunks(cell(defense="asks"))
    assert ran.run(cell(defense="asks", holdout="0.1")).knowledge.startswith("clean_holdout of 0.1")
