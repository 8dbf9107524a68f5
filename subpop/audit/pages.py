"""README.md and index.html of an audit."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pandas as pd
from tabulate import tabulate

from subpop.audit.attacked import ALPHAS, is_beyond_uncertainty
from subpop.audit.columns import shown
from subpop.report.markdown import escape, folded, table
from subpop.report.page import table_page
from subpop.report.page_tables import MISSING, Field, Table
from subpop.runtime.estimate import readable_seconds

FIRST_SCREEN = 10
NO_VALUE = "–"
LEGEND = (
    "accuracy: out of fold, with its 95 % interval; verdict: whether the errors are more than the model expects of these "
    "rows; before attack: share of its test rows that models trained on D without poison are right about, from which damage and "
    "m50 start; damage: points of accuracy that the group loses with alpha mislabelled rows for each of its rows, ± half of the "
    "95 % interval over draws of the poison, training and test rows (groups whose damage at alpha 1 is larger than that come "
    "first); m50: mislabelled rows that bring its error to 50 %, "
    "'>' where all rows of the group that the attacker has, each once, are too few (alpha 2 takes rows more than once); "
    "insertions: inserted rows with which the error of the ensemble provably stays below 50 %; flips: the same for changed "
    "labels and the ridge regression"
)
OPTIONAL = {
    "left out": "time that its attacks would take, or how many it has of the rows that an attack needs",
    "by": "the columns that make the group",
}
"""What further columns mean, for pages that have them."""


class Found(Protocol):
    """What pages show of a `subpop.audit.result.Audit`, whose fields these are."""

    @property
    def groups(self) -> pd.DataFrame: ...
    @property
    def words(self) -> str: ...
    @property
    def filters(self) -> pd.DataFrame: ...
    @property
    def fairness(self) -> pd.DataFrame: ...
    @property
    def rows(self) -> pd.DataFrame: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...


def markdown_page(found: Found, *, with_rows: bool = False) -> str:
    """The report as markdown."""
    groups, facts = found.groups, found.facts
    by_damage = _in_order(groups)
    blocks = [
        f"# Audit of {escape(facts.get('data', ''))}",
        *map(escape, found.words.split("\n\n")),
        f"## {_title(groups)}",
        _group_table(_first(groups)),
        _legend([HEADINGS[i] for i in _used(HEADINGS, [_fields(row) for _, row in groups.iterrows()])]),
    ]
    if len(found.filters):
        blocks += ["## What filters would delete of the data as it is", _filter_table(found.filters)]
    if len(found.fairness):
        rows = [[escape(r[0]), *(f"{value:.3f}" for value in r[1:])] for r in found.fairness.itertuples(index=False)]
        blocks += [
            "## Fairness of the estimator, out of fold",
            table(("column", "demographic parity difference", "equalised odds difference"), rows),
        ]
    if with_rows and len(found.rows):
        rows = [[str(r[0]), escape(r[1]), escape(r[2]), f"{r[3]:.3f}"] for r in found.rows.itertuples(index=False)]
        blocks += [
            "## Rows whose labels the estimator believes least",
            table(("row", "label", "predicted", "probability"), rows, 3),
        ]
    blocks.append(folded(f"All {len(groups)} groups", _group_table(by_damage)))
    left = groups[groups["seconds_left"] > 0] if len(groups) else groups
    if len(left) or facts.get("left"):
        rows = [[escape(r["group"]), readable_seconds(r["seconds_left"])] for _, r in left.iterrows()]
        rows += [[escape(name), readable_seconds(seconds)] for name, seconds in facts.get("left", {}).items()]
        blocks.append(folded("What did not fit into the budget", table(("what", "time"), rows)))
    blocks.append(folded("How this was made", "\n".join(f"- {escape(note)}" for note in _made(facts))))
    return "\n\n".join(blocks) + "\n"


def text_page(found: Found, columns: int, *, with_rows: bool = False) -> str:
    """The summary and the groups that lose most as plain text of so many columns, for a terminal; with_rows: and `rows`."""
    names = max(12, columns - TEXT_ROOM)
    rows = []
    for _, row in _first(found.groups).iterrows():
        group, before = textwrap.fill(str(row["group"]), names), _percent(row["clean_accuracy"])
        rows.append([group, f"{row['rows']:,}", before, _damage(row, TEXT_ALPHA).text, _poison(row), _m50(row).text])
    paragraphs = [textwrap.fill(each, columns) for each in found.words.split("\n\n")]
    parts = paragraphs[:ANSWERS]
    if rows:
        parts += [
            textwrap.fill(f"{_title(found.groups)}:", columns),
            tabulate(rows, TEXT_HEADINGS, disable_numparse=True, colalign=("left", *["right"] * 5)),
            textwrap.fill(TEXT_LEGEND, columns),
        ]
    parts += paragraphs[ANSWERS:]
    if with_rows and len(found.rows):
        least = [[row[0], shown(row[1]), shown(row[2]), f"{row[3]:.3f}"] for row in found.rows.itertuples(index=False)]
        parts.append(tabulate(least, ("row", "label", "predicted", "probability\nof label"), disable_numparse=True))
    return "\n\n".join(parts) + "\n"


ANSWERS = 2
"""Paragraphs of the summary that stand before the groups: how bad it is, and what helps."""
TEXT_HEADINGS = ("group", "rows", "before\nattack", "damage\nin points", "from\nrows", "m50\nin rows")
TEXT_LEGEND = (
    "before attack: accuracy in % on the test rows; damage: what the group loses of that from so many mislabelled rows; m50: "
    "mislabelled rows that bring it to 50 % error"
)
TEXT_ALPHA = ALPHAS[1]
TEXT_ROOM = 55
"""Columns of the terminal that the numbers take."""


def _percent(value: float) -> str:
    return NO_VALUE if math.isnan(value) else f"{100 * value:.1f}"


def _poison(row: pd.Series[Any]) -> str:
    value = float(row[f"poison_rows_{TEXT_ALPHA:g}"])
    return NO_VALUE if math.isnan(value) else f"{value:,.0f}"


def _first(groups: pd.DataFrame) -> pd.DataFrame:
    """The groups of the first screen: those that lose most, or the largest ones if no damage is measured."""
    ordered = _in_order(groups)
    measured = ordered[ordered["damage_1"].notna()]
    return (measured if len(measured) else ordered).head(FIRST_SCREEN)


def _title(groups: pd.DataFrame) -> str:
    """What the groups of the first screen are."""
    first = _first(groups)
    if not first["damage_1"].notna().any():
        return f"The {len(first)} largest of {len(groups):,} groups"
    n_beyond = int(is_beyond_uncertainty(first).sum())
    which = "none of them" if not n_beyond else "only the first" if n_beyond == 1 else f"the first {n_beyond}"
    beyond = f"; the damage of {which} exceeds its uncertainty" if n_beyond < len(first) else ""
    return f"The {len(first)} of {len(groups):,} groups that lose most at alpha {TEXT_ALPHA:g}{beyond}"


def _made(facts: Any) -> list[str]:
    return [
        f"estimator: {facts.get('estimator')}; {facts.get('rows'):,} rows, {facts.get('training_rows'):,} of them in each "
        f"training set; classes {', '.join(facts.get('classes', ()))}; {readable_seconds(facts.get('seconds', 0.0))}",
        *facts.get("notes", ()),
        "nothing has left this machine",
    ]


def _in_order(groups: pd.DataFrame) -> pd.DataFrame:
    keys = groups.assign(beyond=is_beyond_uncertainty(groups), measured=groups["damage_1"].notna())
    keys = keys.sort_values(["measured", "beyond", "damage_1", "rows"], ascending=False, kind="stable")
    return groups.loc[keys.index]


# --- groups -----------------------------------------------------------------------------------------------------------

HEADINGS = (
    "group",
    "rows",
    "accuracy in %",
    "verdict",
    "before attack in %",
    *(f"damage in points, alpha {alpha:g}" for alpha in ALPHAS),
    "m50 in rows",
    "certified insertions",
    "certified flips",
    "left out",
)


def _legend(headings: Sequence[str]) -> str:
    """What the columns with these headings mean."""
    return "; ".join([LEGEND, *(f"{name}: {meaning}" for name, meaning in OPTIONAL.items() if name in headings)]) + "."


def _used(headings: Sequence[str], rows: Sequence[Sequence[Field]]) -> list[int]:
    """Positions of the columns that have a value in some row; the first four are always shown."""
    return [i for i in range(len(headings)) if i < 4 or any(row[i] != MISSING for row in rows)]


def _fields(row: pd.Series[Any]) -> list[Field]:
    damages = [_damage(row, alpha) for alpha in ALPHAS]
    accuracy = f"{100 * row['accuracy']:.1f} ({100 * row['accuracy_low']:.0f} to {100 * row['accuracy_high']:.0f})"
    left = float(row["seconds_left"])
    return [
        Field(str(row["group"])),
        Field(f"{row['rows']:,}", float(row["rows"])),
        Field(accuracy, float(row["accuracy"])),
        Field(str(row["verdict"])),
        _before(row),
        *damages,
        _m50(row),
        _count(row["certified_insertions"]),
        _count(row["certified_flips"]),
        Field(readable_seconds(left), left) if left else Field(row["not_attacked"]) if row["not_attacked"] else MISSING,
    ]


def _before(row: pd.Series[Any]) -> Field:
    value = float(row["clean_accuracy"])
    return MISSING if math.isnan(value) else Field(f"{100 * value:.1f}", value)


def _damage(row: pd.Series[Any], alpha: float) -> Field:
    value, width = float(row[f"damage_{alpha:g}"]), float(row[f"half_width_{alpha:g}"])
    if math.isnan(value):
        return MISSING
    return Field(f"{100 * value:.1f}" + (f" ± {100 * width:.1f}" if math.isfinite(width) else ""), value)


def _m50(row: pd.Series[Any]) -> Field:
    value = float(row["m50"])
    if math.isnan(value):
        return MISSING
    if not value:
        return Field("wrong anyway", 0.0)
    return Field(f"> {value:,.0f}" if row["m50_is_more"] else f"{value:,.0f}", value + 0.5 * float(row["m50_is_more"]))


def _count(value: float) -> Field:
    return MISSING if math.isnan(float(value)) else Field(f"{value:.0f}", float(value))


def _group_table(groups: pd.DataFrame) -> str:
    rows = [_fields(row) for _, row in groups.iterrows()]
    shown = _used(HEADINGS, rows)
    return table([HEADINGS[i] for i in shown], [[escape(row[i].text) for i in shown] for row in rows])


def _filter_table(filters: pd.DataFrame) -> str:
    return table(FILTER_HEADINGS, [[escape(each.text) for each in _filter_fields(row)] for _, row in filters.iterrows()], 4)


FILTER_HEADINGS = (
    "filter",
    "is given",
    "most deleted group",
    "group that pays most",
    "deleted in %",
    "accuracy lost in points",
    "of most deleted in %",
    "lost by payer in points",
)


def _filter_fields(row: pd.Series[Any]) -> list[Field]:
    parts = ("deleted", "accuracy_lost", "most_deleted_share", "payer_accuracy_lost")
    return [
        *(Field(str(row[name])) for name in ("filter", "told", "most_deleted", "payer")),
        *(MISSING if math.isnan(row[name]) else Field(f"{round(100 * row[name], 1) + 0.0:.1f}", row[name]) for name in parts),
    ]


# --- the page ---------------------------------------------------------------------------------------------------------

SHARES = ("accuracy", "damage_", "half_width_", "insertions_bound_", "deleted_")
"""Beginnings or ends of the names of columns that contain shares."""
NAMES = "columns"
"""The key of the names of a group's numbers, which are the same for all groups."""


