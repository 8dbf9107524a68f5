"""`subpop compare`: what moved, what is new or gone, what must not be paired, and what is no input."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_projects import ROOT, make_project, parse_defense

from subpop.experiments.experiment import Experiment
from subpop.experiments.provenance import provenance
from subpop.report import RunInfo, record_of_numbers, results_json, write_report
from subpop.report.comparison import comparison_page
from subpop.results.comparison import compare_sides, load_side
from subpop.results.metric_registry import find_metric, metric_of
from subpop.results.references import rebaseline
from subpop.results.results_file import RECORDS
from subpop.runtime.no_store import NoStore
from subpop.runtime.store import Store
from subpop.session.cli import main
from subpop.session.run import Run
from subpop.types import Cell, CellReport, CellResult, LeftOut, Number, Provenance, Verdict
from subpop.types.grid import grid

RUN = RunInfo("embedded", "pytest", commit="abc", hardware="here", versions={"numpy": "2.0"})
DEFENSES = ["none", "trim", "sever", "matched_random_filter:trim"]
CELLS = grid(
    stem="little", tier="embedded", dataset="digits", victim="mlp", partition="feature_match", rate=[0.5, 1.0], defense=DEFENSES
)
MADE_OF = Provenance("data", "draws", "", "code")


def report_of(cell: Cell, *, moved: float = 0.0, **changes: object) -> CellReport:
    """A made-up cell: worst-5 with a tolerance of .02, a mean with a standard error of .03, a count without either."""
    numbers = (
        Number("target_damage_worst_5", 0.4 + moved, 0.05),
        Number("target_damage_mean", 0.2 + moved, 0.03),
        Number("n_flipped", 40.0),
    )
    atol = {"target_damage_worst_5": 0.02}
    verdicts = tuple(Verdict(n, "pass", reference=n.value, atol=atol.get(n.metric)) for n in numbers)
    return CellReport(cell, CellResult(cell, numbers), verdicts, made_of=replace(MADE_OF, **changes))


def write(path: Path, reports: list[CellReport], run: RunInfo = RUN) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "results.json").write_text(results_json(reports, run))
    return path


def edited(path: Path, **changes: object) -> Path:
    """The results.json of a folder with other facts about its run."""
    found = json.loads((path / "results.json").read_text())
    (path / "results.json").write_text(json.dumps({**found, **changes}))
    return path


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return write(tmp_path / "first", [report_of(cell) for cell in CELLS])


def compared(a: Path, b: Path) -> tuple[int, str]:
    found = compare_sides(load_side(a), load_side(b))
    return found.exit_status, comparison_page(found)


# --- what moved -------------------------------------------------------------------------------------------------------


def test_the_same_file_twice_has_not_moved(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(first), str(first / "results.json")]) == 0
    assert (
        "**Nothing moved** among 24 numbers. 0 changed within their noise, 24 are equal; 0 new, 0 gone."
        in capsys.readouterr().out
    )


def test_a_changed_defense_is_named_first(first: Path, tmp_path: Path) -> None:
    """SEVER moves more, but only in one cell of two; TRIM as a whole."""

    def change(cell: Cell) -> float:
        return 0.1 if cell.defense == "trim" else 0.2 if cell.defense == "sever" and cell.rate == 1 else 0.0

    status, page = compared(first, write(tmp_path / "b", [report_of(cell, moved=change(cell)) for cell in CELLS]))
    assert status == 1
    lines = [line for line in page.splitlines() if line.startswith("- **")]
    assert lines == [
        "- **trim**: 4 of 6 numbers moved (0 of 6 of its matched control), by up to 5.0 x their noise",
        "- **sever**: 2 of 6 numbers moved, by up to 10.0 x their noise",
    ]
    assert "**6 of 24 numbers moved**" in page
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| little")]
    assert [row[1] for row in rows] == ["target_damage_worst_5", "target_damage_mean"]
    assert rows[0][2:] == ["digits, mlp, feature_match, label_flip 1, sever", "3 of 8", "0.4", "0.6", "+0.2", "0.02", "10.0 x"]
    assert rows[1][-2:] == ["0.042", "4.7 x"]  # .03 * sqrt(2)
    assert len(page.splitlines()) <= 20


def test_a_matched_control_that_moved_alone_is_named_by_its_own_name(first: Path, tmp_path: Path) -> None:
    reports = [report_of(cell, moved=0.1 if cell.defense.startswith("matched") else 0.0) for cell in CELLS]
    _, page = compared(first, write(tmp_path / "b", reports))
    assert [line for line in page.splitlines() if line.startswith("- **")] == [
        "- **matched_random_filter:trim**: 4 of 6 numbers moved, by up to 5.0 x their noise"
    ]


def test_a_change_within_the_noise_is_counted_and_does_not_fail(first: Path, tmp_path: Path) -> None:
    status, page = compared(first, write(tmp_path / "b", [report_of(cell, moved=0.019) for cell in CELLS]))
    assert status == 0
    assert "**Nothing moved** among 24 numbers. 16 changed within their noise, 8 are equal" in page
    status, page = compared(first, write(tmp_path / "c", [report_of(cell, moved=0.021) for cell in CELLS]))
    assert status == 1
    assert "**8 of 24 numbers moved**" in page  # worst-5 against its tolerance; the mean is within its standard error


def test_the_order_of_rows_changes_nothing(first: Path, tmp_path: Path) -> None:
    second = write(tmp_path / "b", [report_of(cell, moved=cell.rate / 10) for cell in CELLS])
    before = compared(first, second)
    for seed in range(3):
        rows = json.loads((second / "results.json").read_text())["cells"]
        random.Random(seed).shuffle(rows)
        assert compared(first, edited(second, cells=rows)) == before


def test_every_number_is_listed_on_request(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = write(tmp_path / "b", [report_of(cell, moved=0.5 if cell.defense == "trim" else 0.0) for cell in CELLS])
    assert main(["compare", str(first), str(second), "--all"]) == 1
    listed = capsys.readouterr().out.partition("## All numbers")[2].splitlines()
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in listed if line.startswith("| little")]
    assert len(rows) == 24
    assert [row[-1] for row in rows] == ["moved"] * 4 + ["equal"] * 20


# --- new, gone, other versions ----------------------------------------------------------------------------------------


def test_new_numbers_do_not_fail_and_lost_ones_do(first: Path, tmp_path: Path) -> None:
    lost = CellReport(CELLS[0], None, status="skipped", reason="data is missing")
    fewer = write(tmp_path / "b", [lost, *(report_of(cell) for cell in CELLS[1:])])
    status, page = compared(first, fewer)
    assert status == 1
    assert "- Gone from B: 3 numbers (little 3); 1 cell skipped: data is missing." in page
    status, page = compared(fewer, first)
    assert status == 0
    assert "- New in B: 3 numbers (little 3)." in page


@pytest.mark.parametrize(
    ("name", "words"), [("data", "other data"), ("draws", "other draws"), ("secret", "another secret of the store")]
)
def test_numbers_of_other_digests_are_not_compared(first: Path, tmp_path: Path, name: str, words: str) -> None:
    changes = {name: "another"}
    reports = [report_of(cell, moved=0.3, **(changes if cell.defense == "trim" else {})) for cell in CELLS]
    _, page = compared(first, write(tmp_path / "b", reports))
    assert f"- Not compared: 6 numbers (6 have {words})." in page
    assert "**12 of 18 numbers moved**" in page
    assert "- **matched_random_filter:trim**: 4 of 6" in page
    assert "**trim**" not in page


def test_other_versions_are_named(first: Path, tmp_path: Path) -> None:
    reports = [report_of(cell, code="newer" if cell.defense == "sever" else "code") for cell in CELLS]
    other = replace(RUN, commit="def", versions={"numpy": "2.1"})
    status, page = compared(first, write(tmp_path / "b", reports, other))
    assert status == 0
    assert "- Different versions: commit abc → def; numpy 2.0 → 2.1." in page
    assert "- Made by different versions of the code: 2 cells (by defense: sever 2)." in page


def test_results_without_digests_are_paired_by_name(first: Path, tmp_path: Path) -> None:
    rows = json.loads((first / "results.json").read_text())["cells"]
    bare = [{name: value for name, value in row.items() if name not in ("data", "draws", "secret", "code")} for row in rows]
    older = edited(write(tmp_path / "older", []), cells=bare)
    status, page = compared(older, first)
    assert status == 0
    assert "- A has no digests of data, draws and secrets: numbers are paired by name alone." in page


def test_an_unfinished_run_says_so(first: Path, tmp_path: Path) -> None:
    shutil.copytree(first, tmp_path / "b")
    _, page = compared(first, edited(tmp_path / "b", complete=False, measured=8, planned=12))
    assert "its run was not completed: 8 of 12 cells were measured" in page


# --- stores and baselines ---------------------------------------------------------------------------------------------


def store_of(path: Path, reports: list[CellReport]) -> Path:
    with Store(path) as store:
        for report in reports:
            store.put_record(f"{report.cell.stem} {report.cell.id}", record_of_numbers(report), RECORDS)
    return path


def test_a_store_is_read_without_being_changed(first: Path, tmp_path: Path) -> None:
    store = store_of(tmp_path / "a.sqlite", [report_of(cell) for cell in CELLS])
    before = store.read_bytes()
    status, page = compared(first, store)
    assert status == 0
    assert "24 are equal" in page
    assert compared(store, write(tmp_path / "b", [report_of(cell, moved=0.3) for cell in CELLS]))[0] == 1
    assert store.read_bytes() == before


def baselines_of(folder: Path, cells: list[Cell], **changes: float) -> Path:
    folder.mkdir(exist_ok=True)
    rebaseline(folder / "little.csv", [result for cell in cells if (result := report_of(cell, **changes).result)], commit="old")
    return folder


def test_a_run_is_compared_with_baselines_for_the_cells_that_it_measured(tmp_path: Path) -> None:
    baselines = baselines_of(tmp_path / "baselines", CELLS)
    run = write(tmp_path / "run", [report_of(cell) for cell in CELLS[:2]])
    status, page = compared(baselines, run)
    assert status == 0
    assert "- Not in the run B: 6 cells of the baselines (little 13)." in page
    assert "- A has no digests of data, draws and secrets: numbers are paired by name alone." in page
    run = write(tmp_path / "run", [report_of(cell, moved=0.4) for cell in CELLS[:2]])
    assert compared(baselines, run)[0] == compared(run, baselines)[0] == 1


def test_numbers_that_no_baseline_can_contain_are_not_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ungated = replace(metric_of("n_left_out"), gated=False)
    find = lambda name: ungated if name == ungated.name else find_metric(name)  # noqa: E731
    monkeypatch.setattr("subpop.results.comparison.find_metric", find)
    report = report_of(CELLS[0])
    assert report.result is not None
    more = replace(report.result, numbers=(*report.result.numbers, Number(ungated.name, 1.0), Number("fleet_seconds", 2.0)))
    run = write(tmp_path / "run", [replace(report, result=more)])
    assert "3 are equal; 0 new, 0 gone" in compared(baselines_of(tmp_path / "baselines", CELLS[:1]), run)[1]
    assert "- New in B: 1 numbers" in compared(write(tmp_path / "a", [report]), run)[1]  # but not the seconds


def test_recording_new_baselines_prints_what_moved(tmp_path: Path) -> None:
    baselines = baselines_of(tmp_path / "baselines", CELLS)
    run = Run(Experiment.on(NoStore()), NoStore(), baselines)
    run.reports = {cell: report_of(cell, moved=0.3 if cell.defense == "sever" else 0.0) for cell in CELLS}
    run.rebaseline("machine", "new")
    assert "- **sever**: 4 of 4 numbers moved" in run.moved
    assert "18 are equal" not in run.moved
    run.rebaseline("machine", "new")
    assert "**Nothing moved** among 18 numbers" in run.moved


# --- bad input --------------------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *paths: Path) -> str:
    assert main(["compare", *map(str, paths)]) == 2
    return capsys.readouterr().err


def table(folder: Path, edit: object) -> Path:
    """Baselines whose lines were edited."""
    baselines = baselines_of(folder, CELLS)
    lines = (baselines / "little.csv").read_text().splitlines()
    (baselines / "little.csv").write_text("\n".join(edit(lines)) + "\n")  # type: ignore[operator]
    return baselines


def test_a_baseline_without_seeds(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    baselines = table(tmp_path / "b", lambda lines: [lines[0], lines[1].replace(",5,", ",,", 1), *lines[2:]])
    told = refused(capsys, baselines, first)
    assert "little.csv, line 2: n_seeds is empty" in told
    assert "--rebaseline" in told


@pytest.mark.parametrize("swapped", [False, True])
def test_a_baseline_with_fewer_seeds(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], swapped: bool) -> None:
    baselines = table(tmp_path / "b", lambda lines: [lines[0], lines[1].replace(",5,", ",3,", 1), *lines[2:]])
    told = refused(capsys, *((first, baselines) if swapped else (baselines, first)))
    assert "little.csv: the row of little-embedded-digits-mlp-feature_match-label_flip-0.5-matched_random_filter:trim-" in told
    assert "has 3 seeds, fewer than the 5 of" in told
    assert "--rebaseline" in told


def test_a_baseline_with_more_seeds_is_not_paired(first: Path, tmp_path: Path) -> None:
    baselines = table(tmp_path / "b", lambda lines: [lines[0], lines[1].replace(",5,", ",10,", 1), *lines[2:]])
    _, page = compared(baselines, first)
    assert "- Not compared: 1 numbers (1 have another number of seeds)." in page


def test_a_baseline_twice(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, table(tmp_path / "b", lambda lines: [*lines, lines[1]]), first)
    assert "little.csv: lines 2 and 20 have the same key" in told
    assert "delete one of them" in told


@pytest.mark.parametrize(
    ("schema", "fix"), [("1", "record the cells in another folder"), ("9", "upgrade subpop"), ("none", "write 2 into it")]
)
def test_baselines_of_another_schema(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], schema: str, fix: str
) -> None:
    baselines = baselines_of(tmp_path / "b", CELLS)
    (baselines / "SCHEMA").write_text(schema)
    told = refused(capsys, baselines, first)
    assert f"SCHEMA declares schema '{schema}'" in told
    assert fix in told


@pytest.mark.parametrize(("schema", "fix"), [(0, "run again"), (2, "upgrade subpop")])
def test_results_of_another_schema(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], schema: int, fix: str
) -> None:
    told = refused(capsys, first, edited(write(tmp_path / "b", []), schema=schema))
    assert f"results.json has schema {schema}; this subpop reads schema 1: {fix}" in told


def test_results_of_another_tier(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [cell.with_(tier="laptop") for cell in CELLS]
    for other in (write(tmp_path / "b", [report_of(cell) for cell in cells]), baselines_of(tmp_path / "baselines", cells)):
        told = refused(capsys, first, other)
        assert "has the tier embedded" in told
        assert "laptop: they have no number in common; name two runs of the same tier" in told


def test_truncated_and_edited_results(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = json.loads((first / "results.json").read_text())
    shutil.copytree(first, tmp_path / "b")
    (tmp_path / "b" / "results.json").write_text((first / "results.json").read_text()[:900])
    assert "results.json cannot be read as results.json" in refused(capsys, first, tmp_path / "b")
    rows = whole["cells"]
    for cells, told in (
        ([*rows, rows[0]], "twice; delete one of the rows, or run again"),
        ([{name: value for name, value in rows[0].items() if name != "metric"}], "has no 'metric'"),
        ([{**rows[0], "value": "0.4"}], "value of little-embedded-digits-mlp"),
        (["row"], "it has no schema or no cells"),
    ):
        (tmp_path / "b" / "results.json").write_text(json.dumps({**whole, "cells": cells}))
        assert told in refused(capsys, first, tmp_path / "b")


def test_an_older_store_is_refused_and_left_as_it_is(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for schema, fix in ((2, "which begins a new store"), (4, "upgrade subpop")):
        store = store_of(tmp_path / f"{schema}.sqlite", [report_of(cell) for cell in CELLS])
        with sqlite3.connect(store) as connection:
            connection.execute(f"PRAGMA user_version = {schema}")
        connection.close()
        before = store.read_bytes()
        told = refused(capsys, store, first)
        assert f"{schema}.sqlite has schema {schema}; this subpop reads schema 3" in told
        assert fix in told
        assert store.read_bytes() == before


def test_stores_without_numbers_and_other_databases(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store_of(tmp_path / "empty.sqlite", [])
    assert "empty.sqlite records no numbers of cells" in refused(capsys, tmp_path / "empty.sqlite", first)
    with sqlite3.connect(tmp_path / "other.sqlite") as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    assert "other.sqlite is a database of another program" in refused(capsys, tmp_path / "other.sqlite", first)


def test_paths_that_are_nothing_of_the_kind(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere does not exist; name a results.json" in refused(capsys, tmp_path / "nowhere", first)
    (tmp_path / "folder").mkdir()
    assert "contains neither a results.json nor baselines (*.csv)" in refused(capsys, first, tmp_path / "folder")
    baselines = baselines_of(tmp_path / "b", CELLS)
    assert f"name its folder, {baselines}" in refused(capsys, first, baselines / "little.csv")


# --- what numbers were made of ----------------------------------------------------------------------------------------

TRIM, NONE = grid(
    stem="little", tier="embedded", dataset="digits", victim="logistic_regression", partition="feature_match", rate=1.0,
    n_seeds=2, defense=["trim", "none"],
)  # fmt: skip
PLUGIN = """from subpop import Defended
def everything(train, fit, know, *, seed):
    return Defended(fit(train))
