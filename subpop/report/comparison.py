"""The page of `subpop compare`: about twenty lines for a reviewer, or every number."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from subpop.report.figures.setups import MATCHED, short
from subpop.report.markdown import code, escape, table
from subpop.report.verdict import n_cells
from subpop.results.comparison import (
    CELL_KEYS,
    EQUAL,
    GONE,
    KEYS,
    MOVED,
    NEW,
    NOT_PAIRED,
    NOT_RUN,
    WITHIN_NOISE,
    Comparison,
    Side,
)
from subpop.results.metric_registry import HEADLINES

MOST_DEFENSES, MOST_ROWS = 4, 8
"""Lines for defenses, and rows of the table, before the rest is only counted."""
OTHERS = "other metrics"


def comparison_page(found: Comparison, *, every_number: bool = False) -> str:
    """The comparison as markdown.

    Parameters
    ----------
    found
        The comparison.
    every_number
        Whether a table of all numbers is appended.

    Returns
    -------
    str
        The page.
    """
    blocks = ["# Comparison", _sides(found), _counts(found), *_defenses(found), *_groups(found), *_rest(found)]
    return "\n\n".join([*blocks, *(_every_number(found) if every_number else ())])


def _sides(found: Comparison) -> str:
    lines = [_side(name, side) for name, side in (("A", found.a), ("B", found.b))]
    lacking = [name for name, side in (("A", found.a), ("B", found.b)) if not side.has_digests]
    if lacking:
        has = "has" if len(lacking) == 1 else "have"
        lines.append(f"- {' and '.join(lacking)} {has} no digests of data, draws and secrets: numbers are paired by name alone.")
    facts = {name: (found.a.facts[name], found.b.facts[name]) for name in sorted({*found.a.facts} & {*found.b.facts})}
    differ = [f"{escape(name)} {escape(a)} → {escape(b)}" for name, (a, b) in facts.items() if a != b]
    return "\n".join([*lines, *([f"- Different versions: {'; '.join(differ)}."] if differ else [])])


def _side(name: str, side: Side) -> str:
    tiers = ", ".join(sorted(side.tiers)) or "none"
    notes = "".join(f"; {escape(note)}" for note in side.notes)
    return f"- {name}: {code(side.path)} ({side.kind}; tier: {escape(tiers)}; {len(side.rows):,} numbers{notes})"


def _counts(found: Comparison) -> str:
    count = {status: f"{found.count(status):,}" for status in (MOVED, WITHIN_NOISE, EQUAL, NEW, GONE)}
    compared = sum(found.count(status) for status in (MOVED, WITHIN_NOISE, EQUAL))
    if not compared:
        return f"**No number could be compared.** {count[NEW]} new, {count[GONE]} gone."
    if not found.count(MOVED):
        lead = f"**Nothing moved** among {compared:,} numbers."
    else:
        lead = f"**{count[MOVED]} of {compared:,} numbers moved** by more than their noise."
    rest = f"{count[EQUAL]} are equal; {count[NEW]} new, {count[GONE]} gone."
    return f"{lead} {count[WITHIN_NOISE]} changed within their noise, {rest}"


# --- what moved -------------------------------------------------------------------------------------------------------


def _defenses(found: Comparison) -> list[str]:
    """A line for each defense whose numbers moved, the largest share first; a control goes with its filter if both did."""
    compared = found.rows[found.rows["status"].isin([MOVED, WITHIN_NOISE, EQUAL])]
    moved = compared["status"] == MOVED
    if not moved.any():
        return []
    filters = compared["defense"].str.removeprefix(f"{MATCHED}:")
    named = filters.where(filters.isin(compared.loc[moved, "defense"]), compared["defense"])
    marked = compared.assign(moved=moved, is_control=named != compared["defense"], named=named)
    groups, own = marked.groupby("named"), marked[~marked["is_control"]].groupby("named")
    summary = pd.DataFrame({"share": own["moved"].mean(), "count": groups["moved"].sum()})
    order = summary[summary["count"] > 0].sort_values(["share", "count"], ascending=False).index
    lines = [_defense(str(name), groups.get_group(name)) for name in order[:MOST_DEFENSES]]
    more = order[MOST_DEFENSES:]
    if len(more):
        lines.append(f"- Other defenses, {len(more):,} of them: {summary.loc[more, 'count'].sum():,} numbers moved")
    return ["\n".join(lines)]


def _defense(name: str, rows: Any) -> str:
    own, controls = rows[~rows["is_control"]], rows[rows["is_control"]]
    sentence = f"- **{escape(name)}**: {own['moved'].sum():,} of {len(own):,} numbers moved"
    if len(controls):
        sentence += f" ({controls['moved'].sum():,} of {len(controls):,} of its matched control)"
    sentence += f", by up to {_times(rows.loc[rows['moved'], 'ratio'].max())} their noise"
    return sentence + ("; its code is another version's" if own["another_version"].any() else "")


def _groups(found: Comparison) -> list[str]:
    """The largest change of each suite and headline metric, the largest relative to noise first."""
    compared = found.rows[found.rows["status"].isin([MOVED, WITHIN_NOISE, EQUAL])]
    is_headline = (compared["subpopulation"] == "") & compared["metric"].isin(HEADLINES)
    compared = compared.assign(headline=compared["metric"].where(is_headline, OTHERS))
    groups = [
        (of.iloc[0], int((of["status"] == MOVED).sum()), len(of)) for _, of in compared.groupby(["stem", "headline"], sort=False)
    ]
    moved = [group for group in groups if group[1]]
    moved.sort(key=lambda group: (group[0]["headline"] == OTHERS, -group[0]["ratio"]))
    if not moved:
        return []
    headers = ["suite", "metric", "largest change", "moved", "A", "B", "change", "noise", "change / noise"]
    rows = [
        [escape(row["stem"]), escape(row["headline"]), escape(_name(row)), f"{count:,} of {total:,}", *_values(row)]
        for row, count, total in moved[:MOST_ROWS]
    ]
    more = moved[MOST_ROWS:]
    rest = [f"{len(more)} more groups: {sum(count for _, count, _ in more):,} numbers."] if more else []
    return [table(headers, rows, left=3), *rest]


def _name(row: Any) -> str:
    """The cell of a number, with its metric and subpopulation where the table does not name them."""
    cell = f"{row['dataset']}, {row['victim']}, {row['partition']}, {row['attack']} {row['rate']:g}, {row['defense']}"
    number = [] if row["metric"] in HEADLINES and not row["subpopulation"] else [row["metric"], row["subpopulation"]]
    return "; ".join(filter(None, [*number, cell, short(row["setting"], 40)]))


def _values(row: Any) -> list[str]:
    values = [f"{row[name]:.4g}" for name in ("value_a", "value_b")]
    return [*values, f"{row['change']:+.3g}", f"{row['noise']:.2g}", _times(row["ratio"])]


def _times(ratio: float) -> str:
    return f"{ratio:.1f} x" if ratio < 1000 else f"{ratio:.0e} x"


# --- what was not compared --------------------------------------------------------------------------------------------


def _rest(found: Comparison) -> list[str]:
    lines = []
    if count := found.count(NEW):
        lines.append(f"- New in B: {count:,} numbers ({_stems(found, NEW)}).")
    if count := found.count(GONE):
        lines.append(f"- Gone from B: {count:,} numbers ({_stems(found, GONE)}){_reasons(found)}.")
    if count := found.count(NOT_PAIRED):
        why = Counter(found.of(NOT_PAIRED)["why"])
        lines.append(f"- Not compared: {count:,} numbers ({', '.join(f'{n:,} have {text}' for text, n in why.most_common())}).")
    if found.count(NOT_RUN):
        count = len(found.of(NOT_RUN)[CELL_KEYS].drop_duplicates())
        lines.append(f"- Not in the run B: {n_cells(count)} of the baselines ({_stems(found, NOT_RUN)}).")
    versions = found.rows[found.rows["another_version"]]
    if len(versions):
        cells = versions[CELL_KEYS].drop_duplicates()
        named = ", ".join(f"{escape(name)} {n:,}" for name, n in Counter(cells["defense"]).most_common(4))
        lines.append(f"- Made by different versions of the code: {n_cells(len(cells))} (by defense: {named}).")
    other = sorted(found.a.tiers ^ found.b.tiers)
    if other and not found.a.kind == found.b.kind == "baselines":
        lines.append(f"- Left out, since only one side has them: tiers {escape(', '.join(other))}.")
    return ["\n".join(lines)] if lines else []


def _stems(found: Comparison, status: str) -> str:
    counts = Counter(found.of(status)["stem"]).most_common()
    more = f" and {len(counts) - 4} more suites" if len(counts) > 4 else ""
    return ", ".join(f"{escape(stem)} {n:,}" for stem, n in counts[:4]) + more


def _reasons(found: Comparison) -> str:
    """Why cells whose numbers are gone have none."""
    cells = {*found.of(GONE)[CELL_KEYS].itertuples(index=False, name=None)}
    reasons = Counter(reason for cell, reason in found.b.reasons.items() if cell in cells)
    return "".join(f"; {n_cells(n)} {escape(short(reason, 100))}" for reason, n in reasons.most_common(2))


def _every_number(found: Comparison) -> list[str]:
    headers = [*KEYS, "A", "B", "change", "noise", "change / noise", "status"]
    rows = [
        [*(escape(f"{row[key]:g}" if key == "rate" else row[key]) for key in KEYS), *map(_or_none, _values(row)), _status(row)]
        for _, row in found.rows.iterrows()
    ]
    return ["## All numbers", table(headers, rows, left=len(KEYS))]


def _or_none(text: str) -> str:
    return "–" if "nan" in text else text


def _status(row: Any) -> str:
    verdict = f"{row['status']}: {row['why']}" if row["status"] == NOT_PAIRED else str(row["status"])
    return escape(verdict + ("; another version" if row["another_version"] else ""))
