"""`subpop report` shows plug-ins' cells from what the store keeps of them, without their code."""

import json
from contextlib import suppress

import pytest
from small_projects import parse_defense

from subpop.experiments.experiment import Experiment
from subpop.results.plugin_records import KIND, kept_reports, record_of
from subpop.runtime.store import Store
from subpop.session.cli import main
from subpop.session.run import Run
from subpop.types import BadInput, CellReport, CellResult, Number, Trial, TrialResult
from subpop.types.grid import grid

[CELL] = grid(
    stem="little",
    tier="embedded",
    dataset="digits",
    victim="logistic_regression",
    partition="feature_match",
    rate=1.0,
    n_seeds=1,
)
PLUGIN = """
from subpop import Defended

def half(train, fit, know, *, seed):
    keep = train.ids % 2 == 0
    return Defended(fit(train[keep]), keep, diagnostics={"kept": keep.mean()})

def broken(train, fit, know, *, seed):
    raise ValueError("not \\ud800 today")

half.needs = {"n_poison"}
"""


def rows_of(folder):
    cells = json.loads((folder / "results.json").read_text(encoding="utf-8"))["cells"]
    shown = ("defense", "metric", "subpopulation", "value", "std_error", "knowledge", "verdict", "reason", "n_fits")
    return {tuple(row[name] for name in shown) for row in cells}


def test_a_record_of_another_version_may_hold_metrics_that_are_gone():
    cell = CELL.with_(defense="mine.half")
    numbers = (Number("clean_accuracy", 0.9), Number("given_up", 1.0))
    record = json.loads(json.dumps(record_of(CellReport(cell, CellResult(cell, numbers)), "cpu")))
    [report] = kept_reports({"key": record}, "cpu")
    assert report.result is not None
    assert [number.metric for number in report.result.numbers] == ["clean_accuracy"]


def test_a_record_that_does_not_say_how_it_was_measured_is_left_out():
    """Such a record of the two worlds would be shown as damages."""
    result = CellResult(CELL, (Number("clean_accuracy", 0.9),))
    record = record_of(CellReport(CELL, result), "cpu")
    assert len(list(kept_reports({"a": record}, "cpu"))) == 1
    del record["cell"]["kind"]
    assert list(kept_reports({"a": record}, "cpu")) == []


