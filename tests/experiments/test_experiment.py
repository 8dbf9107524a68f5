"""The whole way from a cell to its numbers, on digits, and each promise about it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_projects import parse_defense

from subpop.defenses import DEFENSES
from subpop.experiments.experiment import Experiment
from subpop.experiments.trial import undefended
from subpop.harness.batching import TrialBatch
from subpop.runtime.no_store import NoStore
from subpop.runtime.store import Store
from subpop.types import BadInput, Cell, Defended, Trial
from subpop.types.grid import grid

ROOT = Path(__file__).parents[2]

DIGITS = {
    "stem": "s",
    "tier": "embedded",
    "dataset": "digits",
    "victim": "logistic_regression",
    "partition": "feature_match",
    "n_seeds": 2,
}


def cell(**changes) -> Cell:
    return grid(**{"rate": 1.0, **DIGITS, **changes})[0]


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return Experiment.on(NoStore())


def test_the_trials_of_a_cell_are_its_subpopulations_times_its_seeds(experiment):
    assert len(experiment.list_trials(cell())) == 20
    assert len(experiment.list_trials(cell(defense="trim"))) == 40  # clean data, told the same counts
    assert len(experiment.list_trials(cell(defense="drop_duplicates"))) == 22  # told nothing: once a seed


def test_damage_agrees_with_training_by_hand(experiment):
    """One trial, rebuilt from the split alone with scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    target = cell()
    stage = experiment.context.stage(target)
    results, _ = experiment.trials(target)
    trial = results[5].trial
    from subpop.attacks.drawing import draw_poison

    poison = draw_poison(stage, target, trial.subpopulation, trial.seed, None)
    n = stage.pool.n_train
    x = np.concatenate([stage.pool.x[:n], stage.pool.x[poison.rows]])
    y = np.concatenate([stage.pool.y[:n], poison.y])

    def ones(values):
        return np.column_stack([values, np.ones(len(values))])

    own = LogisticRegression(C=1.0, solver="newton-cholesky", fit_intercept=False, tol=1e-10).fit(ones(x), y)
    right = own.predict(ones(stage.data.test_x)) == stage.data.test_y
    np.testing.assert_array_equal(results[5].arrays["right"], right)
    row = next(r for r in experiment.run(target).table if r["subpopulation"] == trial.subpopulation)
    seeds = [
        r.arrays["right"][stage.test_members(trial.subpopulation)].mean()
        for r in results
        if r.trial.subpopulation == trial.subpopulation
    ]
    clean = experiment.context.clean_right(target, 0)[stage.test_members(trial.subpopulation)].mean()
    assert row["target_damage"] == pytest.approx(clean - np.mean(seeds), abs=1e-12)


@pytest.mark.parametrize("victim", ["logistic_regression", "mlp"])
def test_alpha_zero_and_the_perfect_filter_are_the_clean_victim(experiment, victim):
    for changes in ({"rate": 0.0}, {"defense": "perfect_filter"}):
        target = cell(victim=victim, **changes)
        results, _ = experiment.trials(target)
        for result in results:
            np.testing.assert_array_equal(result.arrays["right"], experiment.context.clean_right(target, result.trial.seed))


def test_a_defense_meets_the_poison_that_nobody_defends(experiment):
    """The same poison whatever the victim and the defense; another one for another seed or subpopulation."""
    poison = []
    for changes in ({"defense": "trim"}, {"defense": "trim", "n_poison_told": "half"}, {}, {"victim": "mlp"}):
        prepared = experiment.prepare(cell(**changes), Trial("digit=3", 1))
        poison.append(list(zip(prepared.rows.tolist(), prepared.task.train.y.tolist(), strict=True)))
    assert poison[0] == poison[1]  # in the order in which defenses see them
    assert all(sorted(each) == sorted(poison[0]) for each in poison)
    other = experiment.prepare(cell(), Trial("digit=3", 0))
    assert sorted(other.rows) != sorted(row for row, _ in poison[0])


