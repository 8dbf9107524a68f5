"""Capacity: damage of the same poison against the width of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from subpop.experiments.capacity import LOSS, MOST_EPOCHS, WIDTHS, measure_capacity
from subpop.experiments.experiment import Experiment
from subpop.experiments.kept_results import kept_result
from subpop.report.figures.capacity import TITLES, damage_against_width
from subpop.report.figures.lines import Styles
from subpop.report.figures.setups import NO_VALUE
from subpop.report.markdown import escape, folded, table
from subpop.types import Cell, CellReport, CellResult, Number
from subpop.types.kinds import Kind, Measure, Plan

GATED_WIDTHS = (2, 8, 32, 128)
"""Widths whose damage has a reference. The rank correlation has none: one test row may exchange the ranks of several widths."""
COMPARED = tuple(f"target_damage_width_{width}" for width in GATED_WIDTHS)
HOW_TO_READ = (
    "Each number is a mean over seeds, with half the width of its 95 % interval over seeds; subpopulations and poison are the "
    f"same for all widths. *Reached*: seeds whose network has a training loss of at most {LOSS:g} on clean data within "
    f"{MOST_EPOCHS} epochs; a width that did not reach it with a seed is not in this seed's rank correlation. A network that "
    "is hardly right without poison has little to lose, so read damage beside clean accuracy."
)
CAPTION = (
    "Mean over seeds and subpopulations, with 95 % intervals over seeds. Open markers: not all seeds reach the training loss. At "
    "an equal number of epochs, narrow networks have also been trained less well; at an equal training loss, width alone differs."
)


class Capacity(Kind):
    """The damages of all widths in one cell."""

    on_scoreboard = False

    def measurer(self, experiment: Experiment) -> Measure:
        """The result is cached in the store."""
        return lambda cell: kept_result(
            cell, experiment, "subpop.experiments.capacity", lambda: measure_capacity(cell, experiment)
        )

    def expected_seconds(self, cell: Cell) -> float:
        """A few hundred small networks."""
        return 10.0

    def gates(self, cell: Cell) -> Callable[[str], bool]:
        """Every second width."""
        return lambda metric: metric in COMPARED

    def tables(self, reports: Sequence[CellReport]) -> list[str]:
        """A sentence for each cell, and the damages of all widths."""
        shown = [report for report in reports if report.result is not None]
        if not shown:
            return []
        lines = [line for report in shown if report.result for line in _lines(report.cell, report.result)]
        headings = [
            "data",
            "units",
            "damage",
            "clean accuracy, targets",
            "clean accuracy, all",
            "training loss",
            "epochs",
            "reached",
        ]
        sentences = [sentence(report.cell, report.result) for report in shown if report.result]
        return [*sentences, table(headings, lines), HOW_TO_READ]

    def sections(self, reports: Sequence[CellReport]) -> list[str]:
        """The subpopulations of every cell."""
        return [_subpopulations(report.cell, report.result) for report in reports if report.result]

    def figures(self, reports: Sequence[CellReport], styles: Styles) -> Iterator[Plan]:
        """Damage against width."""
        if reports:
            alt = "damage of the same poison and clean accuracy against the width of the network"
            yield Plan("width", partial(damage_against_width, reports), alt, CAPTION)


def sentence(cell: Cell, result: CellResult) -> str:
    """Whether damage increases with the width, from the rank correlation and its interval."""
    start = f"**At {_equal(cell)}** ({cell.dataset}, alpha {cell.rate:g}): "
    found = next((number for number in result.numbers if number.metric == "kendall_damage_width"), None)
    if found is None:
        return f"{start}too few widths reach the training loss for a rank correlation."
    if found.half_width is None:
        return f"{start}Kendall's tau of width and damage is {found.value:+.2f}; there are too few seeds for an interval."
    low, high = max(-1.0, found.value - found.half_width), min(1.0, found.value + found.half_width)
    missed = [
        number.metric.rpartition("_")[2] for number in result.numbers if number.metric.startswith("reached") and number.value < 1
    ]
    left = f" Not all seeds reach this loss with {', '.join(missed)} units." if missed else ""
    trend = "increases with the width" if low > 0 else "decreases with the width" if high < 0 else "has no clear trend"
    tau = f"Kendall's tau {found.value:+.2f}, 95 % interval over seeds [{low:+.2f}, {high:+.2f}]"
    return f"{start}from {WIDTHS[0]} to {WIDTHS[-1]} units, damage {trend}: {tau}.{left}"


def _equal(cell: Cell) -> str:
    return TITLES[getattr(cell.measurement, "equal", "epochs")]


def _lines(cell: Cell, result: CellResult) -> Iterator[list[str]]:
    numbers = {number.metric: number for number in result.numbers}
    rows = {int(float(row["width"])): row for row in result.table}  # what is not about a subpopulation is equal in all rows
    for width in (each for each in WIDTHS if each in rows):
        row, reached = rows[width], numbers.get(f"reached_width_{width}")
        yield [
            escape(f"{cell.dataset}, {_equal(cell)}"),
            f"{width}",
            _with_interval(numbers[f"target_damage_width_{width}"]),
            _with_interval(numbers[f"target_clean_accuracy_width_{width}"]),
            f"{float(row['clean_accuracy']):.3f}",
            f"{float(row['training_loss']):.3f}",
            f"{float(row['epochs']):.0f} ({float(row['attacked_epochs']):.0f} with poison)",
            NO_VALUE if reached is None else f"{reached.value:.0%}",
        ]


def _with_interval(number: Number) -> str:
    return f"{number.value:.3f}" + (f" ± {number.half_width:.3f}" if number.half_width is not None else "")


def _subpopulations(cell: Cell, result: CellResult) -> str:
    headings = ["subpopulation", "units", "damage", "clean accuracy", "in D_test"]
    rows = sorted(result.table, key=lambda row: (str(row["subpopulation"]), float(row["width"])))
    lines = [
        [
            escape(row["subpopulation"]),
            f"{float(row['width']):.0f}",
            f"{float(row['target_damage']):.3f}",
            f"{float(row['target_clean_accuracy']):.3f}",
            f"{float(row['n_test']):.0f}",
        ]
        for row in rows
    ]
    return folded(f"{cell.dataset} · {_equal(cell)} ({cell.tier})", table(headings, lines))
