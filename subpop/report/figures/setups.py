"""Cell reports arranged for figures and tables: set-ups, one row per defense, means over splits, numbers as text."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal, NamedTuple, TypeGuard

from subpop.defenses.tuned import is_tuned
from subpop.results.metric_registry import HEADLINES, find_metric, metric_of
from subpop.types import Cell, CellReport, Number, Setting
from subpop.types.kinds import kind_of
from subpop.types.metric import Unit

RowKind = Literal["defense", "own", "control", "variant", "tuned"]
"""Of a defense: `own` if its model was not trained by `fit`, `variant` if it is given a wrong poison count."""
CONTROLS = {
    "none": "no defense: the attack alone",
    "perfect_filter": "knows which rows are poison and removes exactly those: an upper bound for filters",
    "random_filter": "drops as many rows as there is poison, at random: a defense that ties with it has learned nothing",
    "drop_duplicates": "removes duplicated rows: equals `none` unless the poison contains exact duplicates",
    "retrain": "the clean victim compared with the clean victim of another seed: worst-k without any attack",
}
MATCHED = "matched_random_filter"
MATCHED_MEANING = "drops at random as many rows of each class as the named defense removed in the same trial"
NO_VALUE = "–"
TITLE_WIDTH = 42
"""Number of characters that fit into a line of a panel's title."""
# Settings that vary within one set-up: n_poison_told gets its own row, split is averaged over.
_WITHIN_SETUP = ("n_poison_told", "split")


class Setup(NamedTuple):
    """The fields that the cells of one table have in common; defenses, alphas and splits vary within it."""

    stem: str
    tier: str
    dataset: str
    victim: str
    partition: str
    attack: str
    setting: Setting

    @property
    def title(self) -> str:
        return f"{self.dataset} · {self.victim} · {self.partition}"

    @property
    def details(self) -> str:
        """The attack and the setting, for the text above a table."""
        return "; ".join([self.attack, *(f"{name}={value}" for name, value in self.setting)])


def setup_of(cell: Cell) -> Setup:
    """Return the set-up of a cell: its settings without those that vary within a table."""
    setting = tuple((name, value) for name, value in cell.setting if name not in _WITHIN_SETUP)
    return Setup(cell.stem, cell.tier, cell.dataset, cell.victim, cell.partition, cell.attack, setting)


def by_setup(reports: Iterable[CellReport]) -> dict[Setup, list[CellReport]]:
    """Group reports by set-up, both in sorted order."""
    groups: dict[Setup, list[CellReport]] = defaultdict(list)
    for report in sorted(reports, key=lambda report: report.cell):
        groups[setup_of(report.cell)].append(report)
    return dict(sorted(groups.items()))


@dataclass(frozen=True)
class Row:
    """One defense of a set-up: its reports by alpha, one per split."""

    defense: str
    n_poison_told: str
    """The cells' setting: '', or half or twice the true poison count."""
    cells: Mapping[float, tuple[CellReport, ...]]

    @property
    def name(self) -> str:
        return f"{self.defense} (n_poison: {self.n_poison_told})" if self.n_poison_told else self.defense

    @property
    def kind(self) -> RowKind:
        if self.n_poison_told:
            return "variant"
        if any(is_tuned_cell(report.cell) for of_rate in self.cells.values() for report in of_rate):
            return "tuned"
        if is_control(self.defense):
            return "control"
        results = [report.result for of_rate in self.cells.values() for report in of_rate if report.result]
        return "own" if any(result.n_own_learner for result in results) else "defense"


def is_tuned_cell(cell: Cell) -> bool:
    """Whether a cell belongs to the column "tuned" of a leaderboard. In other suites such settings are a defense of their own."""
    return kind_of(cell).is_board and is_tuned(cell.defense)


def is_control(defense: str) -> bool:
    return defense in CONTROLS or defense.partition(":")[0] == MATCHED


def rows_of(reports: Sequence[CellReport]) -> list[Row]:
    """A row for each defense of a set-up, the best first: sorted by the mean of the headline damage over alpha.

    Rows without numbers for some alpha are not comparable and come after the others.
    """
    cells: dict[tuple[str, str], dict[float, list[CellReport]]] = defaultdict(lambda: defaultdict(list))
    for report in reports:
        cells[report.cell.defense, report.cell.option("n_poison_told")][report.cell.rate].append(report)
    rows = [Row(*key, {rate: tuple(of_rate) for rate, of_rate in sorted(rates.items())}) for key, rates in cells.items()]
    metric = headline(reports)

    def order(row: Row) -> tuple[int, float, str]:
        values = [summary.value for of_rate in row.cells.values() if (summary := summarize(of_rate, metric))]
        return (-len(values), statistics.fmean(values) if values else math.inf, row.name)

    return sorted(rows, key=order)


def rates_of(reports: Iterable[CellReport]) -> list[float]:
    return sorted({report.cell.rate for report in reports})


