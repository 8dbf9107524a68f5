"""Damage of the same poison against the width of the network, beside the clean accuracy of the attacked subpopulations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from subpop.report.figures.parts import new_figure
from subpop.types import CellReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure


TITLES = {"epochs": "an equal number of epochs", "loss": "an equal training loss on clean data"}
LINES = {
    "target_damage": ("target damage", "#D55E00", "o"),
    "target_clean_accuracy": ("clean accuracy on the targets", "#0072B2", "s"),
}
"""Families of metrics, with the name, the colour and the marker of their lines."""


def damage_against_width(reports: Sequence[CellReport]) -> Figure:
    """Draw a panel for each cell; bars are 95 % intervals over seeds, and an open marker is a width that missed the loss."""
    shown = [report for report in reports if report.result is not None]
    figure = new_figure(1 + 4.2 * len(shown), 3.4)
    for report, axis in zip(shown, figure.subplots(1, len(shown), squeeze=False, sharey=True)[0], strict=True):
        numbers = {number.metric: number for number in report.result.numbers} if report.result else {}
        widths = sorted({int(row["width"]) for row in report.result.table}) if report.result else []
        for family, (name, colour, marker) in LINES.items():
            own = [numbers[f"{family}_width_{width}"] for width in widths]
            bars = [number.half_width or 0.0 for number in own]
            axis.errorbar(widths, [number.value for number in own], bars, color=colour, capsize=2, linewidth=1.5, label=name)
            for width, number in zip(widths, own, strict=True):
                missed = f"reached_width_{width}" in numbers and numbers[f"reached_width_{width}"].value < 1
                face = "white" if missed else colour
                axis.plot(width, number.value, marker, color=colour, markerfacecolor=face, markersize=5)
        axis.set_xscale("log", base=2)
        axis.set_xticks(widths, [f"{width}" for width in widths])
        axis.set_xlabel("units of the hidden layer", fontsize=8)
        axis.set_title(f"{report.cell.dataset}, at {TITLES[getattr(report.cell.measurement, 'equal', 'epochs')]}", fontsize=9)
        axis.axhline(0, color="#999999", linewidth=0.8)
        axis.legend(fontsize=7, frameon=False, loc="upper right", bbox_to_anchor=(1, 0.72))
    return figure
