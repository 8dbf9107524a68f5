"""What defenses change compared with no defense: lines over alpha, and a leaderboard with intervals. Nothing trains here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from subpop.report.figures.lines import LINE, Styles
from subpop.report.figures.parts import WIDTH, legend_line, new_figure
from subpop.report.figures.scatters import panel_grid
from subpop.report.figures.setups import Row, Setup, headline, percent, rates_of, rows_of, short, summarize, titles_of
from subpop.results.paired import BETTER, UNDECIDED, WORSE, damages_by_seed, paired_difference
from subpop.types import CellReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MOST_LINES = 6
COLOURS = {BETTER: "#009E73", WORSE: "#D55E00", UNDECIDED: "#777777"}
EQUIVALENT_COLOUR = "#0072B2"
GAP = 0.075
"""The smallest distance of two labels, as a share of the height of the axis."""


class Point(NamedTuple):
    """A difference from no defense, with half the width of its interval if it has one."""

    value: float
    half_width: float | None = None


def compared_rows(reports: Sequence[CellReport]) -> list[Row]:
    """The defenses of a set-up that are drawn, those with the least damage first; empty if there is nothing to compare."""
    rows = rows_of(reports)
    if not any(row.name == "none" for row in rows):
        return []
    return [row for row in rows if row.kind in ("defense", "own")]


def differences(row: Row, none: Row, metric: str) -> dict[float, Point]:
    """The differences of a defense from no defense at each alpha that both have.

    Of cells with damages by subpopulation and seed, the paired difference over the subpopulations that are hurt; of others, the
    difference of a headline.
    """
    found = {}
    for rate, own in row.cells.items():
        point = _difference(own, none.cells.get(rate, ()), metric) if rate > 0 else None
        if point:
            found[rate] = point
    return found


def _difference(own: Sequence[CellReport], none: Sequence[CellReport], metric: str) -> Point | None:
    frames = [[damages_by_seed(report.result) for report in reports if report.result] for reports in (own, none)]
    if all(frames) and all(len(frame) for of in frames for frame in of):
        ours, theirs = (pd.concat(of, join="inner") for of in frames)
        exact = all(report.result.exact for report in (*own, *none) if report.result)
        paired = paired_difference(ours, theirs, theirs, exact=exact)
        return None if paired.reason else Point(paired.value, paired.half_width)
    one, other = summarize(own, metric), summarize(none, metric)
    return Point(one.value - other.value) if one and other else None


def difference_against_alpha(groups: Mapping[Setup, list[CellReport]], styles: Styles) -> Figure:
    """Draw the difference from no defense over alpha, a panel for each set-up with at most MOST_LINES labelled lines."""
    figure, axes = panel_grid(len(groups), 2, 2.6, 0, sharex=False)
    titles = titles_of(groups)
    drawn = []
    for axis, (setup, reports) in zip(axes, groups.items(), strict=True):
        drawn.append(_draw_panel(axis, reports, styles))
        axis.set_title(titles[setup], loc="left")
    for axis, labels in zip(axes, drawn, strict=True):  # once the shared limits are known
        _label_lines(axis, labels)
    figure.supxlabel("poisoning rate alpha", fontsize=9)
    figure.supylabel("target damage less that of no defense (points)", fontsize=9)
    return figure


def _draw_panel(axis: Axes, reports: Sequence[CellReport], styles: Styles) -> list[tuple[float, str, str]]:
    """Draw the lines of a panel; returns the height, text and colour of their labels."""
    metric, rates = headline(reports), [rate for rate in rates_of(reports) if rate > 0]
    none = next(row for row in rows_of(reports) if row.name == "none")
    labels, chosen = [], compared_rows(reports)[:MOST_LINES]
    narrowest = min((b - a for a, b in pairwise(rates)), default=1.0)
    for i, row in enumerate(chosen):
        points = differences(row, none, metric)
        if not points:
            continue
        look = {**LINE, **styles[row.defense]}
        values = [100 * point.value for point in points.values()]
        errors = [100 * (point.half_width or 0.0) for point in points.values()]
        shift = 0.16 * narrowest * ((i + 0.5) / len(chosen) - 0.5)  # bars at the same alpha would overlap
        axis.errorbar([rate + shift for rate in points], values, errors if any(errors) else None, elinewidth=0.9, **look)
        labels.append((values[-1], short(row.defense, 24), str(look["color"])))
    axis.axhline(0, color="black", linewidth=1.2, zorder=1)
    lost = [(rate, summarize(none.cells.get(rate, ()), metric)) for rate in rates]
    axis.set_xticks(rates, [f"{rate:g}\n({percent(found.value)})" if found else f"{rate:g}" for rate, found in lost])
    return labels


def _label_lines(axis: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write each label right of the end of its line, as near to it as the others allow."""
    from matplotlib.transforms import blended_transform_factory

    low, high = axis.get_ylim()
    place = blended_transform_factory(axis.transAxes, axis.transData)
    heights = spread([height for height, _, _ in labels], GAP * (high - low))
    for (_, text, colour), height in zip(labels, heights, strict=True):
        axis.text(1.02, height, text, color=colour, fontsize=8, va="center", transform=place)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move heights apart until all distances are at least the gap; their order and their mean stay."""
    order = sorted(range(len(heights)), key=lambda i: (heights[i], i))
    moved = list(heights)
    for below, above in pairwise(order):
        moved[above] = max(moved[above], moved[below] + gap)
    shift = (sum(moved) - sum(heights)) / len(heights) if heights else 0.0
    return [height - shift for height in moved]


class Line(NamedTuple):
    """A row of a figure of a leaderboard; value None: a heading."""

    label: str
    value: float | None = None
    half_width: float | None = None
    verdict: str = UNDECIDED


def leaderboard_figure(lines: Sequence[Line]) -> Figure:
    """Draw the difference of each defense from no defense with its interval, from the first line down."""
    figure = new_figure(WIDTH, 0.19 * len(lines) + 0.9)
    axis = figure.subplots()
    for height, line in enumerate(lines):
        if line.value is None:
            axis.text(0.005, height, line.label, fontsize=8, style="italic", va="center", transform=axis.get_yaxis_transform())
            continue
        colour = COLOURS.get(line.verdict, EQUIVALENT_COLOUR)
        error = None if line.half_width is None else 100 * line.half_width
        axis.errorbar(100 * line.value, height, xerr=error, color=colour, marker="o", markersize=5, elinewidth=1.4)
    axis.axvline(0, color="black", linewidth=1.2, zorder=1)
    axis.set_yticks(
        [height for height, line in enumerate(lines) if line.value is not None],
        [short(line.label, 40) for line in lines if line.value is not None],
    )
    axis.set_ylim(len(lines) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("target damage less that of no defense (points): left of the line is better than no defense", fontsize=9)
    verdicts = sorted({line.verdict for line in lines if line.value is not None})
    looks = [{"label": verdict, "color": COLOURS.get(verdict, EQUIVALENT_COLOUR)} for verdict in verdicts]
    handles = [legend_line(**look, marker="o", markersize=5, linestyle="") for look in looks]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=8, labelcolor="linecolor", handletextpad=0.1)
    return figure
