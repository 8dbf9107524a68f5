"""`subpop report` says of a store what the runs that filled it said, and its exit status follows from that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from subpop.experiments.experiment import Experiment
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
    status, headline = reported(tmp_path, capsys)
    assert (status, headline) == (1, "**Failed: 2 cells of 2.**")
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
    status, headline = reported(tmp_path, capsys)
    assert (status, headline) == (1, "**Failed: 2 cells of 5.**")
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
