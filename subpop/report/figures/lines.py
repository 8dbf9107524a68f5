"""Damage against alpha: one line per defense, one panel per set-up. Nothing trains here.

The colours are those of Okabe and Ito, which colour-blind readers can distinguish; markers and dashes are redundant with them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from subpop.report.figures.parts import legend_line
from subpop.report.figures.scatters import panel_grid
from subpop.report.figures.setups import (
    MATCHED,
    Setup,
    headline,
    is_control,
    metric_words,
    rates_of,
    rows_of,
    short,
    summarize,
    titles_of,
)
from subpop.types import CellReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)))
CONTROL_STYLES: Mapping[str, Mapping[str, Any]] = {
    "none": {"color": "black", "linewidth": 2.2, "marker": "o"},
    "perfect_filter": {"color": "#666666", "linestyle": (0, (5, 1.5)), "marker": "*"},
    "random_filter": {"color": "#666666", "linestyle": (0, (1, 1)), "marker": "x"},
    "drop_duplicates": {"color": "#666666", "linestyle": "-.", "marker": "+"},
    "retrain": {"color": "#999999", "linestyle": (0, (8, 3)), "linewidth": 1.0},
}
LINE: Mapping[str, Any] = {"linewidth": 1.5, "markersize": 5, "linestyle": "-"}
Styles = Mapping[str, Mapping[str, Any]]


def styles_of(defenses: Iterable[str]) -> Styles:
    """A line style per defense: coloured for defenses, grey for controls; a matched control is thin in its filter's colour."""
    names = sorted(set(defenses))
    styles: dict[str, Mapping[str, Any]] = {name: style for name, style in CONTROL_STYLES.items() if name in names}
    filters = {name.partition(":")[2] for name in names if name.partition(":")[0] == MATCHED}
    real = sorted({name for name in names if not is_control(name)} | filters)
    for i, name in enumerate(sorted(real, key=lambda name: (name != "trim", name != "sever", name))):
        turn = i // len(COLOURS)
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[(i + turn) % len(MARKERS)]
        styles[name] = {"color": colour, "marker": marker, "linestyle": DASHES[turn % len(DASHES)]}
        styles[f"{MATCHED}:{name}"] = {"color": colour, "linestyle": (0, (1, 1.5)), "linewidth": 1.1}
    return styles


def damage_against_alpha(groups: Mapping[Setup, list[CellReport]], styles: Styles) -> Figure:
    """Draw lines of damage over the measured alphas, one panel per set-up."""
    reports = [report for of_setup in groups.values() for report in of_setup]
    rates = rates_of(reports)
    figure, axes = panel_grid(len(groups), 2, 2.5, len({report.cell.defense for report in reports}))
    titles = titles_of(groups)
    heights: dict[str, list[float]] = defaultdict(list)
    for axis, (setup, of_setup) in zip(axes, groups.items(), strict=True):
        for defense, values in _draw_lines(axis, of_setup, styles).items():
            heights[defense] += values
        axis.set_title(titles[setup], loc="left")
        axis.axhline(0, color="#999999", linewidth=0.8, zorder=1)
        axis.set_xticks(rates, [f"{rate:g}" for rate in rates])
    figure.supxlabel("poisoning rate alpha", fontsize=9)
    figure.supylabel(f"{metric_words(headline(reports)).lower()} (%)", fontsize=9)
    top_down = sorted(heights, key=lambda defense: -float(np.mean(heights[defense])))
    handles = [legend_line(label=_legend_name(defense), **{**LINE, **styles[defense]}) for defense in top_down]
    figure.legend(handles=handles, loc="outside right upper", labelspacing=0.7)
    return figure


def _draw_lines(axis: Axes, reports: Sequence[CellReport], styles: Styles) -> dict[str, list[float]]:
    """Draw the lines of one panel; returns the heights of each."""
    metric, rates = headline(reports), rates_of(reports)
    rows = [row for row in rows_of(reports) if row.kind not in ("variant", "tuned")]
    narrowest = min((b - a for a, b in pairwise(rates)), default=1.0)
    heights = {}
    drawn = [row.defense for row in rows if row.defense != "retrain"]
    for row in rows:
        points = [(rate, found) for rate, of_rate in row.cells.items() if (found := summarize(of_rate, metric))]
        heights[row.defense] = values = [100 * found.value for _, found in points]
        look = {**LINE, **styles[row.defense]}
        if row.defense == "retrain" and points:
            axis.axhline(float(np.mean(values)), color=look["color"], linestyle=look["linestyle"], linewidth=1.0)
        elif points:
            # Shifted slightly, since bars at the same alpha would overlap.
            shift = narrowest * 0.16 * ((drawn.index(row.defense) + 0.5) / len(drawn) - 0.5)
            errors = [100 * found.spread if found.spread is not None else 0.0 for _, found in points]
            axis.errorbar([rate + shift for rate, _ in points], values, errors if any(errors) else None, elinewidth=0.9, **look)
    return {defense: values for defense, values in heights.items() if values}


def _legend_name(defense: str) -> str:
    if defense == "retrain":
        return "retrain: the noise floor"
    control, _, matched = defense.partition(":")
    name = short(f"random, matched to {matched}" if control == MATCHED else defense, 34)
    return f" {name}" if name.startswith("_") else name  # a legend leaves out labels that begin with an underscore