def html_page(found: Found, meanings: Mapping[str, str]) -> str:
    """The report as one HTML file that loads no other: the summary and tables to sort, search and filter.

    meanings: of the columns of `found.groups`, which are shown when a group is opened.
    """
    groups = _in_order(found.groups)
    details: dict[str, dict[str, Any]] = {}
    rows = []
    for i, (_, row) in enumerate(groups.iterrows()):
        name, *others = _fields(row)
        rows.append([name._replace(opens=str(i)), *others, Field(str(row["grouping"]))])
        details[str(i)] = {"title": name.text, "text": _row_counts(row), "names": NAMES, "values": _values(row)}
    if rows:
        details[NAMES] = {"names": [meanings.get(each, _deleted_by(each)) for each in groups.columns[2:]]}
    headings = (*HEADINGS, "by")
    shown = _used(headings, rows)
    tables = [
        Table(
            "groups", "Groups", ("A group's name opens all its numbers.",), _legend([headings[i] for i in shown]),
            tuple(headings[i] for i in shown),
            [[row[i] for i in shown] for row in rows], ("by", "verdict"), 25 if len(rows) > 25 else 0,
        )
    ]  # fmt: skip
    if len(found.filters):
        fields = [_filter_fields(row) for _, row in found.filters.iterrows()]
        legend = (
            "Of the data as it is, on the columns of the default estimator; most deleted: the group that loses the largest share "
            "of its rows; pays most: the group that loses most accuracy."
        )
        tables.append(Table("filters", "What filters would delete", (), legend, FILTER_HEADINGS, fields, ()))
    if len(found.fairness):
        fields = [
            [Field(str(r[0])), *(Field(f"{value:.3f}", float(value)) for value in r[1:])]
            for r in found.fairness.itertuples(index=False)
        ]
        both = ("column", "demographic parity difference", "equalised odds difference")
        tables.append(Table("fairness", "Fairness of the estimator", (), "Out of fold, without an attack.", both, fields, ()))
    title = f"subpop: audit of {found.facts.get('data', '')}"
    return table_page(title, "Audit of your data", found.words, tables, _made(found.facts), details)


def _row_counts(row: pd.Series[Any]) -> str:
    said = f"{row['rows']:,} rows; the verdict on its errors: {row['verdict']}."
    said += f" It is not attacked: it has {row['not_attacked']}." if row["not_attacked"] else ""
    return said + (f" Its attacks would take {readable_seconds(row['seconds_left'])} more." if row["seconds_left"] else "")


def _values(row: pd.Series[Any]) -> list[str]:
    """The numbers of a group, from the third column on, as they are shown."""
    return [_value(str(name), value) for name, value in row.iloc[2:].items()]


def _value(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value or NO_VALUE
    if math.isnan(value):
        return NO_VALUE
    if name == "seconds_left":
        return readable_seconds(value)
    if name.startswith(SHARES) or name.endswith("_accuracy"):
        return f"{round(100 * value, 1) + 0.0:.1f} %"
    return f"{value:.3g}" if name == "p" else f"{value:,.1f}" if name == "expected_errors" else f"{value:,.0f}"


def _deleted_by(column: str) -> str:
    return f"share of its rows that {column.removeprefix('deleted_')} deletes of a training set"
