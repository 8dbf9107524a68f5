"""What a run selects, says of red cells, and records."""

from dataclasses import replace

import pytest

from subpop.experiments.experiment import Experiment
from subpop.results.references import References, cell_status, compare
from subpop.runtime.no_store import NoStore
from subpop.session.run import Run, failures, select
from subpop.types import Cell, CellReport, CellResult, Number, Verdict
from subpop.types.grid import grid

COMMON = {"stem": "mine", "tier": "embedded", "dataset": "digits", "victim": "mlp", "partition": "feature_match"}


def test_plug_ins_meet_every_undefended_cell_of_the_tier_and_no_other():
    cells = grid(**COMMON, rate=[0.5, 1.0], defense=["none", "trim"])
    elsewhere = grid(**{**COMMON, "tier": "paper"}, rate=1.0)
    added = select([*cells, *elsewhere], "embedded", ["own"], open_to_defenses=True)[len(cells) :]
    assert added == grid(**COMMON, rate=[0.5, 1.0], defense="own")
    assert select([*cells, *elsewhere], "embedded", ["own"]) == cells


def test_only_plug_ins_and_their_controls_run_if_asked():
    cells = grid(**COMMON, rate=[0.5, 1.0], defense=["none", "perfect_filter", "trim", "matched_random_filter:trim"])
    rows = ["own", "matched_random_filter:own"]
    chosen = select(cells, "embedded", rows, open_to_defenses=True, only_plugins=True)
    assert [each.defense for each in chosen if each.rate == 1.0] == ["none", "perfect_filter", *rows]
    assert select(cells, "embedded", rows, only_plugins=True) == []
    worlds = grid(
        stem="worlds", tier="embedded", dataset="mixture", victim="knn_1", partition="", kind="two_worlds", defense="none"
    )
    added = [each.defense for each in select(worlds, "embedded", rows, open_to_defenses=True)]
    assert added == ["none", "own"]  # which has no trials whose removed rows a control could read


def test_a_red_cell_names_every_number_that_made_it_red():
    (cell,) = grid(**COMMON, rate=1.0)
    verdicts = [("pass", ""), ("fail", "too far"), ("no_reference", "nothing to compare with"), ("no_reference", "")]
    report = CellReport(cell, None, tuple(Verdict(Number("", 0.0), verdict, reason) for verdict, reason in verdicts))
    assert failures(report).splitlines() == [cell.id, "too far", "nothing to compare with"]


def test_a_cell_without_any_reference_says_so_once(tmp_path):
    (cell,) = grid(**COMMON, rate=1.0)
    result = CellResult(cell, (Number("clean_accuracy", 0.9), Number("n_left_out", 0.0)))  # gated, and a detail
    verdicts = compare(result, References(tmp_path / "mine.csv", {}))
    assert [each.verdict for each in verdicts] == ["no_reference", "not_gated"]
    told = failures(CellReport(cell, result, verdicts, cell_status(verdicts)))
    assert told.splitlines()[1].startswith("none of its gated metrics has a reference; record them with --rebaseline")
    assert verdicts[0].reason.endswith("mine.csv; record it with --rebaseline")


def test_plug_ins_are_not_recorded_and_exact_numbers_are_not_noisy(tmp_path, monkeypatch):
    plain: Cell = grid(**COMMON, rate=1.0)[0]
    noisy = CellResult(plain, (Number("clean_accuracy", 0.9, std=0.1), Number("target_damage_mean", 0.1)), exact=False)
    exact = replace(noisy, cell=plain.with_(victim="logistic_regression"), exact=True)
    of_plugin = replace(noisy, cell=plain.with_(defense="own"))
    experiment = Experiment.on(NoStore())
    monkeypatch.setattr(experiment, "plugins", {"own": None})  # its name alone counts here
    run = Run(experiment, NoStore(), tmp_path)
    run.reports = {made.cell: CellReport(made.cell, made) for made in (noisy, exact, of_plugin)}
    calls = []
    monkeypatch.setattr("subpop.session.run.rebaseline", lambda path, results, **told: calls.append((results, told["n_noisy"])))
    run.rebaseline("machine", "commit")
    assert calls == [([noisy, exact], 1)]


def test_an_interrupted_cell_does_not_count_as_finished(tmp_path, monkeypatch):
    interrupted, failed = cells = grid(**COMMON, rate=[0.5, 1.0])
    run = Run(Experiment.on(NoStore()), NoStore(), tmp_path)
    forecast = run.experiment.context.progress.forecast
    forecast.seconds = dict.fromkeys(cells, 1.0)

    def measure(cell):
        raise KeyboardInterrupt if cell == interrupted else ValueError

    monkeypatch.setattr(run, "_measure", measure)
    for cell, n_ended, error in ((interrupted, 0, KeyboardInterrupt), (failed, 1, ValueError)):
        with pytest.raises(error):
            run.result(cell)
        assert forecast.n_ended == n_ended


def test_a_report_shows_no_cell_for_which_something_has_to_be_trained(tmp_path, monkeypatch):
    (cell,) = grid(**COMMON, rate=1.0, defense="trim", attack="influence", ranked_by="none")
    experiment = Experiment.on(NoStore())
    run = Run(experiment, NoStore(), tmp_path)
    for missing in (cell, cell.with_(defense="none"), cell.plain()):  # its own trials, what ranks it, what it is compared with
        monkeypatch.setattr(experiment, "missing_chunks", lambda each, missing=missing: [each] if each == missing else [])
        assert not run._can_be_shown(cell)
    monkeypatch.setattr(experiment, "missing_chunks", lambda each: [])
    assert run._can_be_shown(cell)