@pytest.mark.parametrize("victim", ["logistic_regression", "mlp"])
def test_trials_without_a_defense_give_what_they_give_as_calls_of_a_defense(experiment, victim):
    """They are trained without threads of their own, and without a shuffle that nobody sees."""
    own, chunk = cell(victim=victim), [Trial("digit=3", 0), Trial("digit=5", 1), Trial("digit=3", 0, attacked=False)]
    prepared = [experiment.prepare(own.with_(defense="random_filter"), each) for each in chunk]
    assert not np.array_equal(prepared[0].rows, experiment.prepare(own, chunk[0]).rows)
    fit_many, test_x = experiment.fleet_of(own, [each.seed for each in chunk]), experiment.asked_rows(own)
    batch = TrialBatch([each.task for each in prepared], fit_many, test_x, experiment.context.stage(own).dataset.n_classes)
    called = list(batch.run(DEFENSES["none"]))
    for outcome, result in zip(called, experiment.run_chunk(own, chunk), strict=True):
        right = outcome.predictions[""] == experiment.context.stage(own).data.test_y
        assert np.array_equal(right, result.arrays["right"])
        assert (outcome.n_fits, outcome.made_by_fit, outcome.keep) == (1, True, None)
        assert result.n_fits == 1
    for outcome, plain in zip(called, undefended(batch), strict=True):
        assert np.array_equal(outcome.lead, plain.lead)
        assert np.array_equal(outcome.predictions[""], plain.predictions[""])


def test_what_a_defense_sees_is_shuffled_and_says_nothing(experiment):
    prepared = experiment.prepare(cell(defense="trim", rate=2.0), Trial("digit=3", 0))
    is_poison = prepared.rows >= experiment.context.stage(cell()).pool.n_train
    assert is_poison.sum() == prepared.n_poison > 50
    thirds = np.array_split(is_poison, 3)
    assert min(part.mean() for part in thirds) > 0.4 * is_poison.mean()
    assert prepared.task.train.ids.tolist() == list(range(len(is_poison)))
    know = prepared.task.know
    assert (know.n_poison, know.poison_mask, know.clean_holdout) == (prepared.n_poison, None, None)


def test_the_poison_count_told_can_be_wrong_on_purpose(experiment):
    told = [
        experiment.prepare(cell(defense="trim", n_poison_told=n), Trial("digit=3", 0)).task.know.n_poison
        for n in ("half", "exact", "twice")
    ]
    assert told[0] * 2 == pytest.approx(told[1], abs=1)
    assert told[2] == told[1] * 2
    clean = experiment.prepare(cell(defense="trim"), Trial("digit=3", 0, attacked=False))
    assert clean.n_poison == 0
    assert clean.task.know.n_poison == told[1]


def timeless(result):
    """The numbers of a result without those of a clock."""
    return [number for number in result.numbers if number.metric != "seconds_a_trial"]


def test_chunks_do_not_depend_on_what_is_there(tmp_path, monkeypatch):
    """Three chunks; the middle one missing is run again alone, and everything is as it was."""
    monkeypatch.setattr("subpop.experiments.experiment.CHUNK_TRIALS", 8)
    target = cell(defense="trim")
    with Store(tmp_path / "whole.sqlite") as store:
        whole = Experiment.on(store).run(target)
    with Store(tmp_path / "parts.sqlite") as store:
        first = Experiment.on(store)
        chunks = first.chunks(target)
        assert [len(c) for c in chunks] == [8, 8, 8, 8, 8]
        for chunk in (chunks[0], chunks[3]):
            first.commit(target, chunk, first.run_chunk(target, chunk))
        resumed = Experiment.on(store)
        assert len(resumed.missing_chunks(target)) == 3
        parts = resumed.run(target)
        again = Experiment.on(store).run(target)
    assert timeless(parts) == timeless(whole) == timeless(again)
    assert parts.table == whole.table
    assert again.from_store
    assert not parts.from_store


