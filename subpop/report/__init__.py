"""The files that a run writes: a front page, details, a page and a CSV file per suite, results.json and figures.

Nothing trains here.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from subpop.report.board_figure import draw_boards
from subpop.report.details import details
from subpop.report.figures import begin_to_draw, file_name
from subpop.report.figures.setups import is_finite
from subpop.report.front_page import front_page
from subpop.report.leaderboard import leaderboards
from subpop.report.leftovers import is_front_page, remove_figures, remove_pages
from subpop.report.markdown import without_files
from subpop.report.opening import RunInfo, judged
from subpop.report.page import PAGE, is_page, web_page
from subpop.report.paired_runs import DAMAGES, damages_csv
from subpop.report.suite_page import subpopulation_csv, suite_page
from subpop.report.verdict import Standing
from subpop.results.references import one_row
from subpop.results.results_file import NUMBER_FIELDS, RESULTS_SCHEMA
from subpop.runtime.writing import write_atomically
from subpop.types import BadInput, CellReport, Number, Provenance, Verdict
from subpop.types.printable import printable

__all__ = [
    "RunInfo",
    "append_summary",
    "check_report_directory",
    "check_summary",
    "record_of_numbers",
    "result_rows",
    "results_json",
    "write_report",
    "write_unfinished",
]

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"


def write_report(reports: Sequence[CellReport], directory: Path, run: RunInfo) -> None:
    """Write README.md, details.md, index.html, results.json, damages-by-seed.csv, figures, and a page and a table per suite.

    Raises BadInput if the directory is unusable.

    Files of an earlier report that this one does not write are removed. README.md is written last.
    """
    make_report_directory(directory)
    reports = sorted(reports, key=lambda report: report.cell)
    boards = draw_boards(leaderboards(reports), directory / "figures")
    figures, finish_drawing = begin_to_draw(reports, directory / "figures")
    pictures = [*boards, *figures]
    suites: dict[str, list[CellReport]] = defaultdict(list)
    for report in reports:
        suites[report.cell.stem].append(report)
    for stem, own in suites.items():
        page = suite_page(stem, own, run, [picture for picture in pictures if picture.stem == stem])
        write_atomically(directory / f"{file_name(stem)}.md", page)
        write_atomically(directory / f"{file_name(stem)}.csv", subpopulation_csv(own))
    write_atomically(directory / "details.md", details(reports, run, pictures))
    remove_pages(directory, {file_name(stem) for stem in suites} | {"details"})
    write_atomically(directory / "results.json", results_json(reports, run))
    write_atomically(directory / DAMAGES, damages_csv(reports))
    finish_drawing()
    remove_figures(directory / "figures", {picture.name for picture in pictures})
    write_atomically(directory / PAGE, web_page(reports, run, pictures, directory / "figures"))
    write_atomically(directory / "README.md", front_page(reports, run, boards))


def write_unfinished(reports: Sequence[CellReport], directory: Path, run: RunInfo) -> None:
    """Write the progress of a running session to README.md and results.json; pages of an earlier session are removed."""
    make_report_directory(directory)
    reports = sorted(reports, key=lambda report: report.cell)
    remove_pages(directory, set())
    for name in (PAGE, DAMAGES):
        (directory / name).unlink(missing_ok=True)
    write_atomically(directory / "results.json", results_json(reports, run))
    write_atomically(directory / "README.md", front_page(reports, run))


def check_report_directory(path: Path) -> None:
    """Raise BadInput if the report could not be written, before anything is trained. Creates no folder."""
    blocking = next((p for p in (path / "figures", path, *path.parents) if p.exists() and not p.is_dir()), None)
    if blocking is not None:
        raise _unusable(path, f"{blocking} is a file")
    for name, is_own in (("README.md", is_front_page), (PAGE, is_page)):
        if (path / name).exists() and not is_own(path / name):
            raise _unusable(path, f"{path / name} is not a report of this program and would be overwritten")
    for folder in (next(p for p in (path, *path.parents) if p.is_dir()), path / "figures"):
        try:
            if folder.is_dir():
                tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise _unusable(path, f"{error.strerror}: {folder}") from error


def make_report_directory(path: Path) -> None:
    """Create the report's folder. Raises BadInput if it cannot be used."""
    check_report_directory(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(path, f"{error.strerror}: {error.filename}") from error


def _unusable(path: Path, why: str) -> BadInput:
    return BadInput(
        f"the report directory {path} cannot be used ({why}); it must be a writable folder: "
        "remove whatever blocks it, or choose another one with --report-dir"
    )


def check_summary() -> None:
    """Raise BadInput if $GITHUB_STEP_SUMMARY names a file that cannot be written to, before anything is trained."""
    append_summary("")


def append_summary(text: str) -> None:
    """Append a page, without its figures, to the job summary that $GITHUB_STEP_SUMMARY names; does nothing if unset."""
    target = os.environ.get(SUMMARY_VARIABLE, "")
    if not target:
        return
    try:
        with Path(target).open("a", encoding="utf-8") as file:
            if text:
                file.write(without_files(text).rstrip() + "\n\n")
    except OSError as error:
        raise BadInput(
            f"${SUMMARY_VARIABLE} names {target}, which cannot be written to ({error.strerror}); it must be a writable file: "
            "unset the variable or choose another file"
        ) from error


# --- results.json -----------------------------------------------------------------------------------------------------


def results_json(reports: Sequence[CellReport], run: RunInfo) -> str:
    """Return the run as JSON: one row per number; a cell without numbers has one row with the metric "" and its reason."""
    run_facts = {
        "schema": RESULTS_SCHEMA,
        "tier": run.tier,
        "device": run.device,
        "versions": dict(run.versions),
        "commit": run.commit,
        "command": run.command,
        "started": run.started_text,
        "seconds": _finite(run.seconds),
        "hardware": run.hardware,
        **_standing(reports, run.standing),
        "probes": [
            {"stem": r.cell.stem, "cell": r.cell.id, "integrity": r.result.integrity, "found": r.result.probes}
            for r in reports
            if r.result and r.result.integrity
        ],
        "left_out": [asdict(each) for each in run.left_out],
    }
    rows = ",\n".join(_ENCODE(row) for report in reports for row in _printable_rows(report))
    return f'{_ENCODE(_printable(run_facts))[:-1]}, "cells": [\n{rows}\n]}}\n'  # one line per row, so that files can be compared


def _standing(reports: Sequence[CellReport], standing: Standing | None) -> dict[str, Any]:
    """Return how much was planned and measured and whether the run is complete; exit_status is null while pytest runs."""
    now = standing or Standing(len(reports), 0)
    return {
        "planned": now.planned,
        "measured": sum(report.result is not None for report in reports),
        "complete": now.is_complete(reports),
        "exit_status": now.exit_status,
        "stopped": now.stopped,
        "failed_tests": [{"kind": each.kind, "test": each.test, "reason": each.reason} for each in now.failed],
    }


_ENCODE = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode


def _printable(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: printable(each) if isinstance(each, str) else each for name, each in value.items()}


def result_rows(report: CellReport) -> Iterator[dict[str, Any]]:
    """The rows of a cell in results.json."""
    about = _about(report)
    for verdict in _verdicts(report):
        yield {**about, **_of_number(report, verdict)}


def _printable_rows(report: CellReport) -> Iterator[dict[str, Any]]:
    about = _printable(_about(report))
    for verdict in _verdicts(report):
        yield {**about, **_printable(_of_number(report, verdict))}


def _verdicts(report: CellReport) -> Sequence[Verdict]:
    return judged(report) or [Verdict(Number("", float("nan")), report.status)]


def record_of_numbers(report: CellReport) -> dict[str, Any]:
    """The rows of a cell as the store keeps them for `subpop compare`: what they have in common is written once."""
    common = {name: value for name, value in _printable(_about(report)).items() if name not in NUMBER_FIELDS}
    return {"cell": common, "numbers": [_printable(_of_number(report, verdict)) for verdict in _verdicts(report)]}


def _of_number(report: CellReport, verdict: Verdict) -> dict[str, Any]:
    """The fields of a row that differ within a cell, in the order of NUMBER_FIELDS."""
    result, number = report.result, verdict.number
    return {
        "subpopulation": number.subpopulation,
        "metric": number.metric,
        "value": _finite(number.value),
        "std_error": _finite(number.std_error),
        "std": _finite(number.std),
        "half_width": _finite(number.half_width),
        "varies": number.varies if number.half_width is not None else "",
        "by_seed": [_finite(value) for value in number.by_seed] if result and not result.exact else [],
        "one_row": _finite(one_row(result, number)) if result and number.metric else None,
        "published": _finite(verdict.published),
        "certainty": verdict.certainty,
        "reference": _finite(verdict.reference),
        "atol": _finite(verdict.atol),
        "verdict": verdict.verdict,
        "reason": verdict.reason or report.reason,
    }


def _about(report: CellReport) -> dict[str, Any]:
    """The fields of a cell's rows, in order; those that differ within the cell are None."""
    cell, result = report.cell, report.result
    made_of = report.made_of or Provenance()
    return {
        "stem": cell.stem,
        "tier": cell.tier,
        "dataset": cell.dataset,
        "victim": cell.victim,
        "partition": cell.partition,
        "attack": cell.attack,
        "rate": float(cell.rate),
        "defense": cell.defense,
        "setting": cell.setting_text,
        "subpopulation": None,
        "knowledge": result.knowledge if result else "",
        "integrity": result.integrity if result else "",
        "undecided": result.n_undecided if result else None,
        **dict.fromkeys(NUMBER_FIELDS[1:9]),
        "n_subpopulations": int(result.n_subpopulations) if result else 0,
        "n_seeds": int(cell.n_seeds),
        **dict.fromkeys(NUMBER_FIELDS[9:]),
        "n_fits": int(result.n_fits) if result else 0,
        "seconds": _finite(result.seconds) if result else 0.0,
        "from_store": bool(result.from_store) if result else False,
        **asdict(made_of),
    }


def _finite(value: Any) -> float | None:
    """Convert a number for JSON: missing, NaN and infinite values become null."""
    return None if value is None or not is_finite(float(value)) else float(value)
