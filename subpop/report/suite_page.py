"""The page of one suite: description, numbers with their references, figures, and all subpopulations."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

from subpop.report.details import sizes
from subpop.report.examples import example_texts
from subpop.report.figures import Picture, file_name
from subpop.report.figures.setups import (
    NO_VALUE,
    Setup,
    aggregates,
    by_setup,
    headings_of,
    headline,
    in_percent,
    is_finite,
    percent_or_plain,
    quantity,
    rows_of,
    summarize,
)
from subpop.report.intervals import interval_words
from subpop.report.leftovers import LAST_LINE
from subpop.report.markdown import escape, folded, picture, table
from subpop.report.opening import RunInfo, failures, judged, metric_name, opening, skipped
from subpop.results.metric_registry import columns, subpopulation_columns
from subpop.types import CellReport, Verdict
from subpop.types.kinds import by_kind
from subpop.types.printable import printable

OF_REFERENCES = ("published", "reference", "tolerance")
"""Columns that are left out where no number has a value."""


def suite_page(stem: str, reports: Sequence[CellReport], run: RunInfo, pictures: Sequence[Picture] = ()) -> str:
    """The page of a suite as markdown; `reports` and `pictures` are its own."""
    own_left_out = [each for each in run.left_out if each.stem == stem]
    own_drifts = [each for each in run.drifts if each.stem == stem]
    standing = run.standing and run.standing.of_suite(stem, reports)
    run = replace(run, standing=standing, left_out=own_left_out, drifts=own_drifts)
    blocks = [
        f"# {escape(stem)}",
        run.suites.get(stem, "").strip(),
        *opening(reports, run),
        *failures(reports, run.standing.also_failed if run.standing else ()),
        *skipped(reports),
    ]
    measured = {setup: [r for r in of_setup if r.result] for setup, of_setup in by_setup(reports).items()}
    measured = {setup: of_setup for setup, of_setup in measured.items() if of_setup}
    kinds = by_kind(reports)
    as_printed = [block for kind, own in kinds.items() for block in kind.tables(own)]
    blocks += ["## The table", *as_printed] if as_printed else []
    if measured:
        blocks.append("## Numbers and references")
    headings = headings_of(measured)
    for setup, of_setup in measured.items():
        blocks += [f"### {escape(headings[setup])}", f"{escape(setup.details)}; {sizes(of_setup)}.", interval_words(of_setup)]
        blocks += [_references(of_setup), *_aggregates(of_setup)]
    blocks += [block for kind, own in kinds.items() for block in kind.sections(own)]
    if pictures:
        blocks += ["## Figures", *(picture(p.name, p.alt, p.caption, run.command) for p in pictures)]
    blocks += example_texts(reports)
    tables = [block for setup, of_setup in measured.items() for block in _subpopulations(setup, of_setup)]
    if tables:
        blocks += ["## Subpopulations", f"All columns of all cells: [{file_name(stem)}.csv]({file_name(stem)}.csv).", *tables]
    blocks += [*_probes(reports), *_notes(reports), LAST_LINE]
    return "\n\n".join(block for block in blocks if block) + "\n"


def subpopulation_csv(reports: Sequence[CellReport]) -> str:
    """Return one line per cell and subpopulation, with every column that occurs; values that are not finite are left empty."""
    lines = []
    for report in sorted(reports, key=lambda report: report.cell):
        cell = report.cell
        key = {name: getattr(cell, name) for name in ("tier", "dataset", "victim", "partition", "attack", "rate", "defense")}
        for row in report.result.table if report.result else ():
            values = {name: value if isinstance(value, str) or is_finite(value) else "" for name, value in row.items()}
            line = {**key, "setting": cell.setting_text, **values}
            lines.append({name: printable(value) if isinstance(value, str) else value for name, value in line.items()})
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(name for line in lines for name in line)), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


# --- numbers and their references -------------------------------------------------------------------------------------


def _references(reports: Sequence[CellReport]) -> str:
    """Return the table of published value, ours, reference and verdict: the headline of every cell, and all numbers that are
    published or do not pass.

    A suite that measures no damage (the speed suites) shows all its numbers. All numbers are in results.json.
    """
    splits = len({report.cell.option("split") for report in reports}) > 1
    main = headline(reports)
    all_of_them = not any(summarize([report], main) for report in reports)
    lines = [
        [*_cell_words(report, splits), *_verdict_words(verdict)]
        for report in reports
        for verdict in judged(report)
        if all_of_them or verdict.number.metric == main or _stands_out(verdict)
    ]
    headings = ["defense", "alpha", *(["split"] if splits else [])]
    headings += ["metric", "published", "ours", "reference", "tolerance", "verdict"]
    shown = [i for i, name in enumerate(headings) if name not in OF_REFERENCES or {line[i] for line in lines} != {NO_VALUE}]
    return table([headings[i] for i in shown], [[line[i] for i in shown] for line in lines])


def _stands_out(verdict: Verdict) -> bool:
    return verdict.published is not None or verdict.verdict not in ("pass", "no_reference", "not_gated", "not_compared")


def _cell_words(report: CellReport, splits: bool) -> list[str]:
    given = report.cell.option("n_poison_told")
    name = escape(report.cell.defense + (f" (n_poison: {given})" if given else ""))
    return [name, f"{report.cell.rate:g}", *([report.cell.option("split", NO_VALUE)] if splits else [])]


def _verdict_words(verdict: Verdict) -> list[str]:
    number = verdict.number
    name = metric_name(verdict)
    published = quantity(number.metric, verdict.published)
    if verdict.certainty and verdict.published is not None:
        published += f" ({verdict.certainty})"
    ours = quantity(number.metric, number.value)
    if is_finite(number.half_width):
        ours += f" ± {quantity(number.metric, number.half_width)}"
    word = f"**{verdict.verdict}**" if verdict.verdict in ("fail", "error") else verdict.verdict
    limits = [quantity(number.metric, verdict.reference), quantity(number.metric, verdict.atol)]
    return [escape(name), escape(published), ours.replace(" % ±", " ±"), *limits, word]


def _aggregates(reports: Sequence[CellReport]) -> list[str]:
    """Return a folded table: one row per cell, the main aggregates as columns, without empty columns."""
    splits = len({report.cell.option("split") for report in reports}) > 1
    found = columns(number.metric for report in reports for number in aggregates(report))
    if not found:
        return []
    lines = [[*_cell_words(report, splits), *(_mean_of(report, metric.name) for metric in found)] for report in reports]
    headers = ["defense", "alpha", *(["split"] if splits else []), *(metric.column for metric in found)]
    return [folded(f"All cells: aggregates {in_percent(metric.name for metric in found)}", table(headers, lines))]


def _mean_of(report: CellReport, metric: str) -> str:
    found = summarize([report], metric)
    return _with_spread(metric, found.value, found.spread) if found else NO_VALUE


def _with_spread(metric: str, value: float | None, spread: float | None) -> str:
    """`45.2 ± 1.3`; fractions in percent."""
    text = percent_or_plain(metric, value)
    return text if value is None or spread is None else f"{text} ± {percent_or_plain(metric, spread)}"


# --- subpopulations ---------------------------------------------------------------------------------------------------


def _subpopulations(setup: Setup, reports: Sequence[CellReport]) -> list[str]:
    """A folded table for each alpha and split: all columns if one defense ran, otherwise the damage under each defense."""
    blocks = []
    for split in sorted({report.cell.option("split") for report in reports}):
        rows = rows_of([report for report in reports if report.cell.option("split") == split])
        for rate in sorted({rate for row in rows for rate in row.cells}):
            shown = {row.name: _by_name(row.cells[rate][0]) for row in rows if rate in row.cells}
            shown = {name: subpopulations for name, subpopulations in shown.items() if subpopulations}
            if shown:
                title = f"{setup.title}, alpha {rate:g}" + (f", split {split}" if split else "")
                blocks.append(
                    folded(f"{title} ({setup.details})", _one_defense(shown) if len(shown) == 1 else _side_by_side(shown))
                )
    return blocks


Rows = Mapping[str, Mapping[str, float | str]]


def _by_name(report: CellReport) -> Rows:
    rows = report.result.table if report.result else ()
    return {str(row.get("subpopulation", i)): row for i, row in enumerate(rows) if "target_damage" in row}


def _most_hurt(rows: Rows) -> list[str]:
    def damage(name: str) -> float:
        value = rows[name].get("target_damage")
        return float(value) if is_finite(value) else float("-inf")

    return sorted(rows, key=lambda name: (-damage(name), name))


def _one_defense(shown: Mapping[str, Rows]) -> str:
    ((_, rows),) = shown.items()
    found = subpopulation_columns(name for row in rows.values() for name in row)
    lines = [[escape(name), *(_value(rows[name], metric.name) for metric in found)] for name in _most_hurt(rows)]
    return table(["subpopulation", *(metric.subpopulation_column for metric in found)], lines)


def _side_by_side(shown: Mapping[str, Rows]) -> str:
    first = shown.get("none") or next(iter(shown.values()))
    names = [*_most_hurt(first), *sorted({name for rows in shown.values() for name in rows} - set(first))]
    lines = []
    for name in names:
        row = next(rows[name] for rows in (first, *shown.values()) if name in rows)
        own = [_value(row, metric) for metric in ("n_test", "n_poison", "target_clean_accuracy")]
        lines.append([escape(name), *own, *(_value(rows.get(name, {}), "target_damage") for rows in shown.values())])
    text = table(["subpopulation", "in D_test", "poison", "target clean accuracy", *(escape(name) for name in shown)], lines)
    return f"Target damage in % under each defense, ± half of its interval where it has one:\n\n{text}"


def _value(row: Mapping[str, float | str], metric: str) -> str:
    """A value of a subpopulation, with its interval if the row has one."""
    return _with_spread(metric, _number(row, metric), _number(row, f"{metric}_half_width"))


def _number(row: Mapping[str, float | str], key: str) -> float | None:
    value = row.get(key)
    return float(value) if is_finite(value) else None


def _probes(reports: Sequence[CellReport]) -> list[str]:
    """The findings of the probes of plug-in defenses and of user-supplied attacks, by cell."""
    lines = [
        [escape(r.cell.id), escape(r.result.integrity), escape(r.result.probes) or NO_VALUE]
        for r in reports
        if r.result and r.result.integrity
    ]
    return ["## Integrity of plug-ins", table(["cell", "integrity", "probes"], lines)] if lines else []


def _notes(reports: Sequence[CellReport]) -> list[str]:
    notes = dict.fromkeys((r.cell.dataset, note) for r in reports if r.result for note in r.result.notes)
    lines = [f"- {escape(dataset)}: {escape(note)}" for dataset, note in notes]
    return ["## Notes on the data", "\n".join(lines)] if lines else []