def test_fresh_trains_again_what_the_store_holds(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        Experiment.on(store).run(cell())
        fresh = Experiment.on(store, fresh=True)
        assert not fresh.run(cell()).from_store
        assert fresh.run(cell()).from_store  # once a run


def test_fresh_trials_replace_stale_ones(tmp_path):
    target = cell()
    with Store(tmp_path / "s.sqlite") as store:
        first = Experiment.on(store)
        chunk = first.chunks(target)[0]
        stale = [replace(r, arrays={"right": ~r.arrays["right"]}) for r in first.run_chunk(target, chunk)]
        first.commit(target, chunk, stale)
        assert first.run(target)["poisoned_accuracy"] < 0.5
        assert Experiment.on(store, fresh=True).run(target)["poisoned_accuracy"] > 0.8
        assert Experiment.on(store).run(target)["poisoned_accuracy"] > 0.8


def test_a_model_does_not_tell_a_defense_how_exactly_it_was_solved(experiment, monkeypatch):
    seen = []

    def curious(train, fit, know, *, seed):
        model = fit(train)
        seen.append(model.kkt_residual)
        return Defended(model)

    monkeypatch.setitem(DEFENSES, "curious", curious)
    results, _ = experiment.trials(cell(defense="curious"))
    assert np.isnan(seen).all()
    assert all(r.metrics["kkt_residual"] <= 1e-8 for r in results)


def test_a_plug_in_is_shuffled_by_a_secret_of_the_store(tmp_path):
    orders = []
    for name in "ab":
        with Store(tmp_path / f"{name}.sqlite") as store:
            plugged = Experiment.on(store, plugins={"mine": parse_defense("examples/drop_random.py:drop_random", ROOT)})
            prepared = [plugged.prepare(cell(defense="mine"), Trial("digit=3", 0)) for _ in range(2)]
        assert prepared[0].rows.tolist() == prepared[1].rows.tolist()
        orders.append(prepared[0])
    assert orders[0].rows.tolist() != orders[1].rows.tolist()
    assert sorted(orders[0].rows) == sorted(orders[1].rows)  # the same poison
    assert orders[0].task.seed != orders[1].task.seed


def test_a_matched_filter_removes_as_many_rows_of_each_class(experiment):
    trimmed, _ = experiment.trials(cell(defense="trim"))
    matched, _ = experiment.trials(cell(defense="matched_random_filter:trim"))
    assert [r.trial for r in trimmed] == [r.trial for r in matched]
    for one, other in zip(trimmed, matched, strict=True):
        np.testing.assert_array_equal(one.arrays["removed_per_class"], other.arrays["removed_per_class"])


@pytest.mark.parametrize("name", ["none", "dpa"])
def test_nothing_is_matched_to_a_defense_that_removes_no_rows(experiment, name):
    with pytest.raises(BadInput, match=r"does not say which rows it removes.*name a filter, such as matched_random_filter:trim"):
        experiment.trials(cell(defense=f"matched_random_filter:{name}"))


def test_retraining_is_noise_for_a_network_and_nothing_for_an_exact_victim(experiment):
    exact = experiment.run(cell(defense="retrain", rate=0.0))
    assert exact["target_damage_worst_1"] == 0
    noisy = experiment.run(cell(defense="retrain", rate=0.0, victim="mlp"))
    assert noisy["target_damage_worst_1"] > 0


def test_bad_settings_are_refused_with_what_is_allowed(experiment):
    for changes, word in [
        ({"defense": "magic"}, "perfect_filter"),
        ({"victim": "magic"}, "logistic_regression"),
        ({"dataset": "magic"}, "digits"),
        ({"partition": "magic"}, "cluster_match"),
        ({"sampling": "magic"}, "distinct"),
        ({"alpha_base": "magic"}, "train"),
        ({"label_rule": "magic"}, "common"),
        ({"rate": -0.5}, "at least 0"),
        ({"rate": float("nan")}, "finite"),
        ({"rate": 0.001}, "raise the rate"),
        ({"rate": 2.0, "sampling": "distinct"}, "protocol=reserve"),
        ({"split": "x"}, "whole number"),
        ({"attack": "magic"}, "label_flip"),
        ({"panels": "yes"}, "2-D"),
    ]:
        with pytest.raises(BadInput, match=word):
            experiment.run(cell(**changes))


def test_several_classes_get_one_common_label(experiment):
    target = cell(dataset="mixture_multiclass")
    prepared = experiment.prepare(target, experiment.list_trials(target)[0])
    poison = prepared.rows >= experiment.context.stage(target).pool.n_train
    assert len(set(prepared.task.train.y[poison].tolist())) == 1


def test_panels_hold_what_figure_2_draws(experiment):
    target = cell(dataset="mixture_2d", defense="trim", panels="yes")
    arrays = experiment.run(target).arrays
    n = len(arrays["panel_x"])
    assert arrays["panel_x"].shape == (n, 2)
    assert {arrays[f"panel_{name}"].shape for name in ("y", "poison", "target", "keep")} == {(n,)}
    assert arrays["panel_poison"].sum() == (~arrays["panel_keep"]).sum()
    assert set(np.unique(arrays["panel_proba"])) <= {0.0, 1.0}
