"""Tables of the paper in the paper's layout, for suites that reproduce one: our values, with published values in brackets.

The tolerances and verdicts of these numbers are in the list of numbers further down on the page.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from subpop.report.figures.setups import NO_VALUE, in_percent, is_finite, percent_or_plain
from subpop.report.intervals import interval_words
from subpop.report.markdown import escape, table
from subpop.types import Cell, CellReport, Verdict
from subpop.types.cell import NAMES


@dataclass(frozen=True)
class Column:
    """A column of a table of the paper."""

    title: str
    """The heading."""
    metric: str
    """The metric."""
    defense: str = ""
    """The defense of its cells, if a row spans several."""


@dataclass(frozen=True)
class Layout:
    """The layout of a table of the paper."""

    rows: Mapping[str, str]
    """What distinguishes rows: fields or settings of cells, or `subpopulation`, with their headings."""
    columns: Sequence[Column]
    """The numbers of a row."""
    errors: bool = False
    """Whether intervals are printed."""


Row = tuple[str, ...]


def paper_tables(
    layout: Layout, reports: Iterable[CellReport], words: Callable[[list[CellReport]], list[str]] = lambda reports: []
) -> list[str]:
    """A table for each data set and victim of a suite, each under a line that names them. words: blocks after a table."""
    groups: dict[str, list[CellReport]] = defaultdict(list)
    for report in reports:
        if report.result is not None:
            groups[f"{report.cell.dataset} · {report.cell.victim} ({report.cell.tier})"].append(report)
    blocks = []
    for title, own in groups.items():
        percents = in_percent(column.metric for column in layout.columns)
        blocks += [f"**{escape(title)}**, {percents}; published values in brackets:", _table(layout, own)]
        if layout.errors and (interval := interval_words(own, [column.metric for column in layout.columns])):
            blocks.append(interval)
        blocks += words(own)
    return blocks


def _table(layout: Layout, reports: Sequence[CellReport]) -> str:
    rows: dict[Row, dict[int, Verdict]] = defaultdict(dict)
    for report in reports:
        places = {c.metric: i for i, c in enumerate(layout.columns) if c.defense in ("", report.cell.defense)}
        for verdict in report.verdicts:
            number = verdict.number
            if number.metric in places and bool(number.subpopulation) == ("subpopulation" in layout.rows):
                rows[_row(layout, report.cell, number.subpopulation)][places[number.metric]] = verdict
    lines = [
        [*map(escape, row), *(_words(found.get(i), layout.errors) for i in range(len(layout.columns)))]
        for row, found in sorted(rows.items(), key=lambda item: by_value(item[0]))
    ]
    return table([*layout.rows.values(), *(column.title for column in layout.columns)], lines)


def _row(layout: Layout, cell: Cell, subpopulation: str) -> Row:
    def value(name: str) -> str:
        if name == "subpopulation":
            return subpopulation
        own = getattr(cell, name) if name in NAMES else cell.option(name, NO_VALUE)
        return f"{own:g}" if isinstance(own, float) else str(own)

    return tuple(value(name) for name in layout.rows)


def by_value(row: Row) -> tuple[tuple[int, float, str], ...]:
    """Sort key: numbers by value, then words by name."""
    return tuple((0, float(text), "") if text.replace(".", "", 1).isdigit() else (1, 0.0, text) for text in row)


def _words(verdict: Verdict | None, errors: bool = False) -> str:
    """Format `45.2 [44.0]` or `45.2 ± 1.3 [44.0]`; published numbers without a measurement are shown too."""
    if verdict is None:
        return NO_VALUE
    number = verdict.number
    ours = percent_or_plain(number.metric, number.value)
    if errors and is_finite(number.half_width):
        ours += f" ± {percent_or_plain(number.metric, number.half_width)}"
    return ours if verdict.published is None else f"{ours} [{percent_or_plain(number.metric, verdict.published)}]"
