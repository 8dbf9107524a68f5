"""`index.html` of a report: one self-contained file to sort and filter the damages of all defenses, and to open numbers.

The tables are plain HTML, built as an element tree, so that text from data is escaped. DataTables, from the offline bundle of
itables, sorts and filters them; `page.js` keeps the state in the address and opens cells. The page loads no other file.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from subpop.report.figures import Picture
from subpop.report.opening import PURPOSE, RunInfo
from subpop.report.page_tables import Details, Field, Table, tables_of
from subpop.report.verdict import headline as verdict_of_run
from subpop.types import BadInput, CellReport
from subpop.types.printable import printable

PAGE = "index.html"
GENERATOR = "subpop"
LINK = "The address of this page keeps filters, order and the opened number, and can be shared."


def web_page(reports: Sequence[CellReport], run: RunInfo, pictures: Sequence[Picture] = (), figures: Path = Path()) -> str:
    """Return the page as HTML; the damage curves among `pictures` are read from the folder `figures`."""
    tables, details = tables_of(reports, run)

    def fill(main: Element) -> None:
        if not tables:
            _text(main, "p", "No damage was measured, so there is no table.")
        for table in tables:
            _add_table(main, table)
        _add_figures(main, [picture for picture in pictures if picture.kind in ("leaderboard", "difference", "damage")], figures)

    heading, first = "Defenses against subpopulation poisoning", verdict_of_run(reports, run.standing).replace("*", "")
    return _page(f"subpop: {run.tier} tier", heading, first, fill, f"{LINK} {_made_by(run)} {PURPOSE}", details)


def table_page(title: str, heading: str, first: str, tables: Sequence[Table], notes: Sequence[str], details: Details) -> str:
    """Return a page with paragraphs, tables, and notes on how they were made, as HTML."""

    def fill(main: Element) -> None:
        for table in tables:
            _add_table(main, table)
        _text(main, "h2", "How this was made")
        made = SubElement(main, "ul", {"class": "legend"})
        for note in notes:
            _text(made, "li", note)

    return _page(title, heading, first, fill, LINK, details)


def _page(title: str, heading: str, first: str, fill: Callable[[Element], None], footer: str, details: Details) -> str:
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
    _text(head, "title", title)
    _text(head, "style", _bundle("css") + _own("page.css"))
    SubElement(head, "script", type="importmap").text = imports
    main = SubElement(body, "main")
    _text(main, "h1", heading)
    for paragraph in first.split("\n\n"):
        _text(main, "p", paragraph)
    fill(main)
    _text(main, "footer", footer)
    dialog = SubElement(body, "dialog", {"id": "detail", "aria-labelledby": "title"})
    _text(SubElement(dialog, "form", method="dialog"), "button", "close", {"id": "close"})
    _text(dialog, "h2", "", {"id": "title"})
    _text(dialog, "p", "", {"id": "text"})
    SubElement(dialog, "table", {"id": "subpopulations", "class": "display compact"})
    SubElement(body, "script", id="details", type="application/json").text = _for_script(details)
    SubElement(body, "script", type="module").text = program
    return "<!DOCTYPE html>\n" + tostring(root, encoding="unicode", method="html") + "\n"


def is_page(path: Path) -> bool:
    """Whether an index.html was written by a report."""
    return f'<meta name="generator" content="{GENERATOR}">' in path.read_text(encoding="utf-8", errors="replace")[:2000]


def _made_by(run: RunInfo) -> str:
    when = ", ".join(filter(None, [run.started_text, f"commit {run.commit}" if run.commit else ""]))
    return f"Every number is made by {run.command}" + (f" ({when})." if when else ".")


# --- tables and figures -----------------------------------------------------------------------------------------------


def _add_table(main: Element, table: Table) -> None:
    _text(main, "h2", table.title)
    for sentence in table.sentences:
        _text(main, "p", sentence)
    form = SubElement(main, "form", {"class": "filters"})
    for name in table.filters:
        column = table.columns.index(name)
        values = {row[column].text: row[column].order for row in table.rows}
        label = _text(form, "label", f"{name} ")
        select = SubElement(label, "select", {"data-table": table.name, "data-column": name})
        _text(select, "option", "all", {"value": ""})
        for value in sorted(values, key=lambda value: (values[value] or 0.0, value)):
            _text(select, "option", value)
    facts = {"id": table.name, "class": "sorted display compact", "data-length": str(table.page_length)}
    element = SubElement(main, "table", facts)
    heading = SubElement(SubElement(element, "thead"), "tr")
    for name in table.columns:
        _text(heading, "th", name, {"data-name": name})
    body = SubElement(element, "tbody")
    for row in table.rows:
        line = SubElement(body, "tr")
        for field in row:
            _add_field(line, field)
    _text(main, "p", table.legend, {"class": "legend"})


def _add_field(line: Element, field: Field) -> None:
    # DataTables would search the markup of a column of numbers, and sort by it.
    keys = {} if field.order is None else {"data-order": f"{field.order:.6g}", "data-search": printable(field.text)}
    cell = SubElement(line, "td", keys)
    if field.opens:
        _text(cell, "button", field.text, {"type": "button", "data-opens": printable(field.opens)})
    else:
        cell.text = printable(field.text)


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
