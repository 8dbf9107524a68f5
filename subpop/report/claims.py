"""Statements about the paper's claims, computed from the numbers of a run and never asserted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from subpop.report.figures.setups import NO_VALUE, percent_or_plain, quantity
from subpop.report.intervals import interval_words
from subpop.results.intervals import CLUSTERS, DRAWS, ESTIMANDS, FEWEST_VALUES
from subpop.results.metric_registry import metric_of
from subpop.types import CellReport, Number
from subpop.types.metric import Better

CLAIMED = {"success_mean": "mean success", "success_worst_5": "worst-5", "iterations_successful": "iterations"}
"""The paper's claims about targets from one cluster: more success, fewer iterations."""
GAIN = "gain_over_label_flip"


# --- Table 16 ---------------------------------------------------------------------------------------------------------


def easier_targets(reports: Iterable[CellReport]) -> list[str]:
    """One line per epsilon: whether the run supports the paper's claim that targets from one cluster are easier."""
    lines = []
    for report in sorted(reports, key=lambda report: report.cell.epsilon or 0):
        if report.cell.partition == "cluster_match" and report.result:
            words = "; ".join(_claim(report, metric) for metric in CLAIMED)
            lines.append(f"- epsilon {report.cell.option('epsilon', NO_VALUE)}: {words}")
    if not lines:
        return []
    told = (
        "The paper's claim, that sets from one cluster are easier targets than random ones (difference and its 95 % interval; of "
        f"mean success and iterations it contains {ESTIMANDS[CLUSTERS]}; of worst-5 {ESTIMANDS[DRAWS]}. It needs at least "
        f"{FEWEST_VALUES} clusters, sets or draws):"
    )
    return [told, "\n".join(lines)]


def _claim(report: CellReport, metric: str) -> str:
    words, sign = CLAIMED[metric], -1 if metric_of(metric).better is Better.HIGHER else 1
    numbers = {n.metric: n for n in report.result.numbers} if report.result else {}
    difference = numbers.get(f"{metric}_difference")
    if difference is None or difference.half_width is None:
        return f"{words} undecided (too few values for an interval)"
    low, high = difference.value - difference.half_width, difference.value + difference.half_width
    told = ", ".join(
        [percent_or_plain(metric, difference.value), f"{percent_or_plain(metric, low)} to {percent_or_plain(metric, high)}"]
    )
    return f"{words} **{claim_verdict(sign * low, sign * high)}** ({told})"


def claim_verdict(one_end: float, other_end: float) -> str:
    """Describe what an interval implies for the claim that the difference is positive."""
    if min(one_end, other_end) > 0:
        return "reproduced"
    return "not reproduced" if max(one_end, other_end) < 0 else "undecided"


# --- optimised poison -------------------------------------------------------------------------------------------------


def worth_of_moving(reports: Iterable[CellReport]) -> list[str]:
    """Return one line per attack: whether optimised rows do more damage than label flipping, averaged over alpha."""
    gains: dict[str, list[Number]] = defaultdict(list)
    reports = list(reports)
    for report in reports:
        for number in report.result.numbers if report.result else ():
            if number.metric == GAIN:
                names = [report.cell.attack, *(f"{n}={v}" for n, v in report.cell.setting if n in ("objective", "epsilon"))]
                gains[", ".join(names)].append(number)
    if not gains:
        return []
    reason = interval_words([r for r in reports if r.cell.rate > 0], [GAIN])
    told = f"Mean target damage of moved rows less that of label flipping at the same budget, mean over alphas. {reason}".strip()
    return [told, "\n".join(f"- {name}: {_gain(numbers)}" for name, numbers in sorted(gains.items()))]


def _gain(numbers: list[Number]) -> str:
    """The mean over alphas. Its interval is not narrowed by averaging, since the subpopulations are the same at each alpha."""
    mean = sum(number.value for number in numbers) / len(numbers)
    widths = [number.half_width for number in numbers if number.half_width is not None]
    if len(widths) < len(numbers):
        return f"**{'at least as' if mean >= 0 else 'less'} damaging here, undecided in general** ({quantity(GAIN, mean)})"
    width = sum(widths) / len(widths)
    words = "at least as damaging" if mean >= 0 else "less damaging" if mean < -width else "less damaging, within the interval"
    return f"**{words}** ({percent_or_plain(GAIN, mean)} ± {quantity(GAIN, width)})"
