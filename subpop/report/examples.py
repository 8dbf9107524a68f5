"""Example texts of the worst subpopulations, as in Figure 3 for pictures: the rows nearest to their centroids.

Texts are untrusted: markup, links and invisible characters in them are made ineffective.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from subpop.report.figures.setups import by_setup, is_finite, percent, plain_number
from subpop.report.markdown import escape
from subpop.results.metrics import eligible
from subpop.types import CellReport

PREFIX = "texts:"
SHOWN = 3
LONGEST = 200
BREAKS = re.compile(r"<\s{0,3}/?\s{0,3}br\s{0,3}/?\s{0,3}>", re.IGNORECASE)
UNSEEN = {"Cc", "Cf", "Co", "Cs"}
"""Unicode categories that are removed: control and format characters, which can reverse a line, private use and surrogates."""
LINKS = re.compile(r"(?=://)|(?<=[@#])|(?<=www)(?=\.)", re.IGNORECASE)
"""Positions where addresses, mentions and issue numbers are broken up; GitHub would link them even if escaped."""
SIZES = {"n_train": "in D", "n_aux": "in D_aux", "n_test": "in D_test", "n_poison": "of poison"}
WORDS = (
    f"The {SHOWN} subpopulations with the largest damage at the largest alpha, among those with enough test rows, and the "
    f"texts of D_aux nearest to their centroids, cut to {LONGEST} characters. They are the largest of many estimates, which are "
    "larger than the true damages. ±, where it is given: half of a 95 % interval over seeds and test rows of that subpopulation, "
    "as if it had been chosen beforehand."
)
Row = Mapping[str, float | str]


def example_texts(reports: Sequence[CellReport]) -> list[str]:
    """Blocks of markdown, one list per set-up; empty if no cell of the suite has texts."""
    blocks = []
    for setup, own in by_setup(reports).items():
        with_texts = [report for report in own if _worst(report)]
        if with_texts:
            # Undefended cells first, and the first of several splits, since clusters differ between splits.
            report = min(with_texts, key=lambda r: (-r.cell.rate, r.cell.defense != "none", r.cell.defense, r.cell.setting))
            title = f"### {escape(setup.title)}, alpha {report.cell.rate:g}"
            blocks += [title, _details(report, setup.details), *_list(report)]
    return ["## Texts of the worst subpopulations", WORDS, *blocks] if blocks else []


def _details(report: CellReport, details: str) -> str:
    split = report.cell.option("split")
    return escape("; ".join([details, *([f"split {split}"] if split else []), f"defense {report.cell.defense}"])) + "."


def _worst(report: CellReport) -> list[Row]:
    """The table rows of the worst subpopulations with texts, ranked as for worst-k."""
    if report.result is None:
        return []
    rows = [row for row in report.result.table if f"{PREFIX}{row.get('subpopulation')}" in report.result.arrays]
    ranked = [row for row in rows if is_finite(row.get("target_damage")) and eligible(_number(row, "n_test") or 0)]
    return sorted(ranked, key=lambda row: (-float(row["target_damage"]), str(row["subpopulation"])))[:SHOWN]


def _list(report: CellReport) -> list[str]:
    """One block: an item per subpopulation, with its texts as sub-items."""
    assert report.result is not None
    lines = []
    for row in _worst(report):
        texts = report.result.arrays[f"{PREFIX}{row['subpopulation']}"]
        lines += [f"- **{escape(row['subpopulation'])}**: {facts(row)}", *(f"  - “{shown(str(text))}”" for text in texts)]
    return ["\n".join(lines)]


def facts(row: Row) -> str:
    """Describe damage, clean accuracy, sizes and, if the table has them, the labels of the rows."""
    half_width = row.get("target_damage_half_width")
    spread = f" ± {percent(half_width)}" if is_finite(half_width) else ""
    words = [f"target damage {percent(_number(row, 'target_damage'))}{spread} %"]
    if is_finite(row.get("target_clean_accuracy")):
        words.append(f"clean accuracy {percent(_number(row, 'target_clean_accuracy'))} %")
    sizes = [f"{plain_number(_number(row, name))} {where}" for name, where in SIZES.items() if is_finite(row.get(name))]
    return "; ".join([*words, *([f"rows: {', '.join(sizes)}"] if sizes else []), *_labels(row)])


def _labels(row: Row) -> list[str]:
    """Return `positive 91 %`, from a fraction of positives or from the most common label and its fraction."""
    if is_finite(row.get("positive_share")):
        return [f"positive {percent(_number(row, 'positive_share'), 0)} %"]
    if "label" in row and is_finite(row.get("label_share")):
        return [f"{escape(row['label'])} {percent(_number(row, 'label_share'), 0)} %"]
    return []


def _number(row: Row, name: str) -> float | None:
    value = row.get(name)
    return float(value) if is_finite(value) else None


# --- untrusted texts --------------------------------------------------------------------------------------------------


def shown(text: str) -> str:
    """A text as printed in a report: on one line, cut at a word, without markup or links."""
    return escape(LINKS.sub("\u200b", shorten(_visible(text))))


def shorten(text: str, limit: int = LONGEST) -> str:
    """At most `limit` characters and an ellipsis, cut at a word unless that would drop half of the text."""
    if len(text) <= limit:
        return text
    at_word = text[: limit + 1].rpartition(" ")[0]
    return (at_word if len(at_word) > limit // 2 else text[:limit]) + "…"


def _visible(text: str) -> str:
    """Remove line breaks, including HTML's, and invisible characters; collapse runs of spaces."""
    seen = (c for c in BREAKS.sub(" ", text) if c.isspace() or unicodedata.category(c) not in UNSEEN)
    return " ".join("".join(seen).split())
