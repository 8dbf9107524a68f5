"""Scatter plots: damage and collateral damage of subpopulations, and the rows of a 2-D data set. Nothing trains here.

The panels of Figure 2 show a victim's decision region with its training rows, one panel per defense.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from subpop.report.figures.parts import WIDTH, legend_line, new_figure
from subpop.report.figures.setups import headline, is_finite, percent, rates_of, short, summarize
from subpop.types import Array, CellReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


SMALLEST_AREA, LARGEST_AREA = 9.0, 260.0
LABELLED = 3
CLASS_COLOURS = ("#0072B2", "#E69F00")
REGIONS = ("#dbe9f4", "#fdf0d5")
POISON, REMOVED, TARGET = "#D55E00", "#222222", "#009E73"
NEEDED = ("panel_x", "panel_y", "panel_poison", "panel_target", "panel_proba", "panel_extent")
# In two dimensions, 95 % of a Gaussian's rows are within this many standard deviations.
OUTLINE = 2.45


def panel_grid(n_panels: int, columns: int, height: float, n_legend: int, *, sharex: bool = True) -> tuple[Figure, list[Axes]]:
    """Make a figure with n panels that share their axes, high enough for its legend; unused panels stay empty.

    sharex: False for panels with tick labels of their own, which panels that share an axis have in common.
    """
    columns = min(columns, n_panels)
    rows = -(-n_panels // columns)
    figure = new_figure(WIDTH, max(rows * height + 0.6, 0.225 * n_legend + 0.3))
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=True).flat)
    for axis in axes[n_panels:]:
        axis.set_axis_off()
    # A panel with nothing below it carries the tick labels of its column.
    for axis in axes[max(0, n_panels - columns) : n_panels]:
        axis.tick_params(labelbottom=True)
    return figure, axes[:n_panels]


# --- target against collateral damage ---------------------------------------------------------------------------------


def columns_and_letters(n_panels: int) -> tuple[int, int]:
    """Number of panel columns, and of characters that fit into a line of a panel's title."""
    columns = 3 if n_panels > 4 else 2
    return columns, 78 // columns


def target_against_collateral(panels: Sequence[tuple[str, Sequence[CellReport]]]) -> Figure:
    """Draw circles, one per subpopulation and alpha, in a panel for each title."""
    import matplotlib as mpl

    columns, width = columns_and_letters(len(panels))
    figure, axes = panel_grid(len(panels), columns, 2.6, 6)
    reports = [report for _, of_panel in panels for report in of_panel]
    rates = rates_of(reports)
    colours = {rate: mpl.colormaps["viridis"](0.85 * i / max(1, len(rates) - 1)) for i, rate in enumerate(reversed(rates))}
    largest = max((_size(row) for report in reports for row in _circles(report)), default=1.0)
    for axis, (title, of_panel) in zip(axes, panels, strict=True):
        for report in sorted(of_panel, key=lambda report: -report.cell.rate):
            _draw_circles(axis, report, colours[report.cell.rate], largest)
        axis.set_title("\n".join(short(line, width) for line in title.splitlines()[:2]), loc="left")
        axis.axhline(0, color="#999999", linewidth=0.8, zorder=1)
        axis.axvline(0, color="#999999", linewidth=0.8, zorder=1)
        axis.margins(x=0.06, y=0.1)
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(low, high + 0.15 * (high - low))  # room for names
    for axis, (_, of_panel) in zip(axes, panels, strict=True):  # once the shared limits are known
        _name_worst(axis, of_panel)
    figure.supxlabel("collateral damage (%)", fontsize=9)
    figure.supylabel("target damage (%)", fontsize=9)
    figure.legend(handles=_cloud_legend(colours, largest), loc="outside right upper", labelspacing=1.1)
    return figure


def _circles(report: CellReport) -> list[Mapping[str, Any]]:
    """The subpopulations of a cell that have both damages."""
    table = report.result.table if report.result else ()
    return [row for row in table if is_finite(row.get("target_damage")) and is_finite(row.get("collateral_damage"))]


def _size(row: Mapping[str, Any]) -> float:
    """Rows of a subpopulation in D or, if unknown, in D_test."""
    return next((float(row[name]) for name in ("n_train", "n_test") if is_finite(row.get(name))), 1.0)


def _area(size: float, largest: float) -> float:
    return max(SMALLEST_AREA, LARGEST_AREA * size / max(largest, 1.0))


def _draw_circles(axis: Axes, report: CellReport, colour: Any, largest: float) -> None:
    rows = _circles(report)
    across, up = ([100 * row[name] for row in rows] for name in ("collateral_damage", "target_damage"))
    areas = [_area(_size(row), largest) for row in rows]
    axis.scatter(across, up, s=areas, color=colour, alpha=0.55, edgecolors="white", linewidths=0.6)


