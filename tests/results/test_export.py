"""`subpop export`: the same values in every format as in the store and in results.json, and refusals."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_projects import make_project, run

from subpop.results import export as module
from subpop.results.export import CELL_COLUMNS, COLUMNS, FORMATS, export, numbers_of, trials_of
from subpop.results.results_file import RECORDS
from subpop.runtime.store import Store, read_chunks
from subpop.session.cli import main
from subpop.types import Cell, Trial, TrialResult

READ = {
    "csv": lambda path: pd.read_csv(path, keep_default_na=False, na_values=[""]),
    "json": lambda path: pd.DataFrame(json.loads(path.read_text())),
    "parquet": pd.read_parquet,
}
TEXT = {"by_seed": [1.0, 0.1 + 0.2], "half_width": 0.25, "varies": "seeds"}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of one undefended and one defended cell, measured as a user measures them."""
    project = make_project(tmp_path_factory.mktemp("project"))
    done = run(project, "-k", "0.5 and (none or trim) and not matched and test_cell", "--rebaseline")
    assert (project / "runs" / "store.sqlite").exists(), done.stdout + done.stderr
    return project / "runs"


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_returns_the_values_of_the_store(measured: Path, tmp_path: Path, form: str) -> None:
    written = export(measured / "store.sqlite", tmp_path / "out", form)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["columns.csv", f"numbers.{form}", f"trials.{form}"]
    )
    for path, frame in zip(written, (numbers_of(measured / "store.sqlite"), trials_of(measured / "store.sqlite")), strict=True):
        assert written[path] == len(frame) > 0
        assert same(READ[form](path), frame)


def same(read: pd.DataFrame, frame: pd.DataFrame) -> bool:
    """Whether all values are equal, floats bit for bit, once missing text and lists are as before."""
    assert list(read.columns) == list(frame.columns)
    for name in frame:
        values = read[name].tolist()
        if name == "by_seed":
            values = [json.loads(each) if isinstance(each, str) else list(each) for each in values]
        elif frame[name].dtype.kind in "fi":
            values = [math.nan if each is None else each for each in values]
        elif frame[name].dtype.kind != "b":
            values = ["" if pd.isna(each) else each for each in values]
        expected = [list(each) if name == "by_seed" else each for each in frame[name].tolist()]
        if not all(a == b or (a != a and b != b) for a, b in zip(values, expected, strict=True)):
            return False
    return True


def test_numbers_are_the_rows_of_results_json(measured: Path) -> None:
    rows = json.loads((measured / "report" / "results.json").read_text())["cells"]
    frame = numbers_of(measured / "store.sqlite")
    assert len(frame) == len(rows)
    keys = [*CELL_COLUMNS, "subpopulation", "metric"]
    told = {tuple(row[key] for key in keys): row for row in rows}
    for row in frame.to_dict("records"):
        own = told[tuple(row[key] for key in keys)]
        for name in ("value", "std_error", "half_width", "reference", "atol", "n_fits", "code"):
            assert row[name] == own[name] or (own[name] is None and row[name] != row[name]), (name, row)


def test_trials_are_those_of_the_store(measured: Path) -> None:
    frame = trials_of(measured / "store.sqlite").set_index(["chunk", "position"])
    n_trials = 0
    with Store(measured / "store.sqlite") as store:
        for chunk in read_chunks(measured / "store.sqlite"):
            results = store.get_chunk(chunk.key)
            assert results is not None
            cell = Cell.of(**json.loads(chunk.cell))
            for position, result in enumerate(results):
                row = frame.loc[(chunk.key, position)]
                assert (row["subpopulation"], row["seed"], row["attacked"]) == (
                    result.trial.subpopulation,
                    result.trial.seed,
                    result.trial.attacked,
                )
                assert (row["defense"], row["setting"], row["rate"]) == (cell.defense, cell.setting_text, cell.rate)
                assert row["accuracy"] == np.asarray(result.arrays["right"]).mean()
                assert all(row[f"metric_{name}"] == value for name, value in result.metrics.items())
                n_trials += 1
    assert n_trials == len(frame)