"""


def test_digests_tell_data_draws_and_code_apart() -> None:
    experiment = Experiment.on(NoStore())
    own = provenance(experiment, TRIM)
    assert own == provenance(Experiment.on(NoStore()), TRIM.with_(stem="another"))
    assert own.secret == ""
    undefended = provenance(experiment, NONE)
    assert (undefended.data, undefended.code == own.code) == (own.data, False)
    more = provenance(experiment, replace(TRIM, n_seeds=3))
    assert (more.data, more.code, more.draws == own.draws) == (own.data, own.code, False)
    split = provenance(experiment, TRIM.with_(split=1))
    assert (split.data == own.data, split.code) == (False, own.code)
    assert provenance(experiment, TRIM.with_(defense="matched_random_filter:trim")).code != undefended.code


@pytest.mark.parametrize("seed", ["poison", "holdout", "shuffle", "defense", "training"])
def test_every_seed_is_part_of_the_draws(monkeypatch: pytest.MonkeyPatch, seed: str) -> None:
    before = provenance(Experiment.on(NoStore()), TRIM)
    monkeypatch.setattr(f"subpop.experiments.provenance.{seed}_seed", lambda *purpose: 1)
    after = provenance(Experiment.on(NoStore()), TRIM)
    assert after.draws != before.draws
    assert after == replace(before, draws=after.draws)


@pytest.mark.parametrize("matched", ["", "matched_random_filter:"])
def test_a_plug_in_and_its_matched_control_have_the_secret_of_their_store(tmp_path: Path, matched: str) -> None:
    """The control removes as many rows as the plug-in, whose training sets are shuffled by the secret."""
    (tmp_path / "mine.py").write_text(PLUGIN)
    spec = parse_defense("mine.py:everything", tmp_path)
    own, found = NONE.with_(defense=spec.name), []
    cell = own.with_(defense=matched + spec.name)
    for name in ("a", "b"):
        with Store(tmp_path / f"{name}.sqlite") as store:
            experiment = Experiment.on(store, plugins={spec.name: spec})
            experiment.prepare(own, experiment.list_trials(own)[0])
            found.append(provenance(experiment, cell))
    assert found[0].secret != found[1].secret
    assert found[0] == replace(found[1], secret=found[0].secret)


def test_a_page_lists_the_cells_of_a_store_that_it_leaves_out(tmp_path: Path) -> None:
    left_out = (LeftOut("little", "a-cell", "left out: too old"), LeftOut("elsewhere", "b-cell", "left out: too old"))
    write_report([report_of(cell) for cell in CELLS], tmp_path, replace(RUN, left_out=left_out))
    page, of_suite = ((tmp_path / name).read_text() for name in ("README.md", "little.md"))
    assert "<summary>2 cells left out: too old</summary>\n\n- elsewhere: `b-cell`\n- little: `a-cell`" in page
    assert "<summary>1 cell left out: too old</summary>\n\n- little: `a-cell`" in of_suite
    assert json.loads((tmp_path / "results.json").read_text())["left_out"][0]["cell"] == "a-cell"


def test_a_changed_constant_of_trim_is_found(tmp_path: Path) -> None:
    """TRIM removes half as many rows in a copy of the package: it is named first, and the older store's cells are left out."""
    project, package = make_project(tmp_path), tmp_path / "changed"
    shutil.copytree(ROOT / "subpop", package / "subpop")  # with its compiled code
    source = (package / "subpop" / "defenses" / "trim.py").read_text()
    changed = source.replace('told_poison(know, train, "trim")', 'told_poison(know, train, "trim") // 2')
    assert changed != source
    (package / "subpop" / "defenses" / "trim.py").write_text(changed)

    def python(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False, timeout=240)

    suite = ("pytest", "benchmarks/", "-q", "-p", "no:cacheprovider")
    recorded = python(ROOT, *suite, "--rebaseline", "--store", "a.sqlite", "--report-dir", "a")
    assert "**No number could be compared.** 48 new, 0 gone." in recorded.stdout
    python(package, *suite, "--store", "b.sqlite", "--report-dir", "b")
    pages = []
    for a, b in (("a", "b"), ("a.sqlite", "b.sqlite"), ("baselines", "b")):
        done = python(ROOT, "subpop", "compare", a, b)
        assert done.returncode == 1, done.stderr
        pages.append([line for line in done.stdout.splitlines() if line.startswith("- **")])
        assert len(done.stdout.splitlines()) <= 22
    assert [len(page) for page in pages] == [1, 1, 1]
    of_runs, of_baselines = pages[0][0], pages[2][0]
    assert of_runs.startswith("- **trim**: 36 of 60 numbers moved (17 of 60 of its matched control), by up to 37.5 x their noise")
    assert of_baselines.startswith(
        "- **trim**: 14 of 16 numbers moved (14 of 16 of its matched control), by up to 24.0 x their noise"
    )
    assert pages[0] == pages[1]
    assert pages[0][0].endswith("its code is another version's")
    assert python(ROOT, "subpop", "compare", "a", "a.sqlite").returncode == 0
    told = python(ROOT, "subpop", "report", "--store", "b.sqlite", "--report-dir", "c")
    assert "2 cells, 4 not finished or measured by another version" in told.stdout
    page = (project / "c" / "README.md").read_text()
    assert "<summary>4 cells left out: made by another version of the code</summary>" in page
    assert "- little: `embedded-digits-logistic_regression-feature-label_flip-1-trim-sampling:distinct`" in page