def _name_worst(axis: Axes, reports: Sequence[CellReport]) -> None:
    """Mark and name the most damaged subpopulations, each at the alpha of its largest damage."""
    from matplotlib.patheffects import withStroke

    worst: dict[str, tuple[float, float]] = {}
    for row in sorted((row for report in reports for row in _circles(report)), key=lambda row: -row["target_damage"]):
        worst.setdefault(str(row["subpopulation"]), (100 * row["collateral_damage"], 100 * row["target_damage"]))
    named = list(worst.items())[:LABELLED]
    to_panel = axis.transData + axis.transAxes.inverted()
    ends = [to_panel.transform(point) for _, point in named]
    top = min(0.97, max((height for _, height in ends), default=0.0) + 0.25)  # above every circle, where there is room
    # On the side with fewer of them.
    side, anchor = (0.02, "left") if np.mean([across for across, _ in ends] or [0.0]) > 0.55 else (0.98, "right")
    places = [(side, top - 0.085 * i) for i in range(len(named))]
    # Leader lines of minimal total length never cross each other.
    best = min(permutations(places), key=lambda order: sum(math.dist(a, b) for a, b in zip(order, ends, strict=True)))
    for (name, point), place in zip(named, best, strict=True):
        axis.plot(*point, marker="o", markersize=4, markerfacecolor="none", markeredgecolor="black", markeredgewidth=0.8)
        line = {"arrowstyle": "-", "color": "#777777", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3}
        label = axis.annotate(short(name, 40), point, place, textcoords="axes fraction", ha=anchor, va="center", arrowprops=line)
        label.set(fontsize=8, path_effects=[withStroke(linewidth=2, foreground="white")])


def _cloud_legend(colours: Mapping[float, Any], largest: float) -> list[Line2D]:
    sizes = sorted({max(1, round(largest * part)) for part in (0.1, 0.4, 1.0)})
    round_marker: dict[str, Any] = {"linestyle": "none", "marker": "o", "markeredgecolor": "white"}
    alphas = [legend_line(color=colours[rate], markersize=8, label=f"alpha {rate:g}", **round_marker) for rate in sorted(colours)]
    # The size of a marker is its diameter, that of a scatter point its area.
    circles = [
        legend_line(color="#999999", markersize=_area(size, largest) ** 0.5, label=f"{size} rows in D", **round_marker)
        for size in sizes
    ]
    return [*alphas, *circles]


# --- the panels of Figure 2 -------------------------------------------------------------------------------------------


def has_panels(report: CellReport) -> bool:
    """Whether a cell has the arrays of a panel, with two dimensions and two classes."""
    arrays = report.result.arrays if report.result else {}
    return all(name in arrays for name in NEEDED) and np.shape(arrays["panel_x"])[1:] == (2,)


def panel_order(reports: Sequence[CellReport]) -> list[CellReport]:
    """Unpoisoned, poisoned, then poisoned and defended by name, TRIM and SEVER first; one split and the largest alpha only."""
    drawable = [report for report in reports if has_panels(report)]
    split = min((report.cell.option("split") for report in drawable), default="")
    largest = max((report.cell.rate for report in drawable), default=0.0)
    first = {"none": 0, "trim": 1, "sever": 2}
    of_split = [r for r in drawable if r.cell.option("split") == split and not r.cell.option("n_poison_told")]
    shown = [r for r in of_split if r.cell.rate == largest or (r.cell.rate == 0 and r.cell.defense == "none")]
    return sorted(shown, key=lambda r: (r.cell.rate > 0, first.get(r.cell.defense, 3), r.cell.defense))