def test_a_report_of_a_store_shows_plug_ins(tmp_path, capsys, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    specs = [parse_defense(f"mine.py:{function}", tmp_path) for function in ("half", "broken")]
    with Store(tmp_path / "store.sqlite") as store:
        run = Run(Experiment.on(store, plugins={spec.name: spec for spec in specs}), store, tmp_path)
        for name in ("none", "mine.half", "mine.broken"):
            run.measure(CELL.with_(defense=name))
    measured = {report.cell.defense: report for report in run.reports.values()}
    path.unlink()
    monkeypatch.setattr(Experiment, "run_chunk", lambda *_: pytest.fail("it trains"))
    options = ["--store", str(tmp_path / "store.sqlite"), "--baselines", str(tmp_path), "--report-dir", str(tmp_path / "report")]
    assert main(["report", *options]) == 1, "one of them raised an error"
    assert "3 cells (2 of plug-ins, as last measured), 0 not finished" in capsys.readouterr().out
    rows = {row for row in rows_of(tmp_path / "report") if row[0] != "none"}
    half = measured["mine.half"].result
    assert half is not None
    assert half.knowledge
    told = {
        (
            "mine.half",
            number.metric,
            number.subpopulation,
            number.value if number.value == number.value else None,
            number.std_error,
            half.knowledge,
        )
        for number in half.numbers
    }
    assert {row[:6] for row in rows if row[0] == "mine.half"} == told
    assert {row[6] for row in rows if row[0] == "mine.half"} <= {"no_reference", "not_gated", "pass"}
    assert {row[8] for row in rows if row[0] == "mine.half"} == {half.n_fits}
    [broken] = [row for row in rows if row[0] == "mine.broken"]
    assert broken[6] == "error"
    assert "not \\ud800 today" in broken[7]
    page = (tmp_path / "report" / "little.md").read_text(encoding="utf-8")
    assert "cells of mine.half contain user-supplied code" in page


def test_a_plug_in_at_hand_is_measured_and_its_last_result_is_kept(tmp_path):
    cell = CELL.with_(defense="mine.half")
    (tmp_path / "mine.py").write_text(PLUGIN)
    spec = parse_defense("mine.py:half", tmp_path)
    with Store(tmp_path / "store.sqlite") as store:
        Run(Experiment.on(store, plugins={spec.name: spec}), store, tmp_path).measure(cell)
        (tmp_path / "mine.py").write_text(PLUGIN.replace("keep = ", "raise KeyError\n    keep = "))
        worse = parse_defense("mine.py:half", tmp_path)
        Run(Experiment.on(store, plugins={worse.name: worse}), store, tmp_path).measure(cell)
        later = Run(Experiment.on(store), store, tmp_path)
        assert later.measure_stored() == 0
        assert later.reports[cell].status == "error"
        assert "KeyError" in later.reports[cell].reason
        other = Run(Experiment.on(store, device="cuda"), store, tmp_path)
        assert other.measure_stored() == 1
        assert cell not in other.reports


@pytest.mark.parametrize("field", ["victim", "dataset", "defense", "attack", "partition"])
def test_a_store_cannot_make_a_report_or_a_merge_call_what_it_names(tmp_path, monkeypatch, field):
    """Anybody can send a store, such as the shard of a pull request. A victim that it named was imported and called."""
    trap = tmp_path / "trap"
    (tmp_path / "evil.py").write_text(f"open({str(trap)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for number, name in enumerate((f"os:system(command='touch {trap}')", f"{tmp_path}/evil.py:evil", "evil:evil")):
        cell, stores = CELL.with_(**{field: name}), [str(tmp_path / f"{number}{letter}.sqlite") for letter in "abc"]
        for path, value in zip(stores, (1.0, 2.0), strict=False):
            with Store(path) as store:
                store.put_record("as run", cell.record())
                store.put_record("as kept", record_of(CellReport(cell.with_(n_seeds=2), CellResult(cell, ())), "cpu"), KIND)
                store.put_chunk("k", cell, [TrialResult(Trial("", 0), {"removed": value}, {}, 1.0, 1)], "cpu")
        options = ["--baselines", str(tmp_path), "--report-dir", str(tmp_path / f"report{number}")]
        with suppress(BadInput):
            main(["merge", *stores[:2], "--into", stores[2]])
        with suppress(BadInput):
            main(["report", "--store", stores[0], *options])
        assert not trap.exists(), name


def test_a_report_shows_a_victim_of_the_user_s_own_as_last_measured(tmp_path, monkeypatch, capsys):
    cell = CELL.with_(victim="sklearn.naive_bayes:GaussianNB", dataset="mixture")
    with Store(tmp_path / "store.sqlite") as store:
        measured = Run(Experiment.on(store), store, tmp_path).measure(cell)
    monkeypatch.setattr("subpop.victims._outside", lambda name: pytest.fail("a report makes it"))
    options = ["--store", str(tmp_path / "store.sqlite"), "--baselines", str(tmp_path), "--report-dir", str(tmp_path / "report")]
    assert main(["report", *options]) == 0
    assert "1 cell (1 of plug-ins, as last measured), 0 not finished" in capsys.readouterr().out
    assert measured.result is not None
    assert {row[3] for row in rows_of(tmp_path / "report")} == {each.value for each in measured.result.numbers}
    assert "cells of sklearn.naive_bayes:GaussianNB contain user-supplied code" in (tmp_path / "report" / "little.md").read_text()
