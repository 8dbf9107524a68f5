"""Which predictions and selections the error of an exact solver could change: against perturbed models, and in whole cells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_projects import parse_defense

from subpop.defenses import DEFENSES
from subpop.defenses.trim import given_label_loss
from subpop.experiments import undecided
from subpop.experiments.experiment import Experiment
from subpop.experiments.undecided import CUT, REST, ROUNDING, SAFETY, TARGET, Undecided, is_undecided
from subpop.harness.outcome import Outcome, lead_of
from subpop.results.references import References, cell_status, compare
from subpop.runtime.no_store import NoStore
from subpop.types import Cell, Defended, Trial, TrialResult
from subpop.types.grid import grid
from subpop.victims.linear_model import LinearModel

ROOT = Path(__file__).parents[2]
BASE = {
    "stem": "s",
    "tier": "embedded",
    "dataset": "mixture",
    "victim": "logistic_regression",
    "partition": "feature_match",
    "n_seeds": 2,
}
ERROR = 1e-3


def cell(**changes: object) -> Cell:
    return grid(**{"rate": 1.0, **BASE, **changes})[0]


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return Experiment.on(NoStore(), partitions=ROOT / "baselines" / "partitions")


def data_of(experiment: Experiment, dataset: str):
    return experiment.context.data(cell(dataset=dataset))


def random_model(generator: np.random.Generator, d: int, n_classes: int) -> LinearModel:
    return LinearModel(generator.normal(size=(d + 1, 1 if n_classes == 2 else n_classes)), error_bound=ERROR)


def perturbed(model: LinearModel, direction: np.ndarray, by: float) -> LinearModel:
    return replace(model, coef=model.coef + by * direction / np.linalg.norm(direction))


def worst_directions(model: LinearModel, x: np.ndarray) -> list[np.ndarray]:
    """For each row, the change of the parameters that moves its two most likely classes most."""
    found = []
    for row, proba in zip(np.column_stack([x, np.ones(len(x))]), model.predict_proba(x), strict=True):
        second, first = np.argsort(proba)[-2:]
        sign = np.zeros(model.coef.shape[1])
        if len(sign) == 1:
            sign[0] = second - first
        else:
            sign[[first, second]] = -1, 1
        found.append(np.outer(row, sign))
    return found


# --- the bounds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["mixture", "mixture_multiclass"])
def test_a_prediction_is_undecided_if_ten_errors_could_change_it(experiment, dataset):
    """At the largest step that leaves a prediction decided nothing flips; the band is at most 1.5 times wider than needed."""
    data, generator = data_of(experiment, dataset), np.random.default_rng(0)
    x, n_flips = data.test_x, 0
    for _ in range(4):
        model = random_model(generator, x.shape[1], data.dataset.n_classes)
        near = Undecided(data).rows(lead_of(model.predict_proba(x)), ERROR)
        before, flips = model.predict_proba(x).argmax(1), {}
        for by in (SAFETY, 1.5 * SAFETY):
            after = [perturbed(model, way, by * ERROR).predict_proba(x[[i]]) for i, way in enumerate(worst_directions(model, x))]
            flips[by] = np.concatenate(after).argmax(1) != before
        assert not (flips[SAFETY] & ~near).any()
        assert not (near & ~flips[1.5 * SAFETY]).any()
        n_flips += flips[SAFETY].sum()
    assert n_flips > 5


@pytest.mark.parametrize("dataset", ["mixture", "mixture_multiclass"])
def test_a_selection_is_undecided_if_ten_errors_could_change_it(experiment, dataset):
    """By the losses of TRIM and the scores of the released SEVER, whose difference two models of that distance change by less."""
    data, generator = data_of(experiment, dataset), np.random.default_rng(1)
    x, y = data.pool.x, data.pool.y
    largest = {"loss": 0.0, "product": 0.0}
    for _ in range(300):
        model = random_model(generator, x.shape[1], data.dataset.n_classes)
        other = perturbed(model, generator.normal(size=model.coef.shape), SAFETY * ERROR)
        one, two = model.predict_proba(x), other.predict_proba(x)
        losses = given_label_loss(two, y) - given_label_loss(one, y)
        own, new = (p[np.arange(len(y)), y].astype(float) for p in (one, two))
        products = DEFENSES["sever_as_released"].__globals__["STEEPEST"] * (new * (1 - new) - own * (1 - own))
        for name, moved in (("loss", losses), ("product", products)):
            largest[name] = max(largest[name], float(np.ptp(moved)))
    for gap in largest.values():
        assert Undecided(data).cut(gap, ERROR)
    assert Undecided(data).cut(0.0, 0.0)  # a tie
    assert not Undecided(data).cut(2 * ROUNDING, 0.0)
    longest = np.sqrt(1 + (x.astype(float) ** 2).sum(1)).max() * (1 if data.dataset.n_classes == 2 else 2**0.5)
    assert not Undecided(data).cut(2.01 * SAFETY * ERROR * longest + ROUNDING, ERROR)


def test_the_least_likely_class_is_undecided_if_its_lead_is_within_ten_errors(experiment):
    data = data_of(experiment, "mixture_multiclass")
    flat = np.zeros((data.pool.x.shape[1] + 1, 3))
    rows = np.arange(50)
    for intercepts, exact, expected in (((0, 0, 2.0), 0.0, True), ((0, 1e-3, 2.0), 0.0, False), ((0, 1e-3, 2.0), 1e-3, True)):
        flat[-1] = intercepts
        assert Undecided(data).least_likely(LinearModel(flat.copy(), error_bound=exact), rows) is expected


# --- the metrics of a trial -------------------------------------------------------------------------------------------


def test_undecided_rows_are_counted_by_subpopulation_and_without_the_holdout(experiment):
    data = data_of(experiment, "mixture")
    n = len(data.test_y)
    lead, members, scored = np.ones(n), np.arange(n) < 10, np.arange(n) != 4
    lead[[3, 4, 12, 13]] = 0.0
    outcome = Outcome({"": data.test_y}, lead=lead, made_by_fit=True, diagnostics={"gap": 0.5})
    of = Undecided(data)
    assert of.in_trial(outcome, 0.0, members, scored) == {TARGET: 1, REST: 2, CUT: 0}
    assert of.in_trial(replace(outcome, diagnostics={"gap": 0.0}), 0.0, members, scored)[CUT] == 1
    assert CUT not in of.in_trial(replace(outcome, diagnostics={}), 0.0, members, scored)
    unknown = [(replace(outcome, made_by_fit=False), 0.0), (replace(outcome, lead=None), 0.0), (outcome, np.nan)]
    for each, error in unknown:
        assert all(np.isnan(value) for value in of.in_trial(each, error, members, scored).values())


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [((0, 0, 0), (0, 0)), ((2, 0, 0), (1, 1)), ((0, 1, 0), (1, 1)), ((0, 0, 1), (1, 0)), ((0, 0, None), (np.nan, 0))],
)
def test_a_trial_is_undecided_by_its_rows_and_by_the_cut_of_a_filter_that_ranks_rows(metrics, expected):
    told = {name: float(value) for name, value in zip((TARGET, REST, CUT), metrics, strict=True) if value is not None}
    found = [is_undecided(TrialResult(Trial("a", 0), told), ranks_rows=ranks) for ranks in (True, False)]
    np.testing.assert_array_equal(found, expected)


# --- whole cells ------------------------------------------------------------------------------------------------------


def test_a_trial_is_as_inexact_as_its_worst_model_and_unknown_if_one_has_no_bound(experiment, monkeypatch):
    own, accuracy = cell(), np.tile([np.nan, 0.0], (2, 1))
    train = experiment.prepare(own, Trial(experiment.context.stage(own).attacked[0], 0)).task.train
    d = train.x.shape[1] + 1
    bounds = iter([1e-9, 3e-9, np.nan, 2e-9, 1e-9, 5e-9])
    monkeypatch.setattr(
        experiment.context, "fit", lambda *a, **k: [LinearModel(np.zeros((d, 1)), 1e-9, next(bounds)) for _ in range(2)]
    )
    fit_many = experiment.fleet_of(own, [0, 0], accuracy)
    for pair in ([(0, train), (1, train)],) * 3:
        assert np.isnan([model.error_bound for model in fit_many(pair)]).all()
    np.testing.assert_array_equal(accuracy[:, 1], [np.nan, 5e-9])


def test_a_cell_in_which_nothing_is_undecided_agrees_exactly(experiment):
    found = experiment.run(cell(rate=2.0))
    assert found.n_undecided == 0
    assert not any("could change" in note for note in found.notes)


def test_one_flipped_prediction_of_one_trial_is_red(experiment, tmp_path):
    """In a committed cell; with the tolerance of .01 that it had before, this row would pass."""
    path = ROOT / "baselines" / "cluster_match.csv"
    own = cell(stem=path.stem, dataset="digits", partition="cluster_match", split=1, n_seeds=5)
    found, (results, _) = experiment.run(own), experiment.trials(own)
    assert cell_status(compare(found, References.load(path))) == "pass"
    worst = max(found.table, key=lambda row: row["target_damage"])["subpopulation"]
    [hit] = [result for result in results if result.trial == Trial(str(worst), 3)]
    hit.arrays["right"][np.flatnonzero(experiment.context.stage(own).test_members(worst))[0]] ^= True
    flipped = replace(experiment, store=NoStore())
    flipped.trials = lambda asked: (results, True)
    changed = flipped.run(own)
    verdicts = {verdict.number.metric: verdict.verdict for verdict in compare(changed, References.load(path))}
    assert {name for name, verdict in verdicts.items() if verdict == "fail"} >= {"target_damage_worst_1", "target_damage_mean"}
    (tmp_path / path.name).write_text(path.read_text().replace(",1e-09,", ",0.01,"))
    assert cell_status(compare(changed, References.load(tmp_path / path.name))) == "pass"


def test_a_cell_within_the_band_says_so(monkeypatch):
    monkeypatch.setattr(undecided, "SAFETY", 1e5)
    found = Experiment.on(NoStore()).run(cell())
    assert found.n_undecided > 0
    assert any(note.startswith("logistic_regression with none: in some trials the error") for note in found.notes)


def test_a_clean_model_within_the_band_counts_as_well(experiment, monkeypatch):
    monkeypatch.setattr(experiment.context, "clean_undecided", lambda cell, seed: float(seed == 1))
    assert experiment.run(cell(rate=2.0)).n_undecided == 1


@pytest.mark.parametrize(
    ("changes", "is_known"),
    [
        ({"defense": "trim"}, True),
        ({"defense": "sever_as_released"}, True),
        ({"defense": "drop_duplicates"}, True),
        ({"defense": "matched_random_filter:trim"}, True),
        ({"dataset": "mixture_multiclass"}, True),
        ({"partition": "cluster_match"}, True),  # its clusters are recorded
        ({"partition": "cluster_match", "n_attacked": 2}, False),
        ({"defense": "sever"}, False),
        ({"defense": "matched_random_filter:sever"}, False),
        ({"defense": "spectral_signatures"}, False),
        ({"defense": "activation_clustering"}, False),
        ({"attack": "influence"}, False),
        ({"victim": "last_layer"}, True),
        ({"victim": "last_layer", "dataset": "mixture_multiclass"}, False),
        ({"victim": "mlp"}, False),
    ],
    ids=str,
)
def test_what_is_bounded(experiment, changes, is_known):
    filters = {"protocol": "reserve", "sampling": "distinct"} if "defense" in changes else {}
    own = cell(n_seeds=1, **filters, **changes)
    assert (experiment.run(own).n_undecided is not None) == is_known


def test_a_matched_control_is_undecided_where_its_filter_is(experiment, monkeypatch):
    own = cell(defense="matched_random_filter:trim", protocol="reserve", sampling="distinct", n_seeds=1)
    base = own.with_(defense="trim")
    trials = type(experiment).trials

    def tied(self, asked):
        results, stored = trials(self, asked)
        if asked == base:
            results = [replace(r, metrics={**r.metrics, CUT: float(i < 3)}) for i, r in enumerate(results)]
        return results, stored

    monkeypatch.setattr(type(experiment), "trials", tied)
    assert experiment.run(own).n_undecided >= 3


def test_no_plug_in_sees_a_bound_and_its_cells_have_none(experiment, monkeypatch):
    seen = []

    def curious(train, fit, know, *, seed):
        seen.append(fit(train).error_bound)
        return Defended(fit(train))

    monkeypatch.setitem(DEFENSES, "curious", curious)
    experiment.trials(cell(defense="curious"))
    assert seen
    assert np.isnan(seen).all()
    plugged = Experiment.on(NoStore(), plugins={"mine": parse_defense("examples/drop_random.py:drop_random", ROOT)})
    found = plugged.run(cell(defense="mine", n_seeds=1))
    assert found.n_undecided is None
    results, _ = plugged.trials(cell(defense="mine", n_seeds=1))
    assert all(np.isnan([r.metrics[TARGET], r.metrics[REST]]).all() for r in results)
