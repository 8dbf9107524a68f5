"""What the ± on a page means: which interval it is half of, of what, and why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from subpop.report.figures.setups import aggregates, is_finite
from subpop.results.intervals import CONFIDENCE, ESTIMANDS, FEWEST_ROUNDS, FEWEST_VALUES, TIMINGS
from subpop.results.metric_registry import metric_of
from subpop.types import CellReport, Number

HALF = f"±: half the width of a {CONFIDENCE:.0%} interval".replace("%", " %")
NONE_BELOW = f"There is none with fewer than {FEWEST_VALUES} seeds or {FEWEST_ROUNDS} rounds of a timing"
TOO_FEW_ROUNDS = f"No interval: fewer than {FEWEST_ROUNDS} rounds were timed."


def interval_words(reports: Sequence[CellReport], metrics: Iterable[str] | None = None) -> str:
    """Return what the intervals of these metrics (None: of all) contain, or why there are none; nothing without a number."""
    chosen = None if metrics is None else set(metrics)
    numbers = [number for report in reports for number in _numbers(report) if chosen is None or number.metric in chosen]
    given = [number for number in numbers if is_finite(number.half_width)]
    if not given:
        return _reason(reports, numbers)
    parts = [f"of {_names(given, varies)}: {ESTIMANDS[varies]}" for varies in dict.fromkeys(n.varies for n in given)]
    return f"{HALF} {'; '.join(parts)}."


def _numbers(report: CellReport) -> list[Number]:
    return [] if report.result is None else [*aggregates(report), *(n for n in report.result.numbers if n.subpopulation)]


def _names(numbers: Iterable[Number], varies: str) -> str:
    """The metrics whose intervals are of one kind: by the headings of their columns, or by their titles where none has one."""
    found = list(dict.fromkeys(number.metric for number in numbers if number.varies == varies))
    metrics = [metric_of(name) for name in found]
    headings = [metric.column for metric in metrics if metric.column] or [metric.title for metric in metrics]
    *others, last = dict.fromkeys(f"'{name}'" if "," in name else name for name in headings)
    return f"{', '.join(others)} and {last}" if others else last


def _reason(reports: Sequence[CellReport], numbers: Sequence[Number]) -> str:
    could = {number.varies for number in numbers if number.varies}
    if not could:
        return ""
    if could == {TIMINGS}:
        return TOO_FEW_ROUNDS
    most = max(report.cell.n_seeds for report in reports)
    if most >= FEWEST_VALUES:
        return "No interval: nothing varied between the seeds, or too few values are independent."
    return f"No interval: {most} seed{'s' if most > 1 else ''}, and an interval needs at least {FEWEST_VALUES}."
