"""Examples of the worst subpopulations of texts, as in Figure 3 for pictures: the rows nearest to their centroids.

Texts are untrusted: markup, links and invisible characters in them have no effect.
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
"""Unicode's control and format characters, which can reverse a line, and unassigned characters."""
LINKS = re.compile(r"(?=://)|(?<=[@#])|(?<=www)(?=\.)", re.IGNORECASE)
"""Where addresses, mentions and issue numbers come apart; GitHub would link them, escaped or not."""
SIZES = {"n_train": "in D", "n_aux": "in D_aux", "n_test": "in D_test", "n_poison": "of poison"}
WORDS = (
    f"The {SHOWN} subpopulations with the largest damage at the largest alpha, among those with enough test rows, and the "
    f"texts of D_aux nearest to their centroids, cut to {LONGEST} characters."
)
Row = Mapping[str, float | str]


def example_texts(reports: Sequence[CellReport]) -> list[str]:
    """Blocks of markdown, a list for each set-up; none where no cell of the suite has texts."""
    blocks = []
    for setup, own in by_setup(reports).items():
        with_texts = [report for report in own if _worst(report)]
        if with_texts:
            # Undefended, and of several splits the first: a cluster of another split is another cluster.
            report = min(with_texts, key=lambda r: (-r.cell.rate, r.cell.defense != "none", r.cell.defense, r.cell.setting))
            title = f"### {escape(setup.title)}, alpha {report.cell.rate:g}"
            blocks += [title, _details(report, setup.details), *_list(report)]
    return ["## Texts of the worst subpopulations", WORDS, *blocks] if blocks else []


def _details(report: CellReport, details: str) -> str:
    split = report.cell.option("split")
    return escape("; ".join([details, *([f"split {split}"] if split else []), f"defense {report.cell.defense}"])) + "."


def _worst(report: CellReport) -> list[Row]:
    """The rows of the worst subpopulations that have texts, as worst-k ranks them."""
    if report.result is None:
        return []
    rows = [row for row in report.result.table if f"{PREFIX}{row.get('subpopulation')}" in report.result.arrays]
    ranked = [row for row in rows if is_finite(row.get("target_damage")) and eligible(_number(row, "n_test") or 0)]
    return sorted(ranked, key=lambda row: (-float(row["target_damage"]), str(row["subpopulation"])))[:SHOWN]


def _list(report: CellReport) -> list[str]:
    """One block: an item a subpopulation, under it an item a text."""
    assert report.result is not None
    lines = []
    for row in _worst(report):
        texts = report.result.arrays[f"{PREFIX}{row['subpopulation']}"]
        lines += [f"- **{escape(row['subpopulation'])}**: {facts(row)}", *(f"  - “{shown(str(text))}”" for text in texts)]
    return ["\n".join(lines)]


def facts(row: Row) -> str:
    """Describe damage, clean accuracy, sizes and, if the table has them, the labels of the rows."""
    error = percent(_number(row, "target_damage_se"))
    spread = f" ± {error}" if is_finite(row.get("target_damage_se")) else ""
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
    """A text as a report prints it: on one line, cut at a word, nothing in it markup or a link."""
    return escape(LINKS.sub("\u200b", shorten(_visible(text))))


def shorten(text: str, limit: int = LONGEST) -> str:
    """At most `limit` characters and an ellipsis; cut at a word unless the last one alone is half of the text."""
    if len(text) <= limit:
        return text
    at_word = text[: limit + 1].rpartition(" ")[0]
    return (at_word if len(at_word) > limit // 2 else text[:limit]) + "…"


def _visible(text: str) -> str:
    """Remove line breaks, including HTML's, and invisible characters; collapse runs of spaces."""
    seen = (c for c in BREAKS.sub(" ", text) if c.isspace() or unicodedata.category(c) not in UNSEEN)
    return " ".join("".join(seen).split())