def test_a_metric_that_a_trial_lacks_is_missing_and_infinity_survives(tmp_path: Path) -> None:
    cell = Cell.of("mine", "embedded", "digits", "mlp", "feature_match", rate=0.1, sampling="distinct")
    results = [
        TrialResult(Trial('a, "b"\nc', 3), {"loss": math.inf, "kept": 0.1 + 0.2}, seconds=1.5, n_fits=2),
        TrialResult(Trial("", 4, attacked=False), {"kept": math.nan}),
    ]
    with Store(tmp_path / "store.sqlite") as store:
        store.put_chunk("key", cell, results, "cpu")
        store.put_record(
            "mine x", {"cell": {**cell_names(), "half_width": 9.0}, "numbers": [{"metric": "m", "value": 1.0, **TEXT}]}, RECORDS
        )
        store.put_record(
            "mine y", {"cell": {**cell_names(), "half_width": 9.0}, "numbers": [{"metric": "n", "value": 2.0}]}, RECORDS
        )
    found = trials_of(tmp_path / "store.sqlite")
    assert found["metric_loss"].tolist()[0] == math.inf
    assert math.isnan(found["metric_loss"].tolist()[1])
    assert math.isnan(found["accuracy"].tolist()[0])
    for form in ("csv", "parquet"):
        export(tmp_path / "store.sqlite", tmp_path / form, form)
        assert same(READ[form](tmp_path / form / f"trials.{form}"), found)
    export(tmp_path / "store.sqlite", tmp_path / "json", "json")
    assert json.loads((tmp_path / "json" / "trials.json").read_text())[0]["metric_loss"] is None
    numbers = numbers_of(tmp_path / "store.sqlite")
    assert numbers["half_width"].tolist()[0] == 0.25
    assert math.isnan(numbers["half_width"].tolist()[1])  # that of the first number of its cell, in older stores
    assert numbers["by_seed"].tolist() == [TEXT["by_seed"], []]


def cell_names() -> dict[str, object]:
    text = dict.fromkeys(CELL_COLUMNS, "x")
    return {**text, "rate": 1.0, "n_subpopulations": 1, "n_seeds": 2, "n_fits": 3, "seconds": 0.5, "from_store": False}


def test_every_column_is_documented(measured: Path, tmp_path: Path) -> None:
    export(measured / "store.sqlite", tmp_path, "csv")
    told = pd.read_csv(tmp_path / "columns.csv")
    for table, columns in COLUMNS.items():
        names = [name for name in pd.read_csv(tmp_path / f"{table}.csv").columns if not name.startswith("metric_")]
        assert told.loc[told["table"] == table, "column"].tolist() == names == list(columns)
    assert told["meaning"].str.len().min() > 0


def test_the_command_overwrites_only_with_force(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["export", str(measured / "store.sqlite"), "--out", "out", "--format", "json"]
    before = (measured / "store.sqlite").read_bytes()
    assert main(command) == 0
    assert "trials.json" in capsys.readouterr().out
    assert main(command) == 2
    assert "numbers.json exists already; name another folder with --out, or overwrite it with --force" in capsys.readouterr().err
    (tmp_path / "out" / "trials.json").write_text("old")
    assert main([*command, "--force"]) == 0
    assert (tmp_path / "out" / "trials.json").read_text() != "old"
    assert (measured / "store.sqlite").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.sqlite"], "nowhere.sqlite does not exist; name one that a run wrote"),
        (["empty.sqlite"], "contains no finished trial and no number; run `subpop run` first"),
        (["other.txt"], "other.txt is damaged or is not a store"),
        (["empty.sqlite", "--format", "xlsx"], "--format xlsx is unknown; use one of parquet, csv, json"),
        (["empty.sqlite", "--out", "other.txt"], "other.txt is a file; name a folder"),
    ],
)
def test_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Store(tmp_path / "empty.sqlite").close()
    (tmp_path / "other.txt").write_text("text")
    assert main(["export", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_parquet_without_its_engine_is_refused(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "pyarrow" else importlib.util.find_spec(name))
    with pytest.raises(module.BadInput, match="needs pyarrow: python -m pip install 'subpop\\[parquet\\]', or use --format csv"):
        export(measured / "store.sqlite", tmp_path / "out", "parquet")
    assert not (tmp_path / "out").exists()


def test_damaged_trials_are_not_exported(measured: Path, tmp_path: Path) -> None:
    import shutil
    import sqlite3

    path = tmp_path / "store.sqlite"
    with Store(measured / "store.sqlite") as store:  # closing it writes everything into the one file
        store.has_chunk("none")
    shutil.copy(measured / "store.sqlite", path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE trials SET seed = 99")
    connection.commit()
    connection.close()
    with pytest.raises(module.BadInput, match="its rows do not fit their digest"):
        export(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_examples() -> None:
    import doctest

    assert doctest.testmod(module) == (0, 6)
