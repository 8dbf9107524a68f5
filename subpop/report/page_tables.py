"""The tables of `index.html`: a leaderboard of each tier and all measured damages, as texts with sorting keys, and what opens.

`page.py` writes them as HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from subpop.report.board_table import settings_in, signed
from subpop.report.details import against_none
from subpop.report.figures.setups import (
    NO_VALUE,
    Row,
    RowKind,
    Setup,
    by_setup,
    headline,
    is_finite,
    metric_words,
    percent,
    rows_of,
    short,
    summarize,
)
from subpop.report.leaderboard import Context, Entry, Estimate, Leaderboard, Rank, context_of, leaderboards
from subpop.report.opening import RunInfo
from subpop.report.sentences import answers
from subpop.report.verdict import so_far
from subpop.results.metric_registry import metric_of
from subpop.results.paired import HURT, Judged
from subpop.types import CellReport
from subpop.types.kinds import kind_of
from subpop.types.printable import printable

ROLES: Mapping[RowKind, str] = {
    "defense": "defense",
    "own": "own learner",
    "control": "control",
    "variant": "given a wrong poison count",
    "tuned": "tuned",
}
LAST = 1e9
"""The sorting key of a missing number: after all others."""


class Field(NamedTuple):
    """A field of a table: its text, the number by which it is sorted (None: by the text), and the key of what it opens."""

    text: str
    order: float | None = None
    opens: str = ""


MISSING = Field(NO_VALUE, LAST)


@dataclass(frozen=True)
class Table:
    """A table of the page. `filters`: columns with a list of their values; `page_length`: rows shown at once, 0 for all."""

    name: str
    title: str
    sentences: tuple[str, ...]
    """Paragraphs above the table."""
    legend: str
    """What its columns mean, below it."""
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Field]]
    filters: tuple[str, ...]
    page_length: int = 0


Details = Mapping[str, Mapping[str, Any]]
"""What a field opens, by key: a title, a text, and `rows` of subpopulations, or `of`: the keys of the details to put together, or
`values`, and in `names` the key of an entry with their names."""


def tables_of(reports: Sequence[CellReport], run: RunInfo) -> tuple[list[Table], Details]:
    """Return the tables of a run, the leaderboards first, and the details that their fields open.

    A row of subpopulations has the name, damage, half of its interval, damage without defense, difference and clean accuracy in
    percent, and the numbers of test rows and poison rows.
    """
    lines = list(_lines(reports, run))
    details: dict[str, Mapping[str, Any]] = {line.key: found for line in lines if (found := _detail(line))}
    boards = leaderboards(reports)
    tables = []
    for board in boards:
        opened = {entry.defense: _board_detail(board, entry, lines) for entry in (*board.entries, *board.controls)}
        opened = {defense: detail for defense, detail in opened.items() if detail["of"]}
        details |= {_board_key(board, defense): detail for defense, detail in opened.items()}
        name = "leaderboard" if len(boards) == 1 else board.file_name
        tables.append(_leaderboard(name, board, set(opened), so_far(reports, run.standing)))
    if lines:
        tables.append(_all_cells(lines))
    return tables, details


# --- leaderboards -----------------------------------------------------------------------------------------------------


def _leaderboard(name: str, board: Leaderboard, opened: set[str], begin: str) -> Table:
    entries = (*board.entries, *board.controls)
    keys = [_board_key(board, entry.defense) if entry.defense in opened else "" for entry in entries]
    rows = [_entry_fields(entry, board.datasets, key) for entry, key in zip(entries, keys, strict=True)]
    shown = [column for column in rows[0] if any(row[column].text != NO_VALUE for row in rows)]
    words = (
        f"Damage: mean accuracy that attacked subpopulations lose at alpha {board.rate:g}, with equal weight for each data set. "
        "In parentheses: 95 % intervals. Tuned: with settings chosen on development data. The numbers of a defense that lacks "
        "cells are about its others, and it has no rank, as controls. Tap a damage to see its "
        "subpopulations."
    )
    title = f"Leaderboard, {board.title}"
    fields = [[row[column] for column in shown] for row in rows]
    return Table(name, title, answers(board, begin), words, tuple(shown), fields, ("knows", "role"))


def _entry_fields(entry: Entry, datasets: Sequence[str], opens: str) -> dict[str, Field]:
    payer, recall = entry.payer, _percent_field(entry.recall)
    if entry.recall is not None and entry.matched_recall is not None:
        recall = Field(f"{recall.text} (at random {percent(entry.matched_recall)})", entry.recall)
    certified = ", ".join(" ".join(filter(None, [name, percent(value)])) for name, value in (entry.certified or {}).items())
    beside = "" if entry.undefended is None else f", without a defense {percent(entry.undefended)}"
    return {
        "defense": Field(entry.defense),
        "damage in %": Field(_interval(entry.damage) + beside, entry.damage.value, opens),
        "tuned, in %": Field(f"{_interval(entry.tuned)}: {settings_in(entry.tuned_as)}", entry.tuned.value)
        if entry.tuned
        else MISSING,
        "rank": _rank(entry.rank),
        "against none": _against_none(entry.judged),
        "knows": Field(entry.knowledge),
        "clean accuracy given up in %": _percent_field(entry.clean_cost),
        "worst subpopulation in %": _percent_field(entry.worst),
        f"subpopulations that lose {100 * HURT:g} % or more, in %": _percent_field(entry.hurt_share),
        "collateral in %": _percent_field(entry.collateral),
        "who pays without an attack": Field(f"{payer.dataset}, {payer.subpopulation}: {percent(payer.cost)} %", payer.cost)
        if payer
        else MISSING,
        "recall in %": recall,
        "removed in %": _percent_field(entry.removed_share),
        "certified damage in %": Field(certified, min((entry.certified or {}).values())) if certified else MISSING,
        **{f"{dataset} in %": _percent_field(entry.by_dataset.get(dataset)) for dataset in datasets},
        "fits": _number_field(entry.fits, "{:.1f}"),
        "time of plain training": _number_field(entry.seconds, "{:.1f} times"),
        "cells missing": Field(str(entry.n_missing), entry.n_missing) if entry.n_missing else MISSING,
        "integrity": Field(short(entry.integrity, 80) or NO_VALUE),
        "role": Field("control" if entry.is_control else "own learner" if entry.own_learner else "defense"),
    }


def _interval(found: Estimate) -> str:
    limits = "" if found.low is None or found.high is None else f" ({percent(found.low)} to {percent(found.high)})"
    return percent(found.value) + limits


def _rank(rank: Rank | None) -> Field:
    if rank is None:
        return MISSING
    limits = "" if rank.low is None or rank.low == rank.high else f" ({rank.low}–{rank.high})"
    return Field(f"{rank.value}{limits}", rank.value)


def _percent_field(value: float | None) -> Field:
    return MISSING if value is None else Field(percent(value), value)


def _number_field(value: float | None, form: str) -> Field:
    return MISSING if value is None else Field(form.format(value), value)


def _board_key(board: Leaderboard, defense: str) -> str:
    return f"{board.title} leaderboard/{defense}"


def _board_detail(board: Leaderboard, entry: Entry, lines: Sequence[_Line]) -> Mapping[str, Any]:
    contexts = set(board.contexts)
    own = [line for line in lines if line.row.name == entry.defense and line.contexts & contexts]
    keys = [line.key for line in own if _has_subpopulations(line.reports)]
    text = f"Leaderboard, {board.title}. Mean target damage at alpha {board.rate:g}: {_interval(entry.damage)} %."
    return {"title": printable(entry.defense), "text": printable(text), "of": keys}


# --- all cells --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """A row of the table: a defense at one alpha of a set-up. `undefended`: the row `none` of the set-up, if it was measured."""

    setup: Setup
    row: Row
    rate: float
    metric: str
    undefended: Row | None
    judged: Judged | None
    knowledge: str

    @property
    def reports(self) -> tuple[CellReport, ...]:
        return self.row.cells[self.rate]

    @property
    def contexts(self) -> set[Context]:
        return {context_of(report.cell) for report in self.reports}

    @property
    def key(self) -> str:
        """What the address calls this cell."""
        cell = self.reports[0].cell
        return f"{cell.stem}/{cell.id}"


def _lines(reports: Sequence[CellReport], run: RunInfo) -> Iterable[_Line]:
    for setup, own in by_setup(report for report in reports if kind_of(report.cell).on_scoreboard).items():
        metric, rows = headline(own), rows_of(own)
        if not summarize(own, metric):
            continue
        undefended = next((row for row in rows if row.name == "none"), None)
        judged = against_none(rows) if len(rows) > 1 else {}
        for row in rows:
            for rate in row.cells:
                yield _Line(setup, row, rate, metric, undefended, judged.get(row.name), _knowledge(row, run))


def _all_cells(lines: Sequence[_Line]) -> Table:
    rows = [_line_fields(line) for line in lines]
    words = (
        "Damage: accuracy lost on the test rows of the worst five subpopulations, unless the field says otherwise. Against none: "
        "averaged over alpha. Tap a damage to see its subpopulations."
    )
    filters = ("data set", "victim", "attack", "alpha", "role")
    return Table("all", "All cells", (), words, tuple(rows[0]), [list(row.values()) for row in rows], filters, 25)


def _line_fields(line: _Line) -> dict[str, Field]:
    setup, row = line.setup, line.row
    cost = metric_of(line.metric).parts[:1]
    return {
        "defense": Field(row.name),
        "damage in %": _damage(line)._replace(opens=line.key if _has_subpopulations(line.reports) else ""),
        "alpha": Field(f"{line.rate:g}", line.rate),
        "against none": _against_none(line.judged),
        "data set": Field(setup.dataset),
        "victim": Field(setup.victim),
        "attack": Field(setup.attack),
        "subpopulations": Field(setup.partition),
        "clean accuracy given up in %": _number(line, *cost) if cost else MISSING,
        "collateral in %": _number(line, "collateral_damage_max"),
        "recall in %": _number(line, "poison_recall"),
        "settings": Field("; ".join(f"{name}={value}" for name, value in setup.setting) or NO_VALUE),
        "knowledge": Field(line.knowledge),
        "role": Field(ROLES[row.kind]),
    }


def _damage(line: _Line) -> Field:
    found = summarize(line.reports, line.metric)
    if found is None:
        return Field(next((report.status for report in line.reports if report.result is None), NO_VALUE), LAST)
    other = "" if line.metric == "target_damage_worst_5" else f" ({metric_words(line.metric).lower()})"
    return Field(percent(found.value) + found.spread_text.format(percent(found.spread)) + other, found.value)


def _knowledge(row: Row, run: RunInfo) -> str:
    known = {report.result.knowledge for of_rate in row.cells.values() for report in of_rate if report.result} - {""}
    return ", ".join(sorted(known)) or run.knowledge.get(row.defense, "") or "nothing"


def _number(line: _Line, metric: str) -> Field:
    found = summarize(line.reports, metric)
    return _percent_field(found.value if found else None)


def _against_none(judged: Judged | None) -> Field:
    if judged is None:
        return MISSING
    value, reason = judged.difference.value, judged.difference.reason
    if reason:
        return Field(f"{judged.verdict}: {short(reason, 80)}", LAST)
    return Field(f"{judged.verdict} ({signed(value)})", value)


# --- subpopulations of a cell -----------------------------------------------------------------------------------------


def _has_subpopulations(reports: Sequence[CellReport]) -> bool:
    return any("target_damage" in row for report in reports if report.result for row in report.result.table)


def _detail(line: _Line) -> dict[str, Any] | None:
    if not _has_subpopulations(line.reports):
        return None
    setup = line.setup
    undefended = line.undefended.cells.get(line.rate, ()) if line.undefended else ()
    without = {(report.cell.option("split"), name): row for report in undefended for name, row in _subpopulations(report)}
    rows = []
    for report in line.reports:
        split = report.cell.option("split")
        for name, row in _subpopulations(report):
            other = without.get((split, name), {})
            damage, bare = _percent(row, "target_damage"), _percent(other, "target_damage")
            difference = round(damage - bare, 1) if damage is not None and bare is not None else None
            shown = f"{name} (split {split})" if split and len(line.reports) > 1 else name
            half_width, accuracy = _percent(row, "target_damage_half_width"), _percent(row, "target_clean_accuracy")
            counts = [_plain(row, "n_test"), _plain(row, "n_poison")]
            rows.append([printable(shown), damage, half_width, bare, difference, accuracy, *counts])
    title = f"{line.row.name}, alpha {line.rate:g}"
    text = f"{setup.title}; {setup.details}. {metric_words(line.metric)}: {_damage(line).text} %."
    return {"title": printable(title), "text": printable(text), "where": printable(setup.title), "rows": rows}


def _subpopulations(report: CellReport) -> list[tuple[str, Mapping[str, float | str]]]:
    table = report.result.table if report.result else ()
    return [(str(row.get("subpopulation", i)), row) for i, row in enumerate(table) if "target_damage" in row]


def _percent(row: Mapping[str, float | str], name: str) -> float | None:
    value = row.get(name)
    return round(100 * float(value), 1) + 0.0 if is_finite(value) else None


def _plain(row: Mapping[str, float | str], name: str) -> float | None:
    value = row.get(name)
    return round(float(value), 1) if is_finite(value) else None
