"""`subpop report` says of a store what the runs that filled it said, and its exit status follows from that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_projects import make_project, run

from subpop.experiments.experiment import Experiment
from subpop.report.verdict import headline
from subpop.results.drift import Drift
from subpop.runtime.store import Store
from subpop.session.cli import main
from subpop.session.run import Run
from subpop.types import Cell
from subpop.types.grid import grid

CELLS = grid(
    stem="little",
    tier="embedded",
    dataset="mixture",
    victim="logistic_regression",
    partition="feature_match",
    rate=1.0,
    defense=["none", "trim"],
    n_seeds=1,
)


def measured(folder: Path, cells: list[Cell] = CELLS, *, record: bool = False, **how: Any) -> None:
    """Measure cells into the store of a folder, as a run does; record: their numbers become the references."""
    with Store(folder / "store.sqlite") as store:
        run = Run(Experiment.on(store), store, folder, **how)
        for cell in cells:
            run.measure(cell)
        if record:
            run.rebaseline("a processor", "a commit")


def reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit status of a report of that store, and the headline of its page."""
    options = ["--store", str(folder / "store.sqlite"), "--baselines", str(folder), "--report-dir", str(folder / "report")]
    status = main(["report", *options])
    headline = (folder / "report" / "README.md").read_text().splitlines()[2].split("** The ")[0] + "**"
    return status, headline


def test_more_seeds_than_those_of_the_references_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured(tmp_path, record=True)
    assert reported(tmp_path, capsys)[1] == "**Passed.**"
    measured(tmp_path, [cell.with_(n_seeds=2) for cell in CELLS], fresh_seeds=True)
    for _ in range(2):
        assert reported(tmp_path, capsys)[1].startswith("**Not compared: 2 cells were measured, none with a number that is")


def test_what_was_only_looked_at_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured(tmp_path, only_looks=True)
    for _ in range(2):
        assert reported(tmp_path, capsys)[1] == "**Not compared: numbers were measured and compared with no reference.**"
    measured(tmp_path)
    assert reported(tmp_path, capsys)[1] == "**Failed: 2 cells of 2.**"


def test_the_exit_status_follows_from_the_headline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured(tmp_path, only_looks=True)
    assert reported(tmp_path, capsys)[0] == 0, "what is not compared is no failure"
    measured(tmp_path)
    status, first = reported(tmp_path, capsys)
    assert (status, first) == (1, "**Failed: 2 cells of 2.**")
    assert "Failed: 2 cells of 2." in capsys.readouterr().out
    measured(tmp_path, record=True)
    assert reported(tmp_path, capsys)[0] == 0
    with pytest.raises(SystemExit):
        main(["report", "-h"])
    told = " ".join(capsys.readouterr().out.split())
    assert "exit status: 0 if the report says Passed or Not compared; 1 if it says Failed or Unfinished; 2 for bad input" in told


def test_cells_without_numbers_are_reported_as_the_run_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured(tmp_path, record=True)
    skipped = CELLS[0].with_(dataset="adult")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUBPOP_DATA", str(tmp_path / "nothing"))
        measured(tmp_path, [skipped])
    assert reported(tmp_path, capsys) == (0, "**Passed.**")
    assert "- 1 cell of little: " in (tmp_path / "report" / "README.md").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "run_chunk", lambda *_: 1 / 0)
        for broken in (CELLS[0].with_(rate=0.5), CELLS[1].with_(rate=0.5)):
            with pytest.raises(ZeroDivisionError):
                measured(tmp_path, [broken])
    status, first = reported(tmp_path, capsys)
    assert (status, first) == (1, "**Failed: 2 cells of 5.**")
    assert "**error**: ZeroDivisionError" in (tmp_path / "report" / "README.md").read_text()
    measured(tmp_path, [CELLS[0].with_(rate=0.5), CELLS[1].with_(rate=0.5)], record=True)
    assert reported(tmp_path, capsys)[0] == 0


