"""The number of poison rows that a subpopulation resists, against what may predict it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from subpop.report.figures.parts import new_figure
from subpop.types import CellReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PANELS = {
    "n_train": "rows in D",
    "target_clean_accuracy": "clean accuracy",
    "loss_difference": "loss difference",
    "label_share": "attacker's label nearby",
}
"""Predictors as columns of a cell's table, with the names of their axes."""


def m50_against_predictors(reports: Sequence[CellReport]) -> Figure:
    """Draw a row of panels for each cell; a triangle is a subpopulation that resists all rows of D_aux."""
    shown = [report for report in reports if report.result is not None]
    figure = new_figure(10, 0.6 + 2.3 * len(shown))
    for report, axes in zip(shown, figure.subplots(len(shown), len(PANELS), squeeze=False, sharey="row"), strict=True):
        rows = [row for row in report.result.table if not row["m50_trivial"]] if report.result else []
        for axis, (column, title) in zip(axes, PANELS.items(), strict=True):
            for censored, look in ((0, {"marker": "o"}), (1, {"marker": "^", "facecolors": "none"})):
                own = [(float(row[column]), float(row["m50"])) for row in rows if row["m50_censored"] == censored]
                axis.scatter(*(zip(*own, strict=True) if own else ((), ())), s=18, color="#0072B2", **look)
            axis.set_yscale("log", base=2)
            axis.yaxis.set_major_formatter("{x:g}")
            if column == "n_train":
                axis.set_xscale("log", base=2)
                axis.xaxis.set_major_formatter("{x:g}")
            axis.set_xlabel(title, fontsize=8)
        axes[0].set_ylabel(f"m50, {report.cell.dataset}\n{report.cell.partition}", fontsize=8)
    return figure