def headline(reports: Iterable[CellReport]) -> str:
    """The damage by which a table is sorted: worst-5, or another one if the set-up has too few subpopulations."""
    present = {number.metric for report in reports for number in aggregates(report)}
    return next((metric for metric in HEADLINES if metric in present), HEADLINES[0])


def aggregates(report: CellReport) -> tuple[Number, ...]:
    """The finite aggregate numbers of a cell; empty if it was skipped or failed."""
    return report.result.aggregates if report.result else ()


class Summary(NamedTuple):
    """A metric over the splits of a cell. spread: half the width of the interval of one split (None without an interval), or the
    sample deviation (n - 1) over several."""

    value: float
    spread: float | None
    n_splits: int

    @property
    def spread_text(self) -> str:
        """` ± 1.3`, an interval, or `, sd 10.0` over splits, with {} in place of the number; empty without either."""
        if self.spread is None:
            return ""
        return " ± {}" if self.n_splits == 1 else ", sd {}"


def summarize(reports: Sequence[CellReport], metric: str) -> Summary | None:
    """The mean of an aggregate metric over splits; None if no split has it."""
    found = [number for report in reports for number in aggregates(report) if number.metric == metric]
    if not found:
        return None
    if len(found) > 1:
        values = [number.value for number in found]
        return Summary(statistics.fmean(values), statistics.stdev(values), len(found))
    width = found[0].half_width
    return Summary(found[0].value, width if is_finite(width) else None, 1)


# --- numbers as text --------------------------------------------------------------------------------------------------


def is_finite(value: object) -> TypeGuard[float]:
    """Whether this is a finite number, including numpy's types."""
    return isinstance(value, (float, Real)) and math.isfinite(value)  # most are floats, and Real takes long to ask


def percent(value: float | None, digits: int = 1) -> str:
    """Format a fraction in percent, without the sign; a dash for missing and non-finite values."""
    if value is None or not is_finite(value):
        return NO_VALUE
    text = f"{100 * value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def plain_number(value: float | None) -> str:
    """Format a count or a ratio; a dash for missing and non-finite values."""
    return f"{value:.4g}" if value is not None and is_finite(value) else NO_VALUE


def percent_or_plain(metric: str, value: float | None, digits: int = 1) -> str:
    """Format a metric's value for a table whose heading has the percent sign: fractions in percent, others unchanged."""
    return percent(value, digits) if _is_fraction(metric) else plain_number(value)


def quantity(metric: str, value: float | None, digits: int = 1) -> str:
    """A metric's value, with a percent sign if it is a fraction."""
    text = percent_or_plain(metric, value, digits)
    return f"{text} %" if text != NO_VALUE and _is_fraction(metric) else text


def _is_fraction(metric: str) -> bool:
    """Return the unit; a metric of a baseline that is no longer registered is shown as a plain number and fails its cell."""
    found = find_metric(metric)
    return found is not None and found.unit is Unit.FRACTION


def in_percent(metrics: Iterable[str]) -> str:
    """Return the remark on percent in the heading of a table of these metrics."""
    return "in %" if all(map(_is_fraction, metrics)) else "fractions in %"


def metric_words(metric: str) -> str:
    """The title of a metric as the beginning of a sentence: `Worst-5 target damage`."""
    title = metric_of(metric).title
    return title[:1].upper() + title[1:]


def short(text: str, limit: int = 30) -> str:
    """The text on one line, cut to `limit` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def headings_of(groups: Iterable[Setup]) -> dict[Setup, str]:
    """Return a distinct heading for each set-up: its title and, if several share it, the settings in which they differ."""
    found = list(groups)
    alike: dict[str, list[Setup]] = defaultdict(list)
    for setup in found:
        alike[setup.title].append(setup)
    headings = {}
    for setup in found:
        others = [_all_facts(other) for other in alike[setup.title]]
        shared = set.intersection(*map(set, others))
        own = [
            value if name == "suite" else f"{name}={value}" for name, value in _all_facts(setup) if (name, value) not in shared
        ]
        plain = ["as by default"] if len(others) > 1 and not own else []
        headings[setup] = setup.title + (f" ({'; '.join(own or plain)})" if own or plain else "")
    return headings


def _all_facts(setup: Setup) -> Setting:
    return (("suite", setup.stem), ("tier", setup.tier), *_facts(setup))


def _facts(setup: Setup) -> Setting:
    return (("attack", setup.attack), *setup.setting)


def titles_of(groups: Iterable[Setup], width: int = TITLE_WIDTH) -> dict[Setup, str]:
    """Victim and partition of each set-up, followed by the attack and settings in which they differ."""
    found = list(groups)
    shared = set.intersection(*(set(_facts(setup)) for setup in found)) if found else set()
    titles = {}
    for setup in found:
        own = [(name, value) for name, value in _facts(setup) if (name, value) not in shared]
        facts = "; ".join(f"{name}={value}" for name, value in own)
        if len(facts) > width:  # after shortening, two of them could be equal
            facts = "; ".join(value for _, value in own)
        lines = [f"{setup.victim} · {setup.partition}", facts]
        titles[setup] = "\n".join(short(line, width) for line in lines if line)
    return titles
