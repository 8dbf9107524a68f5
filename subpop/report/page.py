"""`index.html` of a report: one self-contained file, in which readers sort and filter the damages of all defenses and open cells.

The table is plain HTML. It is built as an element tree, so that text from data is escaped. DataTables, from the offline bundle of
itables, sorts and filters it; `page.js` keeps the state in the address and opens cells. The page loads no other file.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from subpop.report.details import against_none
from subpop.report.figures import Picture
from subpop.report.figures.setups import (
    NO_VALUE,
    Row,
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
from subpop.report.opening import RunInfo
from subpop.report.verdict import headline as verdict_of_run
from subpop.results.metric_registry import metric_of
from subpop.results.paired import Judged
from subpop.types import BadInput, CellReport
from subpop.types.kinds import kind_of
from subpop.types.printable import printable

PAGE = "index.html"
GENERATOR = "subpop"
ROLES = {"defense": "defense", "own": "own learner", "control": "control", "variant": "given a wrong poison count"}
FILTERS = ("data set", "victim", "attack", "alpha", "role")
"""Columns that have a list of their values above the table."""
COLUMNS = (
    "defense",
    "damage in %",
    "alpha",
    "against none",
    "data set",
    "victim",
    "attack",
    "subpopulations",
    "clean accuracy given up in %",
    "collateral in %",
    "recall in %",
    "knowledge",
    "role",
    "settings",
)
LAST = 1e9
"""By which a row without a number is sorted: after all others."""
PURPOSE = (
    "For auditing one's own models on public data. Race and sex are annotations of a data set, and a result about them is no "
    "statement about people. Licences and known faults of each data set, and how this board is kept: docs/ethics.md."
)


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
    def key(self) -> str:
        """What the address calls this cell."""
        cell = self.reports[0].cell
        return f"{cell.stem}/{cell.id}"


def web_page(reports: Sequence[CellReport], run: RunInfo, pictures: Sequence[Picture] = (), figures: Path = Path()) -> str:
    """Return the page as HTML; the damage curves among `pictures` are read from the folder `figures`."""
    lines = list(_lines(reports, run))
    root = Element("html", lang="en")
    head, body = SubElement(root, "head"), SubElement(root, "body")
    imports = json.dumps({"imports": {"itables": _data_address("text/javascript", _bundle("js"))}})
    program = _own("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src data: {_digest(imports)} {_digest(program)}"
    )
    SubElement(head, "meta", charset="utf-8")
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": policy})
    SubElement(head, "meta", name="generator", content=GENERATOR)
    SubElement(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    _text(head, "title", f"subpop: {run.tier} tier")
    _text(head, "style", _bundle("css") + _own("page.css"))
    SubElement(head, "script", type="importmap").text = imports
    main = SubElement(body, "main")
    _text(main, "h1", "Defenses against subpopulation poisoning")
    _text(main, "p", verdict_of_run(reports, run.standing).replace("*", "") + f" {_made_by(run)}")
    _add_board(main, lines)
    _add_figures(main, [picture for picture in pictures if picture.kind == "damage"], figures)
    _text(main, "footer", PURPOSE)
    dialog = SubElement(body, "dialog", {"id": "cell", "aria-labelledby": "cell-title"})
    _text(SubElement(dialog, "form", method="dialog"), "button", "close", {"id": "close"})
    _text(dialog, "h2", "", {"id": "cell-title"})
    _text(dialog, "p", "", {"id": "cell-text"})
    SubElement(dialog, "table", {"id": "subpopulations", "class": "display compact"})
    details = {line.key: found for line in lines if (found := _detail(line))}
    SubElement(body, "script", id="cells", type="application/json").text = _for_script(details)
    SubElement(body, "script", type="module").text = program
    return "<!DOCTYPE html>\n" + tostring(root, encoding="unicode", method="html") + "\n"


def is_page(path: Path) -> bool:
    """Whether an index.html was written by a report."""
    return f'<meta name="generator" content="{GENERATOR}">' in path.read_text(encoding="utf-8", errors="replace")[:2000]


def _made_by(run: RunInfo) -> str:
    when = ", ".join(filter(None, [run.started_text, f"commit {run.commit}" if run.commit else ""]))
    return f"Every number is made by {run.command}" + (f" ({when})." if when else ".")


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


# --- the table --------------------------------------------------------------------------------------------------------


def _add_board(main: Element, lines: Sequence[_Line]) -> None:
    if not lines:
        _text(main, "p", "No damage of a defense was measured, so there is no table.")
        return
    _text(
        main,
        "p",
        "Tap a number for its subpopulations. Damage: accuracy lost on the test rows of the worst five subpopulations, unless "
        "the cell says otherwise; lower is better for the defender. The address keeps filters, order and the opened cell.",
    )
    cells = [(line, _columns(line)) for line in lines]
    form = SubElement(main, "form", id="filters")
    for name in FILTERS:
        label = _text(form, "label", f"{name} ")
        select = SubElement(label, "select", {"data-column": name})
        _text(select, "option", "all", {"value": ""})
        column = COLUMNS.index(name)
        for value in sorted({row[column][0] for _, row in cells}, key=lambda value: (_order_of(value), value)):
            _text(select, "option", value)
    board = SubElement(main, "table", {"id": "board", "class": "display compact"})
    heading = SubElement(SubElement(board, "thead"), "tr")
    for name in COLUMNS:
        _text(heading, "th", name, {"data-name": name})
    body = SubElement(board, "tbody")
    for line, row in cells:
        _add_row(body, line, row)


def _order_of(value: str) -> float:
    """Numbers are listed by size, before names."""
    return float(value) if value.replace(".", "", 1).isdigit() else LAST


def _add_row(body: Element, line: _Line, row: Sequence[tuple[str, float | None]]) -> None:
    element = SubElement(body, "tr")
    for name, (shown, order) in zip(COLUMNS, row, strict=True):
        keys = {} if order is None else {"data-order": f"{order:.6g}", "data-search": printable(shown)}
        cell = SubElement(element, "td", keys)
        if name == "damage in %" and _has_subpopulations(line.reports):
            _text(cell, "button", shown, {"type": "button", "data-cell": printable(line.key)})
        else:
            cell.text = printable(shown)


def _columns(line: _Line) -> list[tuple[str, float | None]]:
    """Text and sorting key of each column; no key: sorted by the text."""
    setup, row = line.setup, line.row
    settings = "; ".join(f"{name}={value}" for name, value in setup.setting)
    cost = metric_of(line.metric).parts[:1]
    values = {
        "defense": (row.name, None),
        "damage in %": _damage(line),
        "alpha": (f"{line.rate:g}", line.rate),
        "data set": (setup.dataset, None),
        "victim": (setup.victim, None),
        "subpopulations": (setup.partition, None),
        "attack": (setup.attack, None),
        "against none": _against_none(line.judged),
        "clean accuracy given up in %": _number(line, *cost) if cost else (NO_VALUE, LAST),
        "collateral in %": _number(line, "collateral_damage_max"),
        "recall in %": _number(line, "poison_recall"),
        "knowledge": (line.knowledge, None),
        "role": (ROLES[row.kind], None),
        "settings": (settings or NO_VALUE, None),
    }
    return [values[name] for name in COLUMNS]


def _damage(line: _Line) -> tuple[str, float]:
    found = summarize(line.reports, line.metric)
    if found is None:
        return next((report.status for report in line.reports if report.result is None), NO_VALUE), LAST
    other = "" if line.metric == "target_damage_worst_5" else f" ({metric_words(line.metric).lower()})"
    return percent(found.value) + found.spread_text.format(percent(found.spread)) + other, found.value


def _knowledge(row: Row, run: RunInfo) -> str:
    told = {report.result.knowledge for of_rate in row.cells.values() for report in of_rate if report.result} - {""}
    return ", ".join(sorted(told)) or run.knowledge.get(row.defense, "") or "nothing"


def _number(line: _Line, metric: str) -> tuple[str, float]:
    found = summarize(line.reports, metric)
    return (percent(found.value), found.value) if found else (NO_VALUE, LAST)


def _against_none(judged: Judged | None) -> tuple[str, float]:
    if judged is None:
        return NO_VALUE, LAST
    value, reason = judged.difference.value, judged.difference.reason
    return (
        f"{judged.verdict}: {short(reason, 80)}" if reason else f"{judged.verdict} ({100 * value:+.1f})",
        LAST if reason else value,
    )


# --- subpopulations of a cell -----------------------------------------------------------------------------------------


def _has_subpopulations(reports: Sequence[CellReport]) -> bool:
    return any("target_damage" in row for report in reports if report.result for row in report.result.table)


def _detail(line: _Line) -> dict[str, Any] | None:
    """Title, explanation and subpopulations of a cell, for page.js; damages in percent."""
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
    text = f"{setup.title}; {setup.details}. {metric_words(line.metric)}: {_damage(line)[0]} %."
    return {"title": printable(title), "text": printable(text), "rows": rows}


def _subpopulations(report: CellReport) -> list[tuple[str, Mapping[str, float | str]]]:
    table = report.result.table if report.result else ()
    return [(str(row.get("subpopulation", i)), row) for i, row in enumerate(table) if "target_damage" in row]


def _percent(row: Mapping[str, float | str], name: str) -> float | None:
    value = row.get(name)
    return round(100 * float(value), 1) + 0.0 if is_finite(value) else None


def _plain(row: Mapping[str, float | str], name: str) -> float | None:
    value = row.get(name)
    return round(float(value), 1) if is_finite(value) else None


# --- figures and parts ------------------------------------------------------------------------------------------------


def _add_figures(main: Element, pictures: Sequence[Picture], figures: Path) -> None:
    if pictures:
        _text(main, "h2", "Damage against alpha")
    for picture in pictures:
        figure = SubElement(main, "figure")
        address = _data_address("image/svg+xml", (figures / f"{picture.name}.svg").read_text(encoding="utf-8"))
        box = SubElement(figure, "div", {"class": "wide"})
        SubElement(box, "img", src=address, alt=printable(picture.alt), loading="lazy")
        _text(figure, "figcaption", f"{picture.stem}, {picture.dataset}. {picture.caption}")


def _text(parent: Element, tag: str, text: str, attributes: Mapping[str, str] | None = None) -> Element:
    element = SubElement(parent, tag, dict(attributes or {}))
    element.text = printable(text)
    return element


def _for_script(value: object) -> str:
    """JSON that no text in it can end: a script element is not escaped otherwise."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c")


def _data_address(kind: str, text: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@cache
def _own(name: str) -> str:
    return files("subpop.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _bundle(suffix: str) -> str:
    """DataTables with its extensions, as itables ships it."""
    try:
        return files("itables").joinpath("html", f"dt_bundle.{suffix}").read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"the installed itables has no html/dt_bundle.{suffix}, which index.html needs; install the version of "
            "constraints.txt: python -m pip install -c constraints.txt itables"
        ) from error