def draw_panels(reports: Sequence[CellReport]) -> Figure:
    """Draw a row of panels, one per report; at most four per row."""
    columns = min(4, len(reports))
    rows = -(-len(reports) // columns)
    figure = new_figure(max(2.35 * columns, 4.7), 3.1 * rows + 0.65)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, report in zip(axes.flat, reports, strict=False):
        _draw_panel(axis, report)
    for axis in axes.flat[len(reports) :]:
        axis.set_axis_off()
    figure.legend(handles=_legend(), loc="outside lower center", ncols=4, handletextpad=0.4, columnspacing=1.6)
    return figure


def panel_title(report: CellReport) -> str:
    """Describe attack and defense of the victim, and its damage."""
    cell = report.cell
    words = "unpoisoned" if cell.rate == 0 else "poisoned"
    if cell.defense != "none":
        words += f" + {cell.defense.upper() if cell.defense in ('trim', 'sever') else short(cell.defense, 16)}"
    found = summarize([report], headline([report]))
    return f"{words}\ntarget damage {percent(found.value if found else None)} %"


def _draw_panel(axis: Axes, report: CellReport) -> None:
    assert report.result is not None
    arrays = report.result.arrays
    x, y = np.asarray(arrays["panel_x"], float), np.asarray(arrays["panel_y"])
    poison, target = (np.asarray(arrays[name], bool) for name in ("panel_poison", "panel_target"))
    left, right, bottom, top = (float(edge) for edge in arrays["panel_extent"])
    _shade(axis, np.asarray(arrays["panel_proba"], float), (left, right, bottom, top))
    size = float(np.clip(3600 / len(x), 3, 14))
    colours = np.array(CLASS_COLOURS)[y]
    # Clean target rows are drawn on top of the poison, which would hide them.
    for chosen in (~poison & ~target, poison, ~poison & target):
        look: dict[str, Any] = {"marker": "^", "edgecolors": POISON, "linewidths": 0.6} if chosen is poison else {"linewidths": 0}
        axis.scatter(
            x[chosen, 0], x[chosen, 1], s=1.6 * size if chosen is poison else size, c=colours[chosen], alpha=0.75, **look
        )
    if "panel_keep" in arrays:
        gone = ~np.asarray(arrays["panel_keep"], bool)
        for chosen, colour in ((gone & poison, POISON), (gone & ~poison, REMOVED)):
            axis.scatter(x[chosen, 0], x[chosen, 1], s=1.3 * size, c=colour, marker="x", linewidths=0.7)
        axis.set_xlabel(removed_text(gone, poison, target), fontsize=8)
    _outline(axis, x[target & ~poison])
    axis.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="auto")
    axis.set_title(panel_title(report))
    axis.grid(False)


def removed_text(gone: Array, poison: Array, target: Array) -> str:
    """Count the rows that a filter removed: poison, clean rows of the target subpopulation, others; each (n,) bool."""
    clean_target, others = target & ~poison, ~target & ~poison
    parts = [("poison", poison), ("clean target", clean_target), ("other", others)]
    return "removed:\n" + "\n".join(f"{int((gone & rows).sum())} of {int(rows.sum())} {name} rows" for name, rows in parts)


def _shade(axis: Axes, proba: Array, extent: tuple[float, float, float, float]) -> None:
    """Shade where each class is predicted: proba (g, g) of class 1, row by row from the lower left."""
    from scipy.ndimage import gaussian_filter

    left, right, bottom, top = extent
    across, up = np.linspace(left, right, proba.shape[1]), np.linspace(bottom, top, proba.shape[0])
    if np.isin(proba, (0, 1)).all():
        proba = gaussian_filter(proba, 1.5, mode="nearest")  # classes alone would give a jagged boundary
    if not proba.min() < 0.5 < proba.max():
        axis.set_facecolor(REGIONS[int(proba.max() > 0.5)])
        return
    axis.contourf(across, up, proba, levels=[-1, 0.5, 2], colors=REGIONS)
    axis.contour(across, up, proba, levels=[0.5], colors="#444444", linewidths=1.0)


def _outline(axis: Axes, members: Array) -> None:
    """Draw an ellipse around the subpopulation's clean rows, (m, 2), along their principal axes."""
    from matplotlib.patches import Ellipse

    if len(members) < 3:
        return
    variances, directions = np.linalg.eigh(np.cov(members.T))
    height, width = 2 * OUTLINE * np.sqrt(np.maximum(variances, 0))
    angle = float(np.degrees(np.arctan2(directions[1, 1], directions[0, 1])))
    centre = (float(members[:, 0].mean()), float(members[:, 1].mean()))
    axis.add_patch(Ellipse(centre, float(width), float(height), angle=angle, fill=False, edgecolor=TARGET, linewidth=1.8))


def _legend() -> list[Line2D]:
    dots: dict[str, Any] = {"linestyle": "none", "markersize": 6}
    return [
        *(legend_line(marker="o", color=colour, label=f"class {label}", **dots) for label, colour in enumerate(CLASS_COLOURS)),
        legend_line(marker="^", color="white", markeredgecolor=POISON, label="poison, filled as labelled", **dots),
        legend_line(marker="x", color=REMOVED, label="removed: a clean row", **dots),
        legend_line(marker="x", color=POISON, label="removed: a poison row", **dots),
        legend_line(color=TARGET, linewidth=1.8, label="target subpopulation"),
        legend_line(color="#444444", linewidth=1.0, label="decision boundary"),
    ]
