"""Figure of the impossibility suite: damage against alpha for local and global learners, and errors in the two worlds.

Cells of all data sets of the suite are drawn in one figure; panels without numbers are omitted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from subpop.report.figures.parts import WIDTH, legend_line, new_figure
from subpop.types import Cell, CellReport, Number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


ALT = "damage against alpha of local and global learners, and the errors of defended learners in two worlds"
CAPTION = (
    "Above: mean target damage of the mixture's subpopulations against alpha, poison rows / clean rows in D. Bars: 95 % "
    "intervals over seeds and subpopulations, with at least 5 seeds. Learners that count the labels of a cell have a step at 1, "
    "where their tie rule decides; the points next to it have one row less and one row more. Below: mean errors on the "
    "subpopulation in world 0 and world 1, and their sum, of at least 30 draws each, with 95 % intervals over draws. In the grey "
    "square both errors would be below 1/2: only learners that know the poison or the labels (red) can reach it."
)
LEARNERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "cell_majority": ("majority of the cell (local)", {"color": "black", "marker": "o", "linewidth": 2.2}),
    "cell_histogram": (
        "histogram, a bin a cell (local)",
        {"color": "#E69F00", "marker": "s", "linestyle": (0, (3, 2)), "markerfacecolor": "none", "markersize": 8},
    ),
    "knn_1": ("1-NN (local)", {"color": "#009E73", "marker": "D"}),
    "knn_7": ("7-NN (local)", {"color": "#56B4E9", "marker": "P"}),
    "logistic_regression": ("logistic regression (global)", {"color": "#0072B2", "marker": "^"}),
    "mlp": ("small network (global)", {"color": "#CC79A7", "marker": "v"}),
    "last_layer": ("last layer (global)", {"color": "#0072B2", "marker": "<"}),
    "conv_net": ("convolutional network (global)", {"color": "#CC79A7", "marker": ">"}),
}
OTHER: Mapping[str, Any] = {"color": "#666666", "marker": "x"}
SMALL: Mapping[str, Any] = {"linewidth": 1.5, "markersize": 5}
TOLD, UNTOLD = "#D55E00", "#0072B2"
HALF, SHADE = 0.5, "#eeeeee"


def can_be_drawn(reports: Sequence[CellReport]) -> bool:
    """Whether there are curves or worlds to draw."""
    return bool(curves_of(reports) or world_points(reports))


def draw_impossibility(reports: Sequence[CellReport]) -> Figure:
    """Draw curves at the top and the two worlds below."""
    curves, points = curves_of(reports), world_points(reports)
    heights = [2.8] * bool(curves) + [4.7] * bool(points)
    figure = new_figure(WIDTH, sum(heights))
    parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).flat)
    if curves:
        top = parts[0].subplots()
        _draw_curves(top, curves)
        parts[0].legend(loc="outside right center", fontsize=8)
    if points:
        left, right = parts[-1].subplots(1, 2, width_ratios=[1.25, 1])
        _draw_worlds(left, points)
        _draw_sums(right, points)
        parts[-1].legend(handles=_marks(points), loc="outside lower center", ncols=4, fontsize=7, columnspacing=1.2)
    return figure


# --- selection --------------------------------------------------------------------------------------------------------


def curves_of(reports: Iterable[CellReport]) -> dict[str, list[tuple[float, float, float]]]:
    """Return (alpha, mean damage, half the width of its interval or 0) of each undefended learner.

    Rows at the margin have their own alpha. Learners with a single alpha have no curve.
    """
    curves: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    swept = {report.cell.dataset for report in reports if _is_point(report.cell) and not report.cell.two_worlds.rows}
    for report in reports:
        damage = _number(report, "target_damage_mean")
        if damage is None or not _is_point(report.cell) or report.cell.dataset not in swept:
            continue
        at_margin = _number(report, "alpha_mean") if report.cell.two_worlds.rows else None
        alpha = report.cell.rate if at_margin is None else at_margin.value
        curves[report.cell.victim].append((alpha, damage.value, damage.half_width or 0.0))
    return {victim: sorted(set(own)) for victim, own in curves.items() if len({alpha for alpha, *_ in own}) > 1}


def _is_point(cell: Cell) -> bool:
    return cell.defense == "none" and cell.two_worlds.worlds is None


def world_points(reports: Iterable[CellReport]) -> list[tuple[Cell, dict[str, Number]]]:
    """Cells with independent draws of both worlds that could run, and their numbers by metric."""
    points = []
    for report in reports:
        numbers = {number.metric: number for number in report.result.numbers} if report.result else {}
        if "error_sum" in numbers:
            points.append((report.cell, numbers))
    return sorted(points, key=lambda point: point[0])


def _number(report: CellReport, metric: str) -> Number | None:
    numbers = report.result.numbers if report.result else ()
    return next((number for number in numbers if number.metric == metric), None)


def told_labels(cell: Cell) -> bool:
    """Whether the defender knows the poison or labels of the subpopulation."""
    return cell.defense == "perfect_filter" or cell.two_worlds.told is not None


def row_name(cell: Cell) -> str:
    return cell.defense + (", knows labels" if cell.two_worlds.told else "")


def _look(victim: str) -> tuple[str, Mapping[str, Any]]:
    return LEARNERS.get(victim, (victim, OTHER))


# --- panels -----------------------------------------------------------------------------------------------------------


def _draw_curves(axis: Axes, curves: Mapping[str, Sequence[tuple[float, float, float]]]) -> None:
    last = max(alpha for own in curves.values() for alpha, *_ in own)
    alphas = np.linspace(0, last, 200)
    axis.plot(alphas, 100 * alphas / (1 + alphas), color="#bbbbbb", linewidth=4, zorder=1, label="alpha / (1 + alpha)")
    axis.axvline(1, color="#999999", linewidth=0.8, zorder=1)
    for victim in _sorted(curves):
        label, look = _look(victim)
        alpha, damage, error = (np.array(column) for column in zip(*curves[victim], strict=True))
        axis.errorbar(alpha, 100 * damage, 100 * error, label=label, elinewidth=0.9, **{**SMALL, **look})
    axis.set_xlabel("alpha, poison rows / clean rows of the subpopulation in D")
    axis.set_ylabel("mean target damage (%)")


def _draw_worlds(axis: Axes, points: Sequence[tuple[Cell, Mapping[str, Number]]]) -> None:
    axis.fill_between([0, HALF], 0, HALF, color=SHADE, zorder=0)
    axis.plot([0, 1], [1, 0], color="#999999", linewidth=1.0, zorder=1)
    axis.annotate("errors sum to 1", (0.72, 0.36), fontsize=8, color="#666666")
    if any(told_labels(cell) for cell, _ in points):
        axis.annotate("knows poison or labels", (0.1, 0.02), fontsize=8, color=TOLD)
    for cell, numbers in points:
        axis.errorbar(**_place(numbers["error_world_0"], numbers["error_world_1"]), **_dot(cell))
    axis.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    axis.set_xlabel("error in world 0")
    axis.set_ylabel("error in world 1")


def _marks(points: Sequence[tuple[Cell, Mapping[str, Number]]]) -> list[Line2D]:
    looks = [_look(victim) for victim in _sorted({cell.victim for cell, _ in points})]
    return [legend_line(label=label, linestyle="", marker=look["marker"], color="#444444") for label, look in looks]


def _sorted(victims: Iterable[str]) -> list[str]:
    """Sort learners: known ones in the order above, then the others."""
    known = list(LEARNERS)
    return sorted(victims, key=lambda name: (known.index(name) if name in known else len(known), name))


def _place(across: Number, up: Number) -> dict[str, Any]:
    return {"x": across.value, "y": up.value, "xerr": across.half_width, "yerr": up.half_width}


def _draw_sums(axis: Axes, points: Sequence[tuple[Cell, Mapping[str, Number]]]) -> None:
    names = sorted({row_name(cell) for cell, _ in points}, key=lambda name: (name in _told_names(points), name != "none", name))
    axis.axvline(1, color="#999999", linewidth=1.0, zorder=1)
    seen: dict[str, int] = defaultdict(int)
    totals = {name: sum(row_name(cell) == name for cell, _ in points) for name in names}
    for cell, numbers in points:
        name, total = row_name(cell), numbers["error_sum"]
        spread = 0.6 * ((seen[name] + 0.5) / totals[name] - 0.5)  # or those of one row would hide each other
        seen[name] += 1
        axis.errorbar(total.value, names.index(name) + spread, xerr=total.half_width, **_dot(cell))
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set(xlim=(-0.05, 1.3), ylim=(len(names) - 0.4, -0.6))
    axis.set_xlabel("sum of the errors in both worlds")


def _told_names(points: Sequence[tuple[Cell, Mapping[str, Number]]]) -> set[str]:
    return {row_name(cell) for cell, _ in points if told_labels(cell)}


def _dot(cell: Cell) -> dict[str, Any]:
    colour = TOLD if told_labels(cell) else UNTOLD
    marker = _look(cell.victim)[1]["marker"]
    return {"marker": marker, "color": colour, "markerfacecolor": "none", "markersize": 5, "elinewidth": 0.8, "linestyle": ""}