def test_an_error_of_other_code_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured(tmp_path, CELLS[:1], only_looks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "run_chunk", lambda *_: 1 / 0)
        patch.setattr("subpop.experiments.provenance.code_key", lambda names: "the code that failed")
        with pytest.raises(ZeroDivisionError):
            measured(tmp_path, CELLS[1:], only_looks=True)
    assert reported(tmp_path, capsys)[0] == 0
    assert "1 cell left out: not finished" in (tmp_path / "report" / "README.md").read_text()


SUITE = '''"""Source: a test. Deviations: none."""
import os
from subpop.types.grid import grid

CELLS = grid(stem="little", tier="embedded", dataset="mixture", victim="logistic_regression", partition="feature_match",
             rate=[0.5, 1.0], n_seeds=1)
WAY = os.environ.get("WAY", "")


def test_cell(cell, measure):
    measure(cell)
    assert WAY != "assertion" or cell.rate == 1.0, "not as small as that"


def test_claim(sweep, result_of):
    assert WAY != "claim" and result_of(sweep[0])["clean_accuracy"] > 0, "it does not hold"
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose suite has references, and a store in which it passed."""
    folder: Path = make_project(tmp_path_factory.mktemp("claims"))
    (folder / "benchmarks" / "test_little.py").write_text(SUITE)
    run(folder, "--rebaseline", "--store", "store.sqlite")
    assert run(folder, "--store", "store.sqlite").returncode == 0
    return folder


def report_of(project: Path, store: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """The exit status of a report, its headline and the rest of its page."""
    options = ["--store", str(store), "--baselines", str(project / "baselines"), "--report-dir", str(folder)]
    status = main(["report", *options])
    _, _, first, *rest = (folder / "README.md").read_text().splitlines()
    return status, first.split("** The ")[0] + "**", "\n".join(rest)


@pytest.mark.parametrize(("way", "counted"), [("claim", "1 claim"), ("assertion", "1 assertion after a measured cell")])
def test_a_failed_test_of_a_shard_is_counted_until_it_passes(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str, counted: str
) -> None:
    shard, united = tmp_path / "shard.sqlite", tmp_path / "united.sqlite"
    told = run(project, "--shard", "1/1", "--store", str(shard), WAY=way).stdout
    assert f"Failed: {counted}." in told
    assert main(["merge", str(project / "store.sqlite"), str(shard), "--into", str(united)]) == 0
    status, first, page = report_of(project, united, tmp_path / "r", capsys)
    assert (status, first) == (1, f"**Failed: {counted}.**")
    [line] = [line for line in (project / "runs/report/README.md").read_text().splitlines() if line.startswith(f"- {way}")]
    assert line in page.splitlines(), "as the run lists it"
    assert run(project, "--store", str(shard)).returncode == 0
    assert main(["merge", str(shard), "--into", str(united)]) == 0
    assert report_of(project, united, tmp_path / "r", capsys)[:2] == (0, "**Passed.**")


def test_a_claim_whose_cells_changed_was_not_run_again(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store.sqlite"
    run(project, "--store", str(store), WAY="claim")
    with Store(store) as opened:
        [(failed, record)] = [(key, each) for key, each in opened.records("test").items() if each["failure"]]
        opened.put_record(failed, {**record, "cells": dict.fromkeys(record["cells"], "other numbers")}, "test")
        status, first, page = report_of(project, store, tmp_path / "r", capsys)
        assert (status, first) == (1, "**Failed: 1 claim.**")
        assert f"it does not hold ({record['when']}; not run again since the cells changed)" in page
        opened.put_record(failed, {**opened.get_record(failed, "test"), "failure": ""}, "test")
    status, first, page = report_of(project, store, tmp_path / "r", capsys)
    assert (status, first) == (0, "**Passed.**")
    assert "<summary>1 claim not run again since the cells changed</summary>" in page


def test_a_suite_that_has_drifted_fails_a_report(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite") as store:
        standing = Run(Experiment.on(store), store, tmp_path).standing([Drift("little", "mlp", (0.5, 0.5), 9)])
    assert headline([], standing) == "**Failed: 1 suite whose numbers have drifted together.**"
